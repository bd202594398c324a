// A libFuzzer target: bytes as a file through all of csrc that reads one, in the order in which autodeco_gguf calls it
// (`make fuzz`). What it refuses it refuses with its own error; anything else that is thrown ends the run, as a touched byte
// that is not its own does, or a header that does not read back as it was written.

#include "arrays.h"
#include "errors.h"
#include "gguf_file.h"
#include "vocab.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>

// Half of the time went to stacks of allocations and to memory kept from being used again: what a file leaves is little, and
// a crash can be had again with ASAN_OPTIONS=malloc_context_size=30.
extern "C" const char * __asan_default_options() {
    return "malloc_context_size=0:max_malloc_fill_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=64";
}

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
static std::string as_file(std::string_view bytes) {
    static const int fd = memfd_create("input", 0);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes.data(), bytes.size(), 0) != (ssize_t) bytes.size()) {
        abort();
    }
    return "/proc/self/fd/" + std::to_string(fd);
}

// The bytes as a FILE, which costs no system call and no memory: one for all of them.
struct memory_file {
    std::string_view bytes;
    size_t           at = 0;

    static ssize_t read(void * self, char * output, size_t n) {
        auto & m = *(memory_file *) self;
        n = std::min(n, m.bytes.size() - m.at);
        memcpy(output, m.bytes.data() + m.at, n);
        m.at += n;
        return (ssize_t) n;
    }
    static int seek(void * self, off64_t * offset, int from) {
        auto & m = *(memory_file *) self;
        const off64_t at = *offset + (off64_t) (from == SEEK_END ? m.bytes.size() : from == SEEK_CUR ? m.at : 0);
        if (at < 0 || at > (off64_t) m.bytes.size()) {
            return -1;
        }
        *offset = (off64_t) (m.at = (size_t) at);
        return 0;
    }
};

static FILE * as_memory(std::string_view bytes) {
    static memory_file m;
    static FILE * const file = fopencookie(&m, "rb", { memory_file::read, nullptr, memory_file::seek, nullptr });
    m = { bytes, 0 };
    rewind(file);
    return file;
}

// Every 256th of them, the first included, from a file, as all are where this is no test.
static gguf_header read_header(std::string_view bytes, uint64_t start) {
    static size_t n = 0;
    return n++ % 256 ? gguf_header_read_from(as_memory(bytes), start) : gguf_header_read(as_file(bytes), start);
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
    const auto tensors = tensors_of(h);
    std::string header;
    try {
        header = gguf_header_build(h, OURS, { { "autodeco.version", "u32", (uint64_t) 1 }, { "autodeco.x", "str", "y" } }, tensors);
    } catch (const refusal &) {
        return; // a shape with a zero in it, which no tensor of ours has
    }
    check(header.size() % gguf_get_alignment(h.gguf.get()) == 0, "a header is padded");
    const gguf_header again = read_header(header, 0);
    check(tensors.empty() || again.data == header.size(), "the header that was built is all there is"); // ggml pads for tensors
    check(tensors_of(again) == tensors, "tensors read back as they were written");
    const std::string other = gguf_header_diff(h, again, OURS);
    check(other.empty() || may_differ(h, other), "metadata reads back as it was written");
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const std::string_view bytes((const char *) data, size);
    try {
        const gguf_header h = read_header(bytes, 0);
        read_values(h);
        read_weights(h, data, size);
        check(gguf_header_diff(h, h, {}).empty(), "a header does not differ from itself");
        build(h);
        if (gguf_get_n_tensors(h.gguf.get()) > 0 && strcmp(gguf_get_tensor_name(h.gguf.get(), 0), "autodeco.base_view") == 0) {
            const gguf_header view = read_header(bytes, h.data + gguf_get_tensor_offset(h.gguf.get(), 0));
            read_values(view);
            gguf_header_diff(view, h, OURS);
        }
    } catch (const refusal & e) {
        check(e.what()[0] != '\0' && (e.kind == BAD_FILE || e.kind == INVALID_INPUT), "a file is refused with a reason");
    }
    return 0;
}
