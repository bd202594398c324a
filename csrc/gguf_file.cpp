#include "gguf_file.h"

#include "arrays.h"
#include "errors.h"
#include "log_capture.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <unordered_set>

// The largest header that is read: a vocabulary of a million tokens fits in, and a file that says so much of itself takes a
// few times as much memory.
static const uint64_t MAX_HEADER = 64 << 20;

// Files are written padded to it, so that it has to have a bound: larger than any page.
static const size_t MAX_ALIGNMENT = 1 << 16;

// beyond 2 GB, for which long is too short on Windows
static int seek(FILE * file, uint64_t offset, int from) {
#ifdef _WIN32
    return _fseeki64(file, (int64_t) offset, from);
#else
    return fseeko(file, (off_t) offset, from);
#endif
}

static int64_t tell(FILE * file) {
#ifdef _WIN32
    return _ftelli64(file);
#else
    return ftello(file);
#endif
}

using file_ptr = std::unique_ptr<FILE, int (*)(FILE *)>;

// bytes of a scalar of each gguf_type; 0 for strings and arrays
static const size_t VALUE_SIZE[GGUF_TYPE_COUNT] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

namespace {

// Walks over a header that ggml has accepted.
struct header_walker {
    const std::string & bytes;
    size_t              at = 0;

    void skip(uint64_t n) {
        if (n > bytes.size() - at) {
            throw refusal(BAD_FILE, "not a GGUF, or a broken one: its header ends early");
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
    // of a key or a tensor, which C code takes to end at a zero byte
    void skip_name() {
        const auto n = take<uint64_t>();
        const size_t begin = at;
        skip(n);
        if (bytes.find('\0', begin) < at) {
            throw refusal(BAD_FILE, "not a GGUF, or a broken one: a name with a zero byte at byte " + std::to_string(begin));
        }
    }
    void skip_value(uint32_t type) {
        if (type == GGUF_TYPE_STRING) {
            skip_string();
        } else if (type < GGUF_TYPE_COUNT) {
            skip(VALUE_SIZE[type]);
        }
    }
};

} // namespace

// what ggml's parser does not give: the values as they stand in the file, and how many dimensions tensors are listed with
static void read_raw(const std::string & bytes, gguf_header & h) {
    header_walker w { bytes };
    w.skip(8); // magic, version
    const auto n_tensors = w.take<int64_t>();
    const auto n_kv      = w.take<int64_t>();
    for (int64_t i = 0; i < n_kv; ++i) {
        w.skip_name();
        const size_t begin = w.at;
        uint32_t type = w.take<uint32_t>();
        uint64_t n    = 1;
        if (type == GGUF_TYPE_ARRAY) {
            type = w.take<uint32_t>();
            n    = w.take<uint64_t>();
        }
        for (uint64_t k = 0; k < n; ++k) {
            w.skip_value(type);
        }
        h.values.push_back(bytes.substr(begin, w.at - begin));
    }
    for (int64_t i = 0; i < n_tensors; ++i) {
        w.skip_name();
        const auto n_dims = w.take<uint32_t>();
        w.skip(n_dims * sizeof(int64_t) + sizeof(uint32_t) + sizeof(uint64_t)); // shape, type, offset
        h.n_dims.push_back(std::max(1, (int) n_dims));
    }
}

// The beginning of a file, read as far as it is asked for.
struct header_source {
    FILE *      file;
    uint64_t    size; // of the file from there on
    std::string bytes;

