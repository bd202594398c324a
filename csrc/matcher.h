// JSON schemas: a Python object as a stage of llama.cpp's sampling.

#pragma once

#include "llama.h"

#include <pybind11/pybind11.h>

// Allows what an llguidance.LLMatcher allows. For a chain, which frees it.
llama_sampler * matcher_sampler(const pybind11::object & matcher);
