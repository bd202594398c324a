#include "log_capture.h"

#include <cstdio>
#include <stdexcept>

std::recursive_mutex log_capture::active;

static thread_local int captures = 0; // alive in this thread

log_capture::log_capture(bool forward) : forward(forward) {
    active.lock();
    llama_log_get(&previous, &previous_data);
    llama_log_set(callback, this);
    previous_abort = ggml_set_abort_callback(aborted);
    ++captures;
}

log_capture::~log_capture() {
    --captures;
    ggml_set_abort_callback(previous_abort);
    llama_log_set(previous, previous_data);
    active.unlock();
}

void log_capture::callback(ggml_log_level level, const char * text, void * user_data) {
    auto * self = (log_capture *) user_data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::lock_guard<std::mutex> lock(self->mutex);
        if (self->error.empty()) {
            self->error = text;
        }
    }
    if (self->forward && self->previous) {
        self->previous(level, text, self->previous_data);
    }
}

// llama.cpp asserts what a file says of itself. While it loads a model or makes a context it catches exceptions, which it
// lets pass everywhere: its code is C++, and ggml's C has the tables for them on the platforms where such a process could go
// on. Where it cannot, this ends as the assertion would have. Other threads' assertions are none of this one's.
void log_capture::aborted(const char * message) {
    if (captures > 0) {
        const char * name = message; // without the path of the machine it was compiled on
        for (const char * c = message; *c != '\0' && *c != ' '; ++c) {
            name = *c == '/' || *c == '\\' ? c + 1 : name;
        }
        throw std::runtime_error(name);
    }
    fprintf(stderr, "%s\n", message);
}

std::string log_capture::first_error() const {
    std::lock_guard<std::mutex> lock(mutex);
    std::string line = error.substr(0, error.find('\n'));
    // "function_name: message": the name is of no use to a reader
    const size_t colon = line.find(": ");
    if (colon != std::string::npos && line.find(' ') > colon) {
        line = line.substr(colon + 2);
    }
    return line;
}
