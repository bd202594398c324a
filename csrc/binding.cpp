// autodeco_gguf._core: the only file that knows Python. Converts, checks, releases the GIL, forwards.

#include "gguf_file.h"
#include "log_capture.h"
#include "sampler.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstdio>
#include <limits>

namespace py = pybind11;
using namespace py::literals;

using floats  = py::array_t<float, py::array::c_style | py::array::forcecast>;
using release = py::gil_scoped_release;

static std::string shape_of(const floats & a) {
    std::string s = "[";
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
        s += (i ? ", " : "") + std::to_string(a.shape(i));
    }
    return s + "]";
}

// a context address from Python; ctypes pointers are turned into one in sampler.py
static llama_context * context(uintptr_t address) {
    if (address == 0) {
        throw std::invalid_argument("the llama_context is NULL: closed, or never made");
    }
    return (llama_context *) address;
}

// ---- heads ----

using py_layers = std::vector<std::pair<floats, floats>>;

static std::vector<heads_layer_data> layers_of(const py_layers & layers, int64_t n_in, const char * head) {
    std::vector<heads_layer_data> result;
    for (const auto & [weight, bias] : layers) {
        if (weight.ndim() != 2 || bias.ndim() != 1 || weight.shape(1) != n_in || bias.shape(0) != weight.shape(0) || bias.shape(0) == 0) {
            throw std::invalid_argument(std::string(head) + ": layer " + std::to_string(result.size()) + " has weight " +
                shape_of(weight) + " and bias " + shape_of(bias) + ", expected [out, " + std::to_string(n_in) + "] and [out]");
        }
        result.push_back({ weight.data(), bias.data(), n_in, weight.shape(0) });
        n_in = weight.shape(0);
    }
    if (!result.empty() && n_in != 1) {
        throw std::invalid_argument(std::string(head) + ": the last layer has " + std::to_string(n_in) + " outputs, expected 1");
    }
    return result;
}

static std::shared_ptr<heads> heads_new(int64_t n_embd, int64_t n_vocab, float temp_scale, bool enhanced,
                                        const py_layers & temp, bool temp_gelu, const py_layers & top_p, bool top_p_gelu) {
    if (n_embd < 1 || n_vocab < 1 || n_embd > (1 << 24) || n_vocab > (1 << 28)) {
        throw std::invalid_argument("hidden size " + std::to_string(n_embd) + " or vocabulary " + std::to_string(n_vocab) +
                                    " is not a size a model has");
    }
    auto h = std::make_shared<heads>();
    h->n_embd     = n_embd;
    h->n_vocab    = n_vocab;
    h->temp_scale = temp_scale;
    h->enhanced   = enhanced;
    heads_init(*h, layers_of(temp,  n_embd, "temp_head"), temp_gelu,
                   layers_of(top_p, n_embd + (enhanced ? 5 : 1), "top_p_head"), top_p_gelu);
    return h;
}

static void check_rows(const floats & a, const char * name, int64_t n, int64_t width, bool allow_minus_inf) {
    if (a.ndim() != 2 || a.shape(0) != n || a.shape(1) != width) {
        throw std::invalid_argument(std::string(name) + " is " + shape_of(a) + ", expected [" +
                                    std::to_string(n) + ", " + std::to_string(width) + "]");
    }
    const float * data = a.data();
    for (int64_t i = 0; i < n; ++i) {
        bool any = false;
        for (int64_t j = 0; j < width; ++j) {
            const float v = data[i * width + j];
            const bool hidden = allow_minus_inf && v == -std::numeric_limits<float>::infinity();
            if (!std::isfinite(v) && !hidden) {
                throw std::invalid_argument(std::string(name) + " row " + std::to_string(i) + " holds " + std::to_string(v));
            }
            any = any || !hidden;
        }
        if (!any) {
            throw std::invalid_argument(std::string(name) + " row " + std::to_string(i) + " holds nothing but -inf");
        }
    }
}

