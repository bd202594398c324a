// A vocabulary that llama.cpp has loaded, and what it would fail on later, where nobody catches it.

#pragma once

#include "llama.h"

#include <string>

// Why texts and tokens of the vocabulary cannot be turned into each other; empty: they can.
std::string vocab_fault(const llama_vocab * vocab);
