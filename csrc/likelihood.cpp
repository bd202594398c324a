#include "likelihood.h"

#include "context.h"
#include "errors.h"
#include "threads.h"

#include <algorithm>
#include <cmath>

// The n_top largest, with their logits as logprob: a heap with the least likely of them on top.
static std::vector<alternative> most_likely(const float * logits, size_t n, size_t n_top) {
    const auto before = [](const alternative & a, const alternative & b) {
        return a.logprob > b.logprob || (a.logprob == b.logprob && a.id < b.id);
    };
    std::vector<alternative> top;
    if (n_top == 0) {
        return top;
    }
    top.reserve(std::min(n, n_top) + 1);
    float least = -INFINITY; // what is not above it has no place: ids ascend
    for (size_t i = 0; i < n; ++i) {
        if (!(logits[i] > least)) {
            continue;
        }
        top.push_back({ (llama_token) i, logits[i], NAN });
        std::push_heap(top.begin(), top.end(), before);
        if (top.size() > n_top) {
            std::pop_heap(top.begin(), top.end(), before);
            top.pop_back();
        }
        if (top.size() == n_top) {
            least = (float) top.front().logprob;
        }
    }
    std::sort_heap(top.begin(), top.end(), before);
    return top;
}

likelihood likelihood_of(const float * logits, size_t n, llama_token id, size_t n_top) {
    size_t best = 0;
    bool finite = true;
    for (size_t i = 0; i < n; ++i) {
        finite = finite && logits[i] < INFINITY;
        best   = logits[i] > logits[best] ? i : best;
    }
    const double max = logits[best];
    if (!finite || max == -INFINITY) {
        return {};
    }
    double others = 0.0; // in units of the most likely; apart from it, so that little of it is not lost
    for (size_t i = 0; i < n; ++i) {
        others += i == best ? 0.0 : std::exp(logits[i] - max);
    }
    const double log_total = std::log1p(others);
    likelihood result = { (logits[id] - max) - log_total, most_likely(logits, n, n_top) };
    for (alternative & a : result.alternatives) {
        a.logprob = (a.logprob - max) - log_total;
    }
    return result;
}

std::vector<likelihood> context_likelihoods(llama_context * ctx, int32_t idx, const std::vector<llama_token> & tokens,
                                            size_t n_top) {
    llama_synchronize(ctx);
    const size_t n = (size_t) context_n_vocab(ctx), n_rows = tokens.size();
    std::vector<const float *> logits(n_rows);
    for (size_t i = 0; i < n_rows; ++i) {
        logits[i] = context_logits(ctx, idx + (int32_t) i);
        if (tokens[i] < 0 || (size_t) tokens[i] >= n) {
            throw refusal(INVALID_INPUT, "token " + std::to_string(tokens[i]) + ", the vocabulary has " + std::to_string(n));
        }
    }
    std::vector<likelihood> result(n_rows);
    share_rows(n_rows, LIKELIHOOD_COST * n * n_rows, (size_t) llama_n_threads(ctx), DECODING_THREADS, [&](size_t i) {
        result[i] = likelihood_of(logits[i], n, tokens[i], n_top);
    });
    return result;
}
