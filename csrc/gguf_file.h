// Reading and writing GGUF headers through ggml, which stands hostile files. No tensor data passes here.

#pragma once

#include "ggml-cpp.h"
#include "gguf.h"

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

// A parsed header. It may start anywhere in a file: a merged file has a second one inside (docs/format.md).
struct gguf_header {
    gguf_context_ptr gguf;
    uint64_t         start;     // of the header in the file
    uint64_t         data;      // of the tensor data in the file
    uint64_t         file_size;
    std::vector<int> n_dims;    // of each tensor; ggml forgets dimensions of size 1
};

// Throws std::runtime_error with ggml's own reason when the bytes at start are no GGUF header.
gguf_header gguf_header_read(const std::string & path, uint64_t start);

// a value to set; strings and string arrays besides the two numeric types the format uses
using gguf_value = std::variant<uint32_t, uint64_t, float, std::string, std::vector<std::string>>;

struct gguf_tensor_spec {
    std::string          name;
    ggml_type            type;
    std::vector<int64_t> ne; // ggml's order: the row length first
};

// A complete header (padding included): base's metadata without the keys that start with one of drop, then set,
// then the table of tensors. Throws std::invalid_argument for a name that is taken or too long, or a shape
// that the type cannot have.
std::string gguf_header_build(const gguf_header & base, const std::vector<std::string> & drop,
                              const std::vector<std::pair<std::string, gguf_value>> & set,
                              const std::vector<gguf_tensor_spec> & tensors);

// The first metadata key that differs between a and b, keys that start with one of ignore left out.
// Empty: none does.
std::string gguf_header_diff(const gguf_header & a, const gguf_header & b, const std::vector<std::string> & ignore);

// What would make llama.cpp abort or read out of bounds in the vocabulary; empty: nothing found.
std::string gguf_header_check_vocab(const gguf_header & h);
