#include "training.h"

#include "errors.h"
#include "threads.h"
#include "vector_math.h"
#include "weights.h"

#include <cmath>

static constexpr double EPSILON = 1e-9;  // losses.py: _EPSILON
static constexpr float  LEAST_T = 1e-8f; // what T counts as at least, as there
static constexpr double NEVER   = -1e30; // what the logit of a masked target counts as, as there

// Sums over tokens j of weights e_j = exp(u_j), u_j = (logit_j - max) / T: p_j = e_j / total, and T dp_j / dT = p_j (mean - u_j)
// with the mean of u under p. What follows calls T times a derivative by T a slope.

namespace {

struct loss_scratch {
    std::vector<float>    weight; // a row of weights.h
    std::vector<uint32_t> keys;   // of what is put in order
    std::vector<uint32_t> sorted;
};

// a row at one T, and its target
struct tempered {
    weight_row w;
    double     total;
    double     mean;
    double     log_prob;  // of the target
    double     log_slope;
    double     prob;
    double     place;     // mass up to and including it: of the tokens before it, and its own
    double     place_slope;
};

// what is summed over tokens from the most likely on
struct walk {
    double mass       = 0.0; // of the weights
    double mass_slope = 0.0;
    double kept       = 0.0; // of the weights times their mask
    double kept_slope = 0.0; // but for the mask's
    double beyond     = 0.0; // of the weights behind P times their mask
    double mask_slope = 0.0; // of these times the slope of the mass
};

} // namespace

static double mask_of(double place, double top_p, double alpha) {
    return std::exp(-alpha * std::max(0.0, place - top_p));
}

static tempered temper(const float * x, size_t n, int32_t target, float t, std::vector<float> & row) {
    float max;
    largest(x, n, &max, 1);
    row.resize(weight_row_size(n));
    weigh(x, n, max, t, row.data(), 0, weight_stretches(n));
    tempered r = {};
    r.w     = weight_row_of(row.data(), n);

    const float y = x[target];
    double_sum total, dots, befores, before_dots; // alpha times as much of their rounding would be the loss's
    for_each_vector(x, n, -INF, [&](size_t i, f32x v) {
        f32x u = (v - max) / t;
        u = u > -100.0f ? u : f32x {} - 100.0f; // where the weight is 0, which times -inf is not
        const f32x e = load(r.w.weight + i), eu = e * u;
        const i32x above = v > y;
        total.add(e);
        dots.add(eu);
        befores.add(zero_unless(above, e));
        before_dots.add(zero_unless(above, eu));
    }, [] {});
    const double dot = dots.total(), before = befores.total(), before_dot = before_dots.total();
    r.total = total.total();
    const double u = (std::max((double) y, NEVER) - max) / t;
    r.mean        = dot / r.total;
    r.log_prob    = u - std::log(r.total);
    r.log_slope   = r.mean - u;
    r.prob        = std::exp(u) / r.total;
    r.place       = std::min(1.0, before / r.total + r.prob); // rounding must not carry it beyond a P of 1
    r.place_slope = (r.mean * before - before_dot) / r.total + (r.prob > 0.0 ? r.prob * r.log_slope : 0.0);
    return r;
}

// The distance of a weight below 1, which is the largest, in steps of a float: positive floats order like their bits. gather has
// it for vectors.
static uint32_t key_of(float weight) {
    return float_bits(1.0f) - float_bits(weight);
}

// Puts the keys of the weights in [low, high) into keys. Returns the sum of squares of those below low.
static double gather(const weight_row & w, float low, float high, std::vector<uint32_t> & keys) {
    keys.resize(w.n + WIDTH);
    size_t n_keys = 0;
    double below  = 0.0;
    for (size_t k = 0; k < w.n / STRETCH; ++k) {
        if (w.largest[k] < low) {
            below += w.squares[k];
            continue;
        }
        f32x part = {};
        for (size_t i = k * STRETCH; i < (k + 1) * STRETCH; i += WIDTH) {
            const f32x v     = load(w.weight + i);
            const i32x small = v < low;
            part += zero_unless(small, v * v);
            n_keys += append(~small & (v < high), (f32x) (float_bits(1.0f) - (u32x) v), keys.data() + n_keys);
        }
        below += sum(part);
    }
    keys.resize(n_keys);
    return below;
}

// Sorts keys by their distance from the least that there may be, a digit after the other.
static void sort_keys(std::vector<uint32_t> & keys, std::vector<uint32_t> & other, uint32_t least, uint32_t most) {
    static constexpr int    DIGIT = 9;
    static constexpr size_t FEW   = 256;
    if (keys.size() <= FEW) {
        std::sort(keys.begin(), keys.end());
        return;
    }
    other.resize(keys.size());
    for (int shift = 0; shift < 32 && (most - least) >> shift; shift += DIGIT) {
        const auto digit = [=](uint32_t key) { return (key - least) >> shift & ((1u << DIGIT) - 1); };
        uint32_t place[1 << DIGIT] = {};
        for (const uint32_t key : keys) {
            ++place[digit(key)];
        }
        uint32_t next = 0;
        for (uint32_t & p : place) {
            const uint32_t count = p;
            p     = next;
            next += count;
        }
        for (const uint32_t key : keys) {
            other[place[digit(key)]++] = key;
        }
        std::swap(keys, other);
    }
}

