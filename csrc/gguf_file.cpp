#include "gguf_file.h"

#include "log_capture.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <unordered_set>

struct file_closer {
    void operator()(FILE * file) const { fclose(file); }
};

// bytes of a scalar of each gguf_type; 0 for strings and arrays
static const size_t VALUE_SIZE[GGUF_TYPE_COUNT] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

// Walks over a header that ggml has accepted.
struct header_walker {
    const std::string & bytes;
    size_t              at = 0;

    void skip(uint64_t n) {
        if (n > bytes.size() - at) {
            throw std::runtime_error("not a GGUF, or a broken one: its header ends early");
        }
        at += n;
    }
    template <typename T>
    T take() {
        T value;
        const size_t begin = at;
        skip(sizeof(value));
        memcpy(&value, bytes.data() + begin, sizeof(value));
        return value;
    }
    void skip_string() {
        skip(take<uint64_t>());
    }
    void skip_value(uint32_t type) {
        if (type == GGUF_TYPE_STRING) {
            skip_string();
        } else if (type < GGUF_TYPE_COUNT) {
            skip(VALUE_SIZE[type]);
        }
    }
};

static std::vector<int> read_n_dims(const std::string & bytes) {
    header_walker w { bytes };
    w.skip(8); // magic, version
    const auto n_tensors = w.take<int64_t>();
    const auto n_kv      = w.take<int64_t>();
    for (int64_t i = 0; i < n_kv; ++i) {
        w.skip_string();
        uint32_t type = w.take<uint32_t>();
        uint64_t n    = 1;
        if (type == GGUF_TYPE_ARRAY) {
            type = w.take<uint32_t>();
            n    = w.take<uint64_t>();
        }
        for (uint64_t k = 0; k < n; ++k) {
            w.skip_value(type);
        }
    }
    std::vector<int> result;
    for (int64_t i = 0; i < n_tensors; ++i) {
        w.skip_string();
        const auto n_dims = w.take<uint32_t>();
        w.skip(n_dims * sizeof(int64_t) + sizeof(uint32_t) + sizeof(uint64_t)); // shape, type, offset
        result.push_back(std::max(1, (int) n_dims));
    }
    return result;
}

gguf_header gguf_header_read(const std::string & path, uint64_t start) {
    std::unique_ptr<FILE, file_closer> file(fopen(path.c_str(), "rb"));
    if (!file) {
        throw std::runtime_error(std::string("cannot be opened: ") + strerror(errno));
    }
    gguf_header h = {};
    h.start = start;
    if (fseeko(file.get(), 0, SEEK_END) != 0) {
        throw std::runtime_error(std::string("cannot be read: ") + strerror(errno));
    }
    h.file_size = (uint64_t) ftello(file.get());
    if (start > h.file_size || fseeko(file.get(), (off_t) start, SEEK_SET) != 0) {
        throw std::runtime_error("ends before byte " + std::to_string(start));
    }
    log_capture log;
    h.gguf.reset(gguf_init_from_file_ptr(file.get(), { /*.no_alloc =*/ true, /*.ctx =*/ nullptr }));
    if (!h.gguf) {
        throw std::runtime_error("not a GGUF, or a broken one: " + log.first_error());
    }
    h.data = gguf_get_data_offset(h.gguf.get());

    std::string bytes(std::min(h.data, h.file_size) - start, '\0');
    if (fseeko(file.get(), (off_t) start, SEEK_SET) != 0 || fread(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) {
        throw std::runtime_error("changed while it was read");
    }
    h.n_dims = read_n_dims(bytes);
    return h;
}

static bool starts_with_any(const char * key, const std::vector<std::string> & prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string & prefix) {
        return strncmp(key, prefix.c_str(), prefix.size()) == 0;
    });
}

