// What heads_graph.cpp and shortlist.cpp both build graphs of.

#pragma once

#include "ggml.h"

// picks values[ids] within each row; values: F32 [m, n], ids: I32 [k, n] -> F32 [k, n]
static inline ggml_tensor * build_pick(ggml_context * ctx, ggml_tensor * values, ggml_tensor * ids) {
    const int64_t n = values->ne[1];
    values = ggml_reshape_3d(ctx, values, 1, values->ne[0], n);
    return ggml_reshape_2d(ctx, ggml_get_rows(ctx, values, ids), ids->ne[0], n);
}

// ggml's CPU operations share out rows, not columns, among threads. A vocabulary is one row, so it is cut into
// as many as divide it: without this the statistics of 151,936 logits run on one core.
static inline int64_t n_parts(int64_t n_vocab) {
    int64_t n = 1;
    while (n < 64 && n_vocab % (2 * n) == 0) {
        n *= 2;
    }
    return n;
}
