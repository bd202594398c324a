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

static double next_uniform(sampler & s) {
    const double u = s.u ? *s.u : uniform(s.rng);
    s.u.reset();
    return u;
}

static sampler_record draw_from_logits(const float * logits, size_t n, float temperature, double top_p, sampler & s) {
    return drawn(draw_token(logits, n, temperature, top_p, next_uniform(s), s.scratch, s.result), s, top_p);
}

// Work of the grammar, and of what else is before.
template <typename F> static void within_patience(const sampler & s, F && work) {
    const double begin = thread_seconds();
    guarded(work);
    const double took = thread_seconds() - begin;
    if (took > s.patience) { // no end is in sight where each token leaves more ways to go on than the one before
        throw refusal(MODEL_FAILED, "the grammar took " + std::to_string((int) took) +
                                    " s for one token; no token was drawn, use one with fewer ways to go on");
    }
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
    within_patience(s, [&] { llama_sampler_apply(s.before, &cur); });
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
    return drawn(draw_weights(weight_row_of(weights, n), top_p, next_uniform(s), s.scratch, s.result), s, top_p);
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

static void check_predicted(float temperature, float top_p) {
    if (!(std::isfinite(temperature) && std::isfinite(top_p))) {
        throw refusal(MODEL_FAILED, "the heads give no finite value: nothing was decoded since they were attached, or the "
                                    "model's hidden state or logits are not finite");
    }
}

static bool predicts(const sampler & s) {
    return !s.temperature || !s.top_p;
}

// Whether a shortlist may do, which is scaled by the predicted temperature: nothing changes the logits or wants all of them.
static bool may_do_with_list(const sampler & s) {
    return predicts(s) && (!s.temperature || *s.temperature == 0.0f) && !s.before && !s.after && s.top < 0 && s.gate >= 1.0f;
}

// Draws from a shortlist. False where that does not decide; the whole row is drawn from next, with the same number.
static bool draw_from_list(sampler & s, const shortlist & list, float predicted_t, float predicted_p, llama_token & token) {
    check_predicted(predicted_t, predicted_p);
    const float  temperature = s.temperature.value_or(predicted_t);
    const double top_p       = s.top_p.value_or(predicted_p);
    s.u = uniform(s.rng);
    if (!shortlist_draw(list, temperature, top_p, *s.u, s.of_list, s.result)) {
        return false;
    }
    s.u.reset();
    s.n_listed++;
    token = s.result.index;
    if (s.trace) {
        const std::lock_guard<std::mutex> lock(s.records->lock);
        s.records->all.push_back({ token, temperature, (float) top_p, s.entropy ? shortlist_entropy(list) : NAN,
                                   s.result.nucleus, s.result.prob });
    }
    return true;
}

// Draws from one row of logits. p: who predicted T and P, for output number row of its graph; NULL: nobody did, and the
// sampler has both fixed.
static llama_token draw_row(sampler & s, const float * raw, const float * changed, size_t n, const predictor * p,
                            int64_t row, float predicted_t, float predicted_p) {
    if (p) {
        check_predicted(predicted_t, predicted_p);
    }
    const bool   gated       = s.gate < 1.0f && logits_top(raw, n) > s.gate;
    const float  temperature = gated ? 0.0f : s.temperature.value_or(predicted_t);
    const double top_p       = s.top_p.value_or(predicted_p);

    const float * logits = changed ? changed : raw;
    const predictor * scaled = changed || gated ? nullptr : p;
    sampler_record r = s.before || s.after ? draw_through_chains(logits, n, temperature, top_p, s)
                                           : draw_plainly(logits, n, temperature, top_p, s, scaled, row);
    within_patience(s, [&] { llama_sampler_accept(s.before, r.id); });
    guarded([&] { llama_sampler_accept(s.after, r.id); });
    if (s.trace) {
        r.temperature = temperature;
        r.entropy     = s.entropy && p && p->gs ? graph_sampler_entropy(p->gs, row) : NAN;
        if (s.entropy && std::isnan(r.entropy)) {
            r.entropy = logits_entropy(raw, n);
        }
        const auto likely = s.top >= 0 ? std::optional(likelihood_of_draw(s, raw, n, r.id)) : std::nullopt;
        const std::lock_guard<std::mutex> lock(s.records->lock);
        if (likely) {
            s.records->likelihoods.resize(s.records->all.size());
            s.records->likelihoods.push_back(*likely);
        }
        s.records->all.push_back(r);
    }
    return r.id;
}

llama_token sampler_sample(sampler & s, llama_context * ctx, int32_t idx, const f32_array * changed) {
    const int64_t n = context_n_vocab(ctx);
    if (changed && changed->shape != std::vector<int64_t> { n }) {
        throw refusal(INVALID_INPUT, "the logits processors returned " + changed->shape_text() + ", expected [" +
                                     std::to_string(n) + "]");
    }
    context_check_output(ctx, idx);
    float temperature = 0.0f, top_p = 0.0f;
    if (predicts(s)) {
        predictor_read(s.p.get(), ctx, idx, 1, &temperature, &top_p);
    }
    llama_token token;
    const bool may_do = !changed && may_do_with_list(s);
    const std::vector<shortlist> lists = may_do ? predictor_lists(s.p.get(), 1) : std::vector<shortlist>();
    if (!lists.empty() && draw_from_list(s, lists.front(), temperature, top_p, token)) {
        return token;
    }
    return draw_row(s, context_logits(ctx, idx), changed ? changed->data : nullptr, (size_t) n, predicts(s) ? s.p.get() : nullptr, 0,
                    temperature, top_p);
}

// llama.cpp's samplers take many times as long for each logit.
static constexpr size_t CHAIN_COST = 16;

// A shortlist is sorted, in the time that this many logits take.
static constexpr size_t LIST_COST = 1 << 15;

// what was predicted for the outputs of a decode
struct predictions {
    std::vector<float>     temperature;
    std::vector<float>     top_p;
    std::vector<shortlist> lists; // none, where logits are on the host
};

// Draws what is not drawn yet of row i, from its shortlist or, where raw is not NULL, from its logits.
static void draw_one(sampler_row & row, size_t i, const predictions & of, const predictor * p, const float * raw,
                     const llama_context * ctx) {
    try {
        if (raw) {
            row.token = draw_row(*row.s, raw, nullptr, (size_t) context_n_vocab(ctx), predicts(*row.s) ? p : nullptr,
                                 (int64_t) i, of.temperature[i], of.top_p[i]);
        } else if (!draw_from_list(*row.s, of.lists[i], of.temperature[i], of.top_p[i], row.token)) {
            return;
        }
        row.ends = llama_vocab_is_eog(llama_model_get_vocab(llama_get_model(ctx)), row.token);
    } catch (const std::exception & e) { // none may leave a thread of OpenMP's
        row.error = e.what();
        row.error.resize(std::min(row.error.size(), row.error.find('\n'))); // of Python's, its traceback follows
    }
}

void sampler_sample_rows(std::vector<sampler_row> & rows, predictor * p, llama_context * ctx) {
    llama_synchronize(ctx);
    const size_t n = (size_t) context_n_vocab(ctx), n_rows = rows.size(), n_threads = (size_t) llama_n_threads(ctx);
    const int32_t first = -(int32_t) n_rows; // of the outputs, counted from the last: not every token need be one
    predictions of = { std::vector<float>(n_rows), std::vector<float>(n_rows), {} };
    if (std::any_of(rows.begin(), rows.end(), [](const sampler_row & row) { return row.s && predicts(*row.s); })) {
        predictor_read(p, ctx, first, (int64_t) n_rows, of.temperature.data(), of.top_p.data());
        of.lists = predictor_lists(p, (int64_t) n_rows);
    }
    if (!of.lists.empty()) {
        share_rows(n_rows, n_rows * LIST_COST, n_threads, DECODING_THREADS, [&](size_t i) {
            if (rows[i].s && may_do_with_list(*rows[i].s)) {
                draw_one(rows[i], i, of, p, nullptr, ctx);
            }
        });
    }
    std::vector<const float *> logits(n_rows);
    size_t work_size = 0;
    for (size_t i = 0; i < n_rows; ++i) {
        const sampler * s = rows[i].s;
        if (s && rows[i].token == LLAMA_TOKEN_NULL && rows[i].error.empty()) {
            logits[i]  = context_logits(ctx, first + (int32_t) i);
            work_size += n * ((s->before || s->after ? CHAIN_COST : 1) + (s->top < 0 ? 0 : LIKELIHOOD_COST));
        }
    }
    share_rows(n_rows, work_size, n_threads, DECODING_THREADS, [&](size_t i) {
        if (logits[i]) {
            draw_one(rows[i], i, of, p, logits[i], ctx);
        }
    });
}
