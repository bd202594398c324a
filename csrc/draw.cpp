#include "draw.h"

#include "errors.h"
#include "vector_math.h"
#include "weights.h"

#include <algorithm>
#include <cmath>

// the largest logit; the status tells whether there is a distribution at all
static draw_status find_max(const float * x, size_t n, float * max) {
    f32x largest = f32x {} - INF;
    i32x bad     = {}; // NaN or +inf
    for_each_vector(x, n, -INF, [&](size_t, f32x v) {
        bad    |= ~(v < INF);
        largest = v > largest ? v : largest;
    }, [] {});
    if (any(bad)) {
        return DRAW_NOT_FINITE;
    }
    *max = largest_of(largest);
    return *max == -INF ? DRAW_NO_TOKEN : DRAW_OK;
}

float logits_entropy(const float * x, size_t n) {
    float max;
    if (find_max(x, n, &max) != DRAW_OK) {
        return NAN;
    }
    return entropy_of(sum_entropy(x, n, max));
}

float logits_top(const float * x, size_t n) {
    float max;
    if (find_max(x, n, &max) != DRAW_OK) {
        return NAN;
    }
    double total = 0.0; // in units of the largest
    f32x   part  = {};
    for_each_vector(x, n, -INF, [&](size_t, f32x v) {
        part += exp_neg(v - max);
    }, [&] {
        total += sum(part);
        part = f32x {};
    });
    return (float) (1.0 / total);
}

// Draws in proportion to weight in the nucleus: a stretch first, then a token in it.
static draw_result draw_kept(const std::vector<nucleus_scratch::stretch> & stretches, const weight_row & w, const nucleus & from,
                             double u) {
    double rest = u * from.mass;
    size_t chosen = 0;
    for (size_t k = 0; k < stretches.size(); ++k) {
        if (stretches[k].mass > 0.0) {
            chosen = k; // also where rounding lets rest outlast the sum
            if (rest < stretches[k].mass) {
                break;
            }
            rest -= stretches[k].mass;
        }
    }
    uint32_t n_equal = stretches[chosen].n_equal;
    size_t drawn = 0;
    for (size_t i = chosen * STRETCH; i < (chosen + 1) * STRETCH; ++i) {
        const float v   = w.weight[i];
        const bool  tie = v == from.threshold && n_equal > 0;
        n_equal -= tie;
        if (v > from.threshold || tie) {
            drawn = i;
            rest -= v;
            if (rest < 0.0) {
                break;
            }
        }
    }
    const float prob = (float) (w.weight[drawn] / from.mass);
    return { (int32_t) drawn, (int32_t) from.n, prob, w.weight, from.mass, from.threshold, from.n_equal };
}

float draw_prob(const draw_result & r, size_t i) {
    if (!r.weight) {
        return (int32_t) i == r.index ? 1.0f : 0.0f;
    }
    const float w = r.weight[i];
    const bool kept = w > r.threshold ||
                      (w == r.threshold && (size_t) std::count(r.weight, r.weight + i, w) < r.n_equal);
    return kept ? (float) (w / r.mass) : 0.0f;
}

// the first of the largest
static draw_result draw_greedy(const float * x, size_t n, float max) {
    return { (int32_t) (std::find(x, x + n, max) - x), 1, 1.0f, nullptr, 0.0, 0.0f, 0 };
}

draw_status draw_weights(const weight_row & w, double top_p, double u, draw_scratch & s, draw_result & result) {
    const double total  = weight_total(w);
    if (!(total >= 1.0)) { // the largest is 1, unless a logit was NaN or +inf
        return DRAW_NOT_FINITE;
    }
    if (top_p < 1.0 && top_p * total <= 1.0) {
        result = draw_greedy(w.weight, w.n, 1.0f); // the largest weight reaches it
    } else {
        result = draw_kept(s.of_nucleus.stretches, w, find_nucleus(w, total, top_p, s.of_nucleus), u);
    }
    return DRAW_OK;
}

draw_status draw_token(const float * logits, size_t n, float temperature, double top_p, double u,
                       draw_scratch & s, draw_result & result) {
    float max;
    const draw_status status = find_max(logits, n, &max);
    if (status != DRAW_OK) {
        return status;
    }
    if (!(temperature > 0.0f)) {
        result = draw_greedy(logits, n, max);
        return DRAW_OK;
    }
    s.weight.resize(weight_row_size(n));
    weigh(logits, n, max, temperature, s.weight.data(), 0, weight_stretches(n));
    return draw_weights(weight_row_of(s.weight.data(), n), top_p, u, s, result);
}

double uniform(std::mt19937 & rng) {
    const uint64_t high = rng() >> 5;
    const uint64_t low  = rng() >> 6;
    return (double) ((high << 26) | low) / 9007199254740992.0;
}

void check_draw(const f32_array & logits, float temperature, double top_p, int64_t n) {
    if (logits.shape.size() != 1 || logits.shape[0] < 1 || n < 0 || !std::isfinite(temperature) || !std::isfinite(top_p)) {
        throw refusal(INVALID_INPUT, "draw: logits is " + logits.shape_text() + ", expected [n_vocab]; temperature, top_p and n "
                                     "must be finite and not negative");
    }
}

std::vector<int32_t> draw_tokens(const f32_array & logits, float temperature, double top_p, int64_t n, uint32_t seed) {
    check_draw(logits, temperature, top_p, n);
    std::vector<int32_t> tokens((size_t) n);
    std::mt19937 rng(seed);
    draw_scratch scratch;
    for (int32_t & token : tokens) {
        draw_result r;
        const size_t n_vocab = (size_t) logits.shape[0];
        const draw_status status = draw_token(logits.data, n_vocab, temperature, top_p, uniform(rng), scratch, r);
        if (status != DRAW_OK) {
            throw refusal(INVALID_INPUT, status == DRAW_NO_TOKEN ? "draw: every logit is -inf" : "draw: a logit is NaN or +inf");
        }
        token = r.index;
    }
    return tokens;
}
