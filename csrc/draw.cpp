#include "draw.h"

#include "errors.h"
#include "vector_math.h"
#include "weights.h"

#include <algorithm>
#include <cmath>
#include <functional>

// Tried and rejected, at a vocabulary of 151,936: sorting the candidates (8 ms when the distribution is flat),
// histograms of the weights' bits (1.4 ms: scattered adds wait for each other), plain loops (GCC 12 leaves those
// with a condition scalar, 0.4 ms a pass; a pass with the vectors below takes 0.02 to 0.1 ms).

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
    *max = -INF;
    for (size_t j = 0; j < WIDTH; ++j) {
        *max = std::max(*max, largest[j]);
    }
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

namespace {

// a cut: tokens with weight > threshold are in, and the first n_equal of those with weight == threshold
struct cut {
    float    threshold;
    uint32_t n_equal;
};

// The search for a cut: it lies in [low, high), and above is the mass of the weights >= high. Positive floats order
// like their bits, which is what low and high are.
struct search {
    uint32_t low;
    uint32_t high;
    double   above;
};

// what a cut keeps of some tokens: the mass above the threshold, and two counts
struct tally {
    double   mass;
    uint32_t n_above;
    uint32_t n_equal;
};

} // namespace

static constexpr size_t N_PROBES  = 7;
static constexpr size_t N_SAMPLED = 8192; // from so many weights on a sample is taken first

