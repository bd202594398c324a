#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

// Tried and rejected: sorting candidates (8 ms at a vocabulary of 151,936 when the distribution is flat),
// std::exp (not vectorized, three times slower), one pass for maximum and sum (needs a rescale per block).

static constexpr size_t LANES = 16;   // independent accumulators, so that the compiler may use vector registers
static constexpr size_t BLOCK = 4096; // float sums are folded into a double this often

// exp(x) for x <= 0 to 2 ulp, 0 below -87. Cody-Waite reduction and the Taylor polynomial of degree 7 on
// |r| <= ln(2) / 2. Branchless, so that loops over it vectorize.
static inline float exp_neg(float x) {
    const float clamped = x > -87.0f ? x : -87.0f;
    const float n = std::nearbyint(clamped * 1.44269504f);
    const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = ((int32_t) n + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return x > -87.0f ? p * scale : 0.0f;
}

// the largest logit; status tells whether a distribution exists at all
static draw_status find_max(const float * x, size_t n, float * max) {
    float   lane_max[LANES];
    int32_t lane_nan[LANES] = {};
    std::fill_n(lane_max, LANES, -std::numeric_limits<float>::infinity());
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t j = 0; j < LANES; ++j) {
            const float v = x[i + j];
            lane_nan[j] |= v != v;
            lane_max[j]  = v > lane_max[j] ? v : lane_max[j];
        }
    }
    for (; i < n; ++i) {
        lane_nan[0] |= x[i] != x[i];
        lane_max[0]  = std::max(lane_max[0], x[i]);
    }
    bool nan = false;
    for (size_t j = 0; j < LANES; ++j) {
        nan |= lane_nan[j] != 0;
    }
    *max = *std::max_element(lane_max, lane_max + LANES);
    if (nan || *max == std::numeric_limits<float>::infinity()) {
        return DRAW_NOT_FINITE;
    }
    return *max == -std::numeric_limits<float>::infinity() ? DRAW_NO_TOKEN : DRAW_OK;
}

// weight[i] = exp((x[i] - max) / temperature); returns their sum
static double exp_all(const float * x, size_t n, float max, float temperature, float * weight) {
    double sum = 0.0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        const size_t end = std::min(n, begin + BLOCK);
        float lane[LANES] = {};
        size_t i = begin;
        for (; i + LANES <= end; i += LANES) {
            for (size_t j = 0; j < LANES; ++j) {
                const float w = exp_neg((x[i + j] - max) / temperature);
                weight[i + j] = w;
                lane[j] += w;
            }
        }
        for (; i < end; ++i) {
            weight[i] = exp_neg((x[i] - max) / temperature);
            lane[0] += weight[i];
        }
        for (size_t j = 0; j < LANES; ++j) {
            sum += lane[j];
        }
    }
    return sum;
}

float logits_entropy(const float * x, size_t n) {
    float max;
    if (find_max(x, n, &max) != DRAW_OK) {
        return std::numeric_limits<float>::quiet_NaN();
    }
    // sum w and sum w d with d = x - max, w = exp(d): H = ln(sum w) - sum(w d) / sum w
    double sum = 0.0, dot = 0.0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        const size_t end = std::min(n, begin + BLOCK);
        float lane_sum[LANES] = {}, lane_dot[LANES] = {};
        const auto add = [&](size_t j, float v) {
            const float d = v - max > -100.0f ? v - max : -100.0f; // w is 0 there, and 0 times -inf is not
            const float w = exp_neg(d);
            lane_sum[j] += w;
            lane_dot[j] += w * d;
        };
        size_t i = begin;
        for (; i + LANES <= end; i += LANES) {
            for (size_t j = 0; j < LANES; ++j) {
                add(j, x[i + j]);
            }
        }
        for (; i < end; ++i) {
            add(0, x[i]);
        }
        for (size_t j = 0; j < LANES; ++j) {
            sum += lane_sum[j];
            dot += lane_dot[j];
        }
    }
    return (float) std::max(0.0, std::log(sum) - dot / sum);
}

