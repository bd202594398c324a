"""Where a training writes, and what it keeps there until it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.atomic import bad_file, check_directory, check_new, same_file
from autodeco_gguf.files.lock import locked

_STATE = ".training"
"""Subdirectory of the output that holds data and state until the training is done."""

BEGUN = "begun.jsonl"
"""There: what a reward training is of, whose start may be under way before there is a state."""

OUTPUT_FILES = ("config.json", "model.safetensors", "log.jsonl", "training.png", "report.json")


class Output:
    """Where the results go, and what is kept there until they are finished."""

    def __init__(self, path: Path) -> None:
        self.directory = path if path.name not in ("", "..") else path.resolve()  # its name is the adapter's too
        self.adapter = self.directory.parent / f"{self.directory.name}.gguf"
        self.state = self.directory / _STATE
        self.files = [self.directory / name for name in OUTPUT_FILES]

    def check(self, inputs: Sequence[Path], force: bool) -> None:
        """Refuse to write over what is an input, or, without force, finished."""
        check_directory(self.directory)
        results = [*self.files, self.adapter]
        same = same_file(inputs, results)
        if same is not None:
            raise BadFile.of(same[0], "is an input and would be written; choose another output")
        if not self.directory.name or self.adapter.is_dir():
            raise BadFile.of(self.directory, f"{self.adapter} cannot be the adapter; choose another output")
        for path in sorted(self.directory.glob("*.safetensors")):
            if path.name[0] != "." and path.name not in OUTPUT_FILES:
                raise BadFile.of(path, "other weights in the output; choose another directory")
        self.check_new(force)

    def check_new(self, force: bool) -> None:
        """Refuse to replace, without force, what is finished."""
        check_new([*self.files, self.adapter], force=force or self.unfinished)

    def check_free(self, force: bool) -> None:
        """Refuse to take the place, without force, of one that is finished meanwhile, or that --reward has begun."""
        self.check_new(force)
        if (self.state / BEGUN).exists() and not force:
            reason = "of a training with --reward, now --data; start anew with --force, or elsewhere"
            raise BadFile.of(self.state / BEGUN, reason)

    @property
    def unfinished(self) -> bool:
        """Whether a training has begun here and has not come to its end."""
        return self.state.is_dir() and any(not path.name.startswith(".") for path in self.state.iterdir())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the output for this training; no directory that it made, for the state or all, stays behind empty.

        Raises:
            Busy: another training has it.
        """
        is_new = not self.directory.is_dir()
        with bad_file(self.directory, "cannot be written"):
            self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory):  # which stays, unlike the state's
            with bad_file(self.directory, "cannot be written"):
                self.state.mkdir(exist_ok=True)
            for leftover in self.state.glob(".*.tmp"):  # a killed training's
                leftover.unlink(missing_ok=True)
            try:
                yield
            finally:
                for path in (self.state, self.directory)[: 1 + is_new]:
                    with suppress(OSError):
                        path.rmdir()

    def remove_results(self) -> None:
        """What an earlier training left; only when the new one is about to start."""
        with bad_file(self.directory, "cannot be written"):
            for path in (self.state / "state.pt", self.state / BEGUN, *self.files):
                path.unlink(missing_ok=True)

    def begin_anew(self) -> None:
        """Remove the results and the state of an earlier training."""
        self.remove_results()
        self.remove_state()
        self.state.mkdir()

    def remove_state(self) -> None:
        """The training has come to its end."""
        shutil.rmtree(self.state)
