// The heads' arithmetic (docs/format.md states it in formulas), of ggml's operations here, of ours in heads_on_cpu.cpp.
//
// Two drivers run it: graph_sampler.cpp, inside llama.cpp's own graph, and heads_runner.cpp, alone on a device.

#pragma once

#include "heads.h"

struct heads_outputs {
    ggml_tensor * temperature;  // F32 [1, n]
    ggml_tensor * top_p;        // F32 [1, n]
    bool          has_weights;  // the weights asked for are computed on the way, and the entropies
};

// Where results go; NULL: nowhere in particular.
struct heads_places {
    ggml_tensor * values  = nullptr; // F32 [n, 3], temperatures, top-p and, where asked for, entropies
    ggml_tensor * weights = nullptr; // F32 [weight_row_size, n]: on the CPU the rows of weights.h, which the top-p features need
                                     // anyway, and drawing a token from softmax(logits / T) as well
};

// Adds the heads to a graph, of operations that devices have or, where cpu_only, of ours. hidden: F32 [n_embd, n], logits: F32
// [n_vocab, n], both contiguous. use stays where it is as long as the graph is computed.
heads_outputs heads_build(ggml_context * ctx, const heads_use & use, bool cpu_only, ggml_tensor * hidden, ggml_tensor * logits,
                          const heads_places & places = {});
