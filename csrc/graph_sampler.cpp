#include "graph_sampler.h"

#include "errors.h"
#include "heads_runner.h"
#include "raw_logits.h"
#include "weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

// what is attached: llama.cpp would let a second sampler take a sequence over from the first
static std::mutex attached_mutex;
static std::map<std::pair<const llama_context *, llama_seq_id>, graph_sampler *> attached;

struct graph_sampler {
    const std::shared_ptr<heads> h;
    heads_use                    use; // with the weights on the output layer's device
    llama_context * const        lctx;
    const llama_seq_id           seq_id; // or EVERY_OUTPUT
    const int64_t                max_rows;
    const draw_place             draw;

    llama_sampler         * chain   = nullptr; // owned; its only stage points back here
    ggml_context_ptr        ctx     = {};
    ggml_backend_buffer_ptr buf     = {};
    ggml_tensor           * out     = nullptr; // F32 [max_rows, 3]: temperatures, top-p, entropies
    ggml_tensor           * drawing = nullptr; // F32 [weight_row_size, max_rows], on the CPU only
    bool                    has_weights = false; // the last graph built computes these, and entropies where asked for
    int64_t                 n_rows      = 0;     // for which the last graph built has the heads in it
    std::string             missing     = {};    // the operation that the device lacks

    bool                         draws    = false;   // shortlists are in the graph
    shortlist_tensors            lists    = {};      // of the last graph built, which keeps them, as
    ggml_tensor                * logits   = nullptr; // all that the model gives out
    bool                         computed = false;   // these, since it was built
    std::vector<llama_sampler *> keepers  = {};      // one for each sequence while logits stay on the device
};

static bool graph_sampler_backend_init(llama_sampler * smpl, ggml_backend_buffer_type_t buft, uint32_t n_outputs_max_per_seq) {
    auto * gs = (graph_sampler *) smpl->ctx;
    if (n_outputs_max_per_seq != 1) {
        return false; // one pair of values is kept
    }
    try {
        gs->use.w = heads_on(*gs->h, buft);
        gs->ctx.reset(ggml_init({ 2 * ggml_tensor_overhead(), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }));
        if (!gs->use.w || !gs->ctx) {
            return false;
        }
        ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
        if (dev && !gs->use.on_cpu()) {
            gs->missing = heads_missing_op(gs->use, dev, gs->max_rows);
            if (!gs->missing.empty()) {
                gs->missing = std::string("device ") + ggml_backend_dev_name(dev) + " has no operation " + gs->missing;
                return false;
            }
        }
        if (gs->seq_id == EVERY_OUTPUT && (gs->draw == DRAW_ON_DEVICE || (gs->draw == DRAW_ANYWHERE && !gs->use.on_cpu()))) {
            gs->missing = dev ? shortlist_missing_op(dev, gs->h->n_vocab, gs->max_rows) : "";
            gs->draws   = gs->missing.empty();
            if (!gs->draws) {
                gs->missing = std::string("device ") + ggml_backend_dev_name(dev) + " has no operation " + gs->missing;
            }
        }
        gs->out = ggml_new_tensor_2d(gs->ctx.get(), GGML_TYPE_F32, gs->max_rows, 3);
        if (gs->use.on_cpu()) {
            const int64_t size = (int64_t) weight_row_size((size_t) gs->h->n_vocab);
            gs->drawing = ggml_new_tensor_2d(gs->ctx.get(), GGML_TYPE_F32, size, gs->max_rows);
        }
        gs->buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(gs->ctx.get(), buft));
        if (!gs->buf) {
            return false;
        }
        const std::vector<float> nothing_yet((size_t) ggml_nelements(gs->out), NAN);
        ggml_backend_tensor_set(gs->out, nothing_yet.data(), 0, ggml_nbytes(gs->out));
        return true;
    } catch (const std::exception &) {
        return false; // an exception must not pass through llama.cpp
    }
}

