#include "sampler.h"

#include "vector_math.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

// Tried and rejected, at a vocabulary of 151,936: sorting the candidates (8 ms when the distribution is flat),
// histograms of the weights' bits (1.4 ms: scattered adds wait for each other), plain loops (GCC 12 leaves those
// with a condition scalar, 0.4 ms a pass; a pass with the vectors below takes 0.02 to 0.1 ms).

template <typename V>
static inline double sum(const V & v) {
    double result = 0.0;
    for (size_t j = 0; j < WIDTH; ++j) {
        result += v[j];
    }
    return result;
}

static inline bool any(i32x mask) {
    uint64_t words[WIDTH / 2];
    memcpy(words, &mask, sizeof(mask));
    uint64_t result = 0;
    for (const uint64_t word : words) {
        result |= word;
    }
    return result != 0;
}

// calls f with all of x, WIDTH values at a time, and flush after every BLOCK of them
template <typename F, typename G>
static inline void for_each_vector(const float * x, size_t n, float fill, F && f, G && flush) {
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        const size_t end = std::min(n, begin + BLOCK);
        size_t i = begin;
        for (; i + WIDTH <= end; i += WIDTH) {
            f(i, load(x + i));
        }
        if (i < end) {
            f(i, load_tail(x + i, end - i, fill));
        }
        flush();
    }
}

// the largest logit; the status tells whether there is a distribution at all
static draw_status find_max(const float * x, size_t n, float * max) {
    f32x largest = f32x {} - INF;
    i32x bits    = {}; // largest magnitude; a NaN's is above infinity's
    for_each_vector(x, n, -INF, [&](size_t, f32x v) {
        const i32x magnitude = (i32x) v & 0x7fffffff;
        bits    = magnitude > bits ? magnitude : bits;
        largest = v > largest ? v : largest;
    }, [] {});
    *max = -INF;
    bool nan = false;
    for (size_t j = 0; j < WIDTH; ++j) {
        *max = std::max(*max, largest[j]);
        nan |= (uint32_t) bits[j] > float_bits(INF);
    }
    if (nan || *max == INF) {
        return DRAW_NOT_FINITE;
    }
    return *max == -INF ? DRAW_NO_TOKEN : DRAW_OK;
}

// weight[i] = exp((x[i] - max) / temperature), and 0 up to a multiple of WIDTH; returns their sum
static double exp_all(const float * x, size_t n, float max, float temperature, std::vector<float> & weight) {
    weight.resize((n + WIDTH - 1) / WIDTH * WIDTH);
    double total = 0.0;
    f32x  part  = {};
    for_each_vector(x, n, -INF, [&](size_t i, f32x v) {
        const f32x w = exp_neg((v - max) / temperature);
        memcpy(&weight[i], &w, sizeof(w));
        part += w;
    }, [&] {
        total += sum(part);
        part = f32x {};
    });
    return total;
}

float logits_entropy(const float * x, size_t n) {
    float max;
    if (find_max(x, n, &max) != DRAW_OK) {
        return std::numeric_limits<float>::quiet_NaN();
    }
    // with d = x - max and w = exp(d): H = ln(sum w) - sum(w d) / sum w
    double total = 0.0, dot = 0.0;
    f32x  w_part = {}, d_part = {};
    for_each_vector(x, n, -INF, [&](size_t, f32x v) {
        f32x d = v - max;
        d = d > -100.0f ? d : f32x {} - 100.0f; // w is 0 there, and 0 times -inf is not
        const f32x w = exp_neg(d);
        w_part += w;
        d_part += w * d;
    }, [&] {
        total += sum(w_part);
        dot   += sum(d_part);
        w_part = d_part = f32x {};
    });
    return (float) std::max(0.0, std::log(total) - dot / total);
}

// a cut: tokens with weight > threshold are in, and the first n_equal of those with weight == threshold
struct cut {
    float    threshold;
    uint32_t n_equal;
};

static constexpr size_t N_PROBES = 7;
static constexpr size_t N_FINISH = 1024; // few enough to sort

