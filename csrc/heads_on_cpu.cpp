#include "heads_on_cpu.h"

#include "draw.h"
#include "vector_math.h"

#include <cmath>
#include <numeric>

// ggml has some thirty operations for all this, for each of which all threads wait, and those on the logits take a float at a
// time and pass over them a dozen times. Here are four, of which every thread takes its share:
//
//   sums     the first layer of both heads, as far as it reads the hidden state; the largest logits of each part
//   weights  the temperature, and from it the row of weights
//   plogp    of each part, what entropies are the sums of
//   values   the statistics, and the rest of the top-p head
//
// Of several outputs, of none, and of few logits, the last does all but the sums, a thread taking an output. The two between
// are left out where the logits are few; else they do nothing then: llama.cpp lays its memory out once, for graphs of the same
// nodes.

static constexpr int64_t N_PARTS = 16;      // of what is shared
static constexpr int64_t N_SHORT = 1 << 14; // logits that are not
static constexpr size_t  N_ROWS  = 32;      // of hidden states, which stay in the cache while all weights pass by

static float * data_of(const ggml_tensor * t, int64_t row = 0) {
    return (float *) ((char *) t->data + row * t->nb[1]);
}

// what a node was built of; one that is computed in place has the place before it
static ggml_tensor ** args_of(ggml_tensor * node) {
    return node->src + (node->view_src ? 1 : 0);
}

static size_t n_units(const heads_mlp * mlp) {
    return mlp ? (size_t) mlp->layers.front().bias->ne[0] : 0;
}

// calls f(part, begin, end) for each part of n things that is thread ith's of nth
template <typename F>
static void for_each_part(size_t n, int ith, int nth, F && f) {
    for (size_t part = (size_t) ith; part < N_PARTS; part += (size_t) nth) {
        f(part, n * part / N_PARTS, n * (part + 1) / N_PARTS);
    }
}

// y[r * y_stride + u] = w[u] x[r], of n values each. Summed in the same order whatever U and R are: what an output gets does
// not depend on what else is computed with it.
template <size_t U, size_t R, typename W>
static void dots(const W * w, size_t w_stride, const float * x, size_t x_stride, size_t n, float * y, size_t y_stride) {
    f32x sums[U][R] = {};
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        for (size_t u = 0; u < U; ++u) {
            const f32x v = load(w + u * w_stride + i);
            for (size_t r = 0; r < R; ++r) {
                sums[u][r] += v * load(x + r * x_stride + i);
            }
        }
    }
    for (size_t u = 0; u < U && i < n; ++u) {
        const f32x v = load_tail(w + u * w_stride + i, n - i);
        for (size_t r = 0; r < R; ++r) {
            sums[u][r] += v * load_tail(x + r * x_stride + i, n - i);
        }
    }
    for (size_t u = 0; u < U; ++u) {
        for (size_t r = 0; r < R; ++r) {
            y[r * y_stride + u] = (float) sum(sums[u][r]);
        }
    }
}

// Units [begin, end) of a layer, of n rows of x, without the bias: y[r * y_stride + u]. A unit has w_stride weights, and n_in
// of them are on x.
template <typename W>
static void layer_sums(const W * weight, size_t w_stride, size_t begin, size_t end, const float * x, size_t x_stride, size_t n_in,
                       size_t n, float * y, size_t y_stride) {
    const auto run = [&](auto f, size_t u, size_t r) {
        f(weight + u * w_stride, w_stride, x + r * x_stride, x_stride, n_in, y + r * y_stride + u, y_stride);
    };
    size_t u = begin;
    for (; u + 4 <= end; u += 4) {
        size_t r = 0;
        for (; r + 2 <= n; r += 2) {
            run(dots<4, 2, W>, u, r);
        }
        if (r < n) {
            run(dots<4, 1, W>, u, r);
        }
    }
    for (; u < end; ++u) {
        for (size_t r = 0; r < n; ++r) {
            run(dots<1, 1, W>, u, r);
        }
    }
}

