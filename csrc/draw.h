// The last stage of sampling: scale by T, cut to the nucleus of mass P, draw.

#pragma once

#include "arrays.h"
#include "nucleus.h"
#include "weights.h"

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

// Scratch space of draw_token, kept between calls: nothing is allocated per token once it has grown.
struct draw_scratch {
    std::vector<float> weight; // a row of weights.h
    nucleus_scratch    of_nucleus;
};

struct draw_result {
    int32_t index;   // into logits
    int32_t nucleus; // tokens left after the cut, >= 1
    float   prob;    // probability with which index was drawn, among those left
    // what was drawn from, for draw_prob: good until the scratch space or the weights are used again
    const float * weight    = nullptr; // NULL: there was no choice
    double        mass      = 0.0;     // of what the cut kept
    float         threshold = 0.0f;    // kept are the weights above it,
    uint32_t      n_equal   = 0;       // and the first so many of those that are it
};

enum draw_status {
    DRAW_OK,
    DRAW_NOT_FINITE, // a logit is NaN or +inf
    DRAW_NO_TOKEN,   // every logit is -inf
};

// Draws from softmax(logits / temperature) cut to the smallest set of most likely tokens whose probabilities
// reach top_p, renormalized. First scale, then cut. temperature 0: the most likely token; top_p 0: one token.
// Tokens of equal probability at the cut are taken in ascending order of index. u: uniform in [0, 1).
draw_status draw_token(const float * logits, size_t n, float temperature, double top_p, double u,
                       draw_scratch & scratch, draw_result & result);

// The same from the weights after scaling.
draw_status draw_weights(const weight_row & weights, double top_p, double u, draw_scratch & scratch, draw_result & result);

// probability with which token i would have been drawn
float draw_prob(const draw_result & r, size_t i);

// Throws unless there are logits [n_vocab], and a temperature and a top-p to draw n tokens with.
void check_draw(const f32_array & logits, float temperature, double top_p, int64_t n);

// n tokens, drawn one after the other from the same logits [n_vocab]; seed is the generator's. Throws where there is nothing
// to draw from.
std::vector<int32_t> draw_tokens(const f32_array & logits, float temperature, double top_p, int64_t n, uint32_t seed);

// entropy of softmax(logits) in nats
float logits_entropy(const float * logits, size_t n);

// probability of the most likely token of softmax(logits); NaN where there is none
float logits_top(const float * logits, size_t n);

// uniform in [0, 1) with 53 bits; the same on every platform, which std::uniform_real_distribution is not
double uniform(std::mt19937 & rng);