// a cut: tokens with weight > threshold are in, and the first n_equal of those with weight == threshold
struct cut {
    float    threshold;
    uint32_t n_equal;
};

static uint32_t float_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
}

// Where the mass of the largest weights reaches target. Weights are positive floats, whose bits order like
// integers: three histograms over 11 + 11 + 10 bits of them find the exact threshold, whatever the distribution.
static cut find_cut(const draw_scratch & s, double target, std::vector<double> & mass, std::vector<uint32_t> & count) {
    static constexpr int SHIFT[] = { 21, 10, 0 };
    static constexpr int WIDTH[] = { 11, 11, 10 };
    uint32_t prefix = 0, prefix_mask = 0;
    double   above  = 0.0; // mass of the weights above the bin under search
    for (int level = 0; level < 3; ++level) {
        const uint32_t n_bins = 1u << WIDTH[level];
        mass .assign(n_bins, 0.0);
        count.assign(n_bins, 0);
        for (const uint32_t id : s.candidate) {
            const uint32_t bits = float_bits(s.weight[id]);
            if ((bits & prefix_mask) == prefix) {
                const uint32_t bin = (bits >> SHIFT[level]) & (n_bins - 1);
                mass [bin] += s.weight[id];
                count[bin] += 1;
            }
        }
        uint32_t bin = n_bins;
        uint32_t last = 0; // the lowest bin that holds anything: rounding may leave target just out of reach
        while (bin-- > 0) {
            if (count[bin] == 0) {
                continue;
            }
            last = bin;
            if (above + mass[bin] >= target) {
                break;
            }
            above += mass[bin];
        }
        if (bin > n_bins) {
            bin = last;
            above -= mass[bin];
        }
        prefix      |= bin << SHIFT[level];
        prefix_mask |= (n_bins - 1) << SHIFT[level];
        if (level == 2) {
            float threshold;
            std::memcpy(&threshold, &prefix, sizeof(threshold));
            const double need = std::ceil((target - above) / threshold);
            return { threshold, (uint32_t) std::clamp(need, 1.0, (double) count[bin]) };
        }
    }
    return {}; // not reached
}

static draw_result draw_greedy(const float * logits, size_t n, float max) {
    const float * first = std::find(logits, logits + n, max);
    return { (int32_t) (first - logits), 1, 1.0f };
}

draw_status draw_token(const float * logits, size_t n, float temperature, float top_p, double u,
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

    s.weight.resize(n);
    const double total  = exp_all(logits, n, max, temperature, s.weight.data());
    const double target = std::clamp((double) top_p, 0.0, 1.0) * total;

    // Together, tokens below this weigh less than what the cut leaves out: the nucleus has none of them.
    const float floor = (float) ((total - target) / (double) n * (1.0 - 1e-6));
    s.candidate.clear();
    for (size_t i = 0; i < n; ++i) {
        if (s.weight[i] > floor) {
            s.candidate.push_back((uint32_t) i);
        }
    }

    cut c = { 0.0f, 0 };
    if (top_p < 1.0f) {
        c = find_cut(s, target, s.bin_mass, s.bin_count);
    }

    // keep the nucleus, in place, and sum it up in the order in which it is drawn from
    double   mass = 0.0;
    size_t   kept = 0;
    uint32_t n_equal = c.n_equal;
    for (const uint32_t id : s.candidate) {
        const float w = s.weight[id];
        if (w > c.threshold || (w == c.threshold && n_equal > 0)) {
            n_equal -= w == c.threshold;
            s.candidate[kept++] = id;
            mass += w;
        }
    }
    s.candidate.resize(kept);

    double rest = u * mass;
    uint32_t drawn = s.candidate.back();
    for (const uint32_t id : s.candidate) {
        rest -= s.weight[id];
        if (rest < 0.0) {
            drawn = id;
            break;
        }
    }
    result = { (int32_t) drawn, (int32_t) kept, (float) (s.weight[drawn] / mass) };
    return DRAW_OK;
}

double uniform(std::mt19937 & rng) {
    const uint64_t high = rng() >> 5;
    const uint64_t low  = rng() >> 6;
    return (double) ((high << 26) | low) / 9007199254740992.0;
}
