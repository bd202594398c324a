"""What becomes of a process that does wrong things with a model: stock llama-cpp-python beside autodeco_gguf.

Each case runs in a process of its own, with each of the two, several times; prints the table of docs/reliability.md.

    python benchmarks/reliability.py --json benchmarks/reliability.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
SIDES = ("stock", "autodeco_gguf")
TIMEOUT_S = 60
PROMPT = [0, 284, 97, 12, 301]

sys.path.insert(0, str(Path(__file__).parent))


class Model:
    """A model of one of the two, by the file that a case asks for."""

    def __init__(self, side: str, directory: Path) -> None:
        self.side, self._directory = side, directory

    def open(self, name: str = "base", **kwargs: Any) -> Any:
        """A ``Llama``, of ``llama_cpp`` or of ``autodeco_gguf``, of a file of the directory."""
        given = {"n_ctx": 64, "n_threads": 1, "verbose": False, **kwargs}
        path = str(self._directory / f"{name}.gguf")
        if self.side == "stock":
            from llama_cpp import Llama

            return Llama(path, **given)
        import autodeco_gguf as ad

        return ad.Llama(path, heads=self._directory / "adapter.gguf", **given)


def said(llm: Any, n: int = 8, **kwargs: Any) -> str:
    """An answer."""
    return str(llm(PROMPT, max_tokens=n, seed=1, **kwargs)["choices"][0]["text"])


# ---- cases: each gives what it got, or raises ----


def threads(m: Model) -> str:
    """Four threads generate with one model."""
    llm = m.open()
    alone, got = said(llm, 32), []
    workers = [threading.Thread(target=lambda: got.append([said(llm, 32) for _ in range(5)])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    right = sum(text == alone for texts in got for text in texts)
    return "answers as alone" if right == 20 else f"wrong answers: {right} of 20 are those of one thread"


def after_close(m: Model) -> str:
    """The model is used after close()."""
    llm = m.open()
    llm.close()
    return said(llm)


def close_meanwhile(m: Model) -> str:
    """close() while another thread generates."""
    llm, begun = m.open(n_ctx=2048), threading.Event()
    found: list[str] = []

    def work() -> None:
        try:
            for _ in llm(PROMPT, max_tokens=1500, stream=True, logit_bias={2: -100.0}):
                begun.set()
            found.append("answers")
        except Exception as e:
            found.append(f"error: {type(e).__name__}")

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(20)
    llm.close()
    thread.join()
    return found[0]


def forked(m: Model) -> str:
    """The child of a fork uses the model, of two threads."""
    llm = m.open(n_threads=2)
    said(llm)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            said(llm)
            os._exit(0)
        except Exception as e:
            print(f"error: {type(e).__name__}: {e}", flush=True)
            os._exit(3)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 3:
        os._exit(0)
    return "answers" if status == 0 else f"the child ends with {ended(status)}"


def grammar(text: str) -> Callable[[Model], str]:
    def case(m: Model) -> str:
        from llama_cpp import LlamaGrammar

        return f"answers: {said(m.open(), grammar=LlamaGrammar.from_string(text, verbose=False))!r}"

    return case


def schema(m: Model) -> str:
    """A JSON schema with a keyword that is not known."""
    llm = m.open()
    form = {"type": "json_object", "schema": {"type": "string", "frobnicate": 3}}
    llm.create_chat_completion([{"role": "user", "content": "a"}], response_format=form, max_tokens=4)
    return "answers, and passes it over"


def file(name: str) -> Callable[[Model], str]:
    return lambda m: f"answers: {said(m.open(name))!r}"


def not_finite(m: Model) -> str:
    """Weights that are NaN."""
    return f"answers: {said(m.open('nan'), 4)!r}"


def nothing_allowed(m: Model) -> str:
    """A logits processor that allows no token."""
    from llama_cpp import LogitsProcessorList

    processors = LogitsProcessorList([lambda ids, scores: scores - np.inf])
    return f"answers: {said(m.open(), 4, logits_processor=processors)!r}"


def template(m: Model) -> str:
    """A chat template that makes a text of a gigabyte."""
    import resource

    llm = m.open("template")
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        llm.create_chat_completion([{"role": "user", "content": "a"}], max_tokens=2)
        text = "answers"
    except Exception as e:
        text = f"error: {type(e).__name__}: {e}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    return f"{text}, after {round(grown, -2)} MB" if grown > 500 else text


def processor_raises(m: Model) -> str:
    """A logits processor raises; then the model is asked again."""
    from llama_cpp import LogitsProcessorList

    def fail(ids: Any, scores: Any) -> Any:
        raise KeyError("mine")

    llm = m.open()
    alone = said(llm)
    try:
        said(llm, logits_processor=LogitsProcessorList([fail]))
    except KeyError:
        return "the exception, then answers as before" if said(llm) == alone else "wrong answers"
    return "answers, and the exception is lost"


CASES: dict[str, tuple[str, Callable[[Model], str]]] = {
    "threads": ("one model from four threads", threads),
    "closed": ("used after close()", after_close),
    "closing": ("close() while another thread generates", close_meanwhile),
    "fork": ("used by the child of a fork", forked),
    "raises": ("a logits processor raises, the model is asked again", processor_raises),
    "grammar": ("a grammar that does not parse", grammar("root ::= (")),
    "rootless": ("a grammar without root", grammar('x ::= "a"')),
    "recursive": ("a left-recursive grammar", grammar('root ::= root "a"')),
    "undefined": ("a grammar with a rule that is not defined", grammar("root ::= x")),
    "schema": ("a JSON schema with an unknown keyword", schema),
    "none": ("no token allowed", nothing_allowed),
    "nan": ("weights of NaN", not_finite),
    "template": ("a chat template that makes a gigabyte", template),
    "blocks": ("file: no blocks", file("blocks")),
    "context": ("file: a context of 4 billion tokens", file("context")),
    "scores": ("file: fewer scores than tokens", file("scores")),
    "twice": ("file: a token that is there twice", file("twice")),
    "rwkv": ("file: another kind of vocabulary", file("rwkv")),
    "value": ("file: heads of a million values", file("value")),
    "integers": ("file: embeddings of integers", file("integers")),
    "experts": ("file: 60,000 experts", file("experts")),
    "cut": ("file: its end is missing", file("cut")),
}


def prepare(directory: Path) -> None:
    """The files of the cases, by what the tests break files with."""
    sys.path.insert(0, str(ROOT / "tests"))
    from broken import Kind, rewrite

    import autodeco_gguf as ad

    fixture = ROOT / "tests" / "fixtures" / "qwen2"
    base = directory / "base.gguf"
    base.write_bytes((fixture / "base.gguf").read_bytes())
    ad.export(base, fixture / "heads", directory / "adapter.gguf", adapter=True)
    (directory / "cut.gguf").write_bytes(base.read_bytes()[:-5000])
    gigabyte = (
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(27) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
    )
    metadata: dict[str, dict[str, Any]] = {
        "blocks": {"qwen2.block_count": (0, Kind.UINT32)},
        "context": {"qwen2.context_length": (2**32 - 1, Kind.UINT32)},
        "scores": {"tokenizer.ggml.scores": ([1.0], Kind.ARRAY, Kind.FLOAT32)},
        "twice": {"tokenizer.ggml.tokens": (["a"] * 384, Kind.ARRAY, Kind.STRING)},
        "rwkv": {"tokenizer.ggml.model": ("rwkv", Kind.STRING)},
        "value": {"qwen2.attention.value_length": (1 << 20, Kind.UINT32)},
        "experts": {"qwen2.expert_count": (60_000, Kind.UINT32)},
        "template": {"tokenizer.chat_template": (gigabyte, Kind.STRING)},
    }
    for name, changed in metadata.items():
        rewrite(base, directory / f"{name}.gguf", metadata=changed)
    rewrite(base, directory / "integers.gguf", edit=lambda tensors: [as_integers(t) for t in tensors])
    rewrite(base, directory / "nan.gguf", edit=lambda tensors: [spoilt(t) for t in tensors])


def as_integers(tensor: Any) -> Any:
    from gguf import GGMLQuantizationType

    name, data, kind = tensor
    return (
        (name, data.astype(np.int32), GGMLQuantizationType.I32) if name == "token_embd.weight" else (name, data, kind)
    )


def spoilt(tensor: Any) -> Any:
    name, data, kind = tensor
    return (name, np.full_like(data, np.nan), kind) if name == "output_norm.weight" else tensor


# ---- runs ----


def ended(status: int) -> str:
    """An exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def outcome(case: str, side: str, directory: Path) -> str:
    """What a case came to in a process of its own."""
    command = [sys.executable, __file__, "--case", case, "--side", side, "--directory", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return "hangs"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        return ended(done.returncode)
    return lines[-1]


def run_case(case: str, side: str, directory: Path) -> None:
    try:
        text = CASES[case][1](Model(side, directory))
    except Exception as e:
        text = f"error: {type(e).__name__}: {e}"
    print(" ".join(text.split()).replace(f"{directory}/", ""), flush=True)


def table(results: dict[str, dict[str, dict[str, int]]], runs: int) -> str:
    """As Markdown."""
    lines = ["| case | stock llama-cpp-python | autodeco_gguf |", "| --- | --- | --- |"]
    for case, sides in results.items():
        cells = [
            "; ".join(text[:110] + (f" ({n} of {runs})" if n < runs else "") for text, n in sides[side].items())
            for side in SIDES
        ]
        lines.append(f"| {CASES[case][0]} | {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--runs", type=int, default=3, help="of each case")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    for hidden in ("--case", "--side", "--directory"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run_case(args.case, args.side, Path(args.directory))
        return
    results: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        for case in args.only:
            runs = {side: [outcome(case, side, Path(directory)) for _ in range(args.runs)] for side in SIDES}
            results[case] = {side: dict(Counter(found)) for side, found in runs.items()}
            print(case, results[case], file=sys.stderr, flush=True)
    print(table(results, args.runs))
    if args.json:
        from overhead import machine

        args.json.write_text(json.dumps({"machine": machine(), "runs": args.runs, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
