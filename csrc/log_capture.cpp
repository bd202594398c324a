#include "log_capture.h"

#include "errors.h"

#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>
#ifndef _WIN32
#include <pthread.h>
#endif

std::recursive_mutex log_capture::active;
std::mutex           log_capture::guard;
log_capture        * log_capture::current = nullptr;

static std::atomic<uint32_t>          levels_passed { 0 };
static std::atomic<ggml_log_callback> passed_to { nullptr };

static void pass(ggml_log_level level, const char * text, void * user_data) {
    if (levels_passed >> level & 1) {
        passed_to.load()(level, text, user_data);
    }
}

void log_levels(uint32_t levels, ggml_log_callback callback) {
    levels_passed = levels;
    ggml_log_callback set = nullptr;
    void            * user_data = nullptr;
    llama_log_get(&set, &user_data);
    if (set == callback) {
        passed_to = callback;
        llama_log_set(pass, user_data);
    }
}

static const size_t LATER_MAX = 4;

static thread_local int captures = 0; // open in this thread

static bool torn = false; // by a fork in the midst of a capture: what another thread had locked stays locked, in ggml too

#ifndef _WIN32
const int log_capture::watched = pthread_atfork(nullptr, nullptr, log_capture::after_fork);
#endif

void log_capture::after_fork() {
    new (&guard) std::mutex;
    if (active.try_lock()) {
        active.unlock();
    } else {
        torn    = true;
        current = nullptr;
    }
}

log_capture::log_capture(bool forward) : forward(forward) {
    if (torn) {
        throw refusal(MODEL_FAILED, "the process forked while a model was being loaded; "
                                    "start processes with multiprocessing.get_context('spawn')");
    }
    active.lock();
    {
        std::lock_guard<std::mutex> lock(guard);
        outer   = current;
        current = this;
    }
    if (!outer) {
        llama_log_get(&previous, &previous_data);
        llama_log_set(callback, nullptr);
    }
    previous_abort = ggml_set_abort_callback(aborted);
    ++captures;
}

void log_capture::close() {
    if (closed) {
        return;
    }
    closed = true;
    --captures;
    ggml_set_abort_callback(previous_abort);
    if (!outer) {
        llama_log_set(previous, previous_data);
    }
    {
        std::lock_guard<std::mutex> lock(guard);
        current = outer;
    }
    active.unlock();
}

void log_capture::take(ggml_log_level level, const char * text) {
    if (level != GGML_LOG_LEVEL_ERROR) {
        return;
    }
    if (error.empty()) {
        error = text;
    } else if (!forward) {
        later.push_back(text);
        if (later.size() > LATER_MAX) {
            later.pop_front();
        }
    }
}

// Another thread may have read this callback when the object for which it was set was there, and call it now: no object
// goes by its argument, and none is touched without the guard. What comes before may be Python, and wait for its lock, so
// that the guard is not held for it.
void log_capture::callback(ggml_log_level level, const char * text, void *) {
    ggml_log_callback next      = nullptr;
    void            * next_data = nullptr;
    {
        std::lock_guard<std::mutex> lock(guard);
        for (log_capture * c = current; c; c = c->outer) {
            c->take(level, text);
            if (!c->forward) {
                break;
            }
            next      = c->previous;
            next_data = c->previous_data;
        }
    }
    if (next) {
        next(level, text, next_data);
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

// "function_name: message": the name is of no use to a reader
static std::string message_of(const std::string & text) {
    const std::string line = text.substr(0, text.find('\n'));
    const size_t colon = line.find(": ");
    return colon != std::string::npos && line.find(' ') > colon ? line.substr(colon + 2) : line;
}

std::string log_capture::first_error() const {
    std::lock_guard<std::mutex> lock(guard);
    return message_of(error);
}

std::vector<std::string> log_capture::later_errors() const {
    std::lock_guard<std::mutex> lock(guard);
    std::vector<std::string> lines;
    for (const std::string & text : later) {
        const std::string line = message_of(text);
        if (!line.empty() && line != "failed to load model") {
            lines.push_back(line);
        }
    }
    return lines;
}
