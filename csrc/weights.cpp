#include "weights.h"

#include "vector_math.h"

#include <cmath>

static constexpr float LOG_EPSILON = 1e-8f; // added within the logarithm, by the official code

void weigh(const float * logits, size_t n_vocab, float max, float temperature, float * row, size_t begin, size_t end) {
    const weight_row w = weight_row_of(row, n_vocab);
    const float up    = temperature < 0x1p-100f ? 0x1p100f : 1.0f; // else 1 / T might be infinite
    const float scale = 1.0f / (temperature * up);
    for (size_t k = begin; k < end; ++k) {
        f32x mass = {}, squares = {}, largest = {};
        const auto put = [&](size_t i, f32x x) {
            const f32x e = exp_neg((x - max) * up * scale);
            memcpy(row + i, &e, sizeof(e));
            mass    += e;
            squares += e * e;
            largest  = e > largest ? e : largest;
        };
        size_t i = k * STRETCH;
        const size_t stop = std::min(n_vocab, i + STRETCH);
        for (; i + WIDTH <= stop; i += WIDTH) {
            put(i, load(logits + i));
        }
        if (i < stop) {
            put(i, load_tail(logits + i, stop - i, -INF));
            i += WIDTH;
        }
        std::fill(row + i, row + std::max(i, (k + 1) * STRETCH), 0.0f);
        const size_t of = (size_t) (w.mass - row) + k, n = w.n / STRETCH;
        row[of]         = sum(mass);
        row[of + n]     = sum(squares);
        row[of + 2 * n] = largest_of(largest);
    }
}

double weight_total(const weight_row & w) {
    return sum_vectors(w.mass, w.n / STRETCH, [](f32x v) { return v; });
}

double weight_plogp(const weight_row & w, double z, size_t begin, size_t end) {
    const float share = (float) (1.0 / z);
    // up to here ln(p + 1e-8) is ln 1e-8 + p / 1e-8, to 1e-7 of the sum
    const float small = 1e-11f;
    double total = 0.0;
    for (size_t k = begin; k < end; ++k) {
        if (w.largest[k] * share < small) {
            total += w.mass[k] * std::log((double) LOG_EPSILON) + w.squares[k] / (z * LOG_EPSILON);
            continue;
        }
        total += sum_vectors(w.weight + k * STRETCH, STRETCH, [=](f32x e) { return e * log_pos(e * share + LOG_EPSILON); });
    }
    return total;
}

entropy_sums sum_entropy(const float * logits, size_t n, float max) {
    entropy_sums total = {};
    f32x w_part = {}, d_part = {};
    for_each_vector(logits, n, -INF, [&](size_t, f32x v) {
        f32x d = v - max;
        d = d > -100.0f ? d : f32x {} - 100.0f; // w is 0 there, and 0 times -inf is not
        const f32x w = exp_neg(d);
        w_part += w;
        d_part += w * d;
    }, [&] {
        total.w  += sum(w_part);
        total.wd += sum(d_part);
        w_part = d_part = f32x {};
    });
    return total;
}

float entropy_of(const entropy_sums & s) {
    return (float) std::max(0.0, std::log(s.w) - s.wd / s.w);
}

void weight_statistics(const weight_row & w, size_t n_vocab, const float * top, size_t k, float temperature, double z,
                       double plogp, float * out) {
    const double squares = sum_vectors(w.squares, w.n / STRETCH, [](f32x v) { return v; });
    double top_sum = 0.0;
    for (size_t i = 0; i < k; ++i) {
        top_sum += std::exp((top[i] - top[0]) / temperature);
    }
    const double mean = 1.0 / (double) n_vocab;
    out[0] = (float) (1.0 / z);
    out[1] = (float) -(plogp / z);
    // unbiased: (sum p^2 - V mean^2) / (V - 1)
    out[2] = n_vocab > 1 ? (float) ((squares / (z * z) - mean) / (double) (n_vocab - 1)) : 0.0f;
    out[3] = (float) (top_sum / z);
}

void row_statistics(const float * logits, size_t n_vocab, float temperature, float * row, float * out) {
    const size_t n = weight_stretches(n_vocab), k = std::min(N_TOP, n_vocab);
    float top[N_TOP];
    largest(logits, n_vocab, top, k);
    weigh(logits, n_vocab, top[0], temperature, row, 0, n);
    const weight_row w = weight_row_of(row, n_vocab);
    const double     z = weight_total(w);
    weight_statistics(w, n_vocab, top, k, temperature, z, weight_plogp(w, z, 0, n), out);
}
