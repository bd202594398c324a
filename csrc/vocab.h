// Vocabularies that llama.cpp would fail on, where nobody catches it: in a header, and loaded.

#pragma once

#include "gguf_file.h"
#include "llama.h"

#include <string>

// What would make llama.cpp abort or read out of bounds in the vocabulary; empty: nothing found.
std::string gguf_header_check_vocab(const gguf_header & h);

// The text of a token of the vocabulary; without special, control tokens have none.
std::string vocab_piece(const llama_vocab * vocab, llama_token token, bool special);

// Why texts and tokens of the vocabulary cannot be turned into each other; empty: they can.
std::string vocab_fault(const llama_vocab * vocab);
