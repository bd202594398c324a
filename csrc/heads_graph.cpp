#include "heads_graph.h"

#include "graph_parts.h"
#include "heads_on_cpu.h"

#include <algorithm>

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

// max_prob, entropy, prob_variance, top5_prob of p = softmax(logits / (T + 1e-8)), each F32 [1, n]: with
// the largest logit m, e = exp((logits - m) / (T + 1e-8)) and z = sum e, p is e / z. TopPHead.compute_prob_stats in the
// official code.
static std::vector<ggml_tensor *> build_features(ggml_context * ctx, ggml_tensor * logits, ggml_tensor * temperature) {
    const int64_t n_vocab = logits->ne[0];
    const int64_t n       = logits->ne[1];
    ggml_tensor * t = ggml_scale_bias(ctx, temperature, 1.0f, T_EPSILON);
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

// x: F32 [1, n], to a row of place
static ggml_tensor * build_copy(ggml_context * ctx, ggml_tensor * x, ggml_tensor * place, size_t row) {
    const int64_t n = x->ne[1];
    ggml_tensor * slot = ggml_view_2d(ctx, place, 1, n, sizeof(float), row * place->nb[1]);
    return ggml_cpy(ctx, x, slot);
}

heads_outputs heads_build(ggml_context * ctx, const heads_use & use, bool cpu_only, ggml_tensor * hidden, ggml_tensor * logits,
                          const heads_places & places) {
    if (cpu_only) {
        return heads_build_on_cpu(ctx, use, hidden, logits, places);
    }
    // a constant that no graph input has to be set for
    ggml_tensor * one = ggml_clamp(ctx, ggml_sum_rows(ctx, hidden), 1.0f, 1.0f);

    heads_outputs out = { one, one, false };
    if (use.temp()) {
        out.temperature = ggml_scale(ctx, build_mlp(ctx, *use.temp(), hidden), use.h->temp_scale);
    }
    if (use.top_p()) {
        ggml_tensor * x = ggml_concat(ctx, hidden, out.temperature, 0);
        if (use.h->n_features > 1) {
            for (ggml_tensor * feature : build_features(ctx, logits, out.temperature)) {
                x = ggml_concat(ctx, x, feature, 0);
            }
        }
        out.top_p = build_mlp(ctx, *use.top_p(), x);
    }
    if (places.values) {
        out.temperature = build_copy(ctx, out.temperature, places.values, 0);
        out.top_p       = build_copy(ctx, out.top_p,       places.values, 1);
    }
    return out;
}
