#include "sampler.h"

#include "context.h"
#include "errors.h"
#include "threads.h"

#include <algorithm>
#include <cmath>

[[noreturn]] static void refuse(draw_status status) {
    throw refusal(MODEL_FAILED, status == DRAW_NOT_FINITE ? "a logit is NaN or +inf; no token was drawn"
                                                          : "every logit is -inf: the grammar or the biases allow no token");
}

// The record of the draw in s.result, its temperature and entropy still to come. Throws where nothing was drawn.
static sampler_record drawn(draw_status status, const sampler & s, double top_p) {
    if (status != DRAW_OK) {
        refuse(status);
    }
    return { s.result.index, NAN, (float) top_p, NAN, s.result.nucleus, s.result.prob };
}

static sampler_record draw_from_logits(const float * logits, size_t n, float temperature, double top_p, sampler & s) {
    return drawn(draw_token(logits, n, temperature, top_p, uniform(s.rng), s.scratch, s.result), s, top_p);
}

// The way through llama.cpp's samplers: an array of candidates instead of a row of logits.
static sampler_record draw_through_chains(const float * logits, size_t n, float temperature, double top_p, sampler & s) {
    s.candidates.resize(n);
    bool finite = true;
    for (size_t i = 0; i < n; ++i) {
        s.candidates[i] = { (llama_token) i, logits[i], 0.0f };
        finite = finite && logits[i] < INFINITY;
    }
    if (!finite) { // their sorting, and mirostat, would make something of it
        refuse(DRAW_NOT_FINITE);
    }
    llama_token_data_array & cur = s.left = { s.candidates.data(), n, -1, false };
    guarded([&] { llama_sampler_apply(s.before, &cur); });
    if (s.after && temperature > 0.0f) {
        float max = -INFINITY; // taken off first: a tiny temperature must not make infinities
        for (size_t i = 0; i < cur.size; ++i) {
            max = std::max(max, cur.data[i].logit);
        }
        for (size_t i = 0; i < cur.size; ++i) {
            cur.data[i].logit = max > -INFINITY ? (cur.data[i].logit - max) / temperature : -INFINITY;
        }
        temperature = 1.0f;
        guarded([&] { llama_sampler_apply(s.after, &cur); });
    }
    if (cur.selected >= 0 && (size_t) cur.selected < cur.size) { // mirostat draws by itself
        const llama_token_data & token = cur.data[cur.selected];
        if (!(token.p > 0.0f)) { // of nothing but -inf it makes NaN, and draws
            refuse(DRAW_NO_TOKEN);
        }
        return { token.id, NAN, 1.0f, NAN, (int32_t) cur.size, token.p };
    }
    cur.selected = -1;
    s.logits.resize(cur.size);
    for (size_t i = 0; i < cur.size; ++i) {
        s.logits[i] = cur.data[i].logit;
    }
    sampler_record r = draw_from_logits(s.logits.data(), cur.size, temperature, top_p, s);
    r.id = cur.data[r.id].id;
    return r;
}

// Where nothing changed the logits and T is the predicted one, the graph has scaled by it already.
static sampler_record draw_plainly(const float * logits, size_t n, float temperature, double top_p, sampler & s,
                                   const predictor * p, int64_t row) {
    const float * weights = p && p->gs && !s.temperature ? graph_sampler_weights(p->gs, row) : nullptr;
    if (!weights) {
        return draw_from_logits(logits, n, temperature, top_p, s);
    }
    return drawn(draw_weights(weight_row_of(weights, n), top_p, uniform(s.rng), s.scratch, s.result), s, top_p);
}

static bool by_id(const alternative & a, const alternative & b) {
    return a.id < b.id;
}

// The likelihoods of what has just been drawn, with the probabilities that the draw gave to each.
static likelihood likelihood_of_draw(const sampler & s, const float * raw, size_t n, llama_token id) {
    likelihood result = likelihood_of(raw, n, id, (size_t) s.top);
    std::vector<alternative> & others = result.alternatives;
    if (!s.before && !s.after) {
        for (alternative & a : others) {
            a.prob = draw_prob(s.result, (size_t) a.id);
        }
        return result;
    }
    const bool drew = s.left.selected >= 0; // the chain did
    std::vector<alternative> sorted = others;
    std::sort(sorted.begin(), sorted.end(), by_id);
    for (alternative & a : sorted) {
        a.prob = 0.0f;
    }
    for (size_t i = 0; i < s.left.size; ++i) {
        const auto a = std::lower_bound(sorted.begin(), sorted.end(), alternative { s.left.data[i].id, 0.0, 0.0f }, by_id);
        if (a != sorted.end() && a->id == s.left.data[i].id) {
            a->prob = drew ? s.left.data[i].p : draw_prob(s.result, i);
        }
    }
    for (alternative & a : others) {
        a.prob = std::lower_bound(sorted.begin(), sorted.end(), a, by_id)->prob;
    }
    return result;
}

