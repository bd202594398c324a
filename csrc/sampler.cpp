#include "sampler.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>

static int64_t n_vocab_of(const llama_context * ctx) {
    return llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
}

static void check_sizes(const heads & h, const llama_context * ctx) {
    const int64_t n_embd  = llama_model_n_embd_out(llama_get_model(ctx));
    const int64_t n_vocab = n_vocab_of(ctx);
    if (h.n_embd != n_embd || h.n_vocab != n_vocab) {
        throw std::invalid_argument(
            "the heads are for hidden size " + std::to_string(h.n_embd) + " and vocabulary " + std::to_string(h.n_vocab) +
            ", the model has " + std::to_string(n_embd) + " and " + std::to_string(n_vocab));
    }
}

bool predictor_attach(predictor & p, llama_context * ctx, llama_seq_id seq_id, int64_t n_rows) {
    if (p.gs) {
        throw std::runtime_error("these heads are attached already; detach them first");
    }
    if (graph_sampler_taken(ctx, seq_id)) {
        const std::string which = seq_id == EVERY_OUTPUT ? "every output" : "sequence " + std::to_string(seq_id);
        throw std::runtime_error(which + " of this context has heads attached already");
    }
    check_sizes(*p.h, ctx);
    if (seq_id != EVERY_OUTPUT && (seq_id < 0 || (uint32_t) seq_id >= llama_n_seq_max(ctx))) {
        throw std::invalid_argument("sequence " + std::to_string(seq_id) + " is not one of the context's " +
                                    std::to_string(llama_n_seq_max(ctx)));
    }
    p.gs = graph_sampler_attach(ctx, seq_id, n_rows, p.h, p.on);
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
        throw std::runtime_error("the context pools its embeddings, so there is no hidden state of one token; the heads "
                                 "need LLAMA_POOLING_TYPE_NONE");
    }
    const float * hidden = llama_get_embeddings_ith(ctx, idx);
    const float * logits = llama_get_logits_ith(ctx, idx);
    if (!hidden || !logits) {
        throw std::runtime_error("no hidden state for output " + std::to_string(idx) + " of the last decode: attach the "
                                 "heads to the context, or call llama_set_embeddings(ctx, true) before llama_decode");
    }
    if (!p.runner) {
        p.runner = std::make_unique<heads_runner>();
        heads_runner_init(*p.runner, p.h, p.on, "CPU");
    }
    heads_evaluate(*p.runner, hidden, logits, n, temperature, top_p); // outputs lie one behind the other
}

bool predictor_read(predictor & p, llama_context * ctx, int32_t idx, int64_t n, float * temperature, float * top_p) {
    if (p.gs) {
        return graph_sampler_read(p.gs, n, temperature, top_p);
    }
    predict_on_host(p, ctx, idx, n, temperature, top_p);
    return true;
}

struct drawn {
    llama_token id;
    float       top_p; // that was applied
    draw_result result;
};

static void check_drawn(draw_status status) {
    switch (status) {
        case DRAW_OK:         return;
        case DRAW_NOT_FINITE: throw std::runtime_error("a logit is NaN or +inf; no token was drawn");
        case DRAW_NO_TOKEN:   throw std::runtime_error("every logit is -inf: the grammar or the biases allow no token");
    }
}

static drawn draw_checked(const float * logits, size_t n, float temperature, double top_p, step_sampler & s) {
    draw_result result = {};
    check_drawn(draw_token(logits, n, temperature, top_p, uniform(s.rng), s.scratch, result));
    return { (llama_token) result.index, (float) top_p, result };
}

// The short way: nothing changed the logits, T is the predicted one, and the graph has scaled by it already.
static bool draw_from_graph(step_sampler & s, const predictor * p, int64_t row, double top_p, drawn & d) {
    size_t n = 0;
    const float * weight = p && p->gs && !s.temperature ? graph_sampler_weights(p->gs, row, &n) : nullptr;
    if (!weight) {
        return false;
    }
    draw_result result = {};
    check_drawn(draw_weights(weight, n, top_p, uniform(s.rng), s.scratch, result));
    d = { (llama_token) result.index, (float) top_p, result };
    return true;
}

// The way through llama.cpp's samplers: an array of candidates instead of a row of logits.
static drawn draw_through_chains(const float * logits, size_t n, float temperature, double top_p, step_sampler & s) {
    s.candidates.resize(n);
    for (size_t i = 0; i < n; ++i) {
        s.candidates[i] = { (llama_token) i, logits[i], 0.0f };
    }
    llama_token_data_array cur = { s.candidates.data(), n, -1, false };
    llama_sampler_apply(s.before, &cur);
    if (s.after && temperature > 0.0f) {
        float max = -INFINITY; // taken off first: a tiny temperature must not make infinities
        for (size_t i = 0; i < cur.size; ++i) {
            max = std::max(max, cur.data[i].logit);
        }
        for (size_t i = 0; i < cur.size; ++i) {
            cur.data[i].logit = max > -INFINITY ? (cur.data[i].logit - max) / temperature : -INFINITY;
        }
        temperature = 1.0f;
        llama_sampler_apply(s.after, &cur);
    }
    if (cur.selected >= 0 && (size_t) cur.selected < cur.size) { // mirostat draws by itself
        const llama_token_data & token = cur.data[cur.selected];
        return { token.id, 1.0f, { token.id, (int32_t) cur.size, token.p } };
    }
    s.logits.resize(cur.size);
    for (size_t i = 0; i < cur.size; ++i) {
        s.logits[i] = cur.data[i].logit;
    }
    drawn d = draw_checked(s.logits.data(), cur.size, temperature, top_p, s);
    d.id = cur.data[d.result.index].id;
    return d;
}

