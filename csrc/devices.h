// ggml's devices, and whether the fast buffers of the CPU compute what its ordinary ones do.

#pragma once

#include "ggml-backend.h"

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

// name, description, kind ("cpu", "gpu", "igpu", "accel", "meta"), bytes free and in all (0: the device does not say), and
// the ggml_backend_dev_t
using device_info = std::tuple<std::string, std::string, std::string, uint64_t, uint64_t, uintptr_t>;

std::vector<device_info> devices_list();

// Throws where there is none of that name, with those there are.
ggml_backend_dev_t device_by_name(const std::string & name);

// The name of the first operation of a graph that a device lacks; "" where it has all.
std::string device_missing_op(ggml_backend_dev_t dev, ggml_cgraph * graph);

// What the CPU's extra buffer types (AMX, repacked weights), into which llama.cpp loads quantized weights, compute for
// several rows against the ordinary buffers: how many products were compared, and "AMX q4_0" for each type of weights that
// is wrong, "" where all are right. Miscompiled kernels may end the process.
std::pair<size_t, std::string> extra_buffers_fault();