    static size_t read(void * self, void * output, uint64_t offset, size_t n) {
        auto & [file, size, bytes] = *(header_source *) self;
        const uint64_t end = std::min(offset + n, MAX_HEADER);
        while (bytes.size() < end) {
            const size_t have = bytes.size();
            bytes.resize((size_t) std::min<uint64_t>(have + (1 << 16), size));
            const size_t got = fread(bytes.data() + have, 1, bytes.size() - have, file);
            bytes.resize(have + got);
            if (got == 0) {
                break;
            }
        }
        const size_t there = bytes.size() > offset ? (size_t) std::min<uint64_t>(n, bytes.size() - offset) : 0;
        if (there > 0) {
            memcpy(output, bytes.data() + offset, there);
        }
        return there;
    }
};

// opening anything else, a pipe for one, could wait for ever
FILE * file_open(const std::string & path, uint64_t offset) {
    std::error_code error;
    const auto status = std::filesystem::status(std::filesystem::u8path(path), error);
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
        throw refusal(BAD_FILE, std::filesystem::is_directory(status) ? "is a directory" : "is no regular file");
    }
    file_ptr file(ggml_fopen(path.c_str(), "rb"), fclose);
    if (!file) {
        throw refusal(BAD_FILE, std::string("cannot be opened: ") + strerror(errno));
    }
    if (seek(file.get(), offset, SEEK_SET) != 0) {
        throw refusal(BAD_FILE, std::string("cannot be read: ") + strerror(errno));
    }
    return file.release();
}

gguf_header gguf_header_read(const std::string & path, uint64_t start) {
    return gguf_header_read_from(file_ptr(file_open(path, 0), fclose).get(), start);
}

gguf_header gguf_header_read_from(FILE * file, uint64_t start) {
    gguf_header h = {};
    h.start = start;
    if (seek(file, 0, SEEK_END) != 0) {
        throw refusal(BAD_FILE, std::string("cannot be read: ") + strerror(errno));
    }
    h.file_size = (uint64_t) tell(file);
    if (start > h.file_size || seek(file, start, SEEK_SET) != 0) {
        throw refusal(BAD_FILE, "ends before byte " + std::to_string(start));
    }
    header_source source { file, h.file_size - start, {} };
    log_capture log;
    h.gguf.reset(gguf_init_from_callback(header_source::read, &source, 0, h.file_size - start,
                                         { /*.no_alloc =*/ true, /*.ctx =*/ nullptr }));
    if (!h.gguf) {
        const bool too_large = source.bytes.size() >= MAX_HEADER;
        throw refusal(BAD_FILE, "not a GGUF, or a broken one: " +
            (too_large ? "its header is larger than " + std::to_string(MAX_HEADER) + " bytes" : log.first_error()));
    }
    const size_t alignment = gguf_get_alignment(h.gguf.get());
    if (alignment > MAX_ALIGNMENT) {
        throw refusal(BAD_FILE, "general.alignment is " + std::to_string(alignment) + ", expected at most " +
                                std::to_string(MAX_ALIGNMENT));
    }
    if (start % alignment != 0) {
        throw refusal(BAD_FILE, "stands at byte " + std::to_string(start) + ", which is not aligned to " +
                                std::to_string(alignment));
    }
    h.data = start + gguf_get_data_offset(h.gguf.get());
    read_raw(source.bytes, h);
    return h;
}

static bool starts_with_any(const char * key, const std::vector<std::string> & prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string & prefix) {
        return strncmp(key, prefix.c_str(), prefix.size()) == 0;
    });
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

static void append_entry(std::string & bytes, const gguf_entry & entry) {
    const auto & [name, type, value] = entry;
    const auto * n    = std::get_if<uint64_t>(&value);
    const auto * x    = std::get_if<double>(&value);
    const auto * text = std::get_if<std::string>(&value);
    const auto * list = std::get_if<std::vector<std::string>>(&value);
    const auto put = [&, &key = name](gguf_type as, const auto & v) {
        append(bytes, key);
        append(bytes, (uint32_t) as);
        append(bytes, v);
    };
    if (type == "u32" && n && *n <= UINT32_MAX) {
        put(GGUF_TYPE_UINT32, (uint32_t) *n);
    } else if (type == "u64" && n) {
        put(GGUF_TYPE_UINT64, *n);
    } else if (type == "f32" && (x || n)) {
        put(GGUF_TYPE_FLOAT32, x ? (float) *x : (float) *n);
    } else if (type == "str" && text) {
        put(GGUF_TYPE_STRING, *text);
    } else if (type == "[str]" && list) {
        put(GGUF_TYPE_ARRAY, (uint32_t) GGUF_TYPE_STRING);
        append(bytes, (uint64_t) list->size());
        for (const auto & item : *list) {
            append(bytes, item);
        }
    } else {
        throw refusal(INVALID_INPUT, "metadata key " + name + " cannot have its value as " + type);
    }
}

