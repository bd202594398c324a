// The heads as a stage of llama.cpp's backend sampling: part of the model's own compute graph.

#pragma once

#include "heads.h"
#include "llama.h"

// One attachment of the heads to a llama_context, for the output of one sequence or for every output of a batch. The
// logits pass through unchanged; temperature and top-p are left in a small tensor on the output layer's device.
struct graph_sampler;

// In place of a sequence: every output, whichever sequence it belongs to.
static constexpr llama_seq_id EVERY_OUTPUT = INT32_MIN;

// Attaches to ctx. n_rows: for EVERY_OUTPUT, the most outputs of one decode that are predicted for, else 1; such a
// decode must fit in one ubatch. NULL when the context cannot run samplers in its graph (split mode tensor, no memory), or
// the output layer's device lacks an operation; then why_not says so. Throws where the sequence has one. The caller keeps
// ctx alive until graph_sampler_detach.
graph_sampler * graph_sampler_attach(llama_context * ctx, llama_seq_id seq_id, int64_t n_rows,
                                     std::shared_ptr<heads> h, heads_enabled on, std::string & why_not);

// Takes it out of its context and frees it. An attachment that is never detached must be leaked: the context
// keeps a pointer to it.
void graph_sampler_detach(graph_sampler * gs);

// Of the last decode: writes n temperatures and n top-p, n the number of its outputs, and returns true. False where the
// model's graph has no `result_norm` with one row for each row of logits, or not n of them; then nothing was computed.
bool graph_sampler_read(graph_sampler * gs, int64_t n, float * temperature, float * top_p);

// After graph_sampler_read: the row of weights (weights.h) of one output. NULL where the graph has no use for them, or
// they are on another device.
const float * graph_sampler_weights(const graph_sampler * gs, int64_t row);
