"""``autodeco-gguf verify``."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, machine_options
from autodeco_gguf.cli._types import FloatRange
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.model.machine import Machine

if TYPE_CHECKING:
    import numpy as np

    from autodeco_gguf.files.gguf import GgufFile

TOLERANCE = {"f32": 1e-5, "f16": 2e-3}
"""KV cache type -> how far T and P may be from recorded float32 values of an unquantized model."""

MAX_BYTES = 1 << 24
"""Size of a recorded array: two million tokens."""


@click.command("verify", cls=Verb)
@click.argument("model", type=GGUF)
@click.option("--golden", type=GGUF, required=True, help="An .npz with tokens [n], temperature [n] and top_p [n].")
@click.option("--heads", type=GGUF, help="Adapter, for a model without heads.")
@click.option("--tolerance", type=FloatRange(min=0), help="Largest difference allowed.  [default: f32 1e-5, f16 2e-3]")
@machine_options(cache_type="f32", flash_attn=False)
def verify_command(model: Path, golden: Path, heads: Path | None, tolerance: float | None, machine: Machine) -> None:
    """Run MODEL on recorded tokens and compare its temperatures and top-p with the recorded ones.

    Exits with 1 when one is off by more than the tolerance. NaN throughout: no such head.

    Example: autodeco-gguf verify qwen2-autodeco.gguf --golden golden.npz
    """
    import numpy as np

    from autodeco_gguf.heads.model_file import ModelFile
    from autodeco_gguf.model.llama import Llama

    recorded = _read_golden(golden)
    tokens = recorded["tokens"].tolist()
    _check_length(golden, len(tokens), ModelFile.open(model).base())
    llama = Llama(model, heads=heads, n_ctx=max(len(tokens), 32), trace=False, **machine.llama_arguments())
    limit = TOLERANCE[machine.cache_type] if tolerance is None else tolerance
    worst = 0.0
    try:
        predictions = llama.predict(tokens)
    except InvalidInput as e:  # a token that the vocabulary does not have; else what the model computes is not finite
        raise BadFile.of(golden if e.key == "token" else model, e) from e
    for name, predicted in zip(("temperature", "top_p"), predictions, strict=True):
        known = not np.isnan(recorded[name]).any()
        if known != (name in llama.heads):
            has = "has" if known else "lacks"
            raise BadFile.of(golden, f"{has} {name}, the model has {sorted(llama.heads)}", key=name)
        if known:
            difference = np.abs(predicted - recorded[name])
            mean = difference.mean(dtype=np.longdouble)  # of huge ones, the sum is beyond a double
            click.echo(f"{name}: mean difference {mean:.1e}, largest {difference.max():.1e}")
            worst = max(worst, float(difference.max()))
    if not worst <= limit:
        raise BadFile.of(
            model, f"differs from {golden} by {worst:.1e}, allowed is {limit:.1e}", expected=limit, found=worst
        )


def _check_length(golden: Path, n: int, model: GgufFile) -> None:
    """Refuse more tokens than the model was trained for."""
    key = f"{model.architecture}.context_length"
    trained = model.get(key, int, 0)
    if n > trained > 0:
        raise BadFile.of(golden, f"has {n} tokens, the model is for {trained}", key=key, expected=trained, found=n)


def _read_golden(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The three arrays of an .npz; each of at most :data:`MAX_BYTES`, whatever the file says of itself."""
    import numpy as np

    if path.exists() and not path.is_file():
        raise BadFile.of(path, "no recorded predictions: no regular file")
    try:
        with zipfile.ZipFile(path) as file:
            arrays = {name: _array(file, f"{name}.npy") for name in ("tokens", "temperature", "top_p")}
    except FileNotFoundError as e:
        raise BadFile.of(path, "no such file") from e
    except Exception as e:  # zipfile and numpy promise nothing about broken files
        text = str(e.args[0] if isinstance(e, KeyError) else e)  # which puts its own into quotation marks
        reason = (text.splitlines() or [type(e).__name__])[0]
        raise BadFile.of(path, f"no recorded predictions: {reason}; expected tokens, temperature and top_p") from e
    n = arrays["tokens"].size
    for name, array in arrays.items():
        if array.shape != (n,) or n == 0:
            raise BadFile.of(path, f"{name} is {list(array.shape)}, expected [{n or 'n'}]", key=name)
        if array.dtype.kind not in ("iu" if name == "tokens" else "f"):
            raise BadFile.of(path, f"{name} holds {array.dtype}, expected numbers", key=name)
        n_nan = int(np.isnan(array).sum())
        if 0 < n_nan < n:
            raise BadFile.of(path, f"{name} is NaN for {n_nan} of {n} tokens, expected none or all", key=name)
    return arrays


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    import numpy as np
    from numpy.lib import format as npy

    # what numpy writes, and what unpacks piece by piece
    if file.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in another way than numpy does it")
    with file.open(name) as member:
        content = member.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES} bytes")
    stream = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a header that another Python wrote
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is of a version that is not known")
        shape, _, dtype = npy.read_array_header_1_0(stream)
        if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
            raise ValueError(f"{name} has {len(content)} bytes, which are not {list(shape)} of {dtype}")
        stream.seek(0)
        return np.asarray(npy.read_array(stream, allow_pickle=False))