// one row of a matrix; the row itself where it exists, else that of a padded copy
static ggml_tensor * build_row(ggml_context * ctx, ggml_tensor * matrix, int64_t row) {
    if (row >= matrix->ne[1]) {
        matrix = ggml_pad(ctx, matrix, 0, 1, 0, 0);
    }
    return ggml_view_1d(ctx, matrix, matrix->ne[0], row * matrix->nb[1]);
}

static ggml_tensor * build_rows(ggml_context * ctx, ggml_tensor * matrix, int64_t n) {
    return ggml_view_2d(ctx, matrix, matrix->ne[0], n, matrix->nb[1], 0);
}

namespace {

// hidden states and logits of the outputs to predict for
struct output_rows {
    ggml_tensor * hidden; // NULL: the graph has none
    ggml_tensor * logits; // as llama.cpp gives them out
    ggml_tensor * raw;    // as the heads read them
    bool          all;    // these are all outputs
};

} // namespace

// llama.cpp pads the matrix of logits with a row for sequences that have no output in this batch, a copy of all of
// it. Every real row stands in the matrix that was padded, so the copy is taken only when there is no row at all.
static output_rows build_output_rows(ggml_context * ctx, ggml_cgraph * gf, const graph_sampler & gs, ggml_tensor * logits) {
    const heads & h = *gs.h;
    const ggml_tensor * padded = logits->view_src;
    if (!padded) {
        // its probe, which counts nodes: as many of them, and no hidden state to find
        ggml_tensor * dummy = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, h.n_embd, 1);
        ggml_tensor * raw   = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, logits->ne[0], 1);
        return { build_row(ctx, dummy, 1), ggml_view_1d(ctx, logits, logits->ne[0], 0), build_row(ctx, raw, 1), true };
    }
    ggml_tensor * all  = padded->op == GGML_OP_PAD ? padded->src[0] : nullptr;
    ggml_tensor * norm = ggml_graph_get_tensor(gf, "result_norm");
    if (!all || !norm || norm->type != GGML_TYPE_F32 || norm->ne[0] != h.n_embd || norm->ne[1] != all->ne[1] ||
        logits->ne[0] != h.n_vocab) {
        return { nullptr, logits, logits, false };
    }
    ggml_tensor * raw = raw_logits_tensor(all);
    if (gs.seq_id == EVERY_OUTPUT) {
        if (all->ne[1] < 1 && !gs.use.on_cpu()) {
            return { nullptr, all, raw, false }; // a device need not take operations on nothing
        }
        // Of no outputs, none; of more than may be, the first: llama.cpp lays its memory out for a graph of many, and lays it
        // out anew, where tensors lie across cache lines, for one that has other nodes.
        const int64_t n = std::min(all->ne[1], gs.max_rows);
        ggml_tensor * some = build_rows(ctx, all, n);
        return { build_rows(ctx, norm, n), some, raw == all ? some : build_rows(ctx, raw, n), n == all->ne[1] };
    }
    const int64_t row = (int64_t) (logits->view_offs / padded->nb[1]);
    ggml_tensor * one = row < all->ne[1] ? build_row(ctx, all, row) : logits;
    return { build_row(ctx, norm, row), one, raw == all ? one : build_row(ctx, raw, row), true };
}

