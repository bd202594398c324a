// What makes the next file of one that was of interest. It knows the format, so that most of what it
// makes passes ggml's own checks; compiled without the sanitizers, as it is none of what is tested.

#include "gguf_parts.h"

#include "ggml.h"

#include <algorithm>

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

static const char * const KEYS[] = {
    "general.alignment", "general.architecture", "general.type", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type", "tokenizer.ggml.model", "autodeco.version", "autodeco.hidden_size", "autodeco.base_size",
    "autodeco.top_p_head.features", "split.count", "",
};
static const char * const TEXTS[] = { "", "rwkv", "llama", "\\x4", "\\x41b", "\\", "\\n", "ab", "autodeco.base_view" };
static const uint64_t NUMBERS[] = { 0, 1, 2, 3, 4, 7, 8, 31, 32, 33, 63, 64, 255, 256, 1 << 16, 1 << 20, 1ull << 31, 1ull << 32,
                                    1ull << 62, 1ull << 63, ~0ull, ~0ull - 31 };

struct mutator {
    uint64_t state;

    // splitmix64: the standard's generators take longer to seed than a file takes to be read
    size_t below(size_t n) {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return (size_t) (z ^ (z >> 31)) % n;
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
    mutator m { seed };
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
