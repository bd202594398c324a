// Reading GGUF headers through ggml, which stands hostile files, and writing them. No tensor data passes here.

#pragma once

#include "ggml-cpp.h"
#include "gguf.h"

#include <cstdint>
#include <cstdio>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

// A parsed header. It may start anywhere in a file: a merged file has a second one inside (docs/format.md).
struct gguf_header {
    gguf_context_ptr         gguf;
    uint64_t                 start;     // of the header in the file
    uint64_t                 data;      // of the tensor data in the file
    uint64_t                 file_size;
    std::vector<std::string> values;    // of the metadata, type and bytes
    std::vector<int>         n_dims;    // of each tensor; ggml forgets dimensions of size 1
};

// Throws with ggml's own reason when the bytes at start are no GGUF header, or with ours where it is larger than 64 MiB, aligned
// to more than 64 KiB, has a zero byte in a name, or stands in what is no regular file.
gguf_header gguf_header_read(const std::string & path, uint64_t start);
gguf_header gguf_header_read_from(FILE * file, uint64_t start);

using gguf_value       = std::variant<uint64_t, double, std::string, std::vector<std::string>>;
using gguf_entry       = std::tuple<std::string, std::string, gguf_value>;           // key, u32|u64|f32|str|[str], value
using gguf_tensor_spec = std::tuple<std::string, std::string, std::vector<int64_t>>; // name, type, shape row-major

// A complete header (padding included): base's metadata without the keys that start with one of drop, then set, none of which
// may be left, then the table of tensors. Throws for a name that is taken or too long, or a shape that the type cannot have.
std::string gguf_header_build(const gguf_header & base, const std::vector<std::string> & drop,
                              const std::vector<gguf_entry> & set, const std::vector<gguf_tensor_spec> & tensors);

// The first metadata key that differs between a and b, keys that start with one of ignore left out.
// Empty: none does.
std::string gguf_header_diff(const gguf_header & a, const gguf_header & b, const std::vector<std::string> & ignore);

// The metadata keys that have no array, in the file's order.
std::vector<std::string> gguf_header_keys(const gguf_header & h);

// A file that fclose takes, at an offset: what llama.cpp loads a model from that is not at a file's beginning. Throws where
// it cannot be opened.
FILE * file_open(const std::string & path, uint64_t offset);
