// Work on the rows of a batch, shared among threads where it is worth their start.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>

// Logits in one batch from which on a second thread is worth its start, some 50 us.
static constexpr size_t MANY_LOGITS = 1 << 18;

// Calls f, which must not throw, in so many threads at once, the caller's among them.
void run_in_threads(size_t n_threads, const std::function<void()> & f);

// The same in ggml's own, those of the thread that has just decoded: where they are OpenMP's, they wait for more to do without
// sleep, and new ones would wait for their cores.
void run_in_decoding_threads(size_t n_threads, const std::function<void()> & f);

// Calls work(row) for each row, which must not throw. cost: of all of them, in logits that a token is drawn from.
template <typename F>
static void share_rows(size_t n_rows, size_t cost, size_t most_threads, F && work,
                       void (*run)(size_t, const std::function<void()> &) = run_in_threads) {
    std::atomic<size_t> next { 0 };
    const auto rows = [&] {
        for (size_t i = next++; i < n_rows; i = next++) {
            work(i);
        }
    };
    const size_t n_threads = std::min<size_t>({ n_rows, cost / MANY_LOGITS, most_threads });
    if (n_threads > 1) {
        run(n_threads, rows);
    } else {
        rows();
    }
}
