#include "nucleus.h"

#include "vector_math.h"

#include <algorithm>
#include <cmath>
#include <functional>

// Tried and rejected, at a vocabulary of 151,936: sorting the candidates (8 ms when the distribution is flat),
// histograms of the weights' bits (1.4 ms: scattered adds wait for each other), plain loops (GCC 12 leaves those
// with a condition scalar, 0.4 ms a pass; a pass with the vectors below takes 0.02 to 0.1 ms).

namespace {

// The search for a cut: it lies in [low, high), and above is the mass of the weights >= high. Positive floats order
// like their bits, which is what low and high are.
struct search {
    uint32_t low;
    uint32_t high;
    double   above;
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

// values that part [low, high) into eight
static void place_probes(uint32_t low, uint32_t high, float * probe) {
    for (uint32_t k = 0; k < N_PROBES; ++k) {
        probe[k] = float_from(low + (uint32_t) ((uint64_t) (high - low) * (k + 1) / (N_PROBES + 1)));
    }
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

// Bounds of the place where the cut lies, from every n-th weight. It is looked for from below, by the mass left out: that is a
// sum of many small weights, which a sample estimates well.
static void guess(nucleus_scratch & s, const float * weight, size_t n, double left_out, search & r) {
    static constexpr size_t N_SAMPLE = 512;
    const size_t stride = n / N_SAMPLE;
    float * sample = s.left.data();
    for (size_t i = 0; i < N_SAMPLE; ++i) {
        sample[i] = weight[i * stride];
    }
    const search all = r;
    // three standard deviations of the sum up to a weight, a few weights of that size more: added for the lower bound, taken
    // off for the upper one
    const auto bound = [&](float sign) {
        uint32_t low = all.low, high = all.high;
        for (size_t step = 0; step < 4; ++step) {
            float probe[N_PROBES];
            place_probes(low, high, probe);
            f32x mass[N_PROBES] = {}, squares[N_PROBES] = {};
            for (size_t i = 0; i < N_SAMPLE; i += WIDTH) {
                const f32x v = load(sample + i);
                for (size_t k = 0; k < N_PROBES; ++k) {
                    const f32x below = zero_unless(v < probe[k], v);
                    mass[k]    += below;
                    squares[k] += below * below;
                }
            }
            for (size_t k = 0; k < N_PROBES; ++k) {
                const float spread = 3.0f * std::sqrt(sum(squares[k]) + 4.0f * probe[k] * probe[k]);
                if ((sum(mass[k]) + sign * spread) * (float) stride > left_out) {
                    high = float_bits(probe[k]);
                    break;
                }
                low = float_bits(probe[k]);
            }
        }
        return sign > 0.0f ? low : high;
    };
    r.low  = bound(1.0f);
    r.high = std::max(r.low + 1, bound(-1.0f));
}

// Puts the weights in [low, high) into the bracket, sums those from high on up in above and by stretches, and returns the mass of
// both.
static double collect(nucleus_scratch & s, const weight_row & w, search & r) {
    const float low = float_from(r.low), high = float_from(r.high);
    double mass = 0.0;
    size_t end  = 0;
    r.above = 0.0;
    s.stretches.resize(w.n / STRETCH);
    float * bracket = s.bracket.data();
    for (size_t k = 0; k < w.n / STRETCH; ++k) {
        if (w.largest[k] < low) {
            s.stretches[k] = { 0.0, 0, 0, end };
            continue;
        }
        f32x part = {};
        double_sum over;
        i32x n_over = {};
        const size_t begin = end;
        for (const float * x = w.weight + k * STRETCH, * stop = x + STRETCH; x < stop; x += WIDTH) {
            const f32x v     = load(x);
            const i32x above = v >= high, here = (v >= low) & ~above;
            over.add(zero_unless(above, v));
            part   += zero_unless(here, v);
            n_over -= above;
            end    += append(here, v, bracket + end);
        }
        const f32x none = f32x {} - 1.0f;
        memcpy(bracket + end, &none, sizeof(none));
        end = begin + (end - begin + WIDTH - 1) / WIDTH * WIDTH;
        s.stretches[k] = { over.total(), (uint32_t) sum(n_over), 0, end };
        mass    += sum(part);
        r.above += s.stretches[k].mass;
    }
    return mass + r.above;
}

// Leaves those of n weights that are in [low, high), and adds those from high on up to above.
static void shrink(nucleus_scratch & s, const float * from, size_t n, search & r) {
    const float low = float_from(r.low), high = float_from(r.high);
    float * left = s.left.data();
    s.n_left = 0;
    f32x over = {};
    for_each_vector(from, n, -1.0f, [&](size_t, f32x v) {
        const i32x above = v >= high;
        over += zero_unless(above, v);
        s.n_left += append((v >= low) & ~above, v, left + s.n_left);
    }, [&] {
        r.above += sum(over);
        over = f32x {};
    });
}

// Looks among the largest weights, then among smaller and smaller ones: mostly few stretches hold the nucleus. False where
// it is a wide one.
static bool bracket_from_above(nucleus_scratch & s, const weight_row & w, double target, float floor, search & r) {
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
static void bracket_by_sample(nucleus_scratch & s, const weight_row & w, double total, double target, search & r) {
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
static nucleus find_cut(nucleus_scratch & s, const weight_row & w, double total, double target) {
    static constexpr size_t N_SORT = 64;
    // Together, weights up to this make less than what the cut leaves out: the nucleus has none of them.
    const float floor = (float) ((total - target) / (double) w.n * (1.0 - 1e-6));
    const search all = { std::max(1u, float_bits(floor)), float_bits(1.0f) + 1, 0.0 }; // the largest weight is 1
    search r = all;
    if (!bracket_from_above(s, w, target, floor, r)) {
        r = all;
        bracket_by_sample(s, w, total, target, r);
    }
    const float * from = s.bracket.data();
    for (size_t n = s.stretches.back().end;; n = s.n_left) {
        if (n > N_SORT) {
            float probe[N_PROBES];
            place_probes(r.low, r.high, probe);
            narrow(r, from, n, target, probe);
        }
        shrink(s, from, n, r);
        from = s.left.data();
        if (s.n_left <= N_SORT || r.high - r.low <= 1) {
            break;
        }
    }
    float * left = s.left.data();
    if (r.high - r.low > 1) {
        std::sort(left, left + s.n_left, std::greater<float>());
    }
    nucleus c = { float_from(r.high - 1), 0, 0.0, 0 }; // all that was found above
    for (size_t i = 0; i < s.n_left && r.above < target; ++i) {
        c.n_equal   = i > 0 && left[i] == c.threshold ? c.n_equal + 1 : 1;
        c.threshold = left[i];
        r.above    += left[i];
    }
    return c;
}

// Adds what is kept of the bracket to each stretch, and all of them to the nucleus.
static void add_kept(nucleus_scratch & s, nucleus & of) {
    uint32_t n_equal = of.n_equal;
    size_t i = 0;
    for (nucleus_scratch::stretch & t : s.stretches) {
        if (i < t.end) {
            double_sum part;
            i32x above = {}, equal = {};
            for (; i < t.end; i += WIDTH) {
                const f32x v = load(s.bracket.data() + i);
                part.add(zero_unless(v > of.threshold, v));
                above -= v > of.threshold;
                equal -= v == of.threshold;
            }
            t.n_equal = std::min(n_equal, (uint32_t) sum(equal));
            n_equal  -= t.n_equal;
            t.n      += (uint32_t) sum(above) + t.n_equal;
            t.mass   += part.total() + (double) t.n_equal * of.threshold;
        }
        of.n    += t.n;
        of.mass += t.mass;
    }
}

nucleus find_nucleus(const weight_row & w, double total, double top_p, nucleus_scratch & s) {
    s.bracket.resize(std::max(s.bracket.size(), w.n + WIDTH));
    s.left.resize(s.bracket.size());
    nucleus found = { 0.0f, 0, 0.0, 0 };
    if (top_p < 1.0) {
        found = find_cut(s, w, total, top_p * total);
    } else {
        search positive = { 1, 1, 0.0 };
        collect(s, w, positive);
    }
    add_kept(s, found);
    return found;
}