static py::tuple evaluate(const std::shared_ptr<heads> & h, const floats & hidden, const floats & logits,
                          const std::string & device, bool use_temp, bool use_top_p, bool portable) {
    if (hidden.ndim() != 2) {
        throw std::invalid_argument("hidden is " + shape_of(hidden) + ", expected [n, " + std::to_string(h->n_embd) + "]");
    }
    const int64_t n = hidden.shape(0);
    check_rows(hidden, "hidden", n, h->n_embd, false);
    check_rows(logits, "logits", n, h->n_vocab, true);
    floats temperature(n), top_p(n);
    const float * hidden_data = hidden.data();
    const float * logits_data = logits.data();
    float * temperature_data  = temperature.mutable_data();
    float * top_p_data        = top_p.mutable_data();
    {
        release nogil;
        heads_runner runner;
        heads_runner_init(runner, h, { use_temp, use_top_p }, device, portable);
        heads_evaluate(runner, hidden_data, logits_data, n, temperature_data, top_p_data);
    }
    return py::make_tuple(temperature, top_p);
}

static std::vector<std::pair<std::string, std::string>> devices() {
    std::vector<std::pair<std::string, std::string>> result;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        result.emplace_back(ggml_backend_dev_name(dev), ggml_backend_dev_description(dev));
    }
    return result;
}

static void bind_heads(py::module_ & m) {
    py::class_<heads, std::shared_ptr<heads>>(m, "Heads")
        .def(py::init(&heads_new), py::kw_only(), "n_embd"_a, "n_vocab"_a, "temp_scale"_a, "enhanced"_a,
             "temp"_a, "temp_gelu"_a, "top_p"_a, "top_p_gelu"_a)
        .def("evaluate", &evaluate, "hidden"_a, "logits"_a, "device"_a, "use_temp"_a, "use_top_p"_a,
             "portable"_a = false);
    m.def("devices", &devices);
}

// ---- sampling ----

static llama_token sample(step_sampler & s, uintptr_t ctx_address, int32_t idx, const std::optional<floats> & changed) {
    llama_context * ctx = context(ctx_address);
    const float * logits = nullptr;
    if (changed) {
        const int64_t n = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
        if (changed->ndim() != 1 || changed->shape(0) != n) {
            throw std::invalid_argument("the logits processors returned " + shape_of(*changed) + ", expected [" + std::to_string(n) + "]");
        }
        logits = changed->data();
    }
    release nogil;
    return step_sample(s, ctx, idx, logits);
}

// (tokens, whether each ends a generation, {row: what went wrong}) of the outputs of the last decode
static py::tuple sample_rows(const std::vector<step_sampler *> & samplers, const std::shared_ptr<predictor> & p, uintptr_t ctx_address) {
    llama_context * ctx = context(ctx_address);
    std::vector<step_row> rows;
    for (step_sampler * s : samplers) {
        rows.push_back({ s });
    }
    {
        release nogil;
        step_sample_rows(rows, p.get(), ctx);
    }
    py::list tokens, ends;
    py::dict errors;
    for (size_t i = 0; i < rows.size(); ++i) {
        tokens.append(rows[i].token);
        ends.append(rows[i].ends);
        if (!rows[i].error.empty()) {
            errors[py::int_(i)] = rows[i].error;
        }
    }
    return py::make_tuple(tokens, ends, errors);
}

using ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// llama_decode's status
static int decode(uintptr_t ctx_address, const ints & tokens, const ints & positions, const ints & sequences, bool outputs) {
    llama_context * ctx = context(ctx_address);
    const size_t n = (size_t) tokens.size();
    if ((size_t) positions.size() != n || (size_t) sequences.size() != n) {
        throw std::invalid_argument("decode: tokens, positions and sequences differ in length");
    }
    std::vector<int32_t>        n_seq_id(n, 1);
    std::vector<llama_seq_id>   seq(sequences.data(), sequences.data() + n);
    std::vector<llama_seq_id *> seq_id(n);
    std::vector<int8_t>         logits(n, outputs);
    std::vector<llama_token>    token(tokens.data(), tokens.data() + n);
    std::vector<llama_pos>      pos(positions.data(), positions.data() + n);
    for (size_t i = 0; i < n; ++i) {
        seq_id[i] = &seq[i];
    }
    release nogil;
    return llama_decode(ctx, { (int32_t) n, token.data(), nullptr, pos.data(), n_seq_id.data(), seq_id.data(), logits.data() });
}

static floats logits_of(uintptr_t ctx_address, int32_t idx) {
    llama_context * ctx = context(ctx_address);
    const float * logits = llama_get_logits_ith(ctx, idx);
    if (!logits) {
        throw std::runtime_error("the last decode has no output " + std::to_string(idx));
    }
    return floats(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx))), logits);
}

static py::array_t<int32_t> draw(const floats & logits, float temperature, double top_p, int64_t n, uint32_t seed) {
    if (logits.ndim() != 1 || logits.shape(0) < 1 || n < 0 || !std::isfinite(temperature) || !std::isfinite(top_p)) {
        throw std::invalid_argument("draw: logits is " + shape_of(logits) + ", expected [n_vocab]; temperature, top_p and n "
                                    "must be finite and not negative");
    }
    py::array_t<int32_t> result(n);
    int32_t     * out  = result.mutable_data();
    const float * data = logits.data();
    const size_t  size = (size_t) logits.shape(0);
    release nogil;
    std::mt19937 rng(seed);
    draw_scratch scratch;
    for (int64_t i = 0; i < n; ++i) {
        draw_result r;
        const draw_status status = draw_token(data, size, temperature, top_p, uniform(rng), scratch, r);
        if (status != DRAW_OK) {
            throw std::invalid_argument(status == DRAW_NO_TOKEN ? "draw: every logit is -inf" : "draw: a logit is NaN or +inf");
        }
        out[i] = r.index;
    }
    return result;
}

