// Python's lock, given up for a while: other threads run, one of which may be what llama.cpp waits for.

#pragma once

#include <Python.h>

#include <memory>
#include <utility>

struct gil_released {
    PyThreadState * const state = PyEval_SaveThread();
    gil_released() = default;
    gil_released(const gil_released &) = delete;
    ~gil_released() { PyEval_RestoreThread(state); }
};

template <typename F>
auto without_gil(F && f) {
    const gil_released nogil;
    return f();
}

// The same object, that is freed without the lock: what is on a worker waits for the thread through which it is reached.
template <typename T>
std::shared_ptr<T> freed_without_gil(std::shared_ptr<T> object) {
    T * const raw = object.get();
    return { raw, [object = std::move(object)](T *) mutable {
        if (PyGILState_Check()) {
            without_gil([&] { object.reset(); });
        }
    } };
}
