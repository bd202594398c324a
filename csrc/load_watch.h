// llama.cpp's callback while it loads: reports how far it is, and ends the load for what is raised meanwhile, as by a signal. A
// callback of ctypes loses what is raised before its first line. Private to binding.cpp.

#pragma once

#include "convert.h"

#include <optional>

struct load_watch {
    py::object                           report; // called with the share that is loaded, from 0 to 1; None: nobody is
    std::optional<py::error_already_set> raised = {};

    // llama_progress_callback, with the load_watch as its user data
    static bool callback(float share, void * user_data) {
        const py::gil_scoped_acquire lock;
        auto & watch = *(load_watch *) user_data;
        try {
            if (PyErr_CheckSignals() != 0) {
                throw py::error_already_set();
            }
            if (!watch.report.is_none()) {
                watch.report(share);
            }
        } catch (const py::error_already_set & e) { // which llama.cpp must not see
            watch.raised = e;
        }
        return !watch.raised;
    }

    // Raises what was raised.
    void check() const {
        if (raised) {
            throw py::error_already_set(*raised);
        }
    }
};
