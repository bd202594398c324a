// autodeco_gguf._core: with convert.h, gil.h, load_watch.h and matcher.cpp all that knows Python. Converts, releases the GIL,
// forwards.

#include "arrays.h"
#include "context.h"
#include "convert.h"
#include "devices.h"
#include "errors.h"
#include "gguf_file.h"
#include "gil.h"
#include "likelihood.h"
#include "load_watch.h"
#include "log_capture.h"
#include "matcher.h"
#include "raw_logits.h"
#include "sampler.h"
#include "shortlist.h"
#include "training.h"
#include "vocab.h"

using release = py::gil_scoped_release;

// ---- heads ----

using py_layers = std::vector<std::pair<floats, floats>>;

static heads_mlp_data mlp_of(const py_layers & layers, bool gelu) {
    heads_mlp_data mlp = { {}, gelu };
    for (const auto & [weight, bias] : layers) {
        mlp.layers.emplace_back(array_of(weight), array_of(bias));
    }
    return mlp;
}

static void bind_heads(py::module_ & m) {
    py::class_<heads, std::shared_ptr<heads>>(m, "Heads")
        .def(py::init([](int64_t n_embd, int64_t n_vocab, float temp_scale, int64_t n_features, const py_layers & temp,
                         bool temp_gelu, const py_layers & top_p, bool top_p_gelu) {
            return freed_without_gil(heads_new(n_embd, n_vocab, temp_scale, n_features, mlp_of(temp, temp_gelu),
                                               mlp_of(top_p, top_p_gelu)));
        }), py::kw_only(), "n_embd"_a, "n_vocab"_a, "temp_scale"_a, "n_features"_a, "temp"_a, "temp_gelu"_a, "top_p"_a,
            "top_p_gelu"_a)
        .def("evaluate", [](const std::shared_ptr<heads> & h, const floats & hidden, const floats & logits,
                            const std::string & device, bool use_temp, bool use_top_p, bool portable) {
            const heads_values v = without_gil([&, x = array_of(hidden), y = array_of(logits)] {
                return heads_evaluate(h, x, y, { use_temp, use_top_p }, device, portable);
            });
            return py::make_tuple(array_from(v.temperature), array_from(v.top_p));
        }, "hidden"_a, "logits"_a, "device"_a, "use_temp"_a, "use_top_p"_a, "portable"_a = false);
    m.def("devices", &devices_list);
    m.def("heads_used_threads", &heads_used_threads);
    m.def("extra_buffers_fault", &extra_buffers_fault);
}

// ---- sampling ----

// (status, tokens, whether each ends an answer, {row: what went wrong}); other threads take the GIL where it is given up: once
static py::tuple decode_and_draw(uintptr_t ctx, const py::iterable & tokens_of, const py::iterable & positions,
                                 const py::iterable & sequences, const std::vector<sampler *> & samplers,
                                 const std::shared_ptr<predictor> & p) {
    std::vector<sampler_row> rows;
    for (sampler * s : samplers) {
        rows.push_back({ s });
    }
    const int status = without_gil([&, ids = ints_of(tokens_of), at = ints_of(positions), of = ints_of(sequences)] {
        const int failed = context_decode(context(ctx), ids, at, of, rows.size(), /*.whole_rows =*/ false);
        if (!failed) {
            sampler_sample_rows(rows, p.get(), context(ctx));
        }
        return failed;
    });
    py::list tokens, ends;
    py::dict errors;
    for (size_t i = 0; i < rows.size(); ++i) {
        tokens.append(rows[i].token);
        ends.append(rows[i].ends);
        if (!rows[i].error.empty()) {
            errors[py::int_(i)] = text(rows[i].error);
        }
    }
    return py::make_tuple(status, tokens, ends, errors);
}

// (log-probability, ((id, log-probability, probability), ...))
static py::object tuple_of(const likelihood & l) {
    py::tuple others(l.alternatives.size());
    for (size_t i = 0; i < l.alternatives.size(); ++i) {
        const alternative & a = l.alternatives[i];
        others[i] = py::make_tuple(a.id, a.logprob, a.prob);
    }
    return py::make_tuple(l.logprob, others);
}

