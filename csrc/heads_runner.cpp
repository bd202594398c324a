#include "heads_runner.h"

#include "devices.h"
#include "errors.h"
#include "ggml-alloc.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif

static std::atomic<bool> threads_used { false }, forked { false };

#ifndef _WIN32
[[maybe_unused]] static const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

bool heads_used_threads() {
    return threads_used;
}

// One thread for a single row, which is what the host way asks for token by token, and in the child of a fork, where OpenMP
// would wait for threads that are not there.
static void set_n_threads(ggml_backend_t backend, int64_t rows) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    auto * set = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    if (set) {
        const int n = rows == 1 || forked ? 1 : (int) std::clamp(std::thread::hardware_concurrency(), 1u, 4u);
        threads_used = threads_used || n > 1;
        set(backend, n);
    }
}

static size_t n_nodes_of(const heads & h) {
    return 128 + 4 * (h.host.temp.layers.size() + h.host.top_p.layers.size());
}

static size_t n_bytes_of(size_t n_nodes) {
    return 2 * n_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false);
}

std::string heads_missing_op(const heads_use & use, ggml_backend_dev_t dev, int64_t n) {
    const heads & h = *use.h;
    const size_t n_nodes = n_nodes_of(h);
    ggml_context_ptr ctx(ggml_init({ n_bytes_of(n_nodes), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }));
    ggml_tensor * hidden = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, h.n_embd,  n);
    ggml_tensor * logits = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, h.n_vocab, n);
    const heads_outputs out = heads_build(ctx.get(), use, use.on_cpu(), hidden, logits);
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), n_nodes, false);
    ggml_build_forward_expand(graph, out.temperature);
    ggml_build_forward_expand(graph, out.top_p);
    return device_missing_op(dev, graph);
}

static void runner_reserve(heads_runner & r, int64_t n) {
    if (r.n_rows == n) {
        return;
    }
    const size_t n_nodes = n_nodes_of(*r.h);
    r.n_rows = 0;
    r.ctx.reset(ggml_init({ n_bytes_of(n_nodes), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }));
    ggml_context * ctx = r.ctx.get();
    r.use.w = heads_on(*r.h, ggml_backend_get_default_buffer_type(r.backend.get()));
    if (!ctx || !r.use.w) {
        throw refusal(MODEL_FAILED, "out of memory for the AutoDeco heads");
    }

    r.hidden = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, r.h->n_embd,  n);
    r.logits = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, r.h->n_vocab, n);
    r.out    = heads_build(ctx, r.use, r.use.on_cpu() && !r.portable, r.hidden, r.logits);
    ggml_set_input(r.hidden);
    ggml_set_input(r.logits);
    ggml_set_output(r.out.temperature);
    ggml_set_output(r.out.top_p);

    r.graph = ggml_new_graph_custom(ctx, n_nodes, false);
    ggml_build_forward_expand(r.graph, r.logits); // also where no head reads them: they are set all the same
    ggml_build_forward_expand(r.graph, r.out.temperature);
    ggml_build_forward_expand(r.graph, r.out.top_p);

    ggml_backend_dev_t dev = ggml_backend_get_device(r.backend.get());
    const std::string missing = device_missing_op(dev, r.graph);
    if (!missing.empty()) {
        throw refusal(MODEL_FAILED, std::string("device ") + ggml_backend_dev_name(dev) + " has no operation " + missing);
    }
    if (!ggml_gallocr_alloc_graph(r.alloc.get(), r.graph)) {
        throw refusal(MODEL_FAILED, "out of memory for the AutoDeco heads");
    }
    r.n_rows = n;
}

void heads_runner_init(heads_runner & r, std::shared_ptr<heads> h, heads_enabled on, const std::string & device,
                       bool portable) {
    r.h        = std::move(h);
    r.use      = { r.h.get(), nullptr, on };
    r.portable = portable;
    r.backend.reset(ggml_backend_dev_init(device_by_name(device), nullptr));
    if (!r.backend) {
        throw refusal(MODEL_FAILED, "device " + device + " does not start");
    }
    r.alloc.reset(ggml_gallocr_new(ggml_backend_get_default_buffer_type(r.backend.get())));
}

void heads_runner_run(heads_runner & r, const float * hidden, const float * logits, int64_t n,
                      float * temperature, float * top_p) {
    // bounds the graph's memory to about six times 16 MB
    const int64_t max_rows = std::clamp<int64_t>((4 << 20) / r.h->n_vocab, 1, 256);
    while (n > 0) {
        const int64_t rows = std::min(n, max_rows);
        runner_reserve(r, rows);
        set_n_threads(r.backend.get(), rows);
        ggml_backend_tensor_set(r.hidden, hidden, 0, ggml_nbytes(r.hidden));
        ggml_backend_tensor_set(r.logits, logits, 0, ggml_nbytes(r.logits));
        if (ggml_backend_graph_compute(r.backend.get(), r.graph) != GGML_STATUS_SUCCESS) {
            throw refusal(MODEL_FAILED, "computing the AutoDeco heads failed");
        }
        ggml_backend_tensor_get(r.out.temperature, temperature, 0, rows * sizeof(float));
        ggml_backend_tensor_get(r.out.top_p,       top_p,       0, rows * sizeof(float));
        hidden      += rows * r.h->n_embd;
        logits      += rows * r.h->n_vocab;
        temperature += rows;
        top_p       += rows;
        n           -= rows;
    }
}

static void check_rows(const f32_array & a, const std::string & name, int64_t n, int64_t width, bool allow_minus_inf) {
    if (a.shape != std::vector<int64_t> { n, width }) {
        throw refusal(INVALID_INPUT, name + " is " + a.shape_text() + ", expected [" + std::to_string(n) + ", " +
                                     std::to_string(width) + "]");
    }
    for (int64_t i = 0; i < n; ++i) {
        const float * begin = a.data + i * width;
        const float * end   = begin + width;
        const float * bad   = std::find_if(begin, end, [=](float v) {
            return !std::isfinite(v) && !(allow_minus_inf && v == -INFINITY);
        });
        if (bad != end) {
            throw refusal(INVALID_INPUT, name + " row " + std::to_string(i) + " holds " + std::to_string(*bad));
        }
        if (std::all_of(begin, end, [](float v) { return v == -INFINITY; })) {
            throw refusal(INVALID_INPUT, name + " row " + std::to_string(i) + " holds nothing but -inf");
        }
    }
}

heads_values heads_evaluate(const std::shared_ptr<heads> & h, const f32_array & hidden, const f32_array & logits,
                            heads_enabled on, const std::string & device, bool portable) {
    if (hidden.shape.size() != 2) {
        throw refusal(INVALID_INPUT, "hidden is " + hidden.shape_text() + ", expected [n, " + std::to_string(h->n_embd) + "]");
    }
    const int64_t n = hidden.shape[0];
    check_rows(hidden, "hidden", n, h->n_embd,  false);
    check_rows(logits, "logits", n, h->n_vocab, true);
    heads_runner r;
    heads_runner_init(r, h, on, device, portable);
    heads_values values = { std::vector<float>((size_t) n), std::vector<float>((size_t) n) };
    heads_runner_run(r, hidden.data, logits.data, n, values.temperature.data(), values.top_p.data());
    for (size_t i = 0; i < (size_t) n; ++i) {
        if (!std::isfinite(values.temperature[i]) || !std::isfinite(values.top_p[i])) {
            throw refusal(INVALID_INPUT, "row " + std::to_string(i) + " of hidden or logits is too large: the heads give no "
                                         "finite value");
        }
    }
    return values;
}
