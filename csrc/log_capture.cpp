#include "log_capture.h"

std::recursive_mutex log_capture::active;

log_capture::log_capture(bool forward) : forward(forward) {
    active.lock();
    llama_log_get(&previous, &previous_data);
    llama_log_set(callback, this);
}

log_capture::~log_capture() {
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
