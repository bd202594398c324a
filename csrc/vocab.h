// Vocabularies that llama.cpp would fail on, where nobody catches it: in a header, and loaded.

#pragma once

#include "gguf_file.h"
#include "llama.h"

#include <string>
#include <vector>

// What would make llama.cpp abort or read out of bounds in the vocabulary; empty: nothing found.
std::string gguf_header_check_vocab(const gguf_header & h);

// The text of a token of the vocabulary; without special, control tokens have none.
std::string vocab_piece(const llama_vocab * vocab, llama_token token, bool special);

// The tokens of a text, as llama_tokenize has them. Throws for a line that is too long to be split (MAX_LINE), for bytes that the
// vocabulary cannot tokenize, and for what llama.cpp throws.
std::vector<llama_token> vocab_tokenize(const llama_vocab * vocab, const std::string & text, bool add_special, bool parse_special);

// The same in the way of llama_tokenize, for who wants to call that; no tokens where it would throw.
int32_t vocab_tokenize_as_llama(const llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,
                                int32_t n_tokens_max, bool add_special, bool parse_special);

// Why texts and tokens of the vocabulary cannot be turned into each other; empty: they can.
std::string vocab_fault(const llama_vocab * vocab);