// T and P of one output, as predicted
struct prediction {
    float temperature = 0.0f;
    float top_p       = 0.0f;
};

// Draws from one row of logits. p: whose graph computed the prediction, for output number row of it; NULL: nothing was
// predicted, and the sampler has both values fixed.
static llama_token draw_row(step_sampler & s, const float * raw, const float * changed, size_t n, const predictor * p,
                            int64_t row, prediction predicted) {
    if (p && !(std::isfinite(predicted.temperature) && std::isfinite(predicted.top_p))) {
        throw std::runtime_error("the heads give no finite value: nothing was decoded since they were attached, or the "
                                 "model's hidden state or logits are not finite");
    }
    const float  temperature = s.temperature.value_or(predicted.temperature);
    const double top_p       = s.top_p.value_or(predicted.top_p);

    const float * logits = changed ? changed : raw;
    drawn d;
    if (s.before || s.after) {
        d = draw_through_chains(logits, n, temperature, top_p, s);
    } else if (changed || !draw_from_graph(s, p, row, top_p, d)) {
        d = draw_checked(logits, n, temperature, top_p, s);
    }
    llama_sampler_accept(s.before, d.id);
    llama_sampler_accept(s.after,  d.id);
    if (s.trace) {
        const float entropy = s.entropy ? logits_entropy(raw, n) : NAN;
        s.records->all.push_back({ d.id, temperature, d.top_p, entropy, d.result.nucleus, d.result.prob });
    }
    return d.id;
}

static bool predicts(const step_sampler & s) {
    return !s.temperature || !s.top_p;
}

static const float * output(llama_context * ctx, int32_t idx) {
    const float * raw = llama_get_logits_ith(ctx, idx);
    if (!raw) {
        throw std::runtime_error("the last decode has no output " + std::to_string(idx));
    }
    return raw;
}

static void predict(predictor * p, llama_context * ctx, int32_t idx, int64_t n, float * temperature, float * top_p) {
    if (!p || !predictor_read(*p, ctx, idx, n, temperature, top_p)) {
        throw std::runtime_error("the model's graph has no result_norm to read: this architecture needs the host "
                                 "way, so do not attach the heads but call llama_set_embeddings(ctx, true)");
    }
}

llama_token step_sample(step_sampler & s, llama_context * ctx, int32_t idx, const float * changed) {
    const float * raw = output(ctx, idx);
    predictor   * p   = predicts(s) ? s.p.get() : nullptr;
    prediction predicted;
    if (p) {
        predict(p, ctx, idx, 1, &predicted.temperature, &predicted.top_p);
    }
    return draw_row(s, raw, changed, (size_t) n_vocab_of(ctx), p, 0, predicted);
}

// Logits in one batch from which on a second thread is worth its start, some 50 us. llama.cpp's samplers take many
// times as long for each.
static constexpr size_t MANY_LOGITS = 1 << 18;
static constexpr size_t CHAIN_COST  = 16;

void step_sample_rows(std::vector<step_row> & rows, predictor * p, llama_context * ctx) {
    llama_synchronize(ctx);
    const size_t n = (size_t) n_vocab_of(ctx), n_rows = rows.size();
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    std::vector<const float *> logits(n_rows);
    std::vector<float> temperature(n_rows), top_p(n_rows);
    bool   any       = false;
    size_t work_size = 0;
    for (size_t i = 0; i < n_rows; ++i) {
        const step_sampler * s = rows[i].s;
        logits[i] = output(ctx, (int32_t) i);
        if (s) {
            any        = any || predicts(*s);
            work_size += n * (s->before || s->after ? CHAIN_COST : 1);
        }
    }
    if (any) {
        predict(p, ctx, 0, (int64_t) n_rows, temperature.data(), top_p.data());
    }
    std::atomic<size_t> next { 0 };
    const auto work = [&] {
        for (size_t i = next++; i < n_rows; i = next++) {
            step_row & row = rows[i];
            if (!row.s) {
                continue;
            }
            try {
                row.token = draw_row(*row.s, logits[i], nullptr, n, predicts(*row.s) ? p : nullptr, (int64_t) i,
                                     { temperature[i], top_p[i] });
                row.ends  = llama_vocab_is_eog(vocab, row.token);
            } catch (const std::exception & e) {
                row.error = e.what();
            }
        }
    };
    const size_t n_threads = std::min<size_t>({ n_rows, work_size / MANY_LOGITS, (size_t) llama_n_threads(ctx) });
    std::vector<std::thread> others;
    for (size_t i = 1; i < n_threads; ++i) {
        others.emplace_back(work);
    }
    work();
    for (std::thread & t : others) {
        t.join();
    }
}
