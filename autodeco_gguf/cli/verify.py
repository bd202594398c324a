"""``autodeco-gguf verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, machine_options
from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.machine import Machine

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = {"f32": 1e-5, "f16": 2e-3}
"""KV cache type -> how far T and P may be from recorded float32 values of an unquantized model."""


@click.command("verify", cls=Verb)
@click.argument("model", type=GGUF)
@click.option("--golden", type=GGUF, required=True, help="An .npz with tokens [n], temperature [n] and top_p [n].")
@click.option("--heads", type=GGUF, help="Adapter, for a model without heads.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), help="Largest difference allowed.  [default: f32 1e-5, f16 2e-3]"
)
@machine_options(cache_type="f32", flash_attn=False)
def verify_command(model: Path, golden: Path, heads: Path | None, tolerance: float | None, machine: Machine) -> None:
    """Run MODEL on recorded tokens and compare its temperatures and top-p with the recorded ones.

    Exits with 1 when one is off by more than the tolerance. NaN among the recorded values: no such head.

    Example: autodeco-gguf verify qwen2-autodeco.gguf --golden golden.npz
    """
    import numpy as np

    from autodeco_gguf.model.llama import Llama

    recorded = _read_golden(golden)
    tokens = recorded["tokens"].tolist()
    llama = Llama(model, heads=heads, n_ctx=max(len(tokens), 32), trace=False, **machine.llama_arguments())
    limit = TOLERANCE[machine.cache_type] if tolerance is None else tolerance
    worst = 0.0
    for name, predicted in zip(("temperature", "top_p"), llama.predict(tokens), strict=True):
        known = ~np.isnan(recorded[name])
        if known.any() != (name in llama.heads):
            has = "has" if known.any() else "lacks"
            raise BadFile.of(golden, f"{has} {name}, the model has {sorted(llama.heads)}", key=name)
        if known.any():
            difference = np.abs(predicted - recorded[name])[known]
            click.echo(f"{name}: mean difference {difference.mean():.1e}, largest {difference.max():.1e}")
            worst = max(worst, float(difference.max()))
    if not worst <= limit:
        raise BadFile.of(
            model, f"differs from {golden} by {worst:.1e}, allowed is {limit:.1e}", expected=limit, found=worst
        )


def _read_golden(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in ("tokens", "temperature", "top_p")}
    except FileNotFoundError as e:
        raise BadFile.of(path, "no such file") from e
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as e:
        raise BadFile.of(path, f"no recorded predictions: {e}; expected tokens, temperature and top_p") from e
    n = arrays["tokens"].size
    for name, array in arrays.items():
        if array.shape != (n,) or n == 0:
            raise BadFile.of(path, f"{name} is {list(array.shape)}, expected [{n or 'n'}]", key=name)
        if array.dtype.kind not in ("iu" if name == "tokens" else "f"):
            raise BadFile.of(path, f"{name} holds {array.dtype}, expected numbers", key=name)
    return arrays
