#include "graph_sampler.h"

#include <cstdio>

struct graph_sampler {
    const std::shared_ptr<heads> h;
    const heads_enabled          on;
    llama_context * const        lctx;
    const llama_seq_id           seq_id;

    llama_sampler         * chain   = nullptr; // owned; its only stage points back here
    const heads_weights   * weights = nullptr; // on the output layer's device
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
    ggml_tensor           * out     = nullptr; // F32 [2]: temperature, top-p
    bool                    in_graph = false;  // the last graph built has the heads in it
};

static const char * graph_sampler_name(const llama_sampler * /*smpl*/) {
    return "autodeco";
}

static void graph_sampler_apply(llama_sampler * /*smpl*/, llama_token_data_array * /*cur_p*/) {
    // predicting is all this stage does; applying is sampler.cpp's
}

static bool graph_sampler_backend_init(llama_sampler * smpl, ggml_backend_buffer_type_t buft, uint32_t n_outputs_max_per_seq) {
    auto * gs = (graph_sampler *) smpl->ctx;
    if (n_outputs_max_per_seq != 1) {
        return false; // one pair of values is kept
    }
    try {
        gs->weights = heads_on(*gs->h, buft);
        gs->ctx.reset(ggml_init({
            /*.mem_size   =*/ ggml_tensor_overhead(),
            /*.mem_buffer =*/ nullptr,
            /*.no_alloc   =*/ true,
        }));
        if (!gs->weights || !gs->ctx) {
            return false;
        }
        gs->out = ggml_new_tensor_1d(gs->ctx.get(), GGML_TYPE_F32, 2);
        gs->buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(gs->ctx.get(), buft));
        return gs->buf != nullptr;
    } catch (const std::exception &) {
        return false; // an exception must not pass through llama.cpp
    }
}

// the row of the padded hidden states that belongs to the row of logits; NULL where the graph has none
static ggml_tensor * hidden_row(ggml_context * ctx, ggml_cgraph * gf, const heads & h, const ggml_tensor * logits) {
    const ggml_tensor * padded = logits->view_src;
    if (!padded) {
        // llama.cpp's probe, which counts nodes: same nodes, no hidden state to find
        ggml_tensor * dummy = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, h.n_embd, 1);
        return ggml_view_1d(ctx, ggml_pad(ctx, dummy, 0, 1, 0, 0), h.n_embd, 0);
    }
    ggml_tensor * norm = ggml_graph_get_tensor(gf, "result_norm");
    if (!norm || norm->type != GGML_TYPE_F32 || norm->ne[0] != h.n_embd || norm->ne[1] + 1 != padded->ne[1]) {
        return nullptr;
    }
    norm = ggml_pad(ctx, norm, 0, 1, 0, 0);
    const size_t row = logits->view_offs / padded->nb[1];
    return ggml_view_1d(ctx, norm, h.n_embd, row * norm->nb[1]);
}

static void graph_sampler_backend_apply(llama_sampler * smpl, ggml_context * ctx, ggml_cgraph * gf, llama_sampler_data * data) {
    auto * gs = (graph_sampler *) smpl->ctx;
    try {
        ggml_tensor * hidden = hidden_row(ctx, gf, *gs->h, data->logits);
        const bool is_probe = data->logits->view_src == nullptr;
        gs->in_graph = hidden && (is_probe || data->logits->ne[0] == gs->h->n_vocab);
        if (!gs->in_graph) {
            return;
        }
        const heads_outputs t = heads_build(ctx, *gs->h, *gs->weights, gs->on, hidden, data->logits);
        const ggml_tensor * values[] = { t.temperature, t.top_p };
        for (int i = 0; i < 2; ++i) {
            ggml_tensor * slot = ggml_view_1d(ctx, gs->out, 1, i * sizeof(float));
            ggml_tensor * src  = ggml_reshape_1d(ctx, const_cast<ggml_tensor *>(values[i]), 1);
            ggml_build_forward_expand(gf, ggml_cpy(ctx, src, slot));
        }
    } catch (const std::exception &) {
        gs->in_graph = false;
    }
}

static llama_sampler_i graph_sampler_i = {
    /* .name              = */ graph_sampler_name,
    /* .accept            = */ nullptr,
    /* .apply             = */ graph_sampler_apply,
    /* .reset             = */ nullptr,
    /* .clone             = */ nullptr, // bound to its context
    /* .free              = */ nullptr, // the graph_sampler owns the chain, not the other way round
    /* .backend_init      = */ graph_sampler_backend_init,
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ graph_sampler_backend_apply,
    /* .backend_set_input = */ nullptr,
    /* .backend_reset     = */ nullptr,
    /* .copy_state        = */ nullptr,
};

graph_sampler * graph_sampler_attach(llama_context * ctx, llama_seq_id seq_id, std::shared_ptr<heads> h, heads_enabled on) {
    auto gs = std::make_unique<graph_sampler>(graph_sampler { h, on, ctx, seq_id, nullptr, nullptr, {}, {}, nullptr, false });
    gs->chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(gs->chain, llama_sampler_init(&graph_sampler_i, gs.get()));

    const bool attached = llama_set_sampler(ctx, seq_id, gs->chain);
    if (attached && gs->buf) {
        return gs.release();
    }
    if (attached) {
        llama_set_sampler(ctx, seq_id, nullptr);
    }
    llama_sampler_free(gs->chain);
    return nullptr;
}

void graph_sampler_detach(graph_sampler * gs) {
    llama_synchronize(gs->lctx);
    llama_set_sampler(gs->lctx, gs->seq_id, nullptr);
    llama_sampler_free(gs->chain);
    delete gs;
}

bool graph_sampler_read(graph_sampler * gs, float * temperature, float * top_p) {
    llama_synchronize(gs->lctx);
    if (!gs->in_graph) {
        return false;
    }
    float values[2];
    ggml_backend_tensor_get(gs->out, values, 0, sizeof(values));
    *temperature = values[0];
    *top_p       = values[1];
    return true;
}
