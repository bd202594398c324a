#include "heads_graph.h"

#include "graph_parts.h"
#include "vector_math.h"

#include <algorithm>
#include <cmath>

static constexpr size_t N_TOP = 5; // of top5_prob

// The value of a head; NaN where not all of its input is finite, which the ReLU would make 0.
static ggml_tensor * build_mlp(ggml_context * ctx, const heads_mlp & mlp, ggml_tensor * x) {
    ggml_tensor * one = ggml_scale_bias(ctx, ggml_sum_rows(ctx, x), 0.0f, 1.0f);
    for (size_t i = 0; i < mlp.layers.size(); ++i) {
        x = ggml_mul_mat(ctx, mlp.layers[i].weight, x);
        x = ggml_add(ctx, x, mlp.layers[i].bias);
        if (i + 1 < mlp.layers.size()) {
            x = mlp.gelu ? ggml_gelu_erf(ctx, x) : ggml_relu(ctx, x);
        }
    }
    return ggml_mul(ctx, ggml_sigmoid(ctx, x), one);
}

// Three operations that ggml does one float at a time on the CPU, which would be most of the heads' cost at a
// vocabulary of 151,936: the largest few, exp and log. There they are done here, by ggml's own threads; other devices
// have fast ones for the same.

static void compute_largest(ggml_tensor * dst, int ith, int nth, void *) {
    const ggml_tensor * src = dst->src[0];
    for (int64_t row = ith; row < src->ne[1]; row += nth) {
        largest((const float *) src->data + row * src->ne[0], (size_t) src->ne[0],
                (float *) dst->data + row * dst->ne[0], (size_t) dst->ne[0]);
    }
}

// the k largest values of each row, in no order; values: F32 [m, n] -> F32 [k, n]
static ggml_tensor * build_largest(ggml_context * ctx, ggml_tensor * values, int k, bool on_cpu) {
    if (!on_cpu) {
        return build_pick(ctx, values, ggml_top_k(ctx, values, k));
    }
    return ggml_custom_4d(ctx, GGML_TYPE_F32, k, values->ne[1], 1, 1, &values, 1, compute_largest, GGML_N_TASKS_MAX, nullptr);
}

// sum of a * b over each row; F32 [m, n] -> F32 [1, n]
static ggml_tensor * build_dot(ggml_context * ctx, ggml_tensor * a, ggml_tensor * b, int64_t parts) {
    const int64_t m = a->ne[0] / parts, n = a->ne[1];
    a = ggml_reshape_3d(ctx, a, m, 1, parts * n);
    b = ggml_reshape_3d(ctx, b, m, 1, parts * n);
    return ggml_sum_rows(ctx, ggml_reshape_2d(ctx, ggml_mul_mat(ctx, a, b), parts, n));
}

// sum over each row; F32 [m, n] -> F32 [1, n]. ggml_sum_rows runs on one core.
static ggml_tensor * build_sum(ggml_context * ctx, ggml_tensor * a, int64_t parts) {
    const int64_t m = a->ne[0] / parts, n = a->ne[1];
    ggml_tensor * ones = ggml_scale_bias(ctx, ggml_view_1d(ctx, a, m, 0), 0.0f, 1.0f);
    ggml_tensor * sums = ggml_mul_mat(ctx, ones, ggml_reshape_2d(ctx, a, m, parts * n));
    return ggml_sum_rows(ctx, ggml_reshape_2d(ctx, sums, parts, n));
}

// Calls f(row, begin, end) for the piece of an [m, n] matrix that is thread ith's of nth.
template <typename F>
static void for_each_piece(const ggml_tensor * matrix, int ith, int nth, F && f) {
    const int64_t m   = matrix->ne[0];
    const int64_t all = ggml_nelements(matrix);
    const int64_t end = all * (ith + 1) / nth;
    for (int64_t i = all * ith / nth; i < end;) {
        const int64_t row  = i / m;
        const int64_t stop = std::min(end, (row + 1) * m);
        f(row, i, stop);
        i = stop;
    }
}

static const float * data_of(const ggml_tensor * t) {
    return (const float *) t->data;
}