// mass[k]: sum of the weights >= probe[k]
static void mass_from(const float * weight, size_t n, const float * probe, double * mass) {
    std::fill_n(mass, N_PROBES, 0.0);
    f32x part[N_PROBES] = {};
    for_each_vector(weight, n, 0.0f, [&](size_t, f32x w) {
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

// narrows low and high to the two neighbours among ascending probes that target lies between
static void narrow(search & r, const float * weight, size_t n, double target, const float * probe) {
    double mass[N_PROBES];
    mass_from(weight, n, probe, mass);
    for (size_t k = 0; k < N_PROBES; ++k) {
        if (r.above + mass[k] < target) {
            r.high = std::min(r.high, float_bits(probe[k]));
            break;
        }
        r.low = std::max(r.low, float_bits(probe[k]));
    }
}

// Bounds of the place where the cut lies, from that of every n-th weight. It is looked for from below, by the mass left out:
// that is a sum of many small weights, which a sample estimates well.
static void guess(draw_scratch & s, const float * weight, size_t n, double left_out, search & r) {
    static constexpr ptrdiff_t N_SAMPLE = 256, SPREAD = 24; // three standard deviations of a rank
    const size_t stride = n / N_SAMPLE;
    float * sample = s.bracket.data();
    for (size_t i = 0; i < N_SAMPLE; ++i) {
        sample[i] = weight[i * stride];
    }
    std::sort(sample, sample + N_SAMPLE);
    ptrdiff_t at = 0;
    for (double mass = 0.0; at < N_SAMPLE && mass <= left_out; ++at) {
        mass += (double) stride * sample[at];
    }
    if (at >= SPREAD) {
        r.low = std::max(r.low, float_bits(sample[at - SPREAD]));
    }
    if (at + SPREAD < N_SAMPLE) {
        r.high = std::max(r.low + 1, std::min(r.high, float_bits(sample[at + SPREAD])));
    }
}

// Puts the weights in [low, high) into the bracket, sums those from high on up in above, and returns the mass of both.
static double collect(draw_scratch & s, const weight_row & w, search & r) {
    const float low = float_from(r.low), high = float_from(r.high);
    double mass = 0.0;
    r.above = 0.0;
    s.n_bracket = 0;
    for (size_t k = 0; k < w.n / STRETCH; ++k) {
        if (w.largest[k] < low) {
            continue;
        }
        f32x part = {}, over = {};
        for (size_t i = k * STRETCH; i < (k + 1) * STRETCH; i += WIDTH) {
            const f32x v     = load(w.weight + i);
            const i32x above = v >= high, here = (v >= low) & ~above;
            over += zero_unless(above, v);
            part += zero_unless(here, v);
            s.n_bracket += append(here, v, s.bracket.data() + s.n_bracket);
        }
        mass    += sum(part);
        r.above += sum(over);
    }
    return mass + r.above;
}

// the same within the bracket
static void shrink(draw_scratch & s, search & r) {
    const float low = float_from(r.low), high = float_from(r.high);
    const size_t n = s.n_bracket;
    float * bracket = s.bracket.data();
    s.n_bracket = 0;
    f32x over = {};
    for_each_vector(bracket, n, -1.0f, [&](size_t, f32x v) {
        const i32x above = v >= high;
        over += zero_unless(above, v);
        s.n_bracket += append((v >= low) & ~above, v, bracket + s.n_bracket);
    }, [&] {
        r.above += sum(over);
        over = f32x {};
    });
}

// Looks among the largest weights, then among smaller and smaller ones: mostly few stretches hold the nucleus. False where
// it is a wide one.
static bool bracket_from_above(draw_scratch & s, const weight_row & w, double target, float floor, search & r) {
    for (float low = 0x1p-5f; low > floor; low *= 0x1p-4f) {
        size_t n_stretches = 0;
        for (size_t k = 0; k < w.n / STRETCH; ++k) {
            n_stretches += w.largest[k] >= low;
        }
        if (n_stretches > w.n / STRETCH / 2 && w.n >= N_SAMPLED) {
            return false;
        }
        r.low = float_bits(low);
        if (collect(s, w, r) >= target) {
            return true;
        }
        r.high = r.low;
    }
    return false;
}

// Brackets the place with a sample, and corrects the bracket where that has misled.
static void bracket_by_sample(draw_scratch & s, const weight_row & w, double total, double target, search & r) {
    const search all = r;
    if (w.n >= N_SAMPLED) {
        guess(s, w.weight, w.n, total - target, r);
    }
    const double mass = collect(s, w, r);
    if (r.above >= target) {
        r = { r.high, all.high, 0.0 };
    } else if (mass < target) {
        r = { all.low, r.low, 0.0 };
    } else {
        return;
    }
    collect(s, w, r);
}

// Where the mass of the largest weights reaches target: bracketed, then cut to an eighth a step until few enough weights
// are left to sort, or one value.
static cut find_cut(draw_scratch & s, const weight_row & w, double total, double target) {
    static constexpr size_t N_SORT = 64;
    // Together, weights up to this make less than what the cut leaves out: the nucleus has none of them.
    s.bracket.resize(std::max(s.bracket.size(), w.n + WIDTH));
    const float floor = (float) ((total - target) / (double) w.n * (1.0 - 1e-6));
    const search all = { float_bits(floor), float_bits(1.0f) + 1, 0.0 }; // the largest weight is 1
    search r = all;
    if (!bracket_from_above(s, w, target, floor, r)) {
        r = all;
        bracket_by_sample(s, w, total, target, r);
    }
    float * bracket = s.bracket.data();
    while (s.n_bracket > N_SORT && r.high - r.low > 1) {
        float probe[N_PROBES];
        for (uint32_t k = 0; k < N_PROBES; ++k) {
            probe[k] = float_from(r.low + (uint32_t) ((uint64_t) (r.high - r.low) * (k + 1) / (N_PROBES + 1)));
        }
        narrow(r, bracket, s.n_bracket, target, probe);
        shrink(s, r);
    }
    if (r.high - r.low > 1) {
        std::sort(bracket, bracket + s.n_bracket, std::greater<float>());
    }
    cut c = { float_from(r.high), UINT32_MAX }; // all that was found above
    for (size_t i = 0; i < s.n_bracket && r.above < target; ++i) {
        c.n_equal   = i > 0 && bracket[i] == c.threshold ? c.n_equal + 1 : 1;
        c.threshold = bracket[i];
        r.above    += bracket[i];
    }
    return c;
}

static tally sum_kept(const float * weight, size_t n, float threshold) {
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
static draw_result draw_kept(draw_scratch & s, const weight_row & w, cut c, double u) {
    const float * weight = w.weight;
    const size_t  n      = w.n;
    double   mass = 0.0;
    uint32_t kept = 0, n_equal = c.n_equal;
    s.stretches.clear();
    for (size_t begin = 0; begin < n; begin += STRETCH) {
        tally t = {};
        if (w.largest[begin / STRETCH] >= c.threshold) {
            t = sum_kept(weight + begin, STRETCH, c.threshold);
        }
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
    for (size_t i = chosen * STRETCH; i < (chosen + 1) * STRETCH; ++i) {
        const float w   = weight[i];
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
    return { (int32_t) drawn, (int32_t) kept, (float) (weight[drawn] / mass), weight, mass, c.threshold, c.n_equal };
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
    const double target = top_p * total;
    if (!(total >= 1.0)) { // the largest is 1, unless a logit was NaN or +inf
        return DRAW_NOT_FINITE;
    }
    if (top_p >= 1.0) {
        result = draw_kept(s, w, { 0.0f, 0 }, u);
    } else if (target <= 1.0) {
        result = draw_greedy(w.weight, w.n, 1.0f); // the largest weight reaches it
    } else {
        result = draw_kept(s, w, find_cut(s, w, total, target), u);
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