// Goes on over the weights of some keys, in their order.
static void add(walk & at, const tempered & r, double top_p, double alpha, const std::vector<uint32_t> & keys) {
    const double share = 1.0 / r.total;
    float e[STRETCH], slope[STRETCH], steep[STRETCH], mass_slope[STRETCH];
    for (size_t begin = 0; begin < keys.size(); begin += STRETCH) {
        const size_t n = std::min(STRETCH, keys.size() - begin), whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        std::fill(e + n, e + whole, 0.0f);
        for (size_t i = 0; i < n; ++i) {
            e[i] = float_from(float_bits(1.0f) - keys[begin + i]);
        }
        for (size_t i = 0; i < whole; i += WIDTH) {
            const f32x v = load(e + i), s = v * ((float) r.mean - log_pos(v));
            memcpy(slope + i, &s, sizeof(s));
        }
        for (size_t i = 0; i < whole; ++i) {
            at.mass       += e[i];
            at.mass_slope += slope[i];
            steep[i]      = (float) (alpha * (std::min(1.0, at.mass * share) - top_p));
            mass_slope[i] = (float) (at.mass_slope * share);
        }
        f32x kept = {}, kept_slope = {}, beyond = {}, mask_slope = {};
        for (size_t i = 0; i < whole; i += WIDTH) {
            const f32x s = load(steep + i);
            const i32x behind = s > 0.0f;
            const f32x mask = exp_neg(-zero_unless(behind, s)), masked = load(e + i) * mask;
            kept       += masked;
            kept_slope += load(slope + i) * mask;
            beyond     += zero_unless(behind, masked);
            mask_slope += zero_unless(behind, masked * load(mass_slope + i));
        }
        at.kept       += sum(kept);
        at.kept_slope += sum(kept_slope);
        at.beyond     += sum(beyond);
        at.mask_slope += sum(mask_slope);
    }
}

// the mask's integral over the mass that is left
static double rest_of(double place, double top_p, double alpha) {
    return std::max(0.0, top_p - place) + (mask_of(place, top_p, alpha) - std::exp(-alpha * (1.0 - top_p))) / alpha;
}

namespace {

// the mask's sum over all tokens, its slope, and its derivative by P
struct kept_mass {
    double value;
    double slope;
    double by_p;
};

} // namespace

// Puts the largest weights in order, then smaller ones, until the order of the rest, over which the mask is integrated instead of
// summed, cannot change the loss by more than the tolerance. Of a token of probability p behind others of mass c that is too much by
// at most alpha p^2 / 2 times the mask at c; together by at most alpha / 2 times the largest p of the integral, and by at most alpha / 2
// times the mask times the sum of p^2. 1 / alpha of the derivative by P jumps by p where P passes a token, at most the
// integral's largest.
static kept_mass mass_of(const tempered & r, double top_p, const soft_cut & cut, loss_scratch & s) {
    static constexpr float STEP = 0x1p-4f, LEAST = 0x1p-124f; // what is below adds nothing to the sums
    const double alpha = cut.alpha, share = 1.0 / r.total;
    walk at;
    for (float high = INF, low = STEP;; high = low, low *= STEP) {
        const double squares = gather(r.w, low, high, s.keys);
        sort_keys(s.keys, s.sorted, high < INF ? key_of(high) : 0, key_of(low));
        add(at, r, top_p, alpha, s.keys);
        const double place = std::min(1.0, at.mass * share), mask = mask_of(place, top_p, alpha);
        const bool   all   = low <= LEAST;
        const double rest  = all ? 0.0 : rest_of(place, top_p, alpha);
        const double value = at.kept * share + rest;
        const double error = 0.5 * alpha * std::min(low * share * rest, mask * squares * share * share) / (value + EPSILON);
        // by how much more the slope may be off: of p^2, and of the mask
        const double slopes = 2.0 * (std::abs(r.mean - std::log(low)) + 1.0) + alpha * std::abs(at.mass_slope) * share;
        const double jump   = place < top_p ? low * share / (value + EPSILON) : 0.0;
        if (all || (error * slopes <= cut.tolerance && jump <= cut.tolerance)) {
            kept_mass m = { value, (at.kept_slope - alpha * at.mask_slope) * share, alpha * at.beyond * share };
            if (!all) {
                m.slope -= mask * at.mass_slope * share;
                m.by_p  += mask - std::exp(-alpha * (1.0 - top_p));
            }
            return m;
        }
    }
}

