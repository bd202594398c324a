// One step of generation: predict T and P, apply penalties and grammar, draw, write down what happened.

#pragma once

#include "graph_sampler.h"
#include "draw.h"

#include <optional>
#include <string>
#include <vector>

// Where T and P come from. In the graph when attached; else on the host, from the hidden state that
// llama_set_embeddings(ctx, true) makes llama.cpp keep.
struct predictor {
    std::shared_ptr<heads>        h;
    heads_enabled                 on;
    graph_sampler               * gs = nullptr;
    std::unique_ptr<heads_runner> runner; // host way, made when first needed
};

// seq_id: a sequence, or EVERY_OUTPUT with n_rows as in graph_sampler_attach.
// Throws std::invalid_argument when model and heads differ in size, std::runtime_error when it is attached
// already. Returns false when the context cannot run the heads in its graph.
bool predictor_attach(predictor & p, llama_context * ctx, llama_seq_id seq_id, int64_t n_rows);
void predictor_detach(predictor & p); // does nothing when not attached

// T and P of n outputs of the last decode from idx on (as in llama_get_logits_ith). Attached, they must be all that
// there are. Returns false when attached to a graph without the heads (graph_sampler_read). Throws std::runtime_error
// when there is no hidden state.
bool predictor_read(predictor & p, llama_context * ctx, int32_t idx, int64_t n, float * temperature, float * top_p);

struct step_record {
    llama_token id;
    float       temperature;
    float       top_p;
    float       entropy; // nats, of the raw distribution; NaN where it was not asked for
    int32_t     nucleus;
    float       prob;
};

// what a sampler has drawn; outlives it
struct step_records {
    std::vector<step_record> all;
};

struct step_sampler {
    std::shared_ptr<predictor> p;
    std::optional<float>       temperature; // set: fixed, not predicted
    std::optional<double>      top_p;
    llama_sampler            * before = nullptr; // chain on the raw logits: penalties, grammar; may be NULL
    llama_sampler            * after  = nullptr; // chain on logits / T: top-k, typical, min-p, mirostat; may be NULL
    bool                       trace   = true; // keep records
    bool                       entropy = true; // in them

    std::mt19937                  rng;
    draw_scratch                  scratch;
    std::vector<llama_token_data> candidates;
    std::vector<float>            logits;

    std::shared_ptr<step_records> records = std::make_shared<step_records>();
};

// Draws the token after output row idx and shows it to the chains. changed: logits to draw from instead of the
// model's own [n_vocab], or NULL; the heads and the entropy read the model's own either way.
// Throws std::runtime_error: no such row, no prediction, not finite, no token allowed.
llama_token step_sample(step_sampler & s, llama_context * ctx, int32_t idx, const float * changed);

// One of several sequences, each with a sampler of its own: the token drawn, or what went wrong.
struct step_row {
    step_sampler * s; // NULL: this output is not drawn from
    llama_token    token = LLAMA_TOKEN_NULL;
    bool           ends  = false; // the token ends a generation
    std::string    error = {};    // nothing was drawn
};

// Draws the tokens after outputs 0, 1, ... of the last decode, one a row, which must be all of its outputs; p predicts
// for all of them, NULL where every row has both values fixed. The rows are shared among threads where there is enough to
// do. Throws std::runtime_error when there is no prediction; what concerns one row alone stands in its error.
void step_sample_rows(std::vector<step_row> & rows, predictor * p, llama_context * ctx);
