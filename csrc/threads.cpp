#include "threads.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include <chrono>
#include <ctime>
#include <future>
#include <vector>

double thread_seconds() {
#ifdef CLOCK_THREAD_CPUTIME_ID
    timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
        return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
    }
#endif
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run_in_threads(size_t n_threads, const std::function<void()> & f) {
    std::vector<std::future<void>> others;
    for (size_t i = 1; i < n_threads; ++i) {
        others.push_back(std::async(std::launch::async, f));
    }
    f();
    for (auto & other : others) {
        other.get();
    }
}

namespace {

// a graph of one operation, which does what it is told
struct one_operation {
    const std::function<void()> * f       = nullptr;
    ggml_backend_ptr              backend = {};
    ggml_context_ptr              ctx     = {};
    ggml_cgraph                 * graph   = nullptr;
    ggml_backend_set_n_threads_t  set     = nullptr;

    one_operation() {
        backend.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
        ctx.reset(ggml_init({ 4 * ggml_tensor_overhead() + ggml_graph_overhead_custom(2, false), /*.mem_buffer =*/ nullptr,
                              /*.no_alloc =*/ false }));
        if (!backend || !ctx) {
            return;
        }
        const auto reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend.get()));
        set   = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
        graph = ggml_new_graph_custom(ctx.get(), 2, false);
        const auto run = [](ggml_tensor *, int, int, void * userdata) { (*((one_operation *) userdata)->f)(); };
        ggml_build_forward_expand(graph, ggml_custom_4d(ctx.get(), GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0, run, GGML_N_TASKS_MAX, this));
    }

    one_operation(const one_operation &) = delete;
};

} // namespace

void run_in_decoding_threads(size_t n_threads, const std::function<void()> & f) {
    static thread_local one_operation one;
    one.f = &f;
    if (one.set) {
        one.set(one.backend.get(), (int) n_threads);
    }
    if (!one.set || ggml_backend_graph_compute(one.backend.get(), one.graph) != GGML_STATUS_SUCCESS) {
        f();
    }
}