static void bind_sampling(py::module_ & m) {
    py::class_<predictor, std::shared_ptr<predictor>>(m, "Predictor")
        .def(py::init([](std::shared_ptr<heads> h, bool use_temp, bool use_top_p) {
            return std::make_shared<predictor>(predictor { std::move(h), { use_temp, use_top_p }, nullptr, nullptr });
        }), "heads"_a, "use_temp"_a, "use_top_p"_a)
        .def("attach", [](predictor & p, uintptr_t ctx, int32_t seq_id) {
            return predictor_attach(p, context(ctx), seq_id, 1);
        }, "ctx"_a, "seq_id"_a, py::call_guard<release>())
        .def("attach_rows", [](predictor & p, uintptr_t ctx, int64_t n_rows) { // to every output, up to so many
            return predictor_attach(p, context(ctx), EVERY_OUTPUT, n_rows);
        }, "ctx"_a, "n_rows"_a, py::call_guard<release>())
        .def("detach", &predictor_detach, py::call_guard<release>())
        .def_property_readonly("attached", [](const predictor & p) { return p.gs != nullptr; })
        .def("in_graph", [](predictor & p, int64_t n) { // of the last decode, which had n outputs
            std::vector<float> t((size_t) n), q((size_t) n);
            return p.gs != nullptr && graph_sampler_read(p.gs, n, t.data(), q.data());
        }, "n"_a = 1);

    py::class_<step_sampler>(m, "Sampler")
        .def(py::init([](std::shared_ptr<predictor> p, std::optional<float> temperature, std::optional<double> top_p,
                         uint32_t seed, uintptr_t before, uintptr_t after, bool trace, bool entropy) {
            auto s = std::make_unique<step_sampler>();
            s->p           = std::move(p);
            s->temperature = temperature;
            s->top_p       = top_p;
            s->before      = (llama_sampler *) before;
            s->after       = (llama_sampler *) after;
            s->trace       = trace;
            s->entropy     = entropy;
            s->rng.seed(seed);
            return s;
        }), "predictor"_a, "temperature"_a, "top_p"_a, "seed"_a, "before"_a, "after"_a, "trace"_a, "entropy"_a)
        .def("sample", &sample, "ctx"_a, "idx"_a, "changed"_a)
        .def_property_readonly("records", [](const step_sampler & s) { return s.records; });

    py::class_<step_records, std::shared_ptr<step_records>>(m, "Records")
        .def("__len__", [](const step_records & r) { return r.all.size(); })
        .def("record", [](const step_records & r, size_t i) {
            const step_record & x = r.all.at(i);
            return py::make_tuple(x.id, x.temperature, x.top_p, x.entropy, x.nucleus, x.prob);
        }, "i"_a)
        .def("ids", [](const step_records & r) {
            py::list result(r.all.size());
            for (size_t i = 0; i < r.all.size(); ++i) {
                result[i] = r.all[i].id;
            }
            return result;
        })
        .def("parameters", [](const step_records & r) { // temperatures and top-p [2, n]
            floats values({ (py::ssize_t) 2, (py::ssize_t) r.all.size() });
            auto v = values.mutable_unchecked<2>();
            for (size_t i = 0; i < r.all.size(); ++i) {
                v(0, (py::ssize_t) i) = r.all[i].temperature;
                v(1, (py::ssize_t) i) = r.all[i].top_p;
            }
            return values;
        });

    m.def("sample_rows", &sample_rows, "samplers"_a, "predictor"_a, "ctx"_a);
    m.def("decode", &decode, "ctx"_a, "tokens"_a, "positions"_a, "sequences"_a, "outputs"_a);
    m.def("logits", &logits_of, "ctx"_a, "idx"_a);
    m.def("draw", &draw, "logits"_a, "temperature"_a, "top_p"_a, "n"_a, "seed"_a);
}

// ---- files ----

static py::object text(const char * s) {
    return py::bytes(s).attr("decode")("utf-8", "replace");
}

// (name, type, shape row-major, offset in the file, bytes) of every tensor, in file order
static py::list tensors_of(const gguf_header & h) {
    const gguf_context * gguf = h.gguf.get();
    py::list result;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        const int64_t * ne = gguf_get_tensor_ne(gguf, i);
        const int n_dims = h.n_dims[(size_t) i];
        py::tuple shape(n_dims);
        for (int d = 0; d < n_dims; ++d) {
            shape[n_dims - 1 - d] = ne[d];
        }
        result.append(py::make_tuple(text(gguf_get_tensor_name(gguf, i)),
                                     ggml_type_name(gguf_get_tensor_type(gguf, i)), shape,
                                     h.data + gguf_get_tensor_offset(gguf, i), gguf_get_tensor_size(gguf, i)));
    }
    return result;
}

static py::object scalar_of(gguf_type type, const void * data) {
    switch (type) {
        case GGUF_TYPE_UINT8:   return py::int_(*(const uint8_t  *) data);
        case GGUF_TYPE_INT8:    return py::int_(*(const int8_t   *) data);
        case GGUF_TYPE_UINT16:  return py::int_(*(const uint16_t *) data);
        case GGUF_TYPE_INT16:   return py::int_(*(const int16_t  *) data);
        case GGUF_TYPE_UINT32:  return py::int_(*(const uint32_t *) data);
        case GGUF_TYPE_INT32:   return py::int_(*(const int32_t  *) data);
        case GGUF_TYPE_UINT64:  return py::int_(*(const uint64_t *) data);
        case GGUF_TYPE_INT64:   return py::int_(*(const int64_t  *) data);
        case GGUF_TYPE_FLOAT32: return py::float_(*(const float  *) data);
        case GGUF_TYPE_FLOAT64: return py::float_(*(const double *) data);
        case GGUF_TYPE_BOOL:    return py::bool_(*(const int8_t  *) data != 0);
        default:                return py::none();
    }
}