static void bind_predictor(py::module_ & m) {
    py::class_<predictor, std::shared_ptr<predictor>>(m, "Predictor")
        .def(py::init([](std::shared_ptr<heads> h, bool use_temp, bool use_top_p) {
            return std::make_shared<predictor>(predictor { std::move(h), { use_temp, use_top_p }, nullptr, nullptr });
        }), "heads"_a, "use_temp"_a, "use_top_p"_a)
        .def("attach", [](predictor & p, uintptr_t ctx, int32_t seq) {
            return predictor_attach(p, context(ctx), seq, {});
        }, "ctx"_a, "seq_id"_a, py::call_guard<release>())
        .def("attach_rows", [](predictor & p, uintptr_t ctx, int64_t n_rows, const std::string & draw, bool entropy) {
            return predictor_attach(p, context(ctx), EVERY_OUTPUT, { n_rows, draw_place_of(draw), entropy });
        }, "ctx"_a, "n_rows"_a, "draw"_a, "entropy"_a = false, py::call_guard<release>())
        .def("detach", &predictor_detach, py::call_guard<release>())
        .def_property_readonly("attached", [](const predictor & p) { return p.gs != nullptr; })
        .def_property_readonly("draws", [](const predictor & p) { return p.gs && graph_sampler_draws(p.gs); })
        .def_readonly("why_not", &predictor::why_not)
        .def("in_graph", [](predictor & p, int64_t n) { // of the last decode, which had n outputs
            const release nogil;
            std::vector<float> t((size_t) n), q((size_t) n);
            return p.gs != nullptr && graph_sampler_read(p.gs, n, t.data(), q.data());
        }, "n"_a = 1);
}

// Copies of records, which another thread may add to: nothing of Python's is made meanwhile, which could end in any code.
template <typename F>
static auto with_lock(const sampler_records & r, F && read) {
    const std::lock_guard<std::mutex> lock(r.lock);
    return read();
}

static void bind_sampler(py::module_ & m) {
    py::class_<sampler>(m, "Sampler")
        .def(py::init([](std::shared_ptr<predictor> p, std::optional<float> temperature, std::optional<double> top_p,
                         uint32_t seed, uintptr_t before, uintptr_t after, bool trace, bool entropy) {
            return sampler { std::move(p), temperature, top_p, (llama_sampler *) before, (llama_sampler *) after, trace,
                             entropy, 1.0f, -1, std::mt19937(seed) };
        }), "predictor"_a, "temperature"_a, "top_p"_a, "seed"_a, "before"_a, "after"_a, "trace"_a, "entropy"_a)
        .def("sample", [](sampler & s, uintptr_t ctx, int32_t idx, const std::optional<floats> & changed) {
            const f32_array logits = changed ? array_of(*changed) : f32_array {};
            return without_gil([&] { return sampler_sample(s, context(ctx), idx, changed ? &logits : nullptr); });
        }, "ctx"_a, "idx"_a, "changed"_a)
        .def_readwrite("temperature", &sampler::temperature)
        .def_readwrite("top_p", &sampler::top_p)
        .def_readwrite("gate", &sampler::gate)
        .def_readwrite("top", &sampler::top)
        .def_readwrite("patience", &sampler::patience)
        .def_readonly("n_listed", &sampler::n_listed)
        .def_property_readonly("records", [](const sampler & s) { return s.records; });
    m.def("decode_and_draw", &decode_and_draw, "ctx"_a, "tokens"_a, "positions"_a, "sequences"_a, "samplers"_a,
          "predictor"_a);
    m.def("matcher_sampler", [](const py::object & matcher) { return (uintptr_t) matcher_sampler(matcher); }, "matcher"_a);

    py::class_<sampler_records, std::shared_ptr<sampler_records>>(m, "Records")
        .def("__len__", [](const sampler_records & r) { return with_lock(r, [&] { return r.all.size(); }); })
        .def("record", [](const sampler_records & r, size_t i) {
            const sampler_record x = with_lock(r, [&] { return r.all.at(i); });
            return py::make_tuple(x.id, x.temperature, x.top_p, x.entropy, x.nucleus, x.prob);
        }, "i"_a)
        .def("likelihood", [](const sampler_records & r, size_t i) -> py::object {
            const auto found = with_lock(r, [&] {
                return i < r.likelihoods.size() ? std::optional(r.likelihoods[i]) : std::nullopt;
            });
            return found ? tuple_of(*found) : py::none();
        }, "i"_a)
        .def("ids", [](const sampler_records & r) {
            py::list ids;
            for (const sampler_record & x : with_lock(r, [&] { return r.all; })) {
                ids.append(x.id);
            }
            return ids;
        })
        .def("parameters", [](const sampler_records & r) { // temperatures and top-p [2, n]
            const std::vector<sampler_record> all = with_lock(r, [&] { return r.all; });
            const size_t n = all.size();
            floats values({ (size_t) 2, n });
            for (size_t i = 0; i < n; ++i) {
                values.mutable_data()[i]     = all[i].temperature;
                values.mutable_data()[n + i] = all[i].top_p;
            }
            return values;
        });
}