// calls f(weights, how many a unit has) with those of a head's first layer that are on the hidden state
template <typename F>
static void with_first(const heads_mlp & mlp, size_t n_embd, F && f) {
    const ggml_tensor * whole = mlp.layers.front().weight;
    if (mlp.first.hidden.empty()) {
        f((const float *) whole->data, (size_t) whole->ne[0]);
    } else if (mlp.first.is_bf16) {
        f((const bf16 *) mlp.first.hidden.data(), n_embd);
    } else if constexpr (LOADS_F16) {
        f((const f16 *) mlp.first.hidden.data(), n_embd);
    }
}

// The value of a head, from the sums of its first layer in x, which is written over.
static float value_of(const heads_mlp & mlp, std::vector<float> & x) {
    std::vector<float> y;
    for (size_t i = 0; i < mlp.layers.size(); ++i) {
        const heads_layer & layer = mlp.layers[i];
        if (i > 0) {
            for (float & v : x) {
                v = mlp.gelu ? 0.5f * v * (1.0f + std::erf(v * 0.70710678f)) : std::max(v, 0.0f);
            }
            y.resize((size_t) layer.bias->ne[0]);
            layer_sums(data_of(layer.weight), x.size(), 0, y.size(), x.data(), 0, x.size(), 1, y.data(), 0);
            x.swap(y);
        }
        for (size_t u = 0; u < x.size(); ++u) {
            x[u] += data_of(layer.bias)[u];
        }
    }
    return 1.0f / (1.0f + std::exp(-x[0]));
}

static bool all_finite(const float * x, size_t n) {
    return sum_vectors(x, n, [](f32x v) { return v * 0.0f; }) == 0.0; // neither NaN nor infinity times 0 is 0
}

// The temperature of an output; NaN where its hidden state is not finite, which the ReLU would make 0.
static float temperature_of(const heads_use & use, const float * hidden, const float * sums) {
    const heads_mlp * mlp = use.temp();
    if (!mlp) {
        return 1.0f;
    }
    std::vector<float> x(sums, sums + n_units(mlp));
    return all_finite(hidden, (size_t) use.h->n_embd) ? use.h->temp_scale * value_of(*mlp, x) : NAN;
}

// The top-p of an output, NaN likewise; features: the temperature and, where the head reads them, the statistics.
static float top_p_of(const heads_use & use, const float * hidden, const float * sums, const float * features) {
    const heads_mlp * mlp = use.top_p();
    if (!mlp) {
        return 1.0f;
    }
    const size_t n_features = (size_t) use.h->n_features;
    const bool all = std::all_of(features, features + n_features, [](float v) { return std::isfinite(v); }); // too few for vectors
    if (!all || !all_finite(hidden, (size_t) use.h->n_embd)) {
        return NAN;
    }
    sums += n_units(use.temp());
    std::vector<float> x(sums, sums + n_units(mlp));
    for (size_t u = 0; u < x.size(); ++u) {
        const float * w = mlp->first.features.data() + u * n_features;
        for (size_t i = 0; i < n_features; ++i) {
            x[u] += w[i] * features[i];
        }
    }
    return value_of(*mlp, x);
}

