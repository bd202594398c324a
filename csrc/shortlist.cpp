#include "shortlist.h"

#include "devices.h"
#include "errors.h"
#include "ggml-alloc.h"
#include "ggml-cpp.h"
#include "graph_parts.h"
#include "vector_math.h"

#include <algorithm>
#include <cmath>

// Relative error of a device's sum against draw.cpp's: exponentials and divisions of a few units in the last place.
static constexpr double SUM_ERROR = 2e-6;

// Relative error of two weights' order where it is not that of their logits.
static constexpr float WEIGHT_ERROR = 1e-6f;

static int64_t n_listed(int64_t n_vocab) {
    return std::min(SHORTLIST, n_vocab);
}

// sums over parts of each row, which the host adds up in double; F32 [m, n] -> F32 [parts, n]. Not by ggml_mul_mat: CUDA
// rounds what it multiplies.
static ggml_tensor * build_sums(ggml_context * ctx, ggml_tensor * a, int64_t parts) {
    const int64_t m = a->ne[0], n = a->ne[1];
    return ggml_reshape_2d(ctx, ggml_sum_rows(ctx, ggml_reshape_2d(ctx, a, m / parts, parts * n)), parts, n);
}

shortlist_tensors shortlist_build(ggml_context * ctx, ggml_tensor * logits, ggml_tensor * temperature) {
    const int64_t n_vocab = logits->ne[0], n = ggml_nrows(logits), parts = n_parts(n_vocab);
    logits = ggml_reshape_2d(ctx, logits, n_vocab, n);
    ggml_tensor * ids = ggml_top_k(ctx, logits, (int) n_listed(n_vocab));
    ggml_tensor * top = build_pick(ctx, logits, ids);
    ggml_tensor * max = build_pick(ctx, top, ggml_reshape_2d(ctx, ggml_argmax(ctx, top), 1, n));
    ggml_tensor * d   = ggml_sub(ctx, logits, max);
    ggml_tensor * w   = ggml_exp(ctx, ggml_div(ctx, d, ggml_reshape_2d(ctx, temperature, 1, n)));
    ggml_tensor * raw = ggml_exp(ctx, d);
    ggml_tensor * dot = ggml_mul(ctx, raw, ggml_clamp(ctx, d, -100.0f, 0.0f)); // 0 times -inf is not 0

    ggml_tensor * values = build_sums(ctx, w, parts);
    for (ggml_tensor * sums : { build_sums(ctx, raw, parts), build_sums(ctx, dot, parts), top }) {
        values = ggml_concat(ctx, values, sums, 0);
    }
    ggml_set_output(ids);
    ggml_set_output(values);
    return { ids, values };
}

namespace {

// a graph of a shortlist alone
struct shortlist_graph {
    static constexpr size_t N_NODES = 64;

    ggml_context_ptr  ctx { ggml_init({ 2 * N_NODES * ggml_tensor_overhead() + ggml_graph_overhead_custom(N_NODES, false),
                                        /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }) };
    ggml_cgraph     * graph = ggml_new_graph_custom(ctx.get(), N_NODES, false);
    ggml_tensor     * logits;
    ggml_tensor     * temperature;
    shortlist_tensors out;

    shortlist_graph(int64_t n_vocab, int64_t n) {
        logits      = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_vocab, n);
        temperature = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, 1, n);
        ggml_set_input(logits);
        ggml_set_input(temperature);
        out = shortlist_build(ctx.get(), logits, temperature);
        ggml_build_forward_expand(graph, out.ids);
        ggml_build_forward_expand(graph, out.values);
    }
};

} // namespace

std::string shortlist_missing_op(ggml_backend_dev_t dev, int64_t n_vocab, int64_t n) {
    return device_missing_op(dev, shortlist_graph(n_vocab, n).graph);
}

std::vector<shortlist> shortlist_read(const shortlist_tensors & t, int64_t n_vocab, int64_t n) {
    const size_t k = (size_t) n_listed(n_vocab), parts = (size_t) n_parts(n_vocab), width = 3 * parts + k;
    std::vector<int32_t> ids((size_t) n * k);
    std::vector<float>   values((size_t) n * width);
    ggml_backend_tensor_get(t.ids,    ids.data(),    0, ids.size()    * sizeof(int32_t));
    ggml_backend_tensor_get(t.values, values.data(), 0, values.size() * sizeof(float));
    std::vector<shortlist> rows;
    for (size_t i = 0; i < (size_t) n; ++i) {
        const float * v = values.data() + i * width;
        double sums[3] = {};
        for (size_t j = 0; j < 3 * parts; ++j) {
            sums[j / parts] += v[j];
        }
        rows.push_back({ { ids.begin() + (ptrdiff_t) (i * k), ids.begin() + (ptrdiff_t) ((i + 1) * k) },
                         { v + 3 * parts, v + width }, (size_t) n_vocab, sums[0], sums[1], sums[2] });
    }
    return rows;
}

float shortlist_entropy(const shortlist & row) {
    return (float) std::max(0.0, std::log(row.raw) - row.dot / row.raw);
}

// The first of the largest values. False where one behind the list may be as large.
static bool draw_largest(const shortlist & row, const std::vector<float> & values, float error, draw_result & result) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    if (values.size() < row.n_vocab && !(*least < *most - error)) {
        return false;
    }
    int32_t first = INT32_MAX;
    for (size_t i = 0; i < values.size(); ++i) {
        if (values[i] == *most) {
            first = std::min(first, row.ids[i]);
        }
    }
    result = { first, 1, 1.0f };
    return true;
}

