#include "matcher.h"

#include "errors.h"

#include <pybind11/stl.h>

namespace py = pybind11;

// It runs where the GIL is not held, and throws through llama.cpp as llama.cpp's own grammar does; guarded() meets both.
static py::object matcher_call(const llama_sampler * smpl, const char * method) {
    const py::object & matcher = *(const py::object *) smpl->ctx;
    py::object result = matcher.attr(method)();
    if (matcher.attr("is_error")().cast<bool>()) {
        const py::list lines = py::str(matcher.attr("get_error")()).attr("splitlines")();
        throw refusal(MODEL_FAILED, "the grammar or JSON schema: " + lines[0].cast<std::string>());
    }
    return result;
}

static llama_sampler_i matcher_sampler_i = {
    /* .name              = */ [](const llama_sampler *) { return "llguidance"; },
    /* .accept            = */ [](llama_sampler * smpl, llama_token token) {
        py::gil_scoped_acquire gil;
        ((py::object *) smpl->ctx)->attr("consume_token")(token);
    },
    /* .apply             = */ [](llama_sampler * smpl, llama_token_data_array * cur) {
        py::gil_scoped_acquire gil;
        const py::bytes bits = matcher_call(smpl, "compute_bitmask"); // a bit for each token
        const std::string_view mask = bits;
        for (size_t i = 0; i < cur->size; ++i) {
            const size_t id = (size_t) cur->data[i].id;
            if (id / 8 >= mask.size() || !((uint8_t) mask[id / 8] >> id % 8 & 1)) {
                cur->data[i].logit = -INFINITY;
            }
        }
    },
    /* .reset             = */ nullptr,
    /* .clone             = */ nullptr,
    /* .free              = */ [](llama_sampler * smpl) {
        py::gil_scoped_acquire gil;
        delete (py::object *) smpl->ctx;
    },
    /* .backend_init      = */ nullptr,
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ nullptr,
    /* .backend_set_input = */ nullptr,
    /* .backend_reset     = */ nullptr,
    /* .copy_state        = */ nullptr,
};

llama_sampler * matcher_sampler(const py::object & matcher) {
    return llama_sampler_init(&matcher_sampler_i, new py::object(matcher));
}