static void compute_exp(ggml_tensor * dst, int ith, int nth, void *) {
    ggml_tensor ** args = dst->src + (dst->view_src ? 1 : 0); // computed in place, the place is the first source
    for_each_piece(args[0], ith, nth, [&](int64_t row, int64_t begin, int64_t end) {
        exp_scaled(data_of(args[0]) + begin, data_of(args[1])[row], data_of(args[2])[row],
                   (float *) dst->data + begin, (size_t) (end - begin));
    });
}

// exp((x - max) / t); x: F32 [m, n], max and t: F32 [1, n]. On the CPU put into place, unless that is NULL.
static ggml_tensor * build_exp(ggml_context * ctx, ggml_tensor * x, ggml_tensor * max, ggml_tensor * t, bool on_cpu,
                               ggml_tensor * place = nullptr) {
    if (!on_cpu) {
        return ggml_exp(ctx, ggml_div(ctx, ggml_sub(ctx, x, max), t));
    }
    ggml_tensor * args[] = { x, max, t };
    if (place) {
        return ggml_custom_inplace(ctx, place, args, 3, compute_exp, GGML_N_TASKS_MAX, nullptr);
    }
    return ggml_custom_4d(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], 1, 1, args, 3, compute_exp, GGML_N_TASKS_MAX, nullptr);
}

// ln(e / z + 1e-8); e: F32 [m, n], z: F32 [1, n]
static ggml_tensor * build_log(ggml_context * ctx, ggml_tensor * e, ggml_tensor * z, bool on_cpu) {
    if (!on_cpu) {
        return ggml_log(ctx, ggml_scale_bias(ctx, ggml_div(ctx, e, z), 1.0f, 1e-8f));
    }
    return ggml_map_custom2(ctx, e, z,
        [](ggml_tensor * dst, const ggml_tensor * a, const ggml_tensor * b, int ith, int nth, void *) {
            for_each_piece(a, ith, nth, [&](int64_t row, int64_t begin, int64_t end) {
                map_vectors(data_of(a) + begin, (float *) dst->data + begin, (size_t) (end - begin),
                            [z = data_of(b)[row]](f32x v) { return log_pos(v / z + 1e-8f); });
            });
        }, GGML_N_TASKS_MAX, nullptr);
}

// The features of build_features for whole rows, a thread a row: three passes over logits that stay in the thread's
// cache, where a graph of single operations makes eight passes over all rows. Sources: logits F32 [n_vocab, n], T + 1e-8
// F32 [1, n], and where given the place for the exponentials.
static void compute_rows(ggml_tensor * dst, int ith, int nth, void *) {
    static thread_local std::vector<float> scratch;
    const ggml_tensor * logits = dst->src[0];
    const ggml_tensor * place  = dst->src[2];
    const size_t n_vocab = (size_t) logits->ne[0], k = std::min(N_TOP, n_vocab);
    scratch.resize(place ? 0 : n_vocab);
    for (int64_t row = ith; row < logits->ne[1]; row += nth) {
        const float * x = data_of(logits) + row * logits->ne[0];
        const float   t = data_of(dst->src[1])[row];
        float       * e = place ? (float *) ((char *) place->data + row * place->nb[1]) : scratch.data();
        float top[N_TOP];
        largest(x, n_vocab, top, k);
        exp_scaled(x, top[0], t, e, n_vocab);
        const double z       = sum_vectors(e, n_vocab, [](f32x v) { return v; });
        const double squares = sum_vectors(e, n_vocab, [](f32x v) { return v * v; });
        const double plogp   = sum_vectors(e, n_vocab, [=](f32x v) { return v * log_pos(v / (float) z + 1e-8f); });

        double top5 = 0.0;
        for (size_t i = 0; i < k; ++i) {
            top5 += std::exp((top[i] - top[0]) / t);
        }
        const double mean = 1.0 / (double) n_vocab;
        float * out = (float *) dst->data + row * dst->ne[0];
        out[0] = (float) (1.0 / z);
        out[1] = (float) -(plogp / z);
        out[2] = n_vocab > 1 ? (float) ((squares / (z * z) - mean) / (double) (n_vocab - 1)) : 0.0f;
        out[3] = (float) (top5 / z);
    }
}