static void bind_context(py::module_ & m) {
    py::class_<raw_logits>(m, "RawLogits")
        .def(py::init<int64_t>(), "n_vocab"_a)
        .def_readwrite("on", &raw_logits::on)
        .def_property_readonly("address", [](raw_logits & raw) { return (uintptr_t) &raw; })
        .def_property_readonly_static("callback", [](const py::object &) { return (uintptr_t) &raw_logits_callback; })
        .def("bind", [](raw_logits & raw, uintptr_t ctx) { raw_logits_bind(&raw, context(ctx)); }, "ctx"_a)
        .def("clear", &raw_logits_clear);
    m.def("logits_changed_by", [](uintptr_t model) { return text(raw_logits_changed_by((const llama_model *) model)); },
          "model"_a);
    m.def("raw_logits", [](uintptr_t ctx, int64_t n) {
        return array_from(without_gil([&] { return raw_logits_read(context(ctx), 0, n); }));
    }, "ctx"_a, "n"_a);

    m.def("decode", [](uintptr_t ctx, const py::iterable & tokens, const py::iterable & positions,
                       const py::iterable & sequences, size_t n_outputs) {
        return without_gil([&, ids = ints_of(tokens), at = ints_of(positions), of = ints_of(sequences)] {
            return context_decode(context(ctx), ids, at, of, n_outputs, /*.whole_rows =*/ true);
        });
    }, "ctx"_a, "tokens"_a, "positions"_a, "sequences"_a, "n_outputs"_a);
    m.def("goes_on", [](uintptr_t ctx, int32_t n, int32_t seq) { return context_goes_on(context(ctx), n, seq); },
          "ctx"_a, "n"_a, "seq"_a = 0);
    m.def("decode_next", [](uintptr_t ctx, int32_t token, int32_t n) { return context_decode_next(context(ctx), token, n); },
          "ctx"_a, "token"_a, "n"_a, py::call_guard<release>());
    m.def("logits", [](uintptr_t ctx, int32_t idx) {
        const float * logits = without_gil([&] { return context_logits(context(ctx), idx); });
        return floats(context_n_vocab(context(ctx)), logits);
    }, "ctx"_a, "idx"_a);
    m.def("likelihoods", [](uintptr_t ctx, int32_t idx, const std::vector<int32_t> & tokens, size_t top) {
        py::list result;
        for (const likelihood & l : without_gil([&] { return context_likelihoods(context(ctx), idx, tokens, top); })) {
            result.append(tuple_of(l));
        }
        return result;
    }, "ctx"_a, "idx"_a, "tokens"_a, "top"_a);
    m.def("stay", [](uintptr_t ctx, bool stay) { graph_sampler_stay(context(ctx), stay); }, "ctx"_a, "stay"_a,
          py::call_guard<release>());
    m.def("draw_on", [](const std::string & device, const floats & logits, float temperature, double top_p, int64_t n,
                        uint32_t seed) {
        const shortlist_tokens drawn = without_gil([&, x = array_of(logits)] {
            return shortlist_evaluate(x, temperature, top_p, n, seed, device);
        });
        return py::make_tuple(ints_from(drawn.tokens), ints_from(drawn.nucleus), array_from(drawn.prob), drawn.entropy);
    }, "device"_a, "logits"_a, "temperature"_a, "top_p"_a, "n"_a, "seed"_a);
    m.def("draw", [](const floats & logits, float temperature, double top_p, int64_t n, uint32_t seed) {
        return ints_from(without_gil([&, x = array_of(logits)] { return draw_tokens(x, temperature, top_p, n, seed); }));
    }, "logits"_a, "temperature"_a, "top_p"_a, "n"_a, "seed"_a);
}

