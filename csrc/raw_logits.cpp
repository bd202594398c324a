#include "raw_logits.h"

#include "context.h"
#include "errors.h"

#include <cstring>
#include <map>
#include <mutex>

static std::mutex bound_mutex;
static std::map<const llama_context *, raw_logits *> bound;

// whether an operation of the graph changes logits that are there already
static bool changes(const ggml_tensor * t) {
    return t->op == GGML_OP_SCALE || t->op == GGML_OP_SET ||
           (t->op == GGML_OP_UNARY && ggml_get_unary_op(t) == GGML_UNARY_OP_TANH);
}

ggml_tensor * raw_logits_tensor(ggml_tensor * logits) {
    while (changes(logits)) {
        logits = logits->src[0];
    }
    return logits;
}

static std::string metadata(const llama_model * model, const std::string & key) {
    char value[128];
    return llama_model_meta_val_str(model, key.c_str(), value, sizeof(value)) < 0 ? "" : value;
}

std::string raw_logits_changed_by(const llama_model * model) {
    const std::string arch = metadata(model, "general.architecture");
    for (const char * name : { "final_logit_softcapping", "logit_scale" }) {
        const std::string key = arch + "." + name;
        if (!metadata(model, key).empty()) {
            return key;
        }
    }
    for (const char * name : { "chameleon", "gemma2", "gemma3n", "grok", "minicpm" }) { // without a key
        if (arch == name) {
            return arch;
        }
    }
    return "";
}

raw_logits::~raw_logits() {
    raw_logits_bind(this, nullptr);
}

void raw_logits_bind(raw_logits * raw, const llama_context * ctx) {
    std::lock_guard<std::mutex> lock(bound_mutex);
    for (auto it = bound.begin(); it != bound.end();) {
        it = it->second == raw ? bound.erase(it) : std::next(it);
    }
    if (ctx) {
        bound[ctx] = raw;
    }
}

void raw_logits_clear(raw_logits & raw) {
    raw.n_before = 0;
    raw.hidden.clear();
    raw.rows.clear();
}

// The hidden state, to which llama.cpp gives another name where embeddings are on.
static bool is_hidden(const ggml_tensor * t) {
    return strcmp(t->name, "result_norm") == 0 || strcmp(t->name, "result_embd_pooled") == 0;
}

// Appends the rows of a tensor behind the first n_before ones.
static void take(const ggml_tensor * t, size_t n_before, std::vector<float> & into) {
    into.resize((size_t) (t->ne[0] * t->ne[1]) + n_before * (size_t) t->ne[0]);
    ggml_backend_tensor_get(t, into.data() + n_before * (size_t) t->ne[0], 0, ggml_nbytes(t));
}

bool raw_logits_callback(ggml_tensor * t, bool ask, void * user_data) {
    auto & raw = *(raw_logits *) user_data;
    const bool is_rows   = raw.on && t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && t->ne[1] > 0 && !t->view_src;
    const bool is_norm   = is_rows && is_hidden(t);
    const bool is_logits = is_rows && t->ne[0] == raw.n_vocab && !changes(t); // the last one: an adapter adds to it
    if (ask || !(is_norm || is_logits)) {
        return is_norm || is_logits;
    }
    try {
        if (is_norm) {
            raw.n_hidden = t->ne[0];
            raw.n_before = raw.rows.size() / (size_t) raw.n_vocab;
            take(t, raw.n_before, raw.hidden);
        } else if (raw.hidden.size() == (raw.n_before + (size_t) t->ne[1]) * (size_t) raw.n_hidden) {
            take(t, raw.n_before, raw.rows);
        }
    } catch (const std::exception &) {
        raw_logits_clear(raw); // an exception must not pass through llama.cpp; whoever reads finds none
    }
    return true;
}

static const float * find(const raw_logits & raw, const float * hidden, size_t first) {
    const size_t n = raw.rows.size() / (size_t) raw.n_vocab;
    for (size_t i = 0; i < n; ++i) {
        const size_t row = (first + i) % n; // mostly in order
        if (!memcmp(raw.hidden.data() + row * raw.n_hidden, hidden, (size_t) raw.n_hidden * sizeof(float))) {
            return raw.rows.data() + row * raw.n_vocab;
        }
    }
    return nullptr;
}

std::vector<float> raw_logits_read(llama_context * ctx, int32_t idx, int64_t n) {
    const llama_model * model = llama_get_model(ctx);
    const std::string by = raw_logits_changed_by(model);
    if (by.empty()) {
        return {};
    }
    const int64_t n_vocab = context_n_vocab(ctx);
    const float * hidden  = llama_get_embeddings_ith(ctx, idx);
    std::vector<float> result((size_t) (n * n_vocab));
    std::lock_guard<std::mutex> lock(bound_mutex);
    const auto it = bound.find(ctx);
    for (int64_t i = 0; i < n; ++i) {
        const bool kept = it != bound.end() && hidden && it->second->n_hidden == llama_model_n_embd_out(model);
        const float * row = kept ? find(*it->second, hidden + i * it->second->n_hidden, (size_t) i) : nullptr;
        if (!row) {
            throw refusal(MODEL_FAILED, by + " changes the logits after the output layer, and the top-p head reads those "
                                        "before; this context did not keep them: attach the heads to it");
        }
        memcpy(result.data() + i * n_vocab, row, (size_t) n_vocab * sizeof(float));
    }
    return result;
}