// max_prob, entropy, prob_variance, top5_prob of p = softmax(logits / (T + 1e-8)), each F32 [1, n] or all F32 [4, n]: with
// the largest logit m, e = exp((logits - m) / (T + 1e-8)) and z = sum e, p is e / z. TopPHead.compute_prob_stats in the
// official code.
static std::vector<ggml_tensor *> build_features(ggml_context * ctx, ggml_tensor * logits, ggml_tensor * temperature,
                                                 bool on_cpu, ggml_tensor * weights) {
    const int64_t n_vocab = logits->ne[0];
    const int64_t n       = logits->ne[1];
    if (on_cpu && (n > 1 || n_vocab <= (1 << 14))) { // the faster way: a row for every thread, or short rows
        ggml_tensor * args[] = { logits, ggml_scale_bias(ctx, temperature, 1.0f, 1e-8f), weights };
        return { ggml_custom_4d(ctx, GGML_TYPE_F32, N_STATISTICS, n, 1, 1, args, weights ? 3 : 2, compute_rows, GGML_N_TASKS_MAX,
                                nullptr) };
    }
    const int64_t parts   = n_parts(n_vocab);
    const int     k       = (int) std::min<int64_t>(N_TOP, n_vocab);

    // the largest of all are among the largest of each part
    ggml_tensor * top = ggml_reshape_2d(ctx, logits, n_vocab, n);
    if (n_vocab / parts >= 2 * k) {
        top = build_largest(ctx, ggml_reshape_2d(ctx, top, n_vocab / parts, parts * n), k, on_cpu);
        top = ggml_reshape_2d(ctx, top, k * parts, n);
    }
    top = build_largest(ctx, top, k, on_cpu);

    ggml_tensor * t    = ggml_scale_bias(ctx, temperature, 1.0f, 1e-8f);
    ggml_tensor * max  = build_pick(ctx, top, ggml_reshape_2d(ctx, ggml_argmax(ctx, top), 1, n));
    ggml_tensor * e    = build_exp(ctx, ggml_reshape_2d(ctx, logits, n_vocab, n), max, t, on_cpu, weights);
    ggml_tensor * z    = build_sum(ctx, e, parts);

    ggml_tensor * max_prob = ggml_div(ctx, ggml_scale_bias(ctx, z, 0.0f, 1.0f), z);
    ggml_tensor * top5     = ggml_div(ctx, ggml_sum_rows(ctx, build_exp(ctx, top, max, t, on_cpu)), z);
    ggml_tensor * plogp    = ggml_div(ctx, build_dot(ctx, e, build_log(ctx, e, z, on_cpu), parts), z);
    ggml_tensor * entropy  = ggml_scale(ctx, plogp, -1.0f);

    // unbiased: (sum p^2 - V mean^2) / (V - 1), and the mean of p is 1 / V
    const float d = n_vocab > 1 ? 1.0f / (float) (n_vocab - 1) : 0.0f;
    ggml_tensor * p_sq     = ggml_div(ctx, build_dot(ctx, e, e, parts), ggml_sqr(ctx, z));
    ggml_tensor * variance = ggml_scale_bias(ctx, p_sq, d, -d / (float) n_vocab);

    return { max_prob, entropy, variance, top5 };
}

heads_outputs heads_build(ggml_context * ctx, const heads & h, const heads_weights & w, heads_enabled on, bool on_cpu,
                          ggml_tensor * hidden, ggml_tensor * logits, ggml_tensor * weights) {
    // a constant that no graph input has to be set for
    ggml_tensor * one = ggml_clamp(ctx, ggml_sum_rows(ctx, hidden), 1.0f, 1.0f);

    heads_outputs out = { one, one, false };
    if (on.temp && !w.temp.layers.empty()) {
        out.temperature = ggml_scale(ctx, build_mlp(ctx, w.temp, hidden), h.temp_scale);
    }
    if (on.top_p && !w.top_p.layers.empty()) {
        ggml_tensor * x = ggml_concat(ctx, hidden, out.temperature, 0);
        if (h.n_features > 1) {
            for (ggml_tensor * feature : build_features(ctx, logits, out.temperature, on_cpu, weights)) {
                x = ggml_concat(ctx, x, feature, 0);
            }
            out.has_weights = on_cpu && weights;
        }
        out.top_p = build_mlp(ctx, w.top_p, x);
    }
    return out;
}