// mass[k]: sum of the weights >= probe[k]
static void mass_from(const std::vector<float> & weight, const float * probe, double * mass) {
    std::fill_n(mass, N_PROBES, 0.0);
    f32x part[N_PROBES] = {};
    for_each_vector(weight.data(), weight.size(), 0.0f, [&](size_t, f32x w) {
        for (size_t k = 0; k < N_PROBES; ++k) {
            part[k] += zero_unless(w >= probe[k], w);
        }
    }, [&] {
        for (size_t k = 0; k < N_PROBES; ++k) {
            mass[k] += sum(part[k]);
            part[k] = f32x {};
        }
    });
}

static size_t count_between(const std::vector<float> & weight, float low, float high) {
    i32x count = {};
    for_each_vector(weight.data(), weight.size(), -1.0f, [&](size_t, f32x w) {
        count -= (w >= low) & (w < high);
    }, [] {});
    return (size_t) sum(count);
}

// Probes around the place where the cut of every n-th weight lies: ascending, the cut likely among them. It is
// looked for from below, by the mass left out: that is a sum of many small weights, which a sample estimates well.
static void probe_by_sample(draw_scratch & s, double left_out, float * probe) {
    static constexpr ptrdiff_t N_SAMPLE = 1024, SPREAD = 6;
    const size_t stride = s.weight.size() / N_SAMPLE;
    s.bracket.clear();
    for (size_t i = 0; i < N_SAMPLE; ++i) {
        s.bracket.push_back(s.weight[i * stride]);
    }
    std::sort(s.bracket.begin(), s.bracket.end());
    ptrdiff_t at = 0;
    for (double mass = 0.0; at < N_SAMPLE && mass <= left_out; ++at) {
        mass += (double) stride * s.bracket[at];
    }
    for (ptrdiff_t k = 0; k < (ptrdiff_t) N_PROBES; ++k) {
        probe[k] = s.bracket[std::clamp<ptrdiff_t>(at + SPREAD * (k - (ptrdiff_t) N_PROBES / 2), 0, N_SAMPLE - 1)];
    }
}

// Where the mass of the largest weights reaches target. Positive floats order like their bits: a pass cuts the
// range of bits that holds the threshold to the part between two probes, until it holds few enough weights to
// sort, or one value. The first probes come from a sample, the others divide the range evenly.
static cut find_cut(draw_scratch & s, double total, double target) {
    // Together, weights up to this make less than what the cut leaves out: the nucleus has none of them.
    const float floor = (float) ((total - target) / (double) s.weight.size() * (1.0 - 1e-6));

    uint32_t low  = float_bits(floor);
    uint32_t high = float_bits(1.0f) + 1; // the largest weight is 1
    bool sampled  = s.weight.size() < 8192;
    while (high - low > 1 && count_between(s.weight, float_from(low), float_from(high)) > N_FINISH) {
        float  probe[N_PROBES];
        double mass[N_PROBES];
        if (!sampled) {
            probe_by_sample(s, total - target, probe);
        }
        for (uint32_t k = 0; sampled && k < N_PROBES; ++k) {
            probe[k] = float_from(low + (uint32_t) ((uint64_t) (high - low) * (k + 1) / (N_PROBES + 1)));
        }
        sampled = true;
        mass_from(s.weight, probe, mass);
        for (size_t k = 0; k < N_PROBES; ++k) {
            if (mass[k] < target) {
                high = std::min(high, float_bits(probe[k]));
                break;
            }
            low = std::max(low, float_bits(probe[k]));
        }
    }

    double above = 0.0;
    f32x   part  = {};
    s.bracket.clear();
    for_each_vector(s.weight.data(), s.weight.size(), -1.0f, [&](size_t i, f32x w) {
        const i32x over = w >= float_from(high);
        part += zero_unless(over, w);
        if (any((w >= float_from(low)) & ~over)) {
            for (size_t j = i; j < i + WIDTH; ++j) {
                if (s.weight[j] >= float_from(low) && s.weight[j] < float_from(high)) {
                    s.bracket.push_back(s.weight[j]);
                }
            }
        }
    }, [&] {
        above += sum(part);
        part = f32x {};
    });
    if (high - low > 1) {
        std::sort(s.bracket.begin(), s.bracket.end(), std::greater<float>());
    }
    cut c = { 1.0f, 1 };
    for (size_t i = 0; i < s.bracket.size() && (above < target || i == 0); ++i) {
        c.n_equal   = i > 0 && s.bracket[i] == c.threshold ? c.n_equal + 1 : 1;
        c.threshold = s.bracket[i];
        above += s.bracket[i];
    }
    return c;
}