static void set_value(gguf_context * gguf, const char * key, const gguf_value & value) {
    if (const auto * u32 = std::get_if<uint32_t>(&value)) {
        gguf_set_val_u32(gguf, key, *u32);
    } else if (const auto * u64 = std::get_if<uint64_t>(&value)) {
        gguf_set_val_u64(gguf, key, *u64);
    } else if (const auto * f32 = std::get_if<float>(&value)) {
        gguf_set_val_f32(gguf, key, *f32);
    } else if (const auto * str = std::get_if<std::string>(&value)) {
        gguf_set_val_str(gguf, key, str->c_str());
    } else {
        std::vector<const char *> items;
        for (const auto & item : std::get<std::vector<std::string>>(value)) {
            items.push_back(item.c_str());
        }
        gguf_set_arr_str(gguf, key, items.data(), items.size());
    }
}

static void append(std::string & bytes, const void * data, size_t size) {
    bytes.append((const char *) data, size);
}

template <typename T>
static void append(std::string & bytes, T value) {
    append(bytes, &value, sizeof(value));
}

static void append(std::string & bytes, const std::string & text) {
    append(bytes, (uint64_t) text.size());
    append(bytes, text.data(), text.size());
}

// A context that serializes without padding: alignment 1 is taken from a parsed header only, and keeps its effect
// when the key goes or is set to another value.
static gguf_context_ptr gguf_new_unpadded() {
    std::string header = "GGUF";
    append(header, (uint32_t) GGUF_VERSION);
    append(header, (int64_t) 0); // tensors
    append(header, (int64_t) 1); // metadata entries
    append(header, std::string("general.alignment"));
    append(header, (uint32_t) GGUF_TYPE_UINT32);
    append(header, (uint32_t) 1);
    gguf_context_ptr gguf(gguf_init_from_buffer(header.data(), header.size(), { /*.no_alloc =*/ true, /*.ctx =*/ nullptr }));
    gguf_remove_key(gguf.get(), "general.alignment");
    return gguf;
}

