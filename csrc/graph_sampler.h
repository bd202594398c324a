// The heads as a stage of llama.cpp's backend sampling: part of the model's own compute graph.

#pragma once

#include "heads.h"
#include "llama.h"

// One attachment of the heads to one sequence of one llama_context. The logits pass through unchanged;
// temperature and top-p are left in a small tensor on the output layer's device.
struct graph_sampler;

// Attaches to ctx. NULL when the context cannot run samplers in its graph (split mode tensor, no memory).
// The caller keeps ctx alive until graph_sampler_detach.
graph_sampler * graph_sampler_attach(llama_context * ctx, llama_seq_id seq_id,
                                     std::shared_ptr<heads> h, heads_enabled on);

// Whether a sequence of a context has one.
bool graph_sampler_taken(const llama_context * ctx, llama_seq_id seq_id);

// Takes it out of its context and frees it. An attachment that is never detached must be leaked: the context
// keeps a pointer to it.
void graph_sampler_detach(graph_sampler * gs);

// Of the last decode: writes temperature and top-p and returns true. False where the model's graph has no
// `result_norm` with one row for each row of logits; then nothing was computed.
bool graph_sampler_read(graph_sampler * gs, float * temperature, float * top_p);

// After graph_sampler_read: exp((logits - max) / T) of the last decode for draw_weights, n values with the padding.
// NULL where the graph has no use for them, or they are on another device.
const float * graph_sampler_weights(const graph_sampler * gs, size_t * n);
