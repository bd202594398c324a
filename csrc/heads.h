// The AutoDeco heads: two small MLPs from (hidden state, logits) to (temperature, top-p).
//
// This is the only definition of their arithmetic in the project (docs/format.md states it in formulas).
// Two drivers run it: graph_sampler.cpp, inside llama.cpp's own graph, and heads_evaluate, alone on a device.

#pragma once

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

// y = weight x + bias; weight is [in, out] and bias [out] in ggml's order, both F32
struct heads_layer {
    ggml_tensor * weight;
    ggml_tensor * bias;
};

struct heads_mlp {
    std::vector<heads_layer> layers; // empty: the model has no such head
    bool                     gelu = false; // between layers: exact (erf) GELU, else ReLU
};

// the weights on one device
struct heads_weights {
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
    heads_mlp               temp;
    heads_mlp               top_p;
};

struct heads {
    int64_t n_embd     = 0;
    int64_t n_vocab    = 0;
    float   temp_scale = 2.0f;  // temperature = temp_scale * sigmoid(last layer)
    bool    enhanced   = true;  // the top-p head also sees max_prob, entropy, prob_variance, top5_prob

    heads_weights host; // in ordinary memory; what other devices copy from

    std::mutex mutex; // guards devices
    std::map<ggml_backend_buffer_type_t, std::unique_ptr<heads_weights>> devices;
};

// one linear layer as the caller has it: row-major [n_out, n_in], and [n_out]
struct heads_layer_data {
    const float * weight;
    const float * bias;
    int64_t       n_in;
    int64_t       n_out;
};

// Allocates and fills h.host. The layers must connect and end in one output: the caller has checked.
// Throws std::bad_alloc.
void heads_init(heads & h, const std::vector<heads_layer_data> & temp,  bool temp_gelu,
                           const std::vector<heads_layer_data> & top_p, bool top_p_gelu);

// The weights in memory of type buft, uploaded on first use and kept until h goes. NULL: out of memory.
const heads_weights * heads_on(heads & h, ggml_backend_buffer_type_t buft);

// Which heads take part. A head left out, or that the model lacks, gives 1.
struct heads_enabled {
    bool temp  = true;
    bool top_p = true;
};

struct heads_outputs {
    ggml_tensor * temperature;  // F32 [1, n]
    ggml_tensor * top_p;        // F32 [1, n]
    bool          has_weights;  // the weights asked for are computed on the way
};

// Adds the heads to a graph. hidden: F32 [n_embd, n], logits: F32 [n_vocab, n], both contiguous. on_cpu: the graph
// runs on the CPU backend, where three of its operations are ours. weights, F32 [n_vocab] or NULL: there, for n = 1, gets
// exp((logits - max) / T), which the top-p features need anyway and drawing a token from softmax(logits / T) as well.
heads_outputs heads_build(ggml_context * ctx, const heads & h, const heads_weights & w, heads_enabled on, bool on_cpu,
                          ggml_tensor * hidden, ggml_tensor * logits, ggml_tensor * weights = nullptr);

// Runs heads_build alone on one device, n rows at a time, and keeps the graph between calls.
struct heads_runner {
    std::shared_ptr<heads> h;
    heads_enabled          on;
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

// Throws std::invalid_argument for a device that does not exist or lacks an operation.
void heads_runner_init(heads_runner & r, std::shared_ptr<heads> h, heads_enabled on, const std::string & device,
                       bool portable = false);

// hidden: [n, n_embd], logits: [n, n_vocab], row-major and finite (-inf is allowed in logits).
// Writes n temperatures and n top-p. Throws std::runtime_error when the device fails.
void heads_evaluate(heads_runner & r, const float * hidden, const float * logits, int64_t n,
                    float * temperature, float * top_p);
