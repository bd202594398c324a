// A GGUF as its parts, for a mutator that knows the format: what can be read of it is changed as such and put together again.

#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

struct gguf_parts {
    struct entry {
        std::string key;
        uint32_t    type;
        std::string value; // its bytes, the length of a text and the head of an array included
    };
    struct tensor {
        std::string           name;
        std::vector<uint64_t> dims;
        uint32_t              type;
        uint64_t              offset;
    };

    uint32_t            version   = 3;
    uint64_t            n_tensors = 0, n_entries = 0;
    std::vector<entry>  entries;
    std::vector<tensor> tensors;
    std::string         data; // with the padding before it

    static constexpr uint32_t STRING = 8, ARRAY = 9, N_TYPES = 13;

    // false: the bytes are none that can be taken apart
    bool read(const uint8_t * bytes, size_t size) {
        in = { bytes, size, 0 };
        uint32_t magic = 0;
        if (!take(magic) || memcmp(&magic, "GGUF", 4) != 0 || !take(version) || !take(n_tensors) || !take(n_entries)) {
            return false;
        }
        for (uint64_t i = 0; i < n_entries; ++i) {
            entry e;
            if (!take(e.key) || !take(e.type)) {
                return false;
            }
            const size_t begin = in.at;
            if (!skip_value(e.type)) {
                return false;
            }
            e.value.assign((const char *) bytes + begin, in.at - begin);
            entries.push_back(e);
        }
        for (uint64_t i = 0; i < n_tensors; ++i) {
            tensor t;
            uint32_t n_dims = 0;
            if (!take(t.name) || !take(n_dims) || n_dims > 8) {
                return false;
            }
            t.dims.resize(n_dims);
            for (uint64_t & n : t.dims) {
                if (!take(n)) {
                    return false;
                }
            }
            if (!take(t.type) || !take(t.offset)) {
                return false;
            }
            tensors.push_back(t);
        }
        const size_t begin = std::min((in.at + 31) / 32 * 32, size);
        data.assign((const char *) bytes + begin, size - begin);
        return true;
    }

    std::string write(size_t alignment) const {
        std::string out = "GGUF";
        put(out, version);
        put(out, n_tensors);
        put(out, n_entries);
        for (const entry & e : entries) {
            put(out, e.key);
            put(out, e.type);
            out += e.value;
        }
        for (const tensor & t : tensors) {
            put(out, t.name);
            put(out, (uint32_t) t.dims.size());
            for (const uint64_t n : t.dims) {
                put(out, n);
            }
            put(out, t.type);
            put(out, t.offset);
        }
        out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
        return out + data;
    }

    template <typename T>
    static void put(std::string & out, T value) {
        out.append((const char *) &value, sizeof(value));
    }
    static void put(std::string & out, const std::string & text) {
        put(out, (uint64_t) text.size());
        out += text;
    }

private:
    struct { const uint8_t * bytes; size_t size, at; } in = {};

    template <typename T>
    bool take(T & value) {
        if (in.size - in.at < sizeof(value)) {
            return false;
        }
        memcpy(&value, in.bytes + in.at, sizeof(value));
        in.at += sizeof(value);
        return true;
    }
    bool take(std::string & text) {
        uint64_t n = 0;
        if (!take(n) || n > in.size - in.at) {
            return false;
        }
        text.assign((const char *) in.bytes + in.at, n);
        in.at += n;
        return true;
    }
    bool skip_value(uint32_t type) {
        static const size_t SIZE[N_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
        std::string ignored;
        uint64_t    n = 1;
        if (type == ARRAY && (!take(type) || !take(n) || type == ARRAY)) {
            return false;
        }
        if (type >= N_TYPES) {
            return false;
        }
        if (type != STRING) {
            const size_t left = in.size - in.at;
            in.at += n > left / SIZE[type] ? left + 1 : n * SIZE[type];
            return in.at <= in.size;
        }
        for (uint64_t i = 0; i < n; ++i) {
            if (!take(ignored)) {
                return false;
            }
        }
        return true;
    }
};