// hidden, logits where they are shared -> sums of n outputs, and at their end of one the largest logits, [N_TOP] of each thread
static void compute_sums(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const heads_use   & use    = *(const heads_use *) userdata;
    const ggml_tensor * hidden = dst->src[0], * logits = dst->src[1];
    const size_t n = (size_t) hidden->ne[1], n_embd = (size_t) use.h->n_embd, n_temp = n_units(use.temp());
    const size_t n_all = n_temp + n_units(use.top_p());
    for (size_t row = 0; row < n; row += N_ROWS) {
        const float * x = data_of(hidden, (int64_t) row);
        float       * y = data_of(dst) + row * n_all;
        const size_t  m = std::min(N_ROWS, n - row);
        for_each_part(n_all, ith, nth, [&](size_t, size_t begin, size_t end) {
            const auto run = [&](const heads_mlp * mlp, size_t from, size_t to, size_t first) {
                if (mlp && from < to) {
                    with_first(*mlp, n_embd, [&](const auto * w, size_t w_stride) {
                        layer_sums(w, w_stride, from - first, to - first, x, hidden->nb[1] / sizeof(float), n_embd, m, y + first,
                                   n_all);
                    });
                }
            };
            run(use.temp(),  begin, std::min(end, n_temp), 0);
            run(use.top_p(), std::max(begin, n_temp), end, n_temp);
        });
    }
    if (logits && n == 1) {
        float * tops = data_of(dst) + n_all;
        for_each_part((size_t) logits->ne[0], ith, nth, [&](size_t part, size_t begin, size_t end) {
            std::fill_n(tops + N_TOP * part, N_TOP, -INF); // all of a thread's parts go to the place of its first
            offer_all(data_of(logits) + begin, end - begin, tops + N_TOP * (size_t) ith, N_TOP);
        });
    }
}

static const float * tops_of(const ggml_tensor * sums) {
    return data_of(sums) + sums->ne[0] - N_TOP * N_PARTS;
}

// hidden, sums, logits -> the row of weights
static void compute_weights(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * hidden = args_of(dst)[0], * sums = args_of(dst)[1], * logits = args_of(dst)[2];
    if (hidden->ne[1] != 1) {
        return;
    }
    const size_t n_vocab = (size_t) logits->ne[0];
    const float  t = temperature_of(*(const heads_use *) userdata, data_of(hidden), data_of(sums)) + T_EPSILON;
    float max;
    largest(tops_of(sums), N_TOP * N_PARTS, &max, 1);
    for_each_part(weight_stretches(n_vocab), ith, nth, [&](size_t, size_t begin, size_t end) {
        weigh(data_of(logits), n_vocab, max, t, data_of(dst), begin, end);
    });
}

// hidden, the row of weights, logits, sums -> F32 [N_PARTS, 3], of each part plogp and, where asked for, entropy_sums
static void compute_plogp(ggml_tensor * dst, int ith, int nth, void * userdata) {
    if (dst->src[0]->ne[1] != 1) {
        return;
    }
    const heads_use & use = *(const heads_use *) userdata;
    const weight_row  w = weight_row_of(data_of(dst->src[1]), (size_t) use.h->n_vocab);
    const double     z = weight_total(w);
    for_each_part(w.n / STRETCH, ith, nth, [&](size_t part, size_t begin, size_t end) {
        data_of(dst)[part] = (float) weight_plogp(w, z, begin, end);
    });
    if (use.entropy) {
        float max;
        largest(tops_of(dst->src[3]), N_TOP * N_PARTS, &max, 1);
        for_each_part((size_t) use.h->n_vocab, ith, nth, [&](size_t part, size_t begin, size_t end) {
            const entropy_sums s = sum_entropy(data_of(dst->src[2]) + begin, end - begin, max);
            data_of(dst, 1)[part] = (float) s.w;
            data_of(dst, 2)[part] = (float) s.wd;
        });
    }
}

static double sum_parts(const ggml_tensor * plogp, int64_t row) {
    return std::accumulate(data_of(plogp, row), data_of(plogp, row) + N_PARTS, 0.0);
}

// the statistics of an output whose work was shared
static void shared_statistics(const ggml_tensor * sums, const ggml_tensor * weights, const ggml_tensor * plogp, size_t n_vocab,
                              float t, float * out) {
    const weight_row w = weight_row_of(data_of(weights), n_vocab);
    float top[N_TOP];
    largest(tops_of(sums), N_TOP * N_PARTS, top, N_TOP);
    weight_statistics(w, n_vocab, top, N_TOP, t, weight_total(w), sum_parts(plogp, 0), out);
}

