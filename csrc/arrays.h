// Arrays as the caller has them, and as the bytes of a tensor in one of ggml's types.

#pragma once

#include "ggml.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

struct f32_array { // row-major
    const float        * data;
    std::vector<int64_t> shape;

    std::string shape_text() const; // "[2, 3]"
};

// ggml's type of this name. Throws where it has none.
ggml_type type_by_name(const std::string & name);

// n values out of the bytes of a tensor. Throws where they are not n, or the type holds no weights.
std::vector<float> dequantize(std::string_view bytes, const std::string & type_name, int64_t n);

// The bytes of a tensor. Throws where the type cannot have the shape, or needs an importance matrix.
std::string quantize(const f32_array & values, const std::string & type_name);
