// Log-probabilities: log softmax of raw logits, before anything is applied to them.

#pragma once

#include "llama.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

// A token that could have been drawn.
struct alternative {
    llama_token id;
    double      logprob; // of the raw distribution, <= 0
    float       prob;    // with which it would have been drawn after everything; NaN where nothing was drawn
};

struct likelihood {
    double                   logprob      = NAN; // of the token asked for; NaN where a logit is NaN or +inf, or all are -inf
    std::vector<alternative> alternatives = {};  // the most likely, of equal ones the lower id first; none whose logit is -inf
};

// what it costs for each logit, in units of those that a token is drawn from
static constexpr size_t LIKELIHOOD_COST = 8;

// Of token id and of the n_top most likely ones; their prob is NaN. In double: two passes over the logits.
likelihood likelihood_of(const float * logits, size_t n, llama_token id, size_t n_top);

// Of tokens after outputs idx, idx + 1, ... of the last decode (as in llama_get_logits_ith), shared among threads where
// there is enough to do. Throws where there is no such output, or a token is none of the vocabulary.
std::vector<likelihood> context_likelihoods(llama_context * ctx, int32_t idx, const std::vector<llama_token> & tokens,
                                            size_t n_top);
