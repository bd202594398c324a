"""The state that a training resumes from, and its log."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file, write_bytes
from autodeco_gguf.files.journal import first_difference
from autodeco_gguf.files.jsonl import dump_line, parse_line
from autodeco_gguf.files.system import sync_directory


class State:
    """A file of tensors and numbers, replaced as the training goes on, and a log that grows.

    A state knows how long the log was, so that what was logged after it is cut off when the training goes on from it.
    """

    def __init__(self, path: Path, log: Path, identity: Mapping[str, object]) -> None:
        """Args: both files, and all that the training depends on."""
        self._path, self._log = path, log
        self._identity = json.loads(json.dumps(identity, sort_keys=True))
        self._log_bytes = 0

    def load(self, take: Callable[[Mapping[str, Any]], None]) -> bool:
        """Give the state there is to ``take``; whether there was one.

        Raises:
            BadFile: of another training, and in what; damaged, or ``take`` raised; the log is shorter than it was.
        """
        path = self._path
        if not path.exists():
            return False
        try:
            with zipfile.ZipFile(path) as parts:  # of which torch checks no sum
                if parts.testzip() is not None:
                    raise ValueError("other bytes than were written")
            state = torch.load(path, weights_only=True)
            identity, log_bytes = dict(state["identity"]), state["log_bytes"]
            if type(log_bytes) is not int or log_bytes < 0:
                raise ValueError("no length of the log")
            differs = first_difference(identity, self._identity)
            if differs is None:
                take(state)
        except Exception as e:  # torch promises nothing about a broken file
            raise BadFile.of(path, "cannot be read; start anew with --force") from e
        if differs is not None:
            raise _of_another(path, differs, identity, self._identity)
        self._check_log(log_bytes)
        self._log_bytes = log_bytes
        return True

    def _check_log(self, nbytes: int) -> None:
        """Raise BadFile unless the log's first bytes are there, and lines that the report can be made of."""
        log, advice = self._log, "start anew with --force"
        if not log.exists() or os.path.getsize(log) < nbytes:
            raise BadFile.of(log, f"shorter than when {self._path} was written; {advice}")
        with bad_file(log, "cannot be read"), log.open("rb") as file:
            lines = file.read(nbytes).splitlines()
        for number, line in enumerate(lines, 1):
            try:
                parse_line(line)
            except InvalidInput as e:
                raise BadFile(f"{log}:{number}: damaged: {e}; {advice}", file=log) from e

    def open_log(self) -> None:
        """Make the log as long as it was when the state was written; empty without one."""
        with bad_file(self._log, "cannot be written"), self._log.open("ab") as log:
            log.truncate(self._log_bytes)

    def write(self, record: object) -> None:
        """Add a line to the log."""
        with bad_file(self._log, "cannot be written"), self._log.open("ab") as log:
            self._log_bytes += log.write(dump_line(record))

    def save(self, values: Mapping[str, object]) -> None:
        """Replace the state, once what it counts of the log is on the disk, too."""
        with bad_file(self._log, "cannot be written"), self._log.open("ab") as log:
            os.fsync(log.fileno())
            sync_directory(self._log.parent)
        buffer = io.BytesIO()  # torch's own writer gives an error without a cause where the disk is full
        torch.save({"identity": self._identity, **_on_cpu(values), "log_bytes": self._log_bytes}, buffer)
        write_bytes(self._path, buffer.getbuffer())


def _of_another(
    path: Path, differs: tuple[str, object, object], found: Mapping[str, object], wanted: Mapping[str, object]
) -> BadFile:
    """The error for the state of another training, with the first difference."""
    name, theirs, ours = differs
    key = name.rpartition(".")[2]
    other = f"other {key}" if key in ("data", "base", "split", "start") else f"{key} {theirs}, now {ours}"
    if ("reward" in found) != ("reward" in wanted):
        key, (theirs, ours) = "reward", ("reward", "data") if "reward" in found else ("data", "reward")
        other = f"--{theirs}, now --{ours}"
    reason = f"of a training with {other}; start anew with --force, or elsewhere"
    return BadFile.of(path, reason, key=key, expected=ours, found=theirs)


def _on_cpu(value: Any) -> Any:
    """The same with its tensors on the CPU, so that it can be read where there is no such device."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(part) for key, part in value.items()}
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value