// the largest weight is 1, unless a logit or T is NaN, or a logit +inf
static bool is_finite(const tempered & r) {
    return r.total >= 1.0;
}

static void loss_of(const float * x, size_t n, int32_t target, float temperature, double top_p, const soft_cut & cut,
                    loss_scratch & s, float * value, float * by_t, float * by_p) {
    const float    t = temperature < LEAST_T ? LEAST_T : temperature;
    const tempered r = temper(x, n, target, t, s.weight);
    if (!is_finite(r) || std::isnan(top_p)) {
        *value = *by_t = *by_p = NAN;
        return;
    }
    const kept_mass m = mass_of(r, top_p, cut, s);
    const double ratio  = r.prob * mask_of(r.place, top_p, cut.alpha) / (m.value + EPSILON);
    const double weight = ratio / (ratio + EPSILON);
    const double behind = r.place > top_p ? cut.alpha : 0.0;
    *value = (float) -std::log(ratio + EPSILON);
    *by_t  = temperature < LEAST_T
                 ? 0.0f
                 : (float) (-weight * (r.log_slope - behind * r.place_slope - m.slope / (m.value + EPSILON)) / t);
    *by_p  = (float) (-weight * (behind - m.by_p / (m.value + EPSILON)));
}

// [n, n_vocab], or throws
static size_t check_rows(const char * what, const f32_array & logits, size_t n_temperature) {
    if (logits.shape.size() != 2 || logits.shape[1] < 1 || (size_t) logits.shape[0] != n_temperature) {
        throw refusal(INVALID_INPUT, std::string(what) + ": logits are " + logits.shape_text() + ", expected [" +
                                         std::to_string(n_temperature) + ", n_vocab]");
    }
    return n_temperature;
}

static size_t length_of(const f32_array & a) {
    return a.shape.size() == 1 ? (size_t) a.shape[0] : SIZE_MAX;
}

std::vector<float> training_features(const f32_array & logits, const f32_array & temperature, size_t most_threads) {
    static constexpr size_t COST = 2;
    const size_t n = check_rows("features", logits, length_of(temperature)), n_vocab = (size_t) logits.shape[1];
    std::vector<float> out(n * N_STATISTICS);
    share_rows(n, COST * n * n_vocab, most_threads, NEW_THREADS, [&](size_t i) {
        static thread_local std::vector<float> row;
        row.resize(weight_row_size(n_vocab));
        row_statistics(logits.data + i * n_vocab, n_vocab, temperature.data[i] + 1e-8f, row.data(), &out[i * N_STATISTICS]);
    });
    return out;
}

static void check_targets(const std::vector<int32_t> & target, size_t n, size_t n_vocab) {
    if (target.size() != n) {
        throw refusal(INVALID_INPUT, "losses: " + std::to_string(target.size()) + " targets for " + std::to_string(n) + " rows");
    }
    for (const int32_t id : target) {
        if (id < 0 || (size_t) id >= n_vocab) {
            throw refusal(INVALID_INPUT, "losses: target " + std::to_string(id) + ", the vocabulary has " + std::to_string(n_vocab));
        }
    }
}

std::vector<float> training_cross_entropy(const f32_array & logits, const std::vector<int32_t> & target,
                                          const f32_array & temperature, size_t most_threads) {
    static constexpr size_t COST = 2;
    const size_t n = check_rows("losses", logits, length_of(temperature)), n_vocab = (size_t) logits.shape[1];
    check_targets(target, n, n_vocab);
    std::vector<float> out(2 * n);
    share_rows(n, COST * n * n_vocab, most_threads, NEW_THREADS, [&](size_t i) {
        static thread_local std::vector<float> row;
        const float    t = temperature.data[i];
        const tempered r = temper(logits.data + i * n_vocab, n_vocab, target[i], t, row);
        out[i]     = is_finite(r) ? (float) -r.log_prob : NAN;
        out[n + i] = is_finite(r) ? (float) (-r.log_slope / t) : NAN;
    });
    return out;
}

std::vector<float> training_losses(const f32_array & logits, const std::vector<int32_t> & target, const f32_array & temperature,
                                   const f32_array & top_p, const soft_cut & cut, size_t most_threads) {
    static constexpr size_t COST = 4;
    const size_t n = check_rows("losses", logits, length_of(temperature)), n_vocab = (size_t) logits.shape[1];
    check_targets(target, n, n_vocab);
    if (length_of(top_p) != n) {
        throw refusal(INVALID_INPUT, "losses: P is " + top_p.shape_text() + ", expected [" + std::to_string(n) + "]");
    }
    std::vector<float> out(3 * n);
    share_rows(n, COST * n * n_vocab, most_threads, NEW_THREADS, [&](size_t i) {
        static thread_local loss_scratch scratch;
        loss_of(logits.data + i * n_vocab, n_vocab, target[i], temperature.data[i], top_p.data[i], cut, scratch, &out[i],
                &out[n + i], &out[2 * n + i]);
    });
    return out;
}
