// Vocabularies that llama.cpp would fail on, where nobody catches it: in a header, and loaded.

#pragma once

#include "gguf_file.h"
#include "llama.h"

#include <string>

// What would make llama.cpp abort or read out of bounds in the vocabulary; empty: nothing found.
std::string gguf_header_check_vocab(const gguf_header & h);

// Why texts and tokens of the vocabulary cannot be turned into each other; empty: they can.
std::string vocab_fault(const llama_vocab * vocab);