// Draws from one row of logits. p: who predicted T and P, for output number row of its graph; NULL: nobody did, and the
// sampler has both fixed.
static llama_token draw_row(sampler & s, const float * raw, const float * changed, size_t n, const predictor * p,
                            int64_t row, float predicted_t, float predicted_p) {
    if (p && !(std::isfinite(predicted_t) && std::isfinite(predicted_p))) {
        throw refusal(MODEL_FAILED, "the heads give no finite value: nothing was decoded since they were attached, or the "
                                    "model's hidden state or logits are not finite");
    }
    const bool   gated       = s.gate < 1.0f && logits_top(raw, n) > s.gate;
    const float  temperature = gated ? 0.0f : s.temperature.value_or(predicted_t);
    const double top_p       = s.top_p.value_or(predicted_p);

    const float * logits = changed ? changed : raw;
    const predictor * scaled = changed || gated ? nullptr : p;
    sampler_record r = s.before || s.after ? draw_through_chains(logits, n, temperature, top_p, s)
                                           : draw_plainly(logits, n, temperature, top_p, s, scaled, row);
    guarded([&] {
        llama_sampler_accept(s.before, r.id);
        llama_sampler_accept(s.after,  r.id);
    });
    if (s.trace) {
        r.temperature = temperature;
        r.entropy     = s.entropy ? logits_entropy(raw, n) : NAN;
        if (s.top >= 0) {
            s.records->likelihoods.resize(s.records->all.size());
            s.records->likelihoods.push_back(likelihood_of_draw(s, raw, n, r.id));
        }
        s.records->all.push_back(r);
    }
    return r.id;
}

static bool predicts(const sampler & s) {
    return !s.temperature || !s.top_p;
}

llama_token sampler_sample(sampler & s, llama_context * ctx, int32_t idx, const f32_array * changed) {
    const int64_t n = context_n_vocab(ctx);
    if (changed && changed->shape != std::vector<int64_t> { n }) {
        throw refusal(INVALID_INPUT, "the logits processors returned " + changed->shape_text() + ", expected [" +
                                     std::to_string(n) + "]");
    }
    const float * raw = context_logits(ctx, idx);
    float temperature = 0.0f, top_p = 0.0f;
    if (predicts(s)) {
        predictor_read(s.p.get(), ctx, idx, 1, &temperature, &top_p);
    }
    return draw_row(s, raw, changed ? changed->data : nullptr, (size_t) n, predicts(s) ? s.p.get() : nullptr, 0,
                    temperature, top_p);
}

// llama.cpp's samplers take many times as long for each logit.
static constexpr size_t CHAIN_COST  = 16;

void sampler_sample_rows(std::vector<sampler_row> & rows, predictor * p, llama_context * ctx) {
    llama_synchronize(ctx);
    const size_t n = (size_t) context_n_vocab(ctx), n_rows = rows.size();
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    const int32_t first = -(int32_t) n_rows; // of the outputs, counted from the last: not every token need be one
    std::vector<const float *> logits(n_rows);
    std::vector<float> temperature(n_rows), top_p(n_rows);
    bool   any       = false;
    size_t work_size = 0;
    for (size_t i = 0; i < n_rows; ++i) {
        const sampler * s = rows[i].s;
        logits[i] = context_logits(ctx, first + (int32_t) i);
        if (s) {
            any        = any || predicts(*s);
            work_size += n * ((s->before || s->after ? CHAIN_COST : 1) + (s->top < 0 ? 0 : LIKELIHOOD_COST));
        }
    }
    if (any) {
        predictor_read(p, ctx, first, (int64_t) n_rows, temperature.data(), top_p.data());
    }
    share_rows(n_rows, work_size, (size_t) llama_n_threads(ctx), [&](size_t i) {
        sampler_row & row = rows[i];
        if (!row.s) {
            return;
        }
        try {
            row.token = draw_row(*row.s, logits[i], nullptr, n, predicts(*row.s) ? p : nullptr, (int64_t) i,
                                 temperature[i], top_p[i]);
            row.ends  = llama_vocab_is_eog(vocab, row.token);
        } catch (const refusal & e) {
            row.error = e.what();
        }
    });
}
