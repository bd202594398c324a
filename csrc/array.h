// Arrays as the caller has them.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct f32_array { // row-major
    const float        * data;
    std::vector<int64_t> shape;

    // "[2, 3]", for messages
    std::string shape_text() const {
        std::string text = "[";
        for (size_t i = 0; i < shape.size(); ++i) {
            text += (i ? ", " : "") + std::to_string(shape[i]);
        }
        return text + "]";
    }
};
