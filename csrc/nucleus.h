// The nucleus: the smallest set of most likely tokens whose probabilities reach top_p.

#pragma once

#include "weights.h"

#include <cstddef>
#include <cstdint>
#include <vector>

// Scratch space of find_nucleus, kept between calls.
struct nucleus_scratch {
    struct stretch {
        double   mass;    // of what the cut keeps; of the weights above the bracket, while it is looked for
        uint32_t n;       // tokens of these
        uint32_t n_equal; // of what the cut keeps, tokens right at it
        size_t   end;     // of its weights in the bracket
    };
    std::vector<float>   bracket; // the weights among which the cut lies, each stretch's filled up to whole vectors
    std::vector<float>   left;    // of these, those that it can still be
    size_t               n_left = 0;
    std::vector<stretch> stretches; // of the nucleus, once it is found
};

// Tokens of weight > threshold are in, and the first n_equal of those of weight == threshold.
struct nucleus {
    float    threshold;
    uint32_t n_equal;
    double   mass; // of all in it
    uint32_t n;    // tokens in it
};

// The nucleus of weights whose sum is total, which the largest alone does not reach; all positive weights where top_p is 1 or
// more. What is in it of each stretch is left in the scratch space.
nucleus find_nucleus(const weight_row & weights, double total, double top_p, nucleus_scratch & scratch);
