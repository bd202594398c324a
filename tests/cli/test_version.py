"""The versions, said without loading what is large."""

from __future__ import annotations

import re

from broken import spawn

import autodeco_gguf as ad

LOADED = """
import sys
from autodeco_gguf.cli import main
try:
    main()
except SystemExit:
    print(sorted({"numpy", "llama_cpp", "rich", "autodeco_gguf._core"} & sys.modules.keys()))
"""


def test_the_version_names_llama_cpp() -> None:
    outcome = spawn("--version", python=("-c", LOADED))
    version, loaded = outcome.out.splitlines()
    ours = re.escape(f"autodeco-gguf, version {ad.__version__}")
    assert re.fullmatch(ours + r" \(llama\.cpp [0-9a-f]{7,}\S* with ggml [\d.]+, llama-cpp-python [\d.]+\)", version)
    assert (loaded, outcome.err) == ("[]", "")