// a scalar or string as itself, an array of strings as a list, any other array as None; KeyError when missing
static py::object value_of(const gguf_header & h, const std::string & key) {
    const gguf_context * gguf = h.gguf.get();
    const int64_t id = gguf_find_key(gguf, key.c_str());
    if (id < 0) {
        throw py::key_error(key);
    }
    const gguf_type type = gguf_get_kv_type(gguf, id);
    if (type == GGUF_TYPE_STRING) {
        return text(gguf_get_val_str(gguf, id));
    }
    if (type != GGUF_TYPE_ARRAY) {
        return scalar_of(type, gguf_get_val_data(gguf, id));
    }
    if (gguf_get_arr_type(gguf, id) != GGUF_TYPE_STRING) {
        return py::none();
    }
    py::list items;
    for (size_t i = 0; i < gguf_get_arr_n(gguf, id); ++i) {
        items.append(text(gguf_get_arr_str(gguf, id, i)));
    }
    return items;
}

static py::list keys_of(const gguf_header & h) {
    py::list keys;
    for (int64_t i = 0; i < gguf_get_n_kv(h.gguf.get()); ++i) {
        keys.append(text(gguf_get_key(h.gguf.get(), i)));
    }
    return keys;
}

// entries of an array; 0 when the key is missing or no array
static size_t array_length(const gguf_header & h, const std::string & key) {
    const int64_t id = gguf_find_key(h.gguf.get(), key.c_str());
    return id >= 0 && gguf_get_kv_type(h.gguf.get(), id) == GGUF_TYPE_ARRAY ? gguf_get_arr_n(h.gguf.get(), id) : 0;
}

static ggml_type type_by_name(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = (ggml_type) i;
        if (ggml_blck_size(type) > 0 && name == ggml_type_name(type)) {
            return type;
        }
    }
    throw std::invalid_argument("ggml has no type " + name);
}

using py_tensor_spec = std::tuple<std::string, std::string, std::vector<int64_t>>; // name, type, shape row-major
using py_key_value   = std::tuple<std::string, std::string, py::object>;           // key, u32|u64|f32|str|[str], value

static gguf_value value_from(const std::string & type, const py::object & value) {
    if (type == "u32")   { return value.cast<uint32_t>(); }
    if (type == "u64")   { return value.cast<uint64_t>(); }
    if (type == "f32")   { return value.cast<float>(); }
    if (type == "str")   { return value.cast<std::string>(); }
    if (type == "[str]") { return value.cast<std::vector<std::string>>(); }
    throw std::invalid_argument("metadata type " + type + " is not one that is written");
}

static py::bytes header_build(const gguf_header & base, const std::vector<std::string> & drop,
                              const std::vector<py_key_value> & set, const std::vector<py_tensor_spec> & tensors) {
    std::vector<std::pair<std::string, gguf_value>> values;
    for (const auto & [key, type, value] : set) {
        values.emplace_back(key, value_from(type, value));
    }
    std::vector<gguf_tensor_spec> specs;
    for (const auto & [name, type, shape] : tensors) {
        specs.push_back({ name, type_by_name(type), { shape.rbegin(), shape.rend() } });
    }
    return gguf_header_build(base, drop, values, specs);
}

// bytes of n elements in rows of row_length -> F32
static floats dequantize(const py::bytes & data, const std::string & type_name, int64_t n) {
    const ggml_type type = type_by_name(type_name);
    const std::string_view bytes = data;
    if (n < 0 || n % ggml_blck_size(type) != 0 || bytes.size() != ggml_row_size(type, n)) {
        throw std::invalid_argument(std::to_string(bytes.size()) + " bytes are not " + std::to_string(n) + " values of " + type_name);
    }
    floats result(n);
    if (type == GGML_TYPE_F32) {
        memcpy(result.mutable_data(), bytes.data(), bytes.size());
    } else if (const auto to_float = ggml_get_type_traits(type)->to_float) {
        to_float(bytes.data(), result.mutable_data(), n);
    } else {
        throw std::invalid_argument("type " + type_name + " holds no weights that ggml can read");
    }
    return result;
}

