// The one definition of the heads' arithmetic (docs/format.md states it in formulas).
//
// Two drivers run it: graph_sampler.cpp, inside llama.cpp's own graph, and heads_runner.cpp, alone on a device.

#pragma once

#include "heads.h"

struct heads_outputs {
    ggml_tensor * temperature;  // F32 [1, n]
    ggml_tensor * top_p;        // F32 [1, n]
    bool          has_weights;  // the weights asked for are computed on the way
};

// Adds the heads to a graph. hidden: F32 [n_embd, n], logits: F32 [n_vocab, n], both contiguous. on_cpu: the graph
// runs on the CPU backend, where the statistics are operations of ours. weights, F32 [weight_row_size, n] or NULL: there gets
// the rows of weights.h, which the top-p features need anyway and drawing a token from softmax(logits / T) as well.
heads_outputs heads_build(ggml_context * ctx, const heads & h, const heads_weights & w, heads_enabled on, bool on_cpu,
                          ggml_tensor * hidden, ggml_tensor * logits, ggml_tensor * weights = nullptr);
