"""A file of the Hugging Face hub, whose download goes on where an earlier run was cut off."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from autodeco_gguf.errors import BadFile, Busy
from autodeco_gguf.files.atomic import sha256
from autodeco_gguf.files.lock import lock

_CHUNK = 1 << 16
"""Bytes that a lost connection costs. huggingface_hub has 10 MiB, which a bad connection never brings at once."""

_HTTP_MAX = 50 * 10**9
"""Bytes of the largest file that the hub sends by HTTP."""

_WAIT_S = 0.2
"""Seconds between two looks whether another process has finished."""

_ETAG = re.compile(r"[\w-]{1,128}")
_SHA256 = re.compile("[0-9a-f]{64}")

_log = logging.getLogger(__name__)

Get = Callable[[BinaryIO, int], None]
"""Appends to a file what comes from a byte on."""


def fetch(name: str, repo: str, file: str) -> None:
    """Put a file of a repository into huggingface_hub's cache, as the blob that ``hf_hub_download`` then links.

    That function downloads it as well, but each process anew. Here what has come is kept beside the blob, and becomes
    the blob once it has the size and, where the etag is one, the SHA-256. Does nothing where there is nothing to do, or
    where another version of huggingface_hub has other parts: ``hf_hub_download`` does the rest, and says what is wrong.

    Args:
        name: what the user calls it.

    Raises:
        BadFile: it was cut off, or is not what the hub says it is.
        KeyboardInterrupt: with a message that says how much is kept.
    """
    try:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.file_download import http_get, repo_folder_name
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # which its manual has there

        head = get_hf_file_metadata(hf_hub_url(repo, file))
        here = try_to_load_from_cache(repo, file, revision=head.commit_hash)
        blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "blobs")
    except Exception:  # it can be any: of another version, of what lies between here and the hub
        return
    etag, size, commit = head.etag or "", head.size or 0, head.commit_hash
    if isinstance(here, str) or (blobs / etag).is_file():
        return
    if not (commit and 0 < size <= _HTTP_MAX and _ETAG.fullmatch(etag)):
        return

    def get(to: BinaryIO, start: int) -> None:
        url, headers = hf_hub_url(repo, file, revision=commit), build_hf_headers()
        chunk, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, _CHUNK
        try:
            http_get(url, to, resume_size=start, headers=headers, expected_size=size, displayed_filename=file)
        finally:
            constants.DOWNLOAD_CHUNK_SIZE = chunk

    blobs.mkdir(parents=True, exist_ok=True)
    with suppress(TypeError):  # of an http_get with other parameters
        _Part(f"{name}: {file}", blobs / etag, file.replace("/", "--"), size).complete(get)


def reason_of(error: BaseException) -> str:
    """The first line of what an error says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "the connection ended early" if line.startswith("Consistency check failed") else line


class _Part:
    """What has come of a file, beside the blob that it will be; one process at a time adds to it."""

    def __init__(self, name: str, blob: Path, file: str, size: int) -> None:
        self._name, self._blob, self._size = name, blob, size
        self._path = blob.with_name(f"{blob.name}.{file}.incomplete")

    def complete(self, get: Get) -> None:
        """Get what is missing and make it the blob; do nothing where it cannot be kept."""
        f = self._open()
        if f is None:
            return
        try:
            if not self._blob.exists():
                self._remove_older()
                self._fill(f, get)
                self._path.replace(self._blob)
        finally:
            with suppress(OSError):
                if self._blob.exists() or not self._path.stat().st_size:
                    self._path.unlink()
            with suppress(OSError):  # once more what a full disk has not taken
                f.close()

    def _open(self) -> BinaryIO | None:
        """Open and lock it, as soon as no other process has it; None where that cannot be."""
        waits = False
        while True:
            try:
                f = self._path.open("ab")
            except OSError:  # another user's, or its name is too long
                return None
            try:
                if not lock(f.fileno(), self._path):
                    f.close()
                    self._path.unlink()
                    return None
                if self._path.exists() and os.path.samestat(os.fstat(f.fileno()), self._path.stat()):
                    return f
                f.close()  # another process has removed it meanwhile
                continue
            except Busy:
                f.close()
            if not waits:
                waits = True
                _log.warning("%s: another process is downloading it; waiting", self._name)
            time.sleep(_WAIT_S)

    def _remove_older(self) -> None:
        """Remove what came of the file before it changed on the hub."""
        for other in self._path.parent.glob("*.incomplete"):
            if other.name.partition(".")[2] == self._path.name.partition(".")[2] and other != self._path:
                with suppress(OSError, Busy), other.open("ab") as f:
                    lock(f.fileno(), other)
                    other.unlink()

    def _fill(self, f: BinaryIO, get: Get) -> None:
        """Get what is missing, or all of it where what is there does not belong to the rest."""
        kept = f.seek(0, os.SEEK_END)
        if kept < self._size:
            try:
                self._check_space(kept)
                get(f, kept)
                f.flush()
                os.fsync(f.fileno())
            except KeyboardInterrupt as e:
                raise KeyboardInterrupt(f"{self._name}: {self._stopped()}") from e
            except Exception as e:  # of what lies between here and the hub, it can be any
                came, is_local = self._path.stat().st_size, isinstance(e, OSError) and e.errno is not None
                if not (came or is_local):
                    raise
                if came <= self._size:  # else an answer that began anew, where older versions do not see it
                    raise BadFile.of(self._name, self._stopped(f": {reason_of(e)}")) from e
        size, digest = self._path.stat().st_size, self._blob.name
        if _SHA256.fullmatch(digest):
            digest = sha256(self._path)
        if (size, digest) == (self._size, self._blob.name):
            return
        f.truncate(0)
        if not kept:
            expected = f"expected {self._size} with the SHA-256 {self._blob.name}"
            raise BadFile.of(self._name, f"{size} bytes with the SHA-256 {digest} came, {expected}")
        self._fill(f, get)

    def _check_space(self, kept: int) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < self._size - kept:
            where = f"{os.strerror(errno.ENOSPC)}, {_mb(free)} MB are free in {self._path.parent}"
            raise OSError(errno.ENOSPC, where)

    def _stopped(self, why: str = "") -> str:
        came = self._path.stat().st_size
        return f"stopped at {_mb(came)} of {_mb(self._size)} MB{why}; the next run goes on from there"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f}"