static void graph_sampler_backend_apply(llama_sampler * smpl, ggml_context * ctx, ggml_cgraph * gf, llama_sampler_data * data) {
    auto * gs = (graph_sampler *) smpl->ctx;
    gs->n_rows   = 0;
    gs->logits   = nullptr;
    gs->computed = false;
    try {
        const output_rows rows = build_output_rows(ctx, gf, *gs, data->logits);
        if (!rows.hidden) {
            return;
        }
        const int64_t n = rows.hidden->ne[1];
        heads_places places = { ggml_view_2d(ctx, gs->out, n, 3, gs->out->nb[1], 0) };
        // the probe has a vocabulary of its own; what is drawn from are the logits that are given out
        if (gs->drawing && rows.logits->ne[0] == gs->h->n_vocab && rows.raw == rows.logits) {
            places.weights = build_rows(ctx, gs->drawing, n);
        }
        const heads_outputs out = heads_build(ctx, gs->use, gs->use.on_cpu(), rows.hidden, rows.raw, places);
        gs->has_weights = out.has_weights;

        if (gs->seq_id == EVERY_OUTPUT) {
            ggml_build_forward_expand(gf, out.temperature);
            ggml_build_forward_expand(gf, out.top_p);
            if (gs->draws) {
                gs->logits = rows.all ? rows.logits : nullptr;
                gs->lists  = shortlist_build(ctx, rows.logits, out.temperature);
                ggml_build_forward_expand(gf, gs->lists.ids);
                ggml_build_forward_expand(gf, gs->lists.values);
            }
        } else {
            // llama.cpp computes the logits it gets back only where the sequence has an output in this batch. T and P
            // hang on to them, so that another sequence's row is not written over ours.
            ggml_tensor * gate = ggml_view_1d(ctx, rows.logits, rows.logits->ne[0], 0);
            gate->src[1] = out.temperature;
            gate->src[2] = out.top_p;
            data->logits = gate;
        }
        gs->n_rows = rows.all ? n : 0;
    } catch (const std::exception &) {
        // the host sees that nothing was computed; an exception must not pass through llama.cpp
    }
}

