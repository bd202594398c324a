// What Python has as C++ takes it, and back. Private to binding.cpp.

#pragma once

#include "arrays.h"
#include "errors.h"
#include "llama.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using namespace py::literals;

using floats  = py::array_t<float,   py::array::c_style | py::array::forcecast>;

static inline f32_array array_of(const floats & a) {
    return { a.data(), { a.shape(), a.shape() + a.ndim() } };
}

// As the caster of std::vector<int32_t>, which makes a TypeError of whatever the objects raise, an interrupt too.
static inline std::vector<int32_t> ints_of(const py::iterable & values) {
    std::vector<int32_t> result;
    for (const py::handle value : values) {
        int        overflow = 0;
        const long number   = PyLong_AsLongAndOverflow(value.ptr(), &overflow);
        if (number == -1 && PyErr_Occurred()) {
            throw py::error_already_set();
        }
        if (overflow || number < INT32_MIN || number > INT32_MAX) {
            throw refusal(INVALID_INPUT, "decode: " + py::str(value).cast<std::string>() + ", expected 32 bits");
        }
        result.push_back((int32_t) number);
    }
    return result;
}

static inline floats array_from(const std::vector<float> & values) {
    return floats((py::ssize_t) values.size(), values.data());
}

static inline py::array_t<int32_t> ints_from(const std::vector<int32_t> & values) {
    return py::array_t<int32_t>((py::ssize_t) values.size(), values.data());
}

// what ggml and llama.cpp say can quote bytes that are no UTF-8
static inline py::object text(const std::string & s) {
    return py::bytes(s).attr("decode")("utf-8", "replace");
}

// a context address from Python; ctypes pointers are turned into one in model/sampler.py
static inline llama_context * context(uintptr_t address) {
    if (address == 0) {
        throw refusal(CLOSED, "the llama_context is NULL: closed, or never made");
    }
    return (llama_context *) address;
}
