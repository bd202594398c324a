// The logits as the output layer gives them. Some architectures scale or cap them in the graph; upstream's heads read
// `lm_head(hidden)`, what was there before, and so do ours.

#pragma once

#include "ggml-backend.h"
#include "llama.h"

#include <cstdint>
#include <string>
#include <vector>

// Of the last tensor of a graph, the logits: the one that scales, caps and masks began with; itself where there are none.
ggml_tensor * raw_logits_tensor(ggml_tensor * logits);

// What of a model changes its logits, "gemma2.final_logit_softcapping" or the architecture's name; "" for most.
std::string raw_logits_changed_by(const llama_model * model);

// Keeps the raw logits of a context's outputs for the host way, in which llama.cpp gives out the changed ones alone. Its
// callback is the context's cb_eval. llama.cpp may reorder outputs after a decode, so a row is known by its hidden state.
// One for each context; it must outlive it.
struct raw_logits {
    explicit raw_logits(int64_t n_vocab) : n_vocab(n_vocab) {}
    raw_logits(const raw_logits &) = delete;
    ~raw_logits();

    const int64_t      n_vocab;
    bool               on       = false; // keep them: outputs of the decodes to come
    int64_t            n_hidden = 0;
    size_t             n_before = 0;     // rows of ubatches that are done
    std::vector<float> hidden   = {};    // [rows, n_hidden]
    std::vector<float> rows     = {};    // [rows, n_vocab]
};

// ggml_backend_sched_eval_callback, with the raw_logits as its user data
bool raw_logits_callback(ggml_tensor * t, bool ask, void * user_data);

// Of which context it is; taken out again when it is destroyed.
void raw_logits_bind(raw_logits * raw, const llama_context * ctx);

// Forgets what was kept, as before another decode.
void raw_logits_clear(raw_logits & raw);

// Of n outputs of the last decode from idx on: the raw logits, [n, n_vocab], a copy. Nothing where the model leaves its
// logits as they are. Throws where they were not kept, naming what changes them.
std::vector<float> raw_logits_read(llama_context * ctx, int32_t idx, int64_t n);