static void bind_training(py::module_ & m) {
    m.def("training_features", [](const floats & logits, const floats & temperature, size_t threads) {
        return array_from(without_gil([&, x = array_of(logits), t = array_of(temperature)] {
            return training_features(x, t, threads);
        }));
    }, "logits"_a, "temperature"_a, "threads"_a);
    m.def("training_cross_entropy", [](const floats & logits, const py::iterable & targets, const floats & temperature,
                                       size_t threads) {
        return array_from(without_gil([&, x = array_of(logits), y = ints_of(targets), t = array_of(temperature)] {
            return training_cross_entropy(x, y, t, threads);
        }));
    }, "logits"_a, "targets"_a, "temperature"_a, "threads"_a);
    m.def("training_losses", [](const floats & logits, const py::iterable & targets, const floats & temperature,
                                const floats & top_p, double alpha, double tolerance, size_t threads) {
        return array_from(without_gil([&, x = array_of(logits), y = ints_of(targets), t = array_of(temperature),
                                       p = array_of(top_p)] {
            return training_losses(x, y, t, p, { alpha, tolerance }, threads);
        }));
    }, "logits"_a, "targets"_a, "temperature"_a, "top_p"_a, "alpha"_a, "tolerance"_a, "threads"_a);
}

// ---- files ----

// (name, type, shape row-major, offset in the file, bytes) of every tensor, in file order
static py::list tensors_of(const gguf_header & h) {
    const gguf_context * gguf = h.gguf.get();
    py::list result;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        const int64_t * ne = gguf_get_tensor_ne(gguf, i);
        const std::vector<int64_t> shape(std::reverse_iterator(ne + h.n_dims[(size_t) i]), std::reverse_iterator(ne));
        result.append(py::make_tuple(text(gguf_get_tensor_name(gguf, i)),
                                     ggml_type_name(gguf_get_tensor_type(gguf, i)), py::tuple(py::cast(shape)),
                                     h.data + gguf_get_tensor_offset(gguf, i), gguf_get_tensor_size(gguf, i)));
    }
    return result;
}

// numpy's names of the scalars, by gguf_type
static const char * const DTYPES[GGUF_TYPE_COUNT] = { "u1", "i1", "u2", "i2", "u4", "i4", "f4", "?", "", "", "u8", "i8", "f8" };

// a scalar or string as itself, an array of strings or a few numbers as a list, any other as None; KeyError when missing
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
        return py::array(py::dtype(DTYPES[type]), py::array::ShapeContainer {}, gguf_get_val_data(gguf, id)).attr("item")();
    }
    const gguf_type entries = gguf_get_arr_type(gguf, id);
    if (entries != GGUF_TYPE_STRING) {
        const auto n = (py::ssize_t) gguf_get_arr_n(gguf, id);
        return n > 8 ? py::none() : py::array(py::dtype(DTYPES[entries]), { n }, gguf_get_arr_data(gguf, id)).attr("tolist")();
    }
    py::list items;
    for (size_t i = 0; i < gguf_get_arr_n(gguf, id); ++i) {
        items.append(text(gguf_get_arr_str(gguf, id, i)));
    }
    return items;
}

// entries of an array; 0 when the key is missing or no array
static size_t array_length(const gguf_header & h, const std::string & key) {
    const int64_t id = gguf_find_key(h.gguf.get(), key.c_str());
    return id >= 0 && gguf_get_kv_type(h.gguf.get(), id) == GGUF_TYPE_ARRAY ? gguf_get_arr_n(h.gguf.get(), id) : 0;
}

static std::vector<gguf_entry> entries_of(const py::list & entries) {
    try {
        return entries.cast<std::vector<gguf_entry>>();
    } catch (const py::cast_error &) { // a text with half a surrogate in it, a negative number
        throw refusal(INVALID_INPUT, "no metadata that can be written: " + py::repr(entries).cast<std::string>());
    }
}

