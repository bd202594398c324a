// The heads as a few operations of ours in a graph of the CPU backend.

#pragma once

#include "heads_graph.h"

// heads_build for weights in ordinary memory.
heads_outputs heads_build_on_cpu(ggml_context * ctx, const heads_use & use, ggml_tensor * hidden, ggml_tensor * logits,
                                 const heads_places & places);