static py::bytes quantize(const floats & values, const std::string & type_name) {
    const ggml_type type = type_by_name(type_name);
    const int64_t row  = values.ndim() > 0 ? values.shape(values.ndim() - 1) : 0;
    const int64_t rows = row > 0 ? values.size() / row : 0;
    if (rows == 0 || row % ggml_blck_size(type) != 0 || ggml_quantize_requires_imatrix(type)) {
        throw std::invalid_argument("an array " + shape_of(values) + " cannot be written as " + type_name);
    }
    std::string bytes(rows * ggml_row_size(type, row), '\0');
    ggml_quantize_chunk(type, values.data(), bytes.data(), 0, rows, row, nullptr);
    return bytes;
}

static uintptr_t file_open(const std::string & path, uint64_t offset) {
    FILE * file = fopen(path.c_str(), "rb");
    if (file && fseeko(file, (off_t) offset, SEEK_SET) != 0) {
        fclose(file);
        file = nullptr;
    }
    if (!file) {
        throw std::runtime_error(path + ": " + strerror(errno));
    }
    return (uintptr_t) file;
}

static void bind_files(py::module_ & m) {
    py::class_<gguf_header>(m, "GgufHeader")
        .def(py::init(&gguf_header_read), "path"_a, "start"_a, py::call_guard<release>())
        .def_readonly("start", &gguf_header::start)
        .def_readonly("data", &gguf_header::data)
        .def_readonly("file_size", &gguf_header::file_size)
        .def_property_readonly("alignment", [](const gguf_header & h) { return gguf_get_alignment(h.gguf.get()); })
        .def("tensors", &tensors_of)
        .def("keys", &keys_of)
        .def("value", &value_of, "key"_a)
        .def("array_length", &array_length, "key"_a)
        .def("build", &header_build, "drop"_a, "set"_a, "tensors"_a)
        .def("diff", &gguf_header_diff, "other"_a, "ignore"_a)
        .def("check_vocab", &gguf_header_check_vocab);

    py::class_<log_capture>(m, "LogCapture")
        .def(py::init<bool>(), "forward"_a, py::call_guard<release>())
        .def_property_readonly("first_error", [](const log_capture & c) { return text(c.first_error().c_str()); });

    m.def("dequantize", &dequantize, "data"_a, "type"_a, "n"_a);
    m.def("quantize", &quantize, "values"_a, "type"_a);
    m.def("file_open", &file_open, "path"_a, "offset"_a);
    m.def("file_close", [](uintptr_t file) { fclose((FILE *) file); }, "file"_a);
}

// what goes wrong here is AutoDecoError in Python; pybind11's own errors stay what they are
static void translate(std::exception_ptr p) {
    std::string what;
    try {
        std::rethrow_exception(p);
    } catch (const py::builtin_exception &) {
        throw;
    } catch (const std::runtime_error & e) {
        what = e.what();
    } catch (const std::invalid_argument & e) {
        what = e.what();
    }
    const py::object type = py::module_::import("autodeco_gguf.errors").attr("AutoDecoError");
    PyErr_SetObject(type.ptr(), text(what.c_str()).ptr()); // ggml's reasons can quote bytes that are no UTF-8
}

PYBIND11_MODULE(_core, m) {
    m.doc() = "Private native core; use the classes and functions of autodeco_gguf.";
    py::register_local_exception_translator(translate);
    bind_heads(m);
    bind_sampling(m);
    bind_files(m);
}