static void bind_files(py::module_ & m) {
    py::class_<gguf_header>(m, "GgufHeader")
        .def(py::init(&gguf_header_read), "path"_a, "start"_a, py::call_guard<release>())
        .def_readonly("data", &gguf_header::data)
        .def_readonly("file_size", &gguf_header::file_size)
        .def_property_readonly("alignment", [](const gguf_header & h) { return gguf_get_alignment(h.gguf.get()); })
        .def("tensors", &tensors_of)
        .def("scalar_keys", [](const gguf_header & h) {
            py::list keys;
            for (const auto & key : gguf_header_keys(h)) {
                keys.append(text(key));
            }
            return keys;
        })
        .def("value", &value_of, "key"_a)
        .def("array_length", &array_length, "key"_a)
        .def("build", [](const gguf_header & base, const std::vector<std::string> & drop, const py::list & set,
                         const std::vector<gguf_tensor_spec> & tensors) {
            return py::bytes(gguf_header_build(base, drop, entries_of(set), tensors));
        }, "drop"_a, "set"_a, "tensors"_a)
        .def("diff", [](const gguf_header & a, const gguf_header & b, const std::vector<std::string> & ignore) {
            return text(gguf_header_diff(a, b, ignore));
        }, "other"_a, "ignore"_a)
        .def("check_vocab", [](const gguf_header & h) { return text(gguf_header_check_vocab(h)); });

    py::class_<log_capture>(m, "LogCapture")
        .def(py::init<bool>(), "forward"_a, py::call_guard<release>())
        .def("__enter__", [](py::object c) { return c; })
        .def("__exit__", [](log_capture & c, const py::args &) { c.close(); })
        .def_property_readonly("first_error", [](const log_capture & c) { return text(c.first_error()); })
        .def_property_readonly("later_errors", [](const log_capture & c) {
            py::list lines;
            for (const std::string & line : c.later_errors()) {
                lines.append(text(line));
            }
            return lines;
        });

    m.def("log_levels", [](uint32_t levels, uintptr_t callback) { log_levels(levels, (ggml_log_callback) callback); },
          "levels"_a, "callback"_a);

    py::class_<load_watch>(m, "LoadWatch")
        .def(py::init([](const py::object & report) { return load_watch { report }; }), "report"_a)
        .def_property_readonly("address", [](load_watch & watch) { return (uintptr_t) &watch; })
        .def_property_readonly_static("callback", [](const py::object &) { return (uintptr_t) &load_watch::callback; })
        .def("check", &load_watch::check);

    m.def("dequantize", [](const py::bytes & data, const std::string & type, int64_t n) {
        return array_from(dequantize(data, type, n));
    }, "data"_a, "type"_a, "n"_a);
    m.def("quantize", [](const floats & values, const std::string & type) {
        return py::bytes(quantize(array_of(values), type));
    }, "values"_a, "type"_a);
    m.def("file_open", [](const std::string & path, uint64_t offset) { return (uintptr_t) file_open(path, offset); },
          "path"_a, "offset"_a);
    m.def("file_close", [](uintptr_t file) { fclose((FILE *) file); }, "file"_a);
}

static void bind_vocab(py::module_ & m) {
    m.def("vocab_piece", [](uintptr_t vocab, llama_token token, bool special) {
        return py::bytes(vocab_piece((const llama_vocab *) vocab, token, special));
    }, "vocab"_a, "token"_a, "special"_a);
    m.def("vocab_tokenize", [](uintptr_t vocab, const py::bytes & text, bool add_special, bool parse_special) {
        return without_gil([&, of = std::string(text)] {
            return vocab_tokenize((const llama_vocab *) vocab, of, add_special, parse_special);
        });
    }, "vocab"_a, "text"_a, "add_special"_a, "parse_special"_a);
    m.def("vocab_tokenizer", [] { return (uintptr_t) &vocab_tokenize_as_llama; });
    m.def("vocab_fault", [](uintptr_t vocab) { return text(vocab_fault((const llama_vocab *) vocab)); }, "vocab"_a);
}

// a refusal is one of autodeco_gguf's errors; all else is a bug, and stays what pybind11 makes of it
static void translate(std::exception_ptr p) {
    static const char * const NAMES[] = { "InvalidInput", "BadFile", "ModelFailed", "Closed" }; // of refusal_kind
    try {
        std::rethrow_exception(p);
    } catch (const refusal & e) {
        const py::object type = py::module_::import("autodeco_gguf.errors").attr(NAMES[e.kind]);
        PyErr_SetObject(type.ptr(), text(e.what()).ptr());
    }
}

PYBIND11_MODULE(_core, m) {
    m.doc() = "Private native core; use the classes and functions of autodeco_gguf.";
    py::register_local_exception_translator(translate);
    bind_heads(m);
    bind_predictor(m);
    bind_sampler(m);
    bind_context(m);
    bind_training(m);
    bind_files(m);
    bind_vocab(m);
}
