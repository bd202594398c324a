#include "devices.h"

#include "errors.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <cmath>

static const char * kind_of(ggml_backend_dev_t dev) {
    switch (ggml_backend_dev_type(dev)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:   return "cpu";
        case GGML_BACKEND_DEVICE_TYPE_GPU:   return "gpu";
        case GGML_BACKEND_DEVICE_TYPE_IGPU:  return "igpu";
        case GGML_BACKEND_DEVICE_TYPE_ACCEL: return "accel";
        default:                             return "meta";
    }
}

std::vector<device_info> devices_list() {
    std::vector<device_info> result;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        size_t free = 0;
        size_t total = 0;
        ggml_backend_dev_memory(dev, &free, &total);
        result.emplace_back(ggml_backend_dev_name(dev), ggml_backend_dev_description(dev), kind_of(dev), free, total,
                            (uintptr_t) dev);
    }
    return result;
}

ggml_backend_dev_t device_by_name(const std::string & name) {
    ggml_backend_dev_t dev = ggml_backend_dev_by_name(name.c_str());
    if (!dev) {
        std::string names;
        for (const device_info & info : devices_list()) {
            names += (names.empty() ? "" : ", ") + std::get<0>(info);
        }
        throw refusal(INVALID_INPUT, "no device " + name + "; this build has " + names);
    }
    return dev;
}

std::string device_missing_op(ggml_backend_dev_t dev, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (!ggml_backend_dev_supports_op(dev, node)) {
            return ggml_op_desc(node);
        }
    }
    return "";
}

// AMX works in tiles of 16 rows and 32 columns, K-quants in blocks of 256
static const int64_t PROBE_K    = 512;
static const int64_t PROBE_N    = 64;
static const int64_t PROBE_ROWS = 17;

// weights [N, K] in a buffer type, times rows [ROWS, K]; empty where the CPU does not multiply them there
static std::vector<float> product(ggml_backend_t cpu, ggml_backend_buffer_type_t buft, ggml_type type,
                                  const std::vector<uint8_t> & weights, const std::vector<float> & rows) {
    const ggml_init_params params = { 4 * ggml_tensor_overhead(), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true };
    ggml_context_ptr of_weights(ggml_init(params));
    ggml_init_params of_graph = params;
    of_graph.mem_size += ggml_graph_overhead();
    ggml_context_ptr of_rest(ggml_init(of_graph));
    ggml_tensor * w = ggml_new_tensor_2d(of_weights.get(), type, PROBE_K, PROBE_N);
    ggml_tensor * x = ggml_new_tensor_2d(of_rest.get(), GGML_TYPE_F32, PROBE_K, PROBE_ROWS);
    ggml_tensor * y = ggml_mul_mat(of_rest.get(), w, x);
    ggml_backend_buffer_ptr weights_buffer(ggml_backend_alloc_ctx_tensors_from_buft(of_weights.get(), buft));
    if (!weights_buffer) {
        throw refusal(MODEL_FAILED, "out of memory for a product of 64 by 17");
    }
    if (!ggml_backend_supports_op(cpu, y)) {
        return {};
    }
    ggml_backend_buffer_ptr rest_buffer(ggml_backend_alloc_ctx_tensors(of_rest.get(), cpu));
    ggml_backend_tensor_set(w, weights.data(), 0, weights.size());
    ggml_backend_tensor_set(x, rows.data(), 0, ggml_nbytes(x));
    ggml_cgraph * graph = ggml_new_graph(of_rest.get());
    ggml_build_forward_expand(graph, y);
    if (ggml_backend_graph_compute(cpu, graph) != GGML_STATUS_SUCCESS) {
        throw refusal(MODEL_FAILED, "computing a product of 64 by 17 failed");
    }
    std::vector<float> result((size_t) ggml_nelements(y));
    ggml_backend_tensor_get(y, result.data(), 0, ggml_nbytes(y));
    return result;
}

// numbers in [-1, 1], always the same
static std::vector<float> numbers(int64_t n, uint32_t state) {
    std::vector<float> result((size_t) n);
    for (float & value : result) {
        state = state * 1664525u + 1013904223u;
        value = (float) (int32_t) state / 2147483648.0f;
    }
    return result;
}

// both ways round the rows to 8 bits, if not at the same places
static bool is_close(const std::vector<float> & a, const std::vector<float> & b) {
    double difference = 0.0;
    double size       = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        difference += std::pow((double) a[i] - b[i], 2);
        size       += std::pow((double) b[i], 2);
    }
    return difference <= 1e-3 * size; // false for NaN
}

std::pair<size_t, std::string> extra_buffers_fault() {
    static const ggml_type types[] = { GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K,
                                       GGML_TYPE_Q6_K, GGML_TYPE_IQ4_XS, GGML_TYPE_IQ4_NL, GGML_TYPE_F16 };
    ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    ggml_backend_dev_t dev = ggml_backend_get_device(cpu.get());
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
    auto * extra_bufts = (ggml_backend_dev_get_extra_bufts_t)
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    auto * set_n_threads = (ggml_backend_set_n_threads_t)
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    if (set_n_threads) {
        set_n_threads(cpu.get(), 2); // each thread sets its tiles up
    }
    const std::vector<float> values = numbers(PROBE_K * PROBE_N, 1);
    const std::vector<float> rows   = numbers(PROBE_K * PROBE_ROWS, 2);
    std::pair<size_t, std::string> result = { 0, "" };
    auto & [n, fault] = result;
    for (auto * buft = extra_bufts ? extra_bufts(dev) : nullptr; buft && *buft; ++buft) {
        for (ggml_type type : types) {
            std::vector<uint8_t> weights(ggml_row_size(type, PROBE_K) * PROBE_N);
            ggml_quantize_chunk(type, values.data(), weights.data(), 0, PROBE_N, PROBE_K, nullptr);
            const std::vector<float> fast = product(cpu.get(), *buft, type, weights, rows);
            if (fast.empty()) {
                continue;
            }
            ++n;
            if (!is_close(fast, product(cpu.get(), ggml_backend_dev_buffer_type(dev), type, weights, rows))) {
                fault += (fault.empty() ? "" : ", ") + std::string(ggml_backend_buft_name(*buft)) + " " + ggml_type_name(type);
            }
        }
    }
    return result;
}