// hidden, sums, and for the features logits, weights or NULL, plogp or NULL -> F32 [n, 3], temperatures, top-p, entropies
static void compute_values(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const heads_use & use = *(const heads_use *) userdata;
    ggml_tensor ** args = args_of(dst);
    const ggml_tensor * hidden = args[0], * sums = args[1], * logits = args[2], * weights = args[3], * plogp = args[4];
    static thread_local std::vector<float> scratch;
    const int64_t n     = hidden->ne[1];
    const size_t  n_all = n_units(use.temp()) + n_units(use.top_p()), n_vocab = (size_t) use.h->n_vocab;
    const bool    place = weights && weights->ne[1] == n, shared = logits && plogp && n == 1;
    for (int64_t row = ith; row < n; row += nth) {
        const float * x = data_of(hidden, row), * y = data_of(sums) + (size_t) row * n_all;
        float features[1 + N_STATISTICS] = { temperature_of(use, x, y) };
        const float t = features[0] + T_EPSILON;
        if (shared) {
            shared_statistics(sums, weights, plogp, n_vocab, t, features + 1);
        } else if (logits) {
            scratch.resize(place ? 0 : weight_row_size(n_vocab));
            row_statistics(data_of(logits, row), n_vocab, t, place ? data_of(weights, row) : scratch.data(), features + 1);
        }
        data_of(dst, 0)[row] = features[0];
        data_of(dst, 1)[row] = top_p_of(use, x, y, features);
        if (logits && use.entropy) {
            data_of(dst, 2)[row] = shared ? entropy_of({ sum_parts(plogp, 1), sum_parts(plogp, 2) })
                                          : logits_entropy(data_of(logits, row), n_vocab);
        }
    }
}

// an operation on args, computed in place where there is one, else a matrix of ne0 by ne1
static ggml_tensor * build(ggml_context * ctx, ggml_tensor * place, int64_t ne0, int64_t ne1, std::vector<ggml_tensor *> args,
                           ggml_custom_op_t f, const heads_use & use) {
    const int n_args = (int) args.size(), all = GGML_N_TASKS_MAX;
    void * userdata = const_cast<heads_use *>(&use); // read only
    return place ? ggml_custom_inplace(ctx, place, args.data(), n_args, f, all, userdata)
                 : ggml_custom_4d(ctx, GGML_TYPE_F32, ne0, ne1, 1, 1, args.data(), n_args, f, all, userdata);
}

heads_outputs heads_build_on_cpu(ggml_context * ctx, const heads_use & use, ggml_tensor * hidden, ggml_tensor * logits,
                                 const heads_places & places) {
    const int64_t n = hidden->ne[1], n_vocab = use.h->n_vocab;
    const int64_t n_all    = (int64_t) (n_units(use.temp()) + n_units(use.top_p()));
    const bool    features = use.has_features(), shared = features && n_vocab > N_SHORT;

    std::vector<ggml_tensor *> args = { hidden };
    if (shared) {
        args.push_back(logits);
    }
    ggml_tensor * sums = build(ctx, nullptr, n_all * n + N_TOP * N_PARTS, 1, args, compute_sums, use);
    args = { hidden, sums };
    if (features) {
        args.push_back(logits);
    }
    if (shared) {
        const int64_t size = (int64_t) weight_row_size((size_t) n_vocab);
        ggml_tensor * weights = build(ctx, places.weights, size, 1, args, compute_weights, use);
        args.push_back(weights);
        args.push_back(build(ctx, nullptr, N_PARTS, 3, { hidden, weights, logits, sums }, compute_plogp, use));
    } else if (features && places.weights) {
        args.push_back(places.weights);
    }
    ggml_tensor * values = build(ctx, places.values, n, 3, args, compute_values, use);
    ggml_set_output(values);
    const auto row = [&](size_t i) { return ggml_view_2d(ctx, values, 1, n, sizeof(float), i * values->nb[1]); };
    return { row(0), row(1), features && places.weights };
}
