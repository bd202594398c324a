// What is given to a llama_context and read from it.

#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

int64_t context_n_vocab(const llama_context * ctx);

// The logits of an output of the last decode, as in llama_get_logits_ith. Throws where there is no such output.
const float * context_logits(llama_context * ctx, int32_t idx);

// llama_decode's status for tokens of which the last n_outputs are outputs. Throws where the lengths do not fit.
int context_decode(llama_context * ctx, std::vector<llama_token> tokens, std::vector<llama_pos> positions,
                   std::vector<llama_seq_id> sequences, size_t n_outputs);
