#include "threads.h"

#include "errors.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include <chrono>
#include <cstring>
#include <ctime>
#include <exception>
#include <future>
#include <mutex>
#include <vector>
#ifndef _WIN32
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

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

#ifdef _WIN32

void run_with_stack(size_t, const std::function<void()> & f) {
    f();
}

#else

namespace {

// memory that is there once it is used; below it a page that is not, for who goes beyond
struct mapped_stack {
    static constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS
#ifdef MAP_NORESERVE
                               | MAP_NORESERVE
#endif
#ifdef MAP_STACK
                               | MAP_STACK
#endif
        ;
    const size_t page = (size_t) sysconf(_SC_PAGESIZE), size;
    void * const begin;

    explicit mapped_stack(size_t n_bytes)
        : size((n_bytes + 2 * page - 1) / page * page), begin(mmap(nullptr, size, PROT_READ | PROT_WRITE, FLAGS, -1, 0)) {
        if (begin == MAP_FAILED) {
            throw refusal(MODEL_FAILED, "no memory for a stack of " + std::to_string(size) + " bytes");
        }
        mprotect(begin, page, PROT_NONE);
    }
    mapped_stack(const mapped_stack &) = delete;
    ~mapped_stack() { munmap(begin, size); }
};

struct call {
    const std::function<void()> & f;
    std::exception_ptr            thrown = {};

    static void * run(void * self) {
        try {
            ((call *) self)->f();
        } catch (...) {
            ((call *) self)->thrown = std::current_exception();
        }
        return nullptr;
    }
};

} // namespace

void run_with_stack(size_t n_bytes, const std::function<void()> & f) {
    static constexpr size_t LEAST = 1 << 20, LARGE = 64 << 20; // what a thread needs anyway; what several should not have at once
    static std::mutex large;
    std::unique_lock<std::mutex> lock(large, std::defer_lock);
    if (n_bytes > LARGE) {
        lock.lock();
    }
    const mapped_stack stack(LEAST + n_bytes);
    call       c { f };
    pthread_t  thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, (char *) stack.begin + stack.page, stack.size - stack.page);
    const int error = pthread_create(&thread, &attributes, call::run, &c);
    pthread_attr_destroy(&attributes);
    if (error) {
        throw refusal(MODEL_FAILED, std::string("no thread can be started: ") + strerror(error));
    }
    pthread_join(thread, nullptr);
    if (c.thrown) {
        std::rethrow_exception(c.thrown);
    }
}

#endif

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