static llama_sampler_i graph_sampler_i = {
    /* .name              = */ [](const llama_sampler *) { return "autodeco"; },
    /* .accept            = */ nullptr,
    /* .apply             = */ [](llama_sampler *, llama_token_data_array *) {}, // it predicts; sampler.cpp draws
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

draw_place draw_place_of(const std::string & name) {
    return name == "host" ? DRAW_ON_HOST : name == "device" ? DRAW_ON_DEVICE : DRAW_ANYWHERE;
}

graph_sampler * graph_sampler_attach(llama_context * ctx, llama_seq_id seq_id, const graph_sampler_options & options,
                                     std::shared_ptr<heads> h, heads_enabled on, std::string & why_not) {
    std::lock_guard<std::mutex> lock(attached_mutex);
    const auto first = attached.lower_bound({ ctx, EVERY_OUTPUT });
    const bool taken = first != attached.end() && first->first.first == ctx &&
                       (seq_id == EVERY_OUTPUT || first->first.second == EVERY_OUTPUT);
    if (taken || attached.count({ ctx, seq_id })) {
        const std::string which = seq_id == EVERY_OUTPUT ? "every output" : "sequence " + std::to_string(seq_id);
        throw refusal(MODEL_FAILED, which + " of this context has heads attached already");
    }
    const heads_use use = { h.get(), nullptr, on, options.entropy };
    std::unique_ptr<graph_sampler> gs(new graph_sampler { h, use, ctx, seq_id, options.n_rows, options.draw });
    gs->chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(gs->chain, llama_sampler_init(&graph_sampler_i, gs.get()));

    const bool accepted = llama_set_sampler(ctx, seq_id, gs->chain);
    if (accepted && gs->buf) {
        why_not = gs->missing;
        attached[{ ctx, seq_id }] = gs.get();
        return gs.release();
    }
    if (accepted) {
        llama_set_sampler(ctx, seq_id, nullptr);
    }
    why_not = accepted ? gs->missing : "the context runs no samplers in its graph";
    llama_sampler_free(gs->chain);
    return nullptr;
}

// A sampler that gives nothing out. llama.cpp copies the logits of sequences that have none.
static llama_sampler_i keeper_i = {
    /* .name              = */ [](const llama_sampler *) { return "autodeco-keeper"; },
    /* .accept            = */ nullptr,
    /* .apply             = */ [](llama_sampler *, llama_token_data_array *) {},
    /* .reset             = */ nullptr,
    /* .clone             = */ nullptr,
    /* .free              = */ nullptr,
    /* .backend_init      = */ [](llama_sampler *, ggml_backend_buffer_type_t, uint32_t) { return true; },
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ [](llama_sampler *, ggml_context *, ggml_cgraph *, llama_sampler_data * data) {
        data->logits = nullptr;
    },
    /* .backend_set_input = */ [](llama_sampler * smpl) { ((graph_sampler *) smpl->ctx)->computed = true; }, // soon
    /* .backend_reset     = */ nullptr,
    /* .copy_state        = */ nullptr,
};

static void keep_logits(graph_sampler & gs, bool stay) {
    if (!gs.draws || stay == !gs.keepers.empty()) {
        return;
    }
    llama_synchronize(gs.lctx);
    gs.computed = false; // what was can be read no more
    if (!stay) {
        for (size_t i = 0; i < gs.keepers.size(); ++i) {
            llama_set_sampler(gs.lctx, (llama_seq_id) i, nullptr);
            llama_sampler_free(gs.keepers[i]);
        }
        gs.keepers.clear();
        return;
    }
    for (llama_seq_id i = 0; i < (llama_seq_id) llama_n_seq_max(gs.lctx); ++i) {
        gs.keepers.push_back(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(gs.keepers.back(), llama_sampler_init(&keeper_i, &gs));
        llama_set_sampler(gs.lctx, i, gs.keepers.back());
    }
}

static graph_sampler * find_attached(const llama_context * ctx) {
    std::lock_guard<std::mutex> lock(attached_mutex);
    const auto it = attached.find({ ctx, EVERY_OUTPUT });
    return it == attached.end() ? nullptr : it->second;
}

void graph_sampler_stay(llama_context * ctx, bool stay) {
    if (graph_sampler * gs = find_attached(ctx)) {
        keep_logits(*gs, stay);
    }
}

void graph_sampler_fetch(llama_context * ctx, int32_t idx) {
    const graph_sampler * gs = find_attached(ctx);
    if (!gs || gs->keepers.empty()) {
        return;
    }
    float * place = llama_get_logits_ith(ctx, idx); // waits for the device
    if (!place) {
        return;
    }
    const int64_t row = (place - llama_get_logits(ctx)) / gs->h->n_vocab;
    if (!gs->computed || !gs->logits || row >= gs->logits->ne[1]) {
        throw refusal(MODEL_FAILED, "the logits of output " + std::to_string(idx) + " were left on the device, and are gone");
    }
    ggml_backend_tensor_get(gs->logits, place, (size_t) row * gs->logits->nb[1], gs->logits->nb[1]);
}

bool graph_sampler_draws(const graph_sampler * gs) {
    return gs->draws;
}

std::vector<shortlist> graph_sampler_lists(const graph_sampler * gs, int64_t n) {
    return gs->computed && gs->logits ? shortlist_read(gs->lists, gs->h->n_vocab, n) : std::vector<shortlist>();
}

void graph_sampler_detach(graph_sampler * gs) {
    llama_synchronize(gs->lctx);
    keep_logits(*gs, false);
    llama_set_sampler(gs->lctx, gs->seq_id, nullptr);
    llama_sampler_free(gs->chain);
    {
        std::lock_guard<std::mutex> lock(attached_mutex);
        attached.erase({ gs->lctx, gs->seq_id });
    }
    delete gs; // which may wait for a worker
}

const float * graph_sampler_weights(const graph_sampler * gs, int64_t row) {
    return gs->has_weights ? (const float *) gs->drawing->data + row * gs->drawing->ne[0] : nullptr;
}

float graph_sampler_entropy(const graph_sampler * gs, int64_t row) {
    return gs->has_weights && gs->use.entropy ? ((const float *) gs->out->data)[2 * gs->max_rows + row] : NAN;
}

bool graph_sampler_read(graph_sampler * gs, int64_t n, float * temperature, float * top_p) {
    llama_synchronize(gs->lctx);
    if (gs->n_rows != n) {
        return false;
    }
    ggml_backend_tensor_get(gs->out, temperature, 0,              (size_t) n * sizeof(float));
    ggml_backend_tensor_get(gs->out, top_p,       gs->out->nb[1], (size_t) n * sizeof(float));
    return true;
}
