"""What the fuzzer starts from and what it has found, through the core that is installed; ``make fuzz`` goes on."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.model.vetting import check_loadable
from fuzz.readers import READERS, hunt, run, whole
from fuzz.seeds import seeds

CORPUS = Path(__file__).parent / "corpus.zip"
"""Files that between them reach all that the fuzzer has reached; chosen by its ``-merge=1``."""


@pytest.mark.parametrize("name", seeds())
def test_seeds_are_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(seeds()[name])
    file = ModelFile.open(path)
    assert file.kind == ("merged" if name == "merged" else "plain")
    assert file.stale is None


def test_seeds_are_written(tmp_path: Path) -> None:
    subprocess.run([sys.executable, Path(__file__).parent / "seeds.py", tmp_path / "new"], check=True, timeout=60)
    assert {p.stem: p.read_bytes() for p in (tmp_path / "new").iterdir()} == seeds()


def test_what_was_found_is_read_or_refused(tmp_path: Path) -> None:
    path, read, refused, files = tmp_path / "x.gguf", 0, 0, 0
    with zipfile.ZipFile(CORPUS) as corpus:
        for name in corpus.namelist():
            path.write_bytes(corpus.read(name))
            files += 1
            try:
                file = ModelFile.open(path)
                file.outer.metadata()
                check_loadable(file.view or GgufFile(path))
                file.outer.fingerprint()
                read += 1
            except BadFile as e:
                refused += str(e).startswith(f"{path}: ")
    assert read + refused == files
    assert read > 50
    assert refused > 50


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(name: str, tmp_path: Path) -> None:
    found = {run(name, content, tmp_path) for content in whole(name)}
    assert found == ({"read", "refused"} if name == "x.gguf" else {"read"})  # of which some say that they have heads


def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    """fuzz/readers.py makes more, and ``--atheris`` better ones."""
    found = hunt(1, 100, tmp_path)
    assert len(found) == 2 * len(READERS)
