#include "arrays.h"

#include "errors.h"

#include <cstring>
#include <functional>
#include <numeric>

std::string f32_array::shape_text() const {
    std::string text;
    for (const int64_t n : shape) {
        text += (text.empty() ? "" : ", ") + std::to_string(n);
    }
    return "[" + text + "]";
}

ggml_type type_by_name(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = (ggml_type) i;
        if (ggml_blck_size(type) > 0 && name == ggml_type_name(type)) {
            return type;
        }
    }
    throw refusal(INVALID_INPUT, "ggml has no type " + name);
}

std::vector<float> dequantize(std::string_view bytes, const std::string & type_name, int64_t n) {
    const ggml_type type = type_by_name(type_name);
    if (n < 0 || n % ggml_blck_size(type) != 0 || bytes.size() != ggml_row_size(type, n)) {
        throw refusal(INVALID_INPUT, std::to_string(bytes.size()) + " bytes are not " + std::to_string(n) + " values of " +
                                     type_name);
    }
    std::vector<float> result((size_t) n);
    if (n == 0) { // then there is no memory to copy to
        return result;
    }
    if (type == GGML_TYPE_F32) {
        memcpy(result.data(), bytes.data(), bytes.size());
    } else if (const auto to_float = ggml_get_type_traits(type)->to_float) {
        to_float(bytes.data(), result.data(), n);
    } else {
        throw refusal(INVALID_INPUT, "type " + type_name + " holds no weights that ggml can read");
    }
    return result;
}

std::string quantize(const f32_array & values, const std::string & type_name) {
    const ggml_type type = type_by_name(type_name);
    const int64_t size = std::accumulate(values.shape.begin(), values.shape.end(), (int64_t) 1, std::multiplies<>());
    const int64_t row  = values.shape.empty() ? 0 : values.shape.back();
    if (size == 0 || row % ggml_blck_size(type) != 0 || row == 0 || ggml_quantize_requires_imatrix(type)) {
        throw refusal(INVALID_INPUT, "an array " + values.shape_text() + " cannot be written as " + type_name);
    }
    std::string bytes(size / row * ggml_row_size(type, row), '\0');
    ggml_quantize_chunk(type, values.data, bytes.data(), 0, size / row, row, nullptr);
    return bytes;
}
