// The heads alone on one device, without llama.cpp.

#pragma once

#include "heads_graph.h"

// Runs heads_build, n rows at a time, and keeps the graph between calls.
struct heads_runner {
    std::shared_ptr<heads> h;
    heads_use              use;
    bool                   portable = false; // build the graph as for another device than the CPU
    ggml_backend_ptr       backend;
    ggml_gallocr_ptr       alloc;
    ggml_context_ptr       ctx;      // the graph for n_rows
    ggml_cgraph          * graph  = nullptr;
    ggml_tensor          * hidden = nullptr;
    ggml_tensor          * logits = nullptr;
    heads_outputs          out    = {};
    int64_t                n_rows = 0;
};

// The name of an operation of the heads, for n rows, that a device lacks; "" where it has all.
std::string heads_missing_op(const heads_use & use, ggml_backend_dev_t dev, int64_t n);

// Throws for a device that does not exist or lacks an operation.
void heads_runner_init(heads_runner & r, std::shared_ptr<heads> h, heads_enabled on, const std::string & device,
                       bool portable = false);

// hidden: [n, n_embd], logits: [n, n_vocab], row-major and finite (-inf is allowed in logits).
// Writes n temperatures and n top-p. Throws when the device fails.
void heads_runner_run(heads_runner & r, const float * hidden, const float * logits, int64_t n,
                      float * temperature, float * top_p);

// Whether any computed with several threads, which the child of a fork has not.
bool heads_used_threads();

struct heads_values {
    std::vector<float> temperature;
    std::vector<float> top_p;
};

// The same for one call, with its arguments checked.
heads_values heads_evaluate(const std::shared_ptr<heads> & h, const f32_array & hidden, const f32_array & logits,
                            heads_enabled on, const std::string & device, bool portable);
