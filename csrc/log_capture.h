// Keeps what llama.cpp and ggml log until it is closed, so that a failure can name its cause, and lets an assertion of
// theirs in the same thread be a failure, not the process's end.

#pragma once

#include "llama.h"

#include <deque>
#include <mutex>
#include <string>
#include <vector>

// Lets only what these levels log, a bit for each ggml_log_level, come to a callback, if it is the one that is set. llama_cpp's
// is Python: what it would not print need not wait for Python's lock within a decode, nor does a signal's handler run there,
// whose exception would be lost.
void log_levels(uint32_t levels, ggml_log_callback callback);

// The log callback is one for the whole process: captures in several threads wait for each other, and what
// other threads log meanwhile is seen here too. With forward, lines go on to the callback that was there before.
class log_capture {
public:
    // Throws a refusal in the child of a fork that came while another thread had one.
    explicit log_capture(bool forward = false);
    ~log_capture() { close(); }

    log_capture(const log_capture &) = delete;
    log_capture & operator=(const log_capture &) = delete;

    // Ends the capture, which keeps what it has: in the thread that began it, the innermost first. Once closed, this does
    // nothing, in any thread.
    void close();

    // The first line logged as an error: what went wrong; later ones tell only who gave up because of it. Empty
    // where there is none.
    std::string first_error() const;

    // The last lines logged as errors after it, but for the one that says no more than that a model is not loaded; none
    // where they were forwarded.
    std::vector<std::string> later_errors() const;

private:
    static void callback(ggml_log_level level, const char * text, void * user_data);
    static void aborted(const char * message);
    static void after_fork();
    void        take(ggml_log_level level, const char * text);

    static const int            watched; // for forks
    static std::recursive_mutex active; // held until it is closed
    static std::mutex           guard;  // of what follows, in all objects: any thread logs, at any time
    static log_capture        * current; // the innermost; NULL: a thread that had begun to call back comes too late

    log_capture               * outer = nullptr;
    ggml_log_callback           previous = nullptr; // where there is no outer one
    void                      * previous_data = nullptr;
    ggml_abort_callback_t       previous_abort = nullptr;
    const bool                  forward;
    bool                        closed = false;
    std::string                 error;
    std::deque<std::string>     later; // at most LATER_MAX
};
