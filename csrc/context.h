// What is given to a llama_context and read from it.

#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

int64_t context_n_vocab(const llama_context * ctx);

// Throws where the last decode has no such output, idx as in llama_get_logits_ith.
void context_check_output(llama_context * ctx, int32_t idx);

// The logits of an output of the last decode, brought to the host where they stayed on the device; checked as above.
const float * context_logits(llama_context * ctx, int32_t idx);

// llama_decode's status for tokens of which the last n_outputs are outputs. whole_rows: llama.cpp copies all logits to the
// host, else they stay where graph_sampler.h lets them. Throws where the lengths do not fit.
int context_decode(llama_context * ctx, std::vector<llama_token> tokens, std::vector<llama_pos> positions,
                   std::vector<llama_seq_id> sequences, size_t n_outputs, bool whole_rows);

// Whether a sequence has what a token after its first n looks back at; it forgets what it held after these. A
// recurrent model cannot go back; the cache of a sliding window has lost what the window has left.
bool context_goes_on(llama_context * ctx, llama_pos n, llama_seq_id seq);

// Decodes a token as the one after the first n, whose output is drawn from next. False, with nothing done, where it does not go
// on from there. Throws where llama.cpp fails.
bool context_decode_next(llama_context * ctx, llama_token token, llama_pos n);
