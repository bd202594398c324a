// The draw from what a device gives out of a row of logits: the largest few, and sums over all. A vocabulary of 151,936 takes
// 5 KB instead of 600.

#pragma once

#include "draw.h"
#include "ggml-backend.h"

// The most logits of a row that are given out. At the temperatures that heads predict, a nucleus seldom has as many.
static constexpr int64_t SHORTLIST = 512;

struct shortlist_tensors {
    ggml_tensor * ids;    // I32 [k, n]: where the k largest are, in no order, k = min(SHORTLIST, n_vocab)
    ggml_tensor * values; // F32 [3 parts + k, n]: sums over parts of the row, and these logits
};

// Adds them to a graph, with operations that every device has (docs/devices.md). logits: F32 [n_vocab, n], temperature: F32
// [1, n], both contiguous.
shortlist_tensors shortlist_build(ggml_context * ctx, ggml_tensor * logits, ggml_tensor * temperature);

// The name of an operation of these, for n rows, that a device lacks; "" where it has all.
std::string shortlist_missing_op(ggml_backend_dev_t dev, int64_t n_vocab, int64_t n);

// of one row
struct shortlist {
    std::vector<int32_t> ids;
    std::vector<float>   logits; // of these
    size_t               n_vocab;
    double               total;  // sum of exp((logit - max) / T) over the vocabulary
    double               raw;    // the same for T = 1; not finite where a logit is NaN or +inf, or all are -inf
    double               dot;    // sum of exp(logit - max) (logit - max)
};

// Reads n rows that were computed.
std::vector<shortlist> shortlist_read(const shortlist_tensors & t, int64_t n_vocab, int64_t n);

// Scratch space of shortlist_draw.
struct shortlist_scratch {
    std::vector<float>                     weight;
    std::vector<std::pair<float, int32_t>> order; // weight and id
};

// What draw_token draws from the whole row for the same u, to the bit. False where the list does not decide that: without a
// cut, where the cut lies behind it or at a weight that the sum's rounding leaves open, and where draw_token would refuse.
bool shortlist_draw(const shortlist & row, float temperature, double top_p, double u, shortlist_scratch & scratch,
                    draw_result & result);

// logits_entropy of the whole row
float shortlist_entropy(const shortlist & row);

struct shortlist_tokens {
    std::vector<int32_t> tokens; // -1: the list does not decide
    std::vector<int32_t> nucleus;
    std::vector<float>   prob;
    float                entropy; // in nats, of the raw distribution
};

// n draws from the same logits [n_vocab] with a graph of its own on a device; seed is the generator's, as for draw_tokens.
// Throws for a device that does not exist or lacks an operation.
shortlist_tokens shortlist_evaluate(const f32_array & logits, float temperature, double top_p, int64_t n, uint32_t seed,
                                    const std::string & device);