// The entry of a tensor, with ggml's order of dimensions, in the table of a header; returns the size of its data.
static uint64_t append_tensor(std::string & bytes, const gguf_tensor_spec & spec, uint64_t offset) {
    const auto & [name, type_name, shape] = spec;
    const ggml_type type = type_by_name(type_name);
    const bool shape_ok = !shape.empty() && shape.size() <= GGML_MAX_DIMS &&
        std::all_of(shape.begin(), shape.end(), [](int64_t n) { return n > 0; });
    if (name.empty() || name.size() >= GGML_MAX_NAME || !shape_ok || shape.back() % ggml_blck_size(type) != 0) {
        throw refusal(INVALID_INPUT, "tensor " + name + " cannot have this name, or this shape as " + type_name);
    }
    append(bytes, name);
    append(bytes, (uint32_t) shape.size());
    uint64_t rows = 1;
    for (size_t i = shape.size(); i-- > 0;) {
        append(bytes, shape[i]);
        rows *= i + 1 < shape.size() ? (uint64_t) shape[i] : 1;
    }
    append(bytes, (uint32_t) type);
    append(bytes, offset);
    return rows * ggml_row_size(type, shape.back());
}

std::string gguf_header_build(const gguf_header & base, const std::vector<std::string> & drop,
                              const std::vector<gguf_entry> & set, const std::vector<gguf_tensor_spec> & tensors) {
    // Values go over as they stand in the file, which takes a tenth of ggml's time for a vocabulary. ggml's writer also drops
    // dimensions of size 1, so that the last layer of a head, [1, n], would read back as a vector.
    uint64_t    n_kv = set.size(), alignment = GGUF_DEFAULT_ALIGNMENT;
    std::string bytes = "GGUF";
    bytes.reserve((size_t) (base.data - base.start) + (1 << 16)); // growing would copy a vocabulary
    append(bytes, (uint32_t) GGUF_VERSION);
    append(bytes, (uint64_t) tensors.size());
    const size_t n_kv_at = bytes.size();
    append(bytes, n_kv);
    for (int64_t i = 0; i < gguf_get_n_kv(base.gguf.get()); ++i) {
        const std::string key = gguf_get_key(base.gguf.get(), i);
        if (!starts_with_any(key.c_str(), drop)) {
            append(bytes, key);
            bytes += base.values[(size_t) i];
            alignment = key == "general.alignment" ? gguf_get_alignment(base.gguf.get()) : alignment;
            n_kv++;
        }
    }
    for (const auto & entry : set) {
        append_entry(bytes, entry);
    }
    memcpy(&bytes[n_kv_at], &n_kv, sizeof(n_kv));

    std::unordered_set<std::string> names;
    uint64_t offset = 0;
    for (const auto & t : tensors) {
        if (!names.insert(std::get<0>(t)).second) {
            throw refusal(INVALID_INPUT, "two tensors are named " + std::get<0>(t));
        }
        offset = GGML_PAD(offset + append_tensor(bytes, t, offset), alignment);
    }
    bytes.resize(GGML_PAD(bytes.size(), alignment), '\0');
    return bytes;
}

std::string gguf_header_diff(const gguf_header & a, const gguf_header & b, const std::vector<std::string> & ignore) {
    for (const bool forth : { true, false }) {
        const gguf_header & from = forth ? a : b, & to = forth ? b : a;
        for (int64_t i = 0; i < gguf_get_n_kv(from.gguf.get()); ++i) {
            const char * key = gguf_get_key(from.gguf.get(), i);
            const int64_t j  = gguf_find_key(to.gguf.get(), key);
            if (!starts_with_any(key, ignore) && (j < 0 || from.values[(size_t) i] != to.values[(size_t) j])) {
                return key;
            }
        }
    }
    return "";
}

std::vector<std::string> gguf_header_keys(const gguf_header & h) {
    std::vector<std::string> keys;
    for (int64_t i = 0; i < gguf_get_n_kv(h.gguf.get()); ++i) {
        if (gguf_get_kv_type(h.gguf.get(), i) != GGUF_TYPE_ARRAY) {
            keys.push_back(gguf_get_key(h.gguf.get(), i));
        }
    }
    return keys;
}
