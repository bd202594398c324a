// What this code refuses by itself. Python gets its own errors for these (autodeco_gguf/errors.py); anything else that is
// thrown is a bug and stays what it is.

#pragma once

#include <stdexcept>
#include <string>

enum refusal_kind {
    INVALID_INPUT, // a shape, value or name that will not do
    BAD_FILE,      // a file that cannot be read, or is no GGUF
    MODEL_FAILED,  // llama.cpp, the device, or what they computed
    CLOSED,        // the object is gone
};

struct refusal : std::runtime_error {
    refusal(refusal_kind kind, const std::string & what) : std::runtime_error(what), kind(kind) {}

    const refusal_kind kind;
};

// f(), which calls llama.cpp where that throws: its samplers and its decode do
template <typename F>
static inline auto guarded(F && f) {
    try {
        return f();
    } catch (const std::runtime_error & e) {
        throw refusal(MODEL_FAILED, e.what());
    }
}
