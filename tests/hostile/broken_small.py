"""Small files broken by someone who knows their formats: JSON, JSONL, journals, safetensors, .bin, .npz."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    2**31,
    2**32,
    2**63,
    2**64,
    -(2**70),
    10**400,
    "",
    "x",
    "\0",
    "\x1b[2J",
    "\ud800",
    "é",
    "9" * 50,
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": []}},
    [1, "a", {}],
    ["x"] * 100,
    {"role": "user"},
    "user",
    [0.1, 0.2],
    "boxed",
    "1/2",
]


def odd(rng: random.Random) -> Any:
    return rng.choice(ODD)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(*at, key) for key, _ in items] + [p for key, v in items for p in places(v, (*at, key))]


def change_json(rng: random.Random, value: Any) -> Any:
    """One thing in a JSON value is another, is gone, is there under another name, or is all there is."""
    value = json.loads(json.dumps(value))
    where = places(value)
    if not where or rng.random() < 0.05:
        return odd(rng)
    *parents, last = rng.choice(where)
    parent = value
    for key in parents:
        parent = parent[key]
    choice = rng.random()
    if choice < 0.7:
        parent[last] = odd(rng)
    elif choice < 0.85 or isinstance(parent, list):
        del parent[last]
    else:
        parent[rng.choice(["", "\0", "x" * 3000, last.upper(), "é"])] = parent.pop(last)
    return value


def break_text(rng: random.Random, raw: bytes) -> bytes:
    """Text that is no JSON, or JSON that no reader expects."""
    n = rng.choice([100, 1500, 100_000])
    return rng.choice(
        [
            b"",
            b"\0",
            b"\xff\xfe{}",
            b"\xef\xbb\xbf" + raw,
            raw[: rng.randint(0, len(raw))],
            raw + raw,
            b"[" * n,
            b'{"a":' * n,
            b"[" * n + b"]" * n,
            b"9" * 5000,
            b'{"hidden_size": ' + b"9" * 5000 + b"}",
            b"-" * 9,
            b"1e999",
            b"NaN",
            b'"\\ud800"',
            raw.replace(b"1", b"1" * 5000, 1),
            raw.replace(b":", b":" + b"[" * n, 1),
            raw.replace(b'"', b"'"),
            b"null",
            b"[]",
            raw.decode("utf-8", "replace").encode("utf-16"),
            raw.replace(b"\n", b"\r"),
            raw.replace(b"{", b"{" + b" " * 2_000_000, 1),
            rng.randbytes(300),
            bytes(raw[:9]) + rng.randbytes(30) + raw[9:],
        ]
    )


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=rng_ascii(value)).encode("utf-8", "surrogatepass")


def rng_ascii(value: Any) -> bool:
    return len(str(value)) % 2 == 0


def broken_json(rng: random.Random, value: Any) -> bytes:
    for _ in range(rng.choice([1, 1, 2])):
        value = change_json(rng, value)
    return break_text(rng, dump(value)) if rng.random() < 0.25 else dump(value)


def broken_lines(rng: random.Random, lines: list[Any]) -> bytes:
    """JSONL with a line or two that are odd, missing, doubled or cut."""
    raw = [dump(line) for line in lines]
    for _ in range(rng.choice([1, 1, 2])):
        i, choice = rng.randrange(len(raw)), rng.random()
        if choice < 0.6:
            raw[i] = broken_json(rng, rng.choice(lines))
        elif choice < 0.7:
            raw[i] = break_text(rng, raw[i])
        elif choice < 0.8 and len(raw) > 1:
            del raw[i]
        else:
            raw.insert(rng.randint(0, len(raw)), raw[i])
    return rng.choice([b"\n", b"\n", b"\n", b"\r\n", b"\n\n"]).join(raw) + rng.choice([b"\n", b"\n", b""])


# ---- tensors ----


def broken_safetensors(rng: random.Random, raw: bytes) -> bytes:
    (n,) = struct.unpack_from("<Q", raw)
    header, data = json.loads(raw[8 : 8 + n]), raw[8 + n :]
    choice = rng.random()
    if choice < 0.5:
        name = rng.choice(list(header))
        entry = header[name]
        key = rng.choice(list(entry))
        entry[key] = {
            "dtype": rng.choice(["F16", "BF16", "F64", "I8", "I64", "BOOL", "F8_E4M3", "F4", "U8", "X", "", 3]),
            "shape": rng.choice(
                [[], [0], [1], [2**62], [2**32, 2**32], [-1], [1, 64, 64], entry.get("shape"), None, "x"]
            ),
            "data_offsets": rng.choice(
                [[0, 0], [0, 4], [4, 0], [0, 2**63], [0, 2**64], [-4, 4], [0, len(data)], [1.5, 2], []]
            ),
        }.get(key, odd(rng))
    elif choice < 0.65:
        name = rng.choice(list(header))
        key = rng.choice(
            [
                "temp_head.mlp.99.weight",
                "temp_head.mlp.1.bias",
                "top_p_head.mlp.0.weight",
                "\0",
                "x",
                "temp_head.mlp." + "9" * 300 + ".weight",
                "temp_head.mlp.٣.bias",
            ]
        )
        header[key] = header.pop(name)
    elif choice < 0.8:
        begin = rng.randrange(len(data) + 1)
        data = (
            data[:begin] + struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38])) * 50 + data[begin + 200 :]
        )[: len(data)]
    elif choice < 0.9:
        header = change_json(rng, header)
    text = dump(header)
    if choice >= 0.9:
        text = break_text(rng, text)
    size = len(text) if rng.random() < 0.9 else rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(text) + 1])
    whole = struct.pack("<Q", size) + text + data
    return whole if rng.random() < 0.9 else whole[: rng.randrange(len(whole))]


def odd_array(rng: random.Random, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    changes: list[Callable[[], Any]] = [
        lambda: array[:0],
        lambda: array[:1],
        lambda: array[None],
        lambda: array.astype(np.float64),
        lambda: array.astype(np.float16),
        lambda: array.astype(np.int64),
        lambda: array.astype(np.uint8),
        lambda: array.astype(np.complex64),
        lambda: array.astype("S8"),
        lambda: array.astype("U8"),
        lambda: array * 0 - 1,
        lambda: array * 0 + 10**9,
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, np.inf),
        lambda: np.array(3),
        lambda: array > 0,
        lambda: np.zeros(3, [("a", "f4")]),
        lambda: array.astype("M8[s]"),
        lambda: np.full(3, 2**63, np.uint64),
        lambda: np.concatenate([array] * 40),
        lambda: array.astype(np.longdouble),
        lambda: array.astype(">i4"),
    ]
    with np.errstate(all="ignore"):
        return np.asarray(rng.choice(changes)())


def npy(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def odd_npy(rng: random.Random, raw: bytes) -> bytes:
    """What stands for one array in an .npz, its header a lie."""
    shape = rng.choice(
        ["(2**40,)", "(4000000000,)", "(-1,)", "()", "(1,1,1)", "(0,)", "99", "(" * 300, "('a',)", f"({'9' * 5000},)"]
    )
    kind = rng.choice(["<f4", "|O", "<f8", "|V1000000000", "", "<M8[s]", "|S99999999", "[('a', '<f4')]", "x" * 500])
    order = rng.choice(["False", "True", "None", "[" * 500])
    head = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    choices = [
        b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + raw[-400:],
        b"\x93NUMPY\x02\0" + struct.pack("<I", rng.choice([len(head), 2**31, 2**32 - 1])) + head + raw[-400:],
        b"\x93NUMPY\x09\0" + raw[8:],
        raw[: rng.randrange(len(raw))],
        b"\x93NUMPY\x01\0\x76\0" + head.ljust(118) + b"\x80\x04N.",
        b"",
        b"cos\nsystem\n(S'true'\ntR.",
    ]
    return rng.choice(choices)


def broken_npz(rng: random.Random, arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    out = io.BytesIO()
    members = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    name = rng.choice(["tokens.npy", "tokens.npy", "temperature.npy", "top_p.npy"])
    choice = rng.random()
    if choice < 0.4:
        members[name] = npy(odd_array(rng, arrays[name[:-4]]))
    elif choice < 0.65:
        members[name] = odd_npy(rng, members[name])
    elif choice < 0.7:
        del members[name]
    elif choice < 0.75:
        members[rng.choice(["../x.npy", "tokens", "x\0.npy", "x" * 5000])] = b"x"
    elif choice < 0.8:
        members[name] = npy(np.zeros(rng.choice([10**7, 3 * 10**7]), np.float32))
    with zipfile.ZipFile(
        out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    ) as z:
        for member, content in members.items():
            z.writestr(member, content)
    raw = bytearray(out.getvalue())
    if choice > 0.8:
        _break_zip(rng, raw)
    return bytes(raw)


def _break_zip(rng: random.Random, raw: bytearray) -> None:
    choice = rng.random()
    if choice < 0.3:
        for mark, place in (
            (b"PK\x03\x04", 8),
            (b"PK\x01\x02", 10),
        ):  # the method of compression, where both headers say it
            at, method = raw.find(mark), rng.choice([1, 9, 93, 97, 99, 0, 8])
            raw[at + place : at + place + 2] = struct.pack("<H", method)
    elif choice < 0.5:
        at = raw.find(b"PK\x01\x02") + rng.choice([20, 24, 42])
        raw[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1]))
    elif choice < 0.7:
        del raw[rng.randrange(len(raw)) :]
    else:
        for _ in range(rng.choice([1, 20])):
            raw[rng.randrange(len(raw))] = rng.randrange(256)


def broken_bin(rng: random.Random, save: Callable[[Any, io.BytesIO], None], state: dict[str, Any]) -> bytes:
    """A .bin as ``torch.save`` writes it, of odd tensors."""
    import torch

    name = rng.choice(list(state))
    t = state[name]
    state = dict(state)
    choices: list[Callable[[], Any]] = [
        lambda: t.to_sparse(),
        lambda: t.to_sparse_csr() if t.dim() == 2 else t,
        lambda: t.to(torch.complex64),
        lambda: t.to(torch.bool),
        lambda: t.to(torch.int64),
        lambda: t.to(torch.float8_e4m3fn),
        lambda: t.to("meta"),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.zeros(1).expand(10**9),
        lambda: t[None],
        lambda: t * float("nan"),
        lambda: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
        lambda: torch.sparse_coo_tensor(size=(10**6, 10**6)),
        lambda: torch.nn.Parameter(t),
        lambda: t.requires_grad_(),
        lambda: None,
        lambda: [t],
        lambda: t.conj(),
        lambda: t.T,
        lambda: torch.zeros(0),
        lambda: torch.tensor(1.0),
        lambda: t.numpy(),
        lambda: "x",
    ]
    state[name] = rng.choice(choices)()
    out = io.BytesIO()
    save(rng.choice([state, state, state, state, [state], state[name], {1: state}]), out)
    raw = bytearray(out.getvalue())
    if rng.random() < 0.3:
        _break_zip(rng, raw)
    return bytes(raw)
