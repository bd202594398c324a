// Work on the rows of a batch, shared among threads where it is worth their start.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>

// Logits in one batch from which on a second thread is worth its start, some 50 us.
static constexpr size_t MANY_LOGITS = 1 << 18;

// Seconds that the calling thread has computed, what it waited for left out; by the clock where the system does not tell.
double thread_seconds();

// Calls f, which must not throw, in so many threads at once, the caller's among them.
void run_in_threads(size_t n_threads, const std::function<void()> & f);

// Calls f in a thread with so many bytes of stack, which take memory as they are used, and throws what it throws; where systems
// have no such threads, f is called as it is. Large ones wait for each other.
void run_with_stack(size_t n_bytes, const std::function<void()> & f);

// The same in ggml's own, all n_threads that have just decoded with the caller's: where they are OpenMP's, they wait a while for more to
// do without sleep, and new ones would wait for their cores. With fewer, OpenMP would end the rest, and start them anew for the next
// decode.
void run_in_decoding_threads(size_t n_threads, const std::function<void()> & f);

enum row_threads {
    NEW_THREADS,
    DECODING_THREADS, // most_threads are those of the context
};

// Calls work(row) for each row, which must not throw. cost: of all of them, in logits that a token is drawn from.
template <typename F>
static void share_rows(size_t n_rows, size_t cost, size_t most_threads, row_threads threads, F && work) {
    std::atomic<size_t> next { 0 };
    const auto rows = [&] {
        for (size_t i = next++; i < n_rows; i = next++) {
            work(i);
        }
    };
    const size_t n_threads = std::min<size_t>({ n_rows, cost / MANY_LOGITS, most_threads });
    if (n_threads <= 1) {
        rows();
    } else if (threads == NEW_THREADS) {
        run_in_threads(n_threads, rows);
    } else {
        run_in_decoding_threads(most_threads, rows);
    }
}
