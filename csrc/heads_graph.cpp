#include "heads_graph.h"

#include "graph_parts.h"
#include "vector_math.h"
#include "weights.h"

#include <algorithm>
#include <cmath>

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

// the k largest values of each row, in no order; values: F32 [m, n] -> F32 [k, n]
static ggml_tensor * build_largest(ggml_context * ctx, ggml_tensor * values, int k) {
    return build_pick(ctx, values, ggml_top_k(ctx, values, k));
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

// exp((x - max) / t); x: F32 [m, n], max and t: F32 [1, n]
static ggml_tensor * build_exp(ggml_context * ctx, ggml_tensor * x, ggml_tensor * max, ggml_tensor * t) {
    return ggml_exp(ctx, ggml_div(ctx, ggml_sub(ctx, x, max), t));
}

// The features on the CPU, where ggml's operations take a float at a time and pass over all of the logits a dozen times:
// here the logits are read twice and their weights once, by ggml's own threads. A thread takes a row, or, of a single long
// one, its share; then each of the steps below is a node, since the next one needs all of it.

static constexpr int64_t N_PARTS = 16; // of a row that is shared

static float * data_of(const ggml_tensor * t, int64_t row = 0) {
    return (float *) ((char *) t->data + row * t->nb[1]);
}

// calls f(part, begin, end) for each part of n things that is thread ith's of nth
template <typename F>
static void for_each_part(size_t n, int ith, int nth, F && f) {
    for (size_t part = (size_t) ith; part < N_PARTS; part += (size_t) nth) {
        f(part, n * part / N_PARTS, n * (part + 1) / N_PARTS);
    }
}

// whole rows of dst, F32 [N_STATISTICS, n], of logits F32 [n_vocab, n] and T + 1e-8 F32 [1, n]; the weights go to place, where
// given
static void rows_statistics(ggml_tensor * dst, const ggml_tensor * logits, const ggml_tensor * t, const ggml_tensor * place,
                            int ith, int nth) {
    static thread_local std::vector<float> scratch;
    const size_t n_vocab = (size_t) logits->ne[0];
    scratch.resize(place ? 0 : weight_row_size(n_vocab));
    for (int64_t row = ith; row < logits->ne[1]; row += nth) {
        row_statistics(data_of(logits, row), n_vocab, *data_of(t, row), place ? data_of(place, row) : scratch.data(),
                       data_of(dst, row));
    }
}

// logits, T + 1e-8, and where given the rows for the weights -> F32 [N_STATISTICS, n]
static void compute_rows(ggml_tensor * dst, int ith, int nth, void *) {
    rows_statistics(dst, dst->src[0], dst->src[1], dst->src[2], ith, nth);
}

// The steps of a long row. Of several rows, or none, the last step does all, and the others nothing: llama.cpp lays its memory
// out once for graphs of the same nodes.

// logits -> the largest of each part, F32 [N_TOP, N_PARTS]
static void compute_tops(ggml_tensor * dst, int ith, int nth, void *) {
    if (dst->src[0]->ne[1] != 1) {
        return;
    }
    const float * x = data_of(dst->src[0]);
    for_each_part((size_t) dst->src[0]->ne[0], ith, nth, [&](size_t part, size_t begin, size_t end) {
        largest(x + begin, end - begin, data_of(dst, (int64_t) part), N_TOP);
    });
}

// logits, tops, T + 1e-8 -> the row of weights
static void compute_weights(ggml_tensor * dst, int ith, int nth, void *) {
    ggml_tensor ** args = dst->src + (dst->view_src ? 1 : 0); // computed in place, the place is the first source
    if (args[0]->ne[1] != 1) {
        return;
    }
    const size_t n_vocab = (size_t) args[0]->ne[0];
    float max;
    largest(data_of(args[1]), N_TOP * N_PARTS, &max, 1);
    for_each_part(weight_stretches(n_vocab), ith, nth, [&](size_t, size_t begin, size_t end) {
        weigh(data_of(args[0]), n_vocab, max, *data_of(args[2]), data_of(dst), begin, end);
    });
}

// the row of weights, logits -> F32 [N_PARTS]
static void compute_plogp(ggml_tensor * dst, int ith, int nth, void *) {
    if (dst->src[1]->ne[1] != 1) {
        return;
    }
    const weight_row w = weight_row_of(data_of(dst->src[0]), (size_t) dst->src[1]->ne[0]);
    const double     z = weight_total(w);
    for_each_part(w.n / STRETCH, ith, nth, [&](size_t part, size_t begin, size_t end) {
        data_of(dst)[part] = (float) weight_plogp(w, z, begin, end);
    });
}

// the row of weights, logits, tops, T + 1e-8, plogp of each part -> F32 [N_STATISTICS, n]
static void compute_statistics(ggml_tensor * dst, int ith, int nth, void *) {
    const int64_t n = dst->src[1]->ne[1];
    if (n != 1) {
        rows_statistics(dst, dst->src[1], dst->src[3], dst->src[0]->ne[1] == n ? dst->src[0] : nullptr, ith, nth);
        return;
    }
    if (ith > 0) {
        return;
    }
    const size_t n_vocab = (size_t) dst->src[1]->ne[0];
    const weight_row w = weight_row_of(data_of(dst->src[0]), n_vocab);
    float top[N_TOP];
    largest(data_of(dst->src[2]), N_TOP * N_PARTS, top, N_TOP);
    double plogp = 0.0;
    for (size_t part = 0; part < N_PARTS; ++part) {
        plogp += data_of(dst->src[4])[part];
    }
    weight_statistics(w, n_vocab, top, N_TOP, *data_of(dst->src[3]), weight_total(w), plogp, data_of(dst));
}

static ggml_tensor * build_custom(ggml_context * ctx, int64_t ne0, int64_t ne1, std::vector<ggml_tensor *> args,
                                  ggml_custom_op_t f) {
    return ggml_custom_4d(ctx, GGML_TYPE_F32, ne0, ne1, 1, 1, args.data(), (int) args.size(), f, GGML_N_TASKS_MAX, nullptr);
}

// t: T + 1e-8, F32 [1, n]; weights: F32 [weight_row_size, n], or NULL -> F32 [N_STATISTICS, n]
static ggml_tensor * build_features_on_cpu(ggml_context * ctx, ggml_tensor * logits, ggml_tensor * t, ggml_tensor * weights) {
    const int64_t n_vocab = logits->ne[0], n = logits->ne[1];
    if (n_vocab <= (1 << 14)) { // too short to share
        std::vector<ggml_tensor *> args = { logits, t };
        if (weights) {
            args.push_back(weights);
        }
        return build_custom(ctx, N_STATISTICS, n, args, compute_rows);
    }
    ggml_tensor * tops   = build_custom(ctx, N_TOP, N_PARTS, { logits }, compute_tops);
    ggml_tensor * args[] = { logits, tops, t };
    weights = weights ? ggml_custom_inplace(ctx, weights, args, 3, compute_weights, GGML_N_TASKS_MAX, nullptr)
                      : build_custom(ctx, (int64_t) weight_row_size((size_t) n_vocab), 1, { logits, tops, t }, compute_weights);
    ggml_tensor * plogp = build_custom(ctx, N_PARTS, 1, { weights, logits }, compute_plogp);
    return build_custom(ctx, N_STATISTICS, n, { weights, logits, tops, t, plogp }, compute_statistics);
}

// max_prob, entropy, prob_variance, top5_prob of p = softmax(logits / (T + 1e-8)), each F32 [1, n] or all F32 [4, n]: with
// the largest logit m, e = exp((logits - m) / (T + 1e-8)) and z = sum e, p is e / z. TopPHead.compute_prob_stats in the
// official code.
static std::vector<ggml_tensor *> build_features(ggml_context * ctx, ggml_tensor * logits, ggml_tensor * temperature,
                                                 bool on_cpu, ggml_tensor * weights) {
    const int64_t n_vocab = logits->ne[0];
    const int64_t n       = logits->ne[1];
    ggml_tensor * t = ggml_scale_bias(ctx, temperature, 1.0f, 1e-8f);
    if (on_cpu) {
        return { build_features_on_cpu(ctx, logits, t, weights) };
    }
    const int64_t parts = n_parts(n_vocab);
    const int     k     = (int) std::min<int64_t>(N_TOP, n_vocab);

    // the largest of all are among the largest of each part
    ggml_tensor * top = ggml_reshape_2d(ctx, logits, n_vocab, n);
    if (n_vocab / parts >= 2 * k) {
        top = build_largest(ctx, ggml_reshape_2d(ctx, top, n_vocab / parts, parts * n), k);
        top = ggml_reshape_2d(ctx, top, k * parts, n);
    }
    top = build_largest(ctx, top, k);

    ggml_tensor * max  = build_pick(ctx, top, ggml_reshape_2d(ctx, ggml_argmax(ctx, top), 1, n));
    ggml_tensor * e    = build_exp(ctx, ggml_reshape_2d(ctx, logits, n_vocab, n), max, t);
    ggml_tensor * z    = build_sum(ctx, e, parts);

    ggml_tensor * max_prob = ggml_div(ctx, ggml_scale_bias(ctx, z, 0.0f, 1.0f), z);
    ggml_tensor * top5     = ggml_div(ctx, ggml_sum_rows(ctx, build_exp(ctx, top, max, t)), z);
    ggml_tensor * plogp    = ggml_div(ctx, build_dot(ctx, e, ggml_log(ctx, ggml_scale_bias(ctx, ggml_div(ctx, e, z), 1.0f, 1e-8f)), parts), z);
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
