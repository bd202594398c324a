// What predicts T and P for the outputs of a llama_context.

#pragma once

#include "graph_sampler.h"
#include "heads_runner.h"

// Where T and P come from. In the graph when attached; else on the host, from the hidden state that
// llama_set_embeddings(ctx, true) makes llama.cpp keep.
struct predictor {
    std::shared_ptr<heads>        h;
    heads_enabled                 on;
    graph_sampler               * gs = nullptr;
    std::unique_ptr<heads_runner> runner; // host way, made when first needed
    std::string                   why_not = {}; // the last attempt to attach came to nothing, or gives no shortlists
};

// As graph_sampler_attach.
// Throws when model and heads differ in size, or something is attached already. Returns false when the context cannot run
// the heads in its graph.
bool predictor_attach(predictor & p, llama_context * ctx, llama_seq_id seq_id, const graph_sampler_options & options);
void predictor_detach(predictor & p); // does nothing when not attached

// T and P of n outputs of the last decode from idx on (as in llama_get_logits_ith). Attached, they must be all that
// there are. Throws when p is NULL, when there is no hidden state, or the graph has no heads (graph_sampler_read).
void predictor_read(predictor * p, llama_context * ctx, int32_t idx, int64_t n, float * temperature, float * top_p);

// After predictor_read of n outputs: their shortlists; none where the device gives none.
std::vector<shortlist> predictor_lists(const predictor * p, int64_t n);
