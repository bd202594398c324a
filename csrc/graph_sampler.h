// The heads as a stage of llama.cpp's backend sampling: part of the model's own compute graph.

#pragma once

#include "heads.h"
#include "llama.h"
#include "shortlist.h"

// One attachment of the heads to a llama_context, for the output of one sequence or for every output of a batch. The
// logits pass through unchanged; temperature and top-p are left in a small tensor on the output layer's device, and for
// every output on request a shortlist to draw from, so that the logits can stay there.
struct graph_sampler;

// In place of a sequence: every output, whichever sequence it belongs to.
static constexpr llama_seq_id EVERY_OUTPUT = INT32_MIN;

// Where tokens are drawn: on the device from shortlists, for EVERY_OUTPUT only; by itself where that is not the CPU.
enum draw_place {
    DRAW_ON_HOST,
    DRAW_ON_DEVICE,
    DRAW_ANYWHERE,
};

// what "host", "device" and "auto" stand for
draw_place draw_place_of(const std::string & name);

struct graph_sampler_options {
    int64_t    n_rows  = 1;            // the most outputs of one decode that are predicted for, which must fit in one ubatch
    draw_place draw    = DRAW_ON_HOST;
    bool       entropy = false;        // have the entropy of every output's distribution computed, too, where that is cheap
};

// Attaches to ctx. A sequence has one row, and is drawn for on the host. NULL when the context cannot run samplers in its graph (split mode tensor, no memory), or
// the output layer's device lacks an operation; then why_not says so, and also where it is the shortlist's alone, without
// which the heads are attached. Throws where the sequence has one. The caller keeps ctx alive until graph_sampler_detach.
graph_sampler * graph_sampler_attach(llama_context * ctx, llama_seq_id seq_id, const graph_sampler_options & options,
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

// After graph_sampler_read: the entropy of softmax(logits) of one output, in nats. NaN where it was not asked for, or not cheap.
float graph_sampler_entropy(const graph_sampler * gs, int64_t row);

// Whether there are shortlists.
bool graph_sampler_draws(const graph_sampler * gs);

// After graph_sampler_read, the shortlists of the n outputs; none where the last decode gave none, or its logits did not stay.
std::vector<shortlist> graph_sampler_lists(const graph_sampler * gs, int64_t n);

// Has the logits of the decodes of ctx to come stay on the device, where an attachment gives shortlists; else, as at first,
// llama.cpp copies them to the host. While they stay, a decode takes one output of a sequence.
void graph_sampler_stay(llama_context * ctx, bool stay);

// Copies the logits of an output of the last decode to where llama_get_logits_ith looks for them, where they stayed.
void graph_sampler_fetch(llama_context * ctx, int32_t idx);
