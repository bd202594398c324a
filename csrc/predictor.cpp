#include "predictor.h"

#include "context.h"
#include "errors.h"
#include "raw_logits.h"

static void check_sizes(const heads & h, const llama_context * ctx) {
    const int64_t n_embd  = llama_model_n_embd_out(llama_get_model(ctx));
    const int64_t n_vocab = context_n_vocab(ctx);
    if (h.n_embd != n_embd || h.n_vocab != n_vocab) {
        throw refusal(INVALID_INPUT,
            "the heads are for hidden size " + std::to_string(h.n_embd) + " and vocabulary " + std::to_string(h.n_vocab) +
            ", the model has " + std::to_string(n_embd) + " and " + std::to_string(n_vocab));
    }
}

bool predictor_attach(predictor & p, llama_context * ctx, llama_seq_id seq_id, const graph_sampler_options & options) {
    if (p.gs) {
        throw refusal(MODEL_FAILED, "these heads are attached already; detach them first");
    }
    check_sizes(*p.h, ctx);
    if (seq_id != EVERY_OUTPUT && (seq_id < 0 || (uint32_t) seq_id >= llama_n_seq_max(ctx))) {
        throw refusal(INVALID_INPUT, "sequence " + std::to_string(seq_id) + " is not one of the context's " +
                                     std::to_string(llama_n_seq_max(ctx)));
    }
    p.gs = graph_sampler_attach(ctx, seq_id, options, p.h, p.on, p.why_not);
    return p.gs != nullptr;
}

void predictor_detach(predictor & p) {
    if (p.gs) {
        graph_sampler_detach(p.gs);
        p.gs = nullptr;
    }
}

static void predict_on_host(predictor & p, llama_context * ctx, int32_t idx, int64_t n, float * temperature, float * top_p) {
    check_sizes(*p.h, ctx);
    if (llama_pooling_type(ctx) != LLAMA_POOLING_TYPE_NONE) {
        throw refusal(MODEL_FAILED, "the context pools its embeddings, so there is no hidden state of one token; the heads "
                                    "need LLAMA_POOLING_TYPE_NONE");
    }
    const float * hidden = llama_get_embeddings_ith(ctx, idx);
    const float * logits = llama_get_logits_ith(ctx, idx);
    if (!hidden || !logits) {
        throw refusal(MODEL_FAILED, "no hidden state for output " + std::to_string(idx) + " of the last decode: attach the "
                                    "heads to the context, or call llama_set_embeddings(ctx, true) before llama_decode");
    }
    if (!p.runner) {
        p.runner = std::make_unique<heads_runner>();
        heads_runner_init(*p.runner, p.h, p.on, "CPU");
    }
    std::vector<float> raw;
    if (heads_use { p.h.get(), heads_on_host(*p.h), p.on }.has_features()) {
        raw = raw_logits_read(ctx, idx, n);
    }
    // outputs lie one behind the other
    heads_runner_run(*p.runner, hidden, raw.empty() ? logits : raw.data(), n, temperature, top_p);
}

void predictor_read(predictor * p, llama_context * ctx, int32_t idx, int64_t n, float * temperature, float * top_p) {
    if (!p) {
        throw refusal(INVALID_INPUT, "a sampler without heads needs a temperature and a top-p");
    }
    if (!p->gs) {
        predict_on_host(*p, ctx, idx, n, temperature, top_p);
    } else if (!graph_sampler_read(p->gs, n, temperature, top_p)) {
        throw refusal(MODEL_FAILED, "the model's graph has no result_norm to read: this architecture needs the host "
                                    "way, so do not attach the heads but call llama_set_embeddings(ctx, true)");
    }
}

std::vector<shortlist> predictor_lists(const predictor * p, int64_t n) {
    return p->gs ? graph_sampler_lists(p->gs, n) : std::vector<shortlist>();
}
