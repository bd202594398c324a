// One step of generation: predict T and P, apply penalties and grammar, draw, write down what happened.

#pragma once

#include "draw.h"
#include "likelihood.h"
#include "predictor.h"

#include <mutex>
#include <optional>

struct sampler_record {
    llama_token id;
    float       temperature;
    float       top_p;
    float       entropy; // nats, of the raw distribution; NaN where it was not asked for
    int32_t     nucleus;
    float       prob;
};

// what a sampler has drawn; outlives it
struct sampler_records {
    mutable std::mutex          lock; // of what is read while tokens are drawn
    std::vector<sampler_record> all;
    std::vector<likelihood>     likelihoods; // of each of them, where they were asked for
};

struct sampler {
    std::shared_ptr<predictor> p;
    std::optional<float>       temperature; // set: fixed, not predicted; may be set anew before each token
    std::optional<double>      top_p;
    llama_sampler            * before = nullptr; // chain on the raw logits: penalties, grammar; may be NULL
    llama_sampler            * after  = nullptr; // chain on logits / T: top-k, typical, min-p, mirostat; may be NULL
    bool                       trace   = true; // keep records
    bool                       entropy = true; // in them
    float                      gate    = 1.0f; // T is 0 where the most likely token's probability is above it; 1: off

    int32_t                    top     = -1; // log-probability and so many alternatives of each token; negative: neither

    std::mt19937                  rng;
    double                        patience   = 10.0; // seconds that the grammar, and what else is before, may take for a token
    std::optional<double>         u          = {}; // of a token that the shortlist did not decide
    int64_t                       n_listed   = 0;  // tokens that it did
    shortlist_scratch             of_list    = {};
    draw_scratch                  scratch    = {};
    draw_result                   result     = {}; // the last
    llama_token_data_array        left       = {}; // what the chains left of the candidates, the last time
    std::vector<llama_token_data> candidates = {};
    std::vector<float>            logits     = {};

    std::shared_ptr<sampler_records> records = std::make_shared<sampler_records>();
};

// Draws the token after output row idx and shows it to the chains. changed: logits to draw from instead of the
// model's own [n_vocab], or NULL; the heads and the entropy read the model's own either way.
// Throws: no such row, no prediction, not finite, no token allowed.
llama_token sampler_sample(sampler & s, llama_context * ctx, int32_t idx, const f32_array * changed);

// One of several sequences, each with a sampler of its own: the token drawn, or what went wrong.
struct sampler_row {
    sampler   * s; // NULL: this output is not drawn from
    llama_token token = LLAMA_TOKEN_NULL;
    bool        ends  = false; // the token ends a generation
    std::string error = {};    // nothing was drawn
};

// Draws the tokens after outputs 0, 1, ... of the last decode, one a row, which must be all of its outputs; p predicts
// for all of them, NULL where every row has both values fixed. The rows are shared among threads where there is enough to
// do. Throws when there is no prediction; what concerns one row alone stands in its error.
void sampler_sample_rows(std::vector<sampler_row> & rows, predictor * p, llama_context * ctx);
