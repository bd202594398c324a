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

// fewer positions than tokens
static bool has_ropes_of_images(const llama_context * ctx) {
    const llama_rope_type type = llama_model_rope_type(llama_get_model(ctx));
    return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE || type == LLAMA_ROPE_TYPE_VISION;
}

bool context_goes_on(llama_context * ctx, llama_pos n, llama_seq_id seq) {
    llama_memory_t memory = llama_get_memory(ctx);
    if (!memory) {
        return true; // a model that holds nothing between decodes
    }
    if (!llama_memory_seq_rm(memory, seq, n, -1)) {
        return false;
    }
    if (llama_memory_seq_pos_max(memory, seq) < n - 1 && !has_ropes_of_images(ctx)) {
        return false; // an interrupt came while some were taken out
    }
    const llama_pos window = llama_model_n_swa(llama_get_model(ctx)), first = llama_memory_seq_pos_min(memory, seq);
    return window == 0 || n == 0 || (first >= 0 && first <= std::max(0, n + 1 - window));
}

bool context_decode_next(llama_context * ctx, llama_token token, llama_pos n) {
    if (!context_goes_on(ctx, n, 0)) {
        return false;
    }
    int32_t      n_seq_id = 1; // not by context_decode: for every token its lists would be allocated, with a cold cache
    llama_seq_id sequence = 0, * seq_id = &sequence;
    int8_t       output   = true;
    const int status = guarded([&] { return llama_decode(ctx, { 1, &token, nullptr, &n, &n_seq_id, &seq_id, &output }); });
    if (status != 0) {
        throw refusal(MODEL_FAILED, "llama_decode returned " + std::to_string(status));
    }
    return true;
}