// As draw.cpp's draw_kept, whose sums these are, of doubles: what is not in the list adds 0 to them.
static draw_result draw_listed(std::pair<float, int32_t> * kept, size_t n_kept, double u) {
    const float threshold = kept[n_kept - 1].first;
    std::sort(kept, kept + n_kept, [](const auto & a, const auto & b) { return a.second < b.second; });
    struct stretch {
        double mass;
        size_t begin;
    };
    stretch stretches[SHORTLIST] = {}; // the compiler does not see that there always is a first
    size_t  n_stretches = 0;
    double  mass        = 0.0;
    for (size_t i = 0; i < n_kept;) {
        const size_t begin = i;
        double here = 0.0, n_equal = 0.0;
        for (; i < n_kept && kept[i].second / STRETCH == kept[begin].second / STRETCH; ++i) {
            if (kept[i].first > threshold) {
                here += kept[i].first;
            } else {
                n_equal += 1.0;
            }
        }
        here += n_equal * threshold;
        stretches[n_stretches++] = { here, begin };
        mass += here;
    }
    double rest   = u * mass;
    size_t chosen = 0;
    for (size_t k = 0; k < n_stretches; ++k) {
        chosen = k;
        if (rest < stretches[k].mass) {
            break;
        }
        rest -= stretches[k].mass;
    }
    const size_t end   = chosen + 1 < n_stretches ? stretches[chosen + 1].begin : n_kept;
    size_t       drawn = stretches[chosen].begin;
    for (size_t i = drawn; i < end; ++i) {
        drawn = i;
        rest -= kept[i].first;
        if (rest < 0.0) {
            break;
        }
    }
    return { kept[drawn].second, (int32_t) n_kept, (float) (kept[drawn].first / mass) };
}

bool shortlist_draw(const shortlist & row, float temperature, double top_p, double u, shortlist_scratch & s,
                    draw_result & result) {
    if (!std::isfinite(row.raw)) {
        return false;
    }
    if (!(temperature > 0.0f)) {
        return draw_largest(row, row.logits, 0.0f, result);
    }
    const double target = top_p * row.total, error = row.total * SUM_ERROR;
    if (!std::isfinite(target) || top_p >= 1.0) {
        return false;
    }
    const size_t n = row.logits.size();
    const float  max = *std::max_element(row.logits.begin(), row.logits.end());
    s.weight.resize(weight_row_size(n));
    weigh(row.logits.data(), n, max, temperature, s.weight.data(), 0, weight_stretches(n));
    s.weight.resize(n);
    if (target + error < 1.0) {
        return draw_largest(row, s.weight, WEIGHT_ERROR, result);
    }
    s.order.clear();
    for (size_t i = 0; i < n; ++i) {
        s.order.emplace_back(s.weight[i], row.ids[i]);
    }
    std::sort(s.order.begin(), s.order.end(), [](const auto & a, const auto & b) {
        return a.first > b.first || (a.first == b.first && a.second < b.second);
    });
    double above  = 0.0;
    size_t n_kept = 0;
    while (n_kept < n && above < target - error) {
        above += s.order[n_kept++].first;
    }
    const bool reached = above >= target + error;
    const bool inside  = n == row.n_vocab || s.order[n_kept - 1].first > s.order[n - 1].first * (1.0f + WEIGHT_ERROR);
    if (!reached || !inside) {
        return false;
    }
    result = draw_listed(s.order.data(), n_kept, u);
    return true;
}

shortlist_tokens shortlist_evaluate(const f32_array & logits, float temperature, double top_p, int64_t n, uint32_t seed,
                                    const std::string & device) {
    check_draw(logits, temperature, top_p, n);
    ggml_backend_dev_t dev = device_by_name(device);
    shortlist_graph graph(logits.shape[0], 1);
    const std::string missing = device_missing_op(dev, graph.graph);
    if (!missing.empty()) {
        throw refusal(MODEL_FAILED, "device " + device + " has no operation " + missing);
    }
    ggml_backend_ptr backend(ggml_backend_dev_init(dev, nullptr));
    ggml_backend_buffer_ptr buffer(backend ? ggml_backend_alloc_ctx_tensors(graph.ctx.get(), backend.get()) : nullptr);
    if (!buffer) {
        throw refusal(MODEL_FAILED, "device " + device + " does not start");
    }
    ggml_backend_tensor_set(graph.logits,      logits.data,  0, ggml_nbytes(graph.logits));
    ggml_backend_tensor_set(graph.temperature, &temperature, 0, sizeof(float));
    if (ggml_backend_graph_compute(backend.get(), graph.graph) != GGML_STATUS_SUCCESS) {
        throw refusal(MODEL_FAILED, "computing the shortlist on device " + device + " failed");
    }
    const shortlist row = shortlist_read(graph.out, logits.shape[0], 1).front();
    shortlist_tokens result = { {}, {}, {}, shortlist_entropy(row) };
    shortlist_scratch scratch;
    std::mt19937 rng(seed);
    for (int64_t i = 0; i < n; ++i) {
        draw_result r;
        const bool decided = shortlist_draw(row, temperature, top_p, uniform(rng), scratch, r);
        result.tokens.push_back(decided ? r.index : -1);
        result.nucleus.push_back(decided ? r.nucleus : 0);
        result.prob.push_back(decided ? r.prob : 0.0f);
    }
    return result;
}
