"""Writes the small whole GGUFs that the fuzzer starts from: ``python tests/fuzz/seeds.py DIRECTORY``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile.gguf_bytes import ARRAY, F32, I32, STRING, U32, U64, WIDTH, Entry, Gguf, Tensor, array, text, u32

HEADS = [
    Entry(b"autodeco.version", U32, u32(1)),
    Entry(b"autodeco.hidden_size", U32, u32(4)),
    Entry(b"autodeco.top_p_head.features", ARRAY, array(STRING, [text(b"temperature")], None)),
]


def plain(alignment: int = 32, *, tensors: bool = True, entries: list[Entry] | None = None) -> Gguf:
    """A model of two tiny tensors, one with a dimension of size 1."""
    found = [
        Entry(b"general.architecture", STRING, text(b"llama")),
        Entry(b"tokenizer.ggml.tokens", ARRAY, array(STRING, [text(b"a"), text(b""), text(b"bc")], None)),
        Entry(b"tokenizer.ggml.scores", ARRAY, array(F32, [b"\0" * 4] * 3, None)),
        Entry(b"tokenizer.ggml.token_type", ARRAY, array(I32, [u32(1)] * 3, None)),
        *(entries or []),
    ]
    if alignment != 32:
        found.append(Entry(b"general.alignment", U32, u32(alignment)))
    there = [Tensor(b"a.weight", [4, 2], 0, 0), Tensor(b"b", [3, 1], 0, alignment)] if tensors else []
    return Gguf(b"GGUF", 3, len(there), len(found), found, there, alignment, b"\1" * alignment * 2 if tensors else b"")


def merged() -> Gguf:
    """Heads, and the base's own header as the first tensor's data."""
    base = plain()
    header = base.header()
    view = header + b"\0" * (-len(header) % 32)
    g = plain(entries=HEADS)
    for tensor in g.tensors:
        tensor.offset += len(view)
    g.tensors.insert(0, Tensor(b"autodeco.base_view", [len(view)], 24, 0))
    g.n_tensors += 1
    g.data = view + g.data
    return g


def of_every_type() -> Gguf:
    """A tensor of each of ggml's types that is 256 values long."""
    from gguf.constants import GGML_QUANT_SIZES

    g = plain()
    g.tensors, g.data = [], b""
    for kind, (block, size) in GGML_QUANT_SIZES.items():
        g.tensors.append(Tensor(kind.name.encode(), [block], int(kind), len(g.data)))
        g.data += b"\3" * (size + -size % 32)
    g.n_tensors = len(g.tensors)
    return g


def seeds() -> dict[str, bytes]:
    scalars = [Entry(b"x%d" % kind, kind, b"\1" * width) for kind, width in enumerate(WIDTH) if width]
    arrays = [Entry(b"y%d" % kind, ARRAY, array(kind, [b"\1" * WIDTH[kind]] * 2, None)) for kind in (0, 7, U64, 12)]
    rwkv = plain(entries=[Entry(b"tokenizer.ggml.model", STRING, text(b"rwkv"))])
    rwkv.entries[1].value = array(STRING, [text(t) for t in (b"a", b"\\x41", b"\\x41b", b"\\n", b"\\")], None)
    found = {
        "plain": plain(),
        "aligned": plain(64),
        "empty": plain(tensors=False),
        "adapter": plain(entries=[*HEADS, Entry(b"general.type", STRING, text(b"adapter"))]),
        "values": plain(entries=scalars + arrays),
        "merged": merged(),
        "types": of_every_type(),
        "rwkv": rwkv,
    }
    return {name: g.bytes() for name, g in found.items()}


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        (directory / f"{name}.gguf").write_bytes(content)


if __name__ == "__main__":
    main()