// what a cut keeps in one stretch of tokens: the mass above the threshold, and two counts
struct stretch {
    double   mass;
    uint32_t n_above;
    uint32_t n_equal;
};

static stretch sum_stretch(const float * weight, size_t n, float threshold) {
    f32x mass  = {};
    i32x above = {}, equal = {};
    for (size_t i = 0; i < n; i += WIDTH) {
        const f32x w = load(weight + i);
        mass  += zero_unless(w > threshold, w);
        above -= w > threshold;
        equal -= w == threshold;
    }
    return { sum(mass), (uint32_t) sum(above), (uint32_t) sum(equal) };
}

// Draws in proportion to weight among those that the cut keeps: a stretch first, then a token in it.
static draw_result draw_kept(draw_scratch & s, cut c, double u) {
    static constexpr size_t STRETCH = 512;
    const size_t n = s.weight.size();
    double   mass = 0.0;
    uint32_t kept = 0, n_equal = c.n_equal;
    s.stretches.clear();
    for (size_t begin = 0; begin < n; begin += STRETCH) {
        stretch t = sum_stretch(s.weight.data() + begin, std::min(STRETCH, n - begin), c.threshold);
        t.n_equal = std::min(n_equal, t.n_equal);
        n_equal  -= t.n_equal;
        kept     += t.n_above + t.n_equal;
        const double here = t.mass + (double) t.n_equal * c.threshold;
        s.stretches.push_back({ here, t.n_equal });
        mass += here;
    }

    double rest = u * mass;
    size_t chosen = 0;
    for (size_t k = 0; k < s.stretches.size(); ++k) {
        if (s.stretches[k].mass > 0.0) {
            chosen = k; // also where rounding lets rest outlast the sum
            if (rest < s.stretches[k].mass) {
                break;
            }
            rest -= s.stretches[k].mass;
        }
    }
    n_equal = s.stretches[chosen].n_equal;
    size_t drawn = 0;
    for (size_t i = chosen * STRETCH; i < std::min(n, (chosen + 1) * STRETCH); ++i) {
        const float w   = s.weight[i];
        const bool  tie = w == c.threshold && n_equal > 0;
        n_equal -= tie;
        if (w > c.threshold || tie) {
            drawn = i;
            rest -= w;
            if (rest < 0.0) {
                break;
            }
        }
    }
    return { (int32_t) drawn, (int32_t) kept, (float) (s.weight[drawn] / mass) };
}

static draw_result draw_greedy(const float * logits, size_t n, float max) {
    return { (int32_t) (std::find(logits, logits + n, max) - logits), 1, 1.0f };
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
    const double total  = exp_all(logits, n, max, temperature, s.weight);
    const double target = top_p * total;
    if (top_p >= 1.0f) {
        result = draw_kept(s, { 0.0f, 0 }, u);
    } else if (target <= 1.0) {
        result = draw_greedy(logits, n, max); // the largest weight, 1, reaches it
    } else {
        result = draw_kept(s, find_cut(s, total, target), u);
    }
    return DRAW_OK;
}

double uniform(std::mt19937 & rng) {
    const uint64_t high = rng() >> 5;
    const uint64_t low  = rng() >> 6;
    return (double) ((high << 26) | low) / 9007199254740992.0;
}
