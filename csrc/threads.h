// Work on the rows of a batch, shared among threads where it is worth their start.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <future>
#include <vector>

// Logits in one batch from which on a second thread is worth its start, some 50 us.
static constexpr size_t MANY_LOGITS = 1 << 18;

// Calls work(row) for each row, which must not throw. cost: of all of them, in logits that a token is drawn from.
template <typename F>
static void share_rows(size_t n_rows, size_t cost, size_t most_threads, F && work) {
    std::atomic<size_t> next { 0 };
    const auto run = [&] {
        for (size_t i = next++; i < n_rows; i = next++) {
            work(i);
        }
    };
    const size_t n_threads = std::min<size_t>({ n_rows, cost / MANY_LOGITS, most_threads });
    std::vector<std::future<void>> others;
    for (size_t i = 1; i < n_threads; ++i) {
        others.push_back(std::async(std::launch::async, run));
    }
    run();
    for (auto & other : others) {
        other.get();
    }
}
