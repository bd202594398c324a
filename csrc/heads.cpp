#include "heads.h"

#include "errors.h"
#include "vector_math.h"

#include <new>

static void check_layers(const heads_mlp_data & mlp, int64_t n_in, const std::string & head) {
    for (size_t i = 0; i < mlp.layers.size(); ++i) {
        const auto & [weight, bias] = mlp.layers[i];
        if (bias.shape.size() != 1 || bias.shape[0] == 0 || weight.shape != std::vector<int64_t> { bias.shape[0], n_in }) {
            throw refusal(INVALID_INPUT, head + ": layer " + std::to_string(i) + " has weight " + weight.shape_text() +
                " and bias " + bias.shape_text() + ", expected [out, " + std::to_string(n_in) + "] and [out]");
        }
        n_in = bias.shape[0];
    }
    if (!mlp.layers.empty() && n_in != 1) {
        throw refusal(INVALID_INPUT, head + ": the last layer has " + std::to_string(n_in) + " outputs, expected 1");
    }
}

static heads_mlp mlp_new(ggml_context * ctx, const heads_mlp_data & data) {
    heads_mlp mlp;
    mlp.gelu = data.gelu;
    for (const auto & [weight, bias] : data.layers) {
        mlp.layers.push_back({ ggml_new_tensor_2d(ctx, GGML_TYPE_F32, weight.shape[1], weight.shape[0]),
                               ggml_new_tensor_1d(ctx, GGML_TYPE_F32, bias.shape[0]) });
    }
    return mlp;
}

static void mlp_set(const heads_mlp & mlp, const heads_mlp_data & data) {
    for (size_t i = 0; i < mlp.layers.size(); ++i) {
        const auto & [weight, bias] = mlp.layers[i];
        ggml_backend_tensor_set(weight, data.layers[i].first.data,  0, ggml_nbytes(weight));
        ggml_backend_tensor_set(bias,   data.layers[i].second.data, 0, ggml_nbytes(bias));
    }
}

// [n_out, n_embd] of a weight in two bytes a value; empty where some value is another then
template <typename From, typename To>
static std::vector<uint16_t> narrowed(const f32_array & weight, size_t n_embd, From && from, To && to) {
    const size_t n_in = (size_t) weight.shape[1];
    std::vector<uint16_t> narrow;
    narrow.reserve((size_t) weight.shape[0] * n_embd);
    for (size_t u = 0; u < (size_t) weight.shape[0]; ++u) {
        for (size_t i = 0; i < n_embd; ++i) {
            const float x = weight.data[u * n_in + i];
            narrow.push_back(from(x));
            if (float_bits(to(narrow.back())) != float_bits(x)) {
                return {};
            }
        }
    }
    return narrow;
}

static heads_first first_of(const f32_array & weight, size_t n_embd) {
    heads_first first;
    first.hidden = narrowed(weight, n_embd, [](float x) { return (uint16_t) (float_bits(x) >> 16); },
                                            [](uint16_t x) { return float_from((uint32_t) x << 16); });
    first.is_bf16 = !first.hidden.empty();
    if (!first.is_bf16 && LOADS_F16) {
        first.hidden = narrowed(weight, n_embd, ggml_fp32_to_fp16, ggml_fp16_to_fp32);
    }
    for (size_t u = 0; u < (size_t) weight.shape[0]; ++u) {
        const float * row = weight.data + u * (size_t) weight.shape[1];
        first.features.insert(first.features.end(), row + n_embd, row + weight.shape[1]);
    }
    return first;
}

// false: no room for them in such memory
static bool weights_init(heads_weights & w, ggml_backend_buffer_type_t buft, const heads_mlp_data & temp,
                         const heads_mlp_data & top_p) {
    const size_t n = 2 * (temp.layers.size() + top_p.layers.size());
    w.ctx.reset(ggml_init({ /*.mem_size =*/ n * ggml_tensor_overhead(), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }));
    if (!w.ctx) {
        return false;
    }
    w.temp  = mlp_new(w.ctx.get(), temp);
    w.top_p = mlp_new(w.ctx.get(), top_p);
    w.buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(w.ctx.get(), buft));
    if (!w.buf) {
        return false;
    }
    ggml_backend_buffer_set_usage(w.buf.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    mlp_set(w.temp,  temp);
    mlp_set(w.top_p, top_p);
    return true;
}

std::shared_ptr<heads> heads_new(int64_t n_embd, int64_t n_vocab, float temp_scale, int64_t n_features,
                                 const heads_mlp_data & temp, const heads_mlp_data & top_p) {
    if (n_embd < 1 || n_vocab < 1 || n_embd > (1 << 24) || n_vocab > (1 << 28)) {
        throw refusal(INVALID_INPUT, "hidden size " + std::to_string(n_embd) + " or vocabulary " + std::to_string(n_vocab) +
                                     " is not a size a model has");
    }
    if (n_features != 1 && n_features != 1 + N_STATISTICS) {
        throw refusal(INVALID_INPUT, "top_p_head: " + std::to_string(n_features) + " features, expected 1 or " +
                                     std::to_string(1 + N_STATISTICS));
    }
    check_layers(temp,  n_embd, "temp_head");
    check_layers(top_p, n_embd + n_features, "top_p_head");
    auto h = std::make_shared<heads>();
    h->n_embd     = n_embd;
    h->n_vocab    = n_vocab;
    h->temp_scale = temp_scale;
    h->n_features = n_features;
    if (!weights_init(h->host, ggml_backend_cpu_buffer_type(), temp, top_p)) {
        throw std::bad_alloc();
    }
    for (const auto & [mlp, data] : { std::pair(&h->host.temp, &temp), std::pair(&h->host.top_p, &top_p) }) {
        if (!data->layers.empty()) {
            mlp->first = first_of(data->layers.front().first, (size_t) n_embd);
        }
    }
    return h;
}

// weights in ordinary memory as what others are copied from
static heads_mlp_data data_of(const heads_mlp & mlp) {
    heads_mlp_data data = { {}, mlp.gelu };
    for (const auto & [weight, bias] : mlp.layers) {
        data.layers.push_back({ { (const float *) weight->data, { weight->ne[1], weight->ne[0] } },
                                { (const float *) bias->data,   { bias->ne[0] } } });
    }
    return data;
}

std::shared_ptr<const heads_weights> heads_on(heads & h, ggml_backend_buffer_type_t buft) {
    if (buft == ggml_backend_cpu_buffer_type()) {
        return heads_on_host(h);
    }
    std::lock_guard<std::mutex> lock(h.mutex);
    auto & slot = h.devices[buft];
    auto   w    = slot.lock();
    if (!w) {
        w = std::make_shared<heads_weights>();
        if (!weights_init(*w, buft, data_of(h.host.temp), data_of(h.host.top_p))) {
            return nullptr;
        }
        slot = w;
    }
    return w;
}

std::shared_ptr<const heads_weights> heads_on_host(const heads & h) {
    return { std::shared_ptr<const heads_weights>(), &h.host };
}
