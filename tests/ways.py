"""Every way in which T and P of the test models can be computed, and how far each is from the official PyTorch code.

    python tests/ways.py    # puts the table into docs/devices.md

A new way is one more line in :data:`WAYS`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest
import rpc_helpers
from conftest import Case
from fake_devices import fake_devices

import autodeco_gguf as ad

HEADS = ("temperature", "top_p")
DIRECTORIES = [
    path for folder in ("fixtures", "more_fixtures") for path in sorted((Path(__file__).parent / folder).iterdir())
]
CASES = [path.name for path in DIRECTORIES if path.is_dir()]
PAGE = Path(__file__).parent.parent / "docs" / "devices.md"

Way = Callable[[], AbstractContextManager[Mapping[str, Any]]]
"""What must be there while a model is used so; yields the arguments of a Llama that uses it."""


@contextmanager
def _on_another_device() -> Iterator[Mapping[str, Any]]:
    with fake_devices("FAKE0"):
        yield {"device": "FAKE0"}


@contextmanager
def _drawn_on_the_device() -> Iterator[Mapping[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODECO_DRAW", "device")
        yield {"device": "none"}


@contextmanager
def _on_workers() -> Iterator[Mapping[str, Any]]:
    with rpc_helpers.running(2) as workers:
        yield {"rpc": rpc_helpers.addresses(workers), "n_gpu_layers": -1}


WAYS: dict[str, Way] = {
    "CPU, in the graph": lambda: nullcontext({"device": "none"}),
    "graph of other devices": _on_another_device,
    "host": lambda: nullcontext({"device": "none", "logits_all": True}),
    "draw on the device": _drawn_on_the_device,
    "two RPC workers": _on_workers,
}
"""The first is what the others' tokens are compared with."""


def load_case(name: str) -> tuple[Case, np.ndarray[Any, Any]]:
    """A test model, and T and P that PyTorch gives for its tokens, [2, n]; 1 for a head that it lacks."""
    directory = next(path for path in DIRECTORIES if path.name == name)
    case = conftest.load_case(name, directory.parent)
    given = [case.golden[head] for head in HEADS]
    lacking = [not case.golden.get(f"has_{head}", True) for head in HEADS]
    return case, np.array([np.where(none or np.isnan(v), 1.0, v) for v, none in zip(given, lacking, strict=True)])


@contextmanager
def loaded(way: Way, merged: Path) -> Iterator[ad.Llama]:
    """A Llama that goes this way, with the F32 cache."""
    with way() as arguments:
        llama = conftest.load(merged, f32_cache=True, **arguments)
        yield llama
        llama.close()


def difference(llama: ad.Llama, tokens: list[int], expected: np.ndarray[Any, Any]) -> float:
    """The largest, of what a token would be drawn with after each of a text; Llama.predict has a way of its own."""
    found = []
    for n in range(1, len(tokens) + 1):
        next(llama.generate(tokens[:n]))
        found.append(llama.trace.parameters[:, 0])
    return float(np.abs(np.transpose(found) - expected).max())


def answer(llama: ad.Llama, prompt: list[int], seed: int) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Tokens that are drawn, and with what, [2, n]."""
    llama.create_completion(prompt, max_tokens=24, seed=seed)
    return llama.trace.ids, llama.trace.parameters


def table() -> str:
    """The largest difference of every model by every way, as Markdown."""
    lines = [f"| model | {' | '.join(WAYS)} |", "|---" + "|---:" * len(WAYS) + "|"]
    with tempfile.TemporaryDirectory() as directory:
        for name in CASES:
            case, expected = load_case(name)
            merged = ad.export(case.base, case.heads, Path(directory) / f"{name}.gguf").path
            numbers = []
            for way in WAYS.values():
                with loaded(way, merged) as llama:
                    numbers.append(f"{difference(llama, case.tokens, expected):.1e}")
            lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    """Put the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(r"(?<=<!-- ways -->\n).*?(?=\n<!-- /ways -->)", re.S)
    PAGE.write_text(marked.sub(table(), text), encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