static uint64_t pad_to(uint64_t n, uint64_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

static uint64_t checked_size(const gguf_tensor_spec & t) {
    const bool shape_ok = !t.ne.empty() && t.ne.size() <= GGML_MAX_DIMS &&
        std::all_of(t.ne.begin(), t.ne.end(), [](int64_t n) { return n > 0; });
    if (t.name.empty() || t.name.size() >= GGML_MAX_NAME || !shape_ok || t.ne[0] % ggml_blck_size(t.type) != 0) {
        throw std::invalid_argument("tensor " + t.name + " cannot have this name, or this shape as " + ggml_type_name(t.type));
    }
    uint64_t size = ggml_row_size(t.type, t.ne[0]);
    for (size_t i = 1; i < t.ne.size(); ++i) {
        size *= (uint64_t) t.ne[i];
    }
    return size;
}

std::string gguf_header_build(const gguf_header & base, const std::vector<std::string> & drop,
                              const std::vector<std::pair<std::string, gguf_value>> & set,
                              const std::vector<gguf_tensor_spec> & tensors) {
    gguf_context_ptr gguf = gguf_new_unpadded();
    gguf_set_kv(gguf.get(), base.gguf.get());
    for (int64_t i = gguf_get_n_kv(gguf.get()) - 1; i >= 0; --i) {
        const std::string key = gguf_get_key(gguf.get(), i);
        if (starts_with_any(key.c_str(), drop)) {
            gguf_remove_key(gguf.get(), key.c_str());
        }
    }
    for (const auto & [key, value] : set) {
        set_value(gguf.get(), key.c_str(), value);
    }
    const int64_t  key       = gguf_find_key(gguf.get(), "general.alignment");
    const uint64_t alignment = key < 0 ? GGUF_DEFAULT_ALIGNMENT : gguf_get_val_u32(gguf.get(), key);

    std::string bytes(gguf_get_meta_size(gguf.get()), '\0');
    gguf_get_meta_data(gguf.get(), bytes.data());

    // The table of tensors is written here: ggml's writer drops dimensions of size 1, so that the last layer of a
    // head, [1, n], would read back as a vector.
    const int64_t n_tensors = (int64_t) tensors.size();
    memcpy(bytes.data() + 8, &n_tensors, sizeof(n_tensors)); // after magic and version
    std::unordered_set<std::string> names;
    uint64_t offset = 0;
    for (const auto & t : tensors) {
        const uint64_t size = checked_size(t);
        if (!names.insert(t.name).second) {
            throw std::invalid_argument("two tensors are named " + t.name);
        }
        append(bytes, t.name);
        append(bytes, (uint32_t) t.ne.size());
        append(bytes, t.ne.data(), t.ne.size() * sizeof(int64_t));
        append(bytes, (uint32_t) t.type);
        append(bytes, offset);
        offset = pad_to(offset + size, alignment);
    }
    bytes.resize(pad_to(bytes.size(), alignment), '\0');
    return bytes;
}

static bool same_value(const gguf_context * a, int64_t i, const gguf_context * b, int64_t j) {
    const gguf_type type = gguf_get_kv_type(a, i);
    if (gguf_get_kv_type(b, j) != type) {
        return false;
    }
    if (type == GGUF_TYPE_STRING) {
        return strcmp(gguf_get_val_str(a, i), gguf_get_val_str(b, j)) == 0;
    }
    if (type != GGUF_TYPE_ARRAY) {
        return memcmp(gguf_get_val_data(a, i), gguf_get_val_data(b, j), VALUE_SIZE[type]) == 0;
    }
    const gguf_type item = gguf_get_arr_type(a, i);
    const size_t    n    = gguf_get_arr_n(a, i);
    if (gguf_get_arr_type(b, j) != item || gguf_get_arr_n(b, j) != n) {
        return false;
    }
    if (item != GGUF_TYPE_STRING) {
        return memcmp(gguf_get_arr_data(a, i), gguf_get_arr_data(b, j), n * VALUE_SIZE[item]) == 0;
    }
    for (size_t k = 0; k < n; ++k) {
        if (strcmp(gguf_get_arr_str(a, i, k), gguf_get_arr_str(b, j, k)) != 0) {
            return false;
        }
    }
    return true;
}

std::string gguf_header_diff(const gguf_header & a, const gguf_header & b, const std::vector<std::string> & ignore) {
    for (int64_t i = 0; i < gguf_get_n_kv(a.gguf.get()); ++i) {
        const char * key = gguf_get_key(a.gguf.get(), i);
        if (starts_with_any(key, ignore)) {
            continue;
        }
        const int64_t j = gguf_find_key(b.gguf.get(), key);
        if (j < 0 || !same_value(a.gguf.get(), i, b.gguf.get(), j)) {
            return key;
        }
    }
    for (int64_t j = 0; j < gguf_get_n_kv(b.gguf.get()); ++j) {
        const char * key = gguf_get_key(b.gguf.get(), j);
        if (!starts_with_any(key, ignore) && gguf_find_key(a.gguf.get(), key) < 0) {
            return key;
        }
    }
    return "";
}

std::string gguf_header_check_vocab(const gguf_header & h) {
    const gguf_context * gguf = h.gguf.get();
    const int64_t tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    if (tokens < 0) {
        return "";
    }
    if (gguf_get_kv_type(gguf, tokens) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf, tokens) != GGUF_TYPE_STRING) {
        return "tokenizer.ggml.tokens is not a list of strings";
    }
    const size_t n = gguf_get_arr_n(gguf, tokens);
    std::unordered_set<std::string> seen;
    seen.reserve(n);
    for (size_t i = 0; i < n; ++i) {
        const char * token = gguf_get_arr_str(gguf, tokens, i);
        if (*token != '\0' && !seen.insert(token).second) { // llama.cpp gives empty ones names of their own
            return "token " + std::to_string(i) + " of tokenizer.ggml.tokens stands there twice: " + token;
        }
    }
    // llama.cpp reads as many of these as there are tokens, without looking at their number
    for (const char * key : { "tokenizer.ggml.scores", "tokenizer.ggml.token_type" }) {
        const int64_t id = gguf_find_key(gguf, key);
        if (id >= 0 && (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY || gguf_get_arr_n(gguf, id) < n)) {
            return std::string(key) + " has fewer entries than the " + std::to_string(n) + " tokens";
        }
    }
    return "";
}
