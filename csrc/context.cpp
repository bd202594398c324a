#include "context.h"

#include "errors.h"
#include "graph_sampler.h"

#include <algorithm>

int64_t context_n_vocab(const llama_context * ctx) {
    return llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
}

void context_check_output(llama_context * ctx, int32_t idx) {
    if (!llama_get_logits_ith(ctx, idx)) {
        throw refusal(MODEL_FAILED, "the last decode has no output " + std::to_string(idx));
    }
}

const float * context_logits(llama_context * ctx, int32_t idx) {
    context_check_output(ctx, idx);
    graph_sampler_fetch(ctx, idx);
    return llama_get_logits_ith(ctx, idx);
}

int context_decode(llama_context * ctx, std::vector<llama_token> tokens, std::vector<llama_pos> positions,
                   std::vector<llama_seq_id> sequences, size_t n_outputs, bool whole_rows) {
    const size_t n = tokens.size();
    if (positions.size() != n || sequences.size() != n || n_outputs > n) {
        throw refusal(INVALID_INPUT, "decode: tokens, positions and sequences differ in length");
    }
    std::vector<int32_t>        n_seq_id(n, 1);
    std::vector<llama_seq_id *> seq_id(n);
    std::vector<int8_t>         logits(n, false);
    std::fill(logits.end() - (ptrdiff_t) n_outputs, logits.end(), true);
    for (size_t i = 0; i < n; ++i) {
        seq_id[i] = &sequences[i];
    }
    if (n_outputs > 0) {
        graph_sampler_stay(ctx, !whole_rows);
    }
    return guarded([&] {
        return llama_decode(ctx, { (int32_t) n, tokens.data(), nullptr, positions.data(), n_seq_id.data(), seq_id.data(),
                                   logits.data() });
    });
}
