// What a step of training asks of rows of logits: what the top-p head reads of them, and the loss of the soft top-p cut with its
// derivatives by T and P. The same formulas for any device are autodeco_gguf/training/losses.py and module.py.

#pragma once

#include "arrays.h"

#include <cstddef>
#include <cstdint>
#include <vector>

// max_prob, entropy, prob_variance and top5_prob of softmax(logits / (T + 1e-8)), [n, 4] row-major.
// logits: [n, n_vocab], temperature: [n]. Throws for other shapes.
std::vector<float> training_features(const f32_array & logits, const f32_array & temperature, size_t most_threads);

// Cross-entropy of softmax(logits / T) against the target, in nats, and its derivative by T: [2, n] row-major. NaN where a logit of
// a row is NaN or +inf, or all are -inf. logits: [n, n_vocab], target, temperature: [n], not 0. Throws for other shapes, or a target
// that is none of the vocabulary.
std::vector<float> training_cross_entropy(const f32_array & logits, const std::vector<int32_t> & target,
                                          const f32_array & temperature, size_t most_threads);

struct soft_cut {
    double alpha;     // the mask is exp(-alpha relu(c - P)), c the mass up to and including a token, the most likely first
    double tolerance; // of the loss, in nats, for which the order of the least likely does not matter
};

// -ln(k / (m + 1e-9) + 1e-9) with k the mask times the probability of the target under softmax(logits / T), m its sum over
// all tokens, and its derivatives by T and by P: [3, n] row-major. T counts as at least 1e-8. NaN and throws likewise; top_p: [n].
std::vector<float> training_losses(const f32_array & logits, const std::vector<int32_t> & target, const f32_array & temperature,
                                   const f32_array & top_p, const soft_cut & cut, size_t most_threads);
