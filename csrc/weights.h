// The weights that a token is drawn from, and the statistics that the top-p head reads of them.

#pragma once

#include <cstddef>
#include <cstdint>

// Weights to a stretch; a row of them is filled up with 0 to whole ones.
static constexpr size_t STRETCH = 512;

static constexpr size_t  N_TOP        = 5; // of top5_prob
static constexpr int64_t N_STATISTICS = 4; // max_prob, entropy, prob_variance, top5_prob

// exp((logit - max) / T) of every token, of which the largest is 1, and what is known of each stretch: with the sums nobody
// need look at all of the weights again, with the largest not at those that are too small.
struct weight_row {
    const float * weight;  // [n], whole stretches
    const float * mass;    // [n / STRETCH], the sum
    const float * squares; // the sum of squares
    const float * largest;
    size_t        n;
};

static inline size_t weight_stretches(size_t n_vocab) {
    return (n_vocab + STRETCH - 1) / STRETCH;
}

// floats that a row takes, what is known of its stretches included
static inline size_t weight_row_size(size_t n_vocab) {
    return weight_stretches(n_vocab) * (STRETCH + 3);
}

static inline weight_row weight_row_of(const float * row, size_t n_vocab) {
    const size_t n = weight_stretches(n_vocab), end = n * STRETCH;
    return { row, row + end, row + end + n, row + end + 2 * n, end };
}

// Fills stretches [begin, end) of a row. A logit that is NaN or +inf leaves a NaN in its stretch.
void weigh(const float * logits, size_t n_vocab, float max, float temperature, float * row, size_t begin, size_t end);

// the sum of all; NaN where a logit was NaN or +inf
double weight_total(const weight_row & w);

// The sum of e ln(e / z + 1e-8) over stretches [begin, end), with z the sum of all: of which the entropy is made.
double weight_plogp(const weight_row & w, double z, size_t begin, size_t end);

// max_prob, entropy, prob_variance and top5_prob of softmax(logits / T), as TopPHead.compute_prob_stats of the official code has
// them. top: the k largest logits, the largest first; plogp: of all stretches.
void weight_statistics(const weight_row & w, size_t n_vocab, const float * top, size_t k, float temperature, double z,
                       double plogp, float * out);

// The same of a row of logits at a temperature that is not 0; row: space for its weights, which are filled in.
void row_statistics(const float * logits, size_t n_vocab, float temperature, float * row, float * out);

// What the entropy of softmax(logits) is made of, of some of them: with d = logit - max and w = exp(d), the sums of w and w d.
struct entropy_sums {
    double w;
    double wd;
};

entropy_sums sum_entropy(const float * logits, size_t n, float max);

// in nats, from the sums over all logits
float entropy_of(const entropy_sums & s);
