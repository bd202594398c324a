// A libFuzzer target: bytes as a file through all of csrc that reads one, in the order in which autodeco_gguf calls it
// (`make fuzz`). What it refuses it refuses with its own error; anything else that is thrown ends the run, as a touched byte
// that is not its own does, or a header that does not read back as it was written.

#include "arrays.h"
#include "errors.h"
#include "gguf_file.h"
#include "gguf_parts.h"
#include "vocab.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <sys/mman.h>
#include <unistd.h>

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

// ---- the target ----

static const std::vector<std::string> OURS = { "autodeco." };

static void check(bool holds, const char * what) {
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

// as GgufFile has them (autodeco_gguf/files/gguf.py)
static std::vector<gguf_tensor_spec> tensors_of(const gguf_header & h) {
    std::vector<gguf_tensor_spec> tensors;
    for (int64_t i = 0; i < gguf_get_n_tensors(h.gguf.get()); ++i) {
        const int64_t * ne = gguf_get_tensor_ne(h.gguf.get(), i);
        const std::vector<int64_t> shape(std::reverse_iterator(ne + h.n_dims[(size_t) i]), std::reverse_iterator(ne));
        tensors.emplace_back(gguf_get_tensor_name(h.gguf.get(), i), ggml_type_name(gguf_get_tensor_type(h.gguf.get(), i)), shape);
    }
    return tensors;
}

static void read_values(const gguf_header & h) {
    size_t n = 0;
    for (const std::string & key : gguf_header_keys(h)) {
        const int64_t id = gguf_find_key(h.gguf.get(), key.c_str());
        check(id >= 0, "a key that is listed is found");
        n += gguf_get_kv_type(h.gguf.get(), id) == GGUF_TYPE_STRING ? strlen(gguf_get_val_str(h.gguf.get(), id))
                                                                 : *(const uint8_t *) gguf_get_val_data(h.gguf.get(), id);
    }
    n += gguf_header_check_vocab(h).size();
    check(n < SIZE_MAX, "what is read is read");
}

static void read_weights(const gguf_header & h, const uint8_t * data, size_t size) {
    for (int64_t i = 0; i < gguf_get_n_tensors(h.gguf.get()); ++i) {
        const uint64_t nbytes = gguf_get_tensor_size(h.gguf.get(), i), offset = gguf_get_tensor_offset(h.gguf.get(), i);
        if (offset > size || h.data > size - offset || nbytes > size - offset - h.data) {
            continue; // truncated, which GgufFile refuses
        }
        const ggml_type type = gguf_get_tensor_type(h.gguf.get(), i);
        const int64_t n = (int64_t) (nbytes / ggml_type_size(type)) * ggml_blck_size(type);
        try {
            // as far as they are ours: llama.cpp reads the base's
            dequantize({ (const char *) data + h.data + offset, nbytes }, ggml_type_name(type), n);
        } catch (const refusal &) {
        }
    }
}

// A file for the bytes that has no name.
static std::string as_file(int fd, const std::string & bytes) {
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes.data(), bytes.size(), 0) != (ssize_t) bytes.size()) {
        abort();
    }
    return "/proc/self/fd/" + std::to_string(fd);
}

// ggml ends a text at a zero byte, and makes 1 of any boolean that is not 0; an export that this changed is refused when it
// is read back.
static bool may_differ(const gguf_header & h, const std::string & key) {
    const int64_t id = gguf_find_key(h.gguf.get(), key.c_str());
    gguf_type type = gguf_get_kv_type(h.gguf.get(), id);
    type = type == GGUF_TYPE_ARRAY ? gguf_get_arr_type(h.gguf.get(), id) : type;
    return type == GGUF_TYPE_STRING || type == GGUF_TYPE_BOOL;
}

// What an export writes in front of a base's tensors reads back as the same.
static void build(const gguf_header & h) {
    static const int fd = memfd_create("built", 0);
    const auto tensors = tensors_of(h);
    std::string header;
    try {
        header = gguf_header_build(h, OURS, { { "autodeco.version", "u32", (uint64_t) 1 }, { "autodeco.x", "str", "y" } }, tensors);
    } catch (const refusal &) {
        return; // a shape with a zero in it, which no tensor of ours has
    }
    check(header.size() % gguf_get_alignment(h.gguf.get()) == 0, "a header is padded");
    const gguf_header again = gguf_header_read(as_file(fd, header), 0);
    check(tensors.empty() || again.data == header.size(), "the header that was built is all there is"); // ggml pads for tensors
    check(tensors_of(again) == tensors, "tensors read back as they were written");
    const std::string other = gguf_header_diff(h, again, OURS);
    check(other.empty() || may_differ(h, other), "metadata reads back as it was written");
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const int fd = memfd_create("input", 0);
    const std::string path = as_file(fd, { (const char *) data, size });
    try {
        const gguf_header h = gguf_header_read(path, 0);
        read_values(h);
        read_weights(h, data, size);
        check(gguf_header_diff(h, h, {}).empty(), "a header does not differ from itself");
        build(h);
        if (gguf_get_n_tensors(h.gguf.get()) > 0 && strcmp(gguf_get_tensor_name(h.gguf.get(), 0), "autodeco.base_view") == 0) {
            const gguf_header view = gguf_header_read(path, h.data + gguf_get_tensor_offset(h.gguf.get(), 0));
            read_values(view);
            gguf_header_diff(view, h, OURS);
        }
    } catch (const refusal & e) {
        check(e.what()[0] != '\0' && (e.kind == BAD_FILE || e.kind == INVALID_INPUT), "a file is refused with a reason");
    }
    return 0;
}

