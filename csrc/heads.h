// The AutoDeco heads: two small MLPs from (hidden state, logits) to (temperature, top-p). Their layers, and on which device
// the weights are.

#pragma once

#include "arrays.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"
#include "weights.h"

#include <map>
#include <memory>
#include <mutex>

// y = weight x + bias; weight is [in, out] and bias [out] in ggml's order, both F32
struct heads_layer {
    ggml_tensor * weight;
    ggml_tensor * bias;
};

// A first layer as the CPU reads it for every token, from memory that a model has passed through since: what is on the hidden
// state in two bytes a value where these hold all of them, as trained heads' do, and what is on the features by itself.
struct heads_first {
    std::vector<uint16_t> hidden;   // [out, n_embd]; empty: as in the layer
    bool                  is_bf16 = false; // else F16
    std::vector<float>    features; // [out, n_features]
};

struct heads_mlp {
    std::vector<heads_layer> layers; // empty: the model has no such head
    bool                     gelu = false; // between layers: exact (erf) GELU, else ReLU
    heads_first              first = {};   // in ordinary memory only
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
    float   temp_scale = 2.0f; // temperature = temp_scale * sigmoid(last layer)
    int64_t n_features = 1 + N_STATISTICS; // or 1: the temperature, which the top-p head sees besides the hidden state

    heads_weights host; // in ordinary memory; what other devices copy from

    std::mutex mutex; // guards devices
    std::map<ggml_backend_buffer_type_t, std::weak_ptr<heads_weights>> devices; // of those who use them
};

// a head as the caller has it: (weight [n_out, n_in], bias [n_out]) of each layer
struct heads_mlp_data {
    std::vector<std::pair<f32_array, f32_array>> layers;
    bool                                         gelu;
};

// Copies the weights. Throws where the sizes are none of a model, or the layers do not connect and end in one output.
std::shared_ptr<heads> heads_new(int64_t n_embd, int64_t n_vocab, float temp_scale, int64_t n_features,
                                 const heads_mlp_data & temp, const heads_mlp_data & top_p);

// The weights in memory of type buft, uploaded unless somebody uses them there: what is on a worker that was lost would
// keep the connection to it. Those in ordinary memory are there while h is. NULL: out of memory.
std::shared_ptr<const heads_weights> heads_on(heads & h, ggml_backend_buffer_type_t buft);

// Those in ordinary memory.
std::shared_ptr<const heads_weights> heads_on_host(const heads & h);

// Which heads take part. A head left out, or that the model lacks, gives 1.
struct heads_enabled {
    bool temp  = true;
    bool top_p = true;
};

// Heads as a graph uses them, where their weights are.
struct heads_use {
    const heads                        * h  = nullptr;
    std::shared_ptr<const heads_weights> w  = nullptr;
    heads_enabled                        on = {};
    bool                                 entropy = false; // of softmax(logits) too, where top-p features are computed on the CPU

    bool on_cpu() const {
        return w.get() == &h->host;
    }

    // NULL: the head takes no part
    const heads_mlp * temp() const {
        return on.temp && !w->temp.layers.empty() ? &w->temp : nullptr;
    }
    const heads_mlp * top_p() const {
        return on.top_p && !w->top_p.layers.empty() ? &w->top_p : nullptr;
    }

    // whether the logits are read, of whose distribution the top-p head sees statistics
    bool has_features() const {
        return top_p() && h->n_features > 1;
    }
};

static constexpr float T_EPSILON = 1e-8f; // added to the temperature that the statistics are of, by the official code