// ---- the mutator ----

static const char * const KEYS[] = {
    "general.alignment", "general.architecture", "general.type", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type", "tokenizer.ggml.model", "autodeco.version", "autodeco.hidden_size", "autodeco.base_size",
    "autodeco.top_p_head.features", "split.count", "",
};
static const char * const TEXTS[] = { "", "rwkv", "llama", "\\x4", "\\x41b", "\\", "\\n", "ab", "autodeco.base_view" };
static const uint64_t NUMBERS[] = { 0, 1, 2, 3, 4, 7, 8, 31, 32, 33, 63, 64, 255, 256, 1 << 16, 1 << 20, 1ull << 31, 1ull << 32,
                                    1ull << 62, 1ull << 63, ~0ull, ~0ull - 31 };

struct mutator {
    std::mt19937 rng;

    size_t below(size_t n) {
        return rng() % n;
    }
    template <typename T, size_t N>
    const T & any(const T (&of)[N]) {
        return of[below(N)];
    }
    template <typename T>
    T & any(std::vector<T> & of) {
        return of[below(of.size())];
    }
    std::string value(uint32_t type) {
        static const size_t SIZE[gguf_parts::N_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
        std::string out;
        if (type == gguf_parts::STRING) {
            gguf_parts::put(out, std::string(any(TEXTS)));
        } else if (type == gguf_parts::ARRAY) {
            const uint32_t item = below(5) < 3 ? gguf_parts::STRING : (uint32_t) below(gguf_parts::N_TYPES + 1);
            const size_t   n    = below(6);
            gguf_parts::put(out, item);
            gguf_parts::put(out, below(8) ? (uint64_t) n : any(NUMBERS));
            for (size_t i = 0; i < n && item != gguf_parts::ARRAY; ++i) {
                out += value(item);
            }
        } else {
            const uint64_t number = any(NUMBERS);
            out.assign((const char *) &number, type < gguf_parts::N_TYPES ? SIZE[type] : 8);
        }
        return out;
    }
    void change_entry(gguf_parts & g) {
        const size_t what = g.entries.empty() ? 0 : below(6);
        if (what == 0) {
            const uint32_t type = below(3) ? (uint32_t) below(gguf_parts::N_TYPES) : gguf_parts::ARRAY;
            g.entries.push_back({ any(KEYS), type, value(type) });
            ++g.n_entries;
        } else if (what == 1) {
            g.entries.erase(g.entries.begin() + (long) below(g.entries.size()));
            --g.n_entries;
        } else if (what == 2) {
            any(g.entries).key = any(KEYS);
        } else if (what == 3) {
            any(g.entries).type = (uint32_t) below(gguf_parts::N_TYPES + 1);
        } else {
            gguf_parts::entry & e = any(g.entries);
            e.value = value(e.type);
        }
    }
    void change_tensor(gguf_parts & g) {
        const size_t what = g.tensors.empty() ? 0 : below(6);
        if (what == 0) {
            g.tensors.push_back({ std::string(1 + below(70), 't'), { any(NUMBERS) }, (uint32_t) below(42), any(NUMBERS) });
            ++g.n_tensors;
        } else if (what == 1) {
            g.tensors.erase(g.tensors.begin() + (long) below(g.tensors.size()));
            --g.n_tensors;
        } else if (what == 2) {
            any(g.tensors).dims.resize(below(6), 1);
        } else if (what == 3) {
            any(g.tensors).type = (uint32_t) below(44);
        } else if (what == 4) {
            any(g.tensors).name = any(TEXTS);
        } else {
            gguf_parts::tensor & t = any(g.tensors);
            (t.dims.empty() || below(3) == 0 ? t.offset : any(t.dims)) = any(NUMBERS);
        }
    }
    // tensors one after the other, as ggml wants them, or a whole header is worth nothing
    static void lay_out(gguf_parts & g, uint64_t alignment) {
        uint64_t offset = 0;
        for (gguf_parts::tensor & t : g.tensors) {
            t.offset = offset;
            const auto type = (ggml_type) (t.type < GGML_TYPE_COUNT ? t.type : 0);
            uint64_t n = ggml_type_size(type);
            for (size_t i = 0; i < t.dims.size(); ++i) {
                n *= i == 0 ? t.dims[i] / (uint64_t) std::max<int64_t>(1, ggml_blck_size(type)) : t.dims[i];
            }
            offset += (n + alignment - 1) / alignment * alignment;
        }
        g.data.resize(std::min<uint64_t>(std::max<uint64_t>(g.data.size(), offset), 4096), '\1');
    }
};

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned int seed) {
    mutator m { std::mt19937(seed) };
    gguf_parts g;
    if (m.below(8) == 0 || !g.read(data, size)) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    for (size_t n = 1 + m.below(3); n > 0; --n) {
        m.below(2) ? m.change_entry(g) : m.change_tensor(g);
    }
    if (m.below(40) == 0) {
        (m.below(2) ? g.n_tensors : g.n_entries) = m.any(NUMBERS);
    }
    const size_t alignment = m.below(8) ? 32 : 64;
    if (m.below(8) != 0) {
        mutator::lay_out(g, alignment);
    }
    const std::string bytes = g.write(alignment);
    if (bytes.size() > max_size) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    memcpy(data, bytes.data(), bytes.size());
    return bytes.size();
}
