"""Files of the Hugging Face hub by their id: ``hf:user/repo``, ``hf:user/repo:quant``, ``hf:user/repo/file.gguf``."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput, not_installed
from autodeco_gguf.heads.download import fetch, reason_of

PREFIX = "hf:"
FORMS = "hf:user/repo, hf:user/repo:quant or hf:user/repo/file.gguf"

_ID = re.compile(r"hf:([\w-][\w.-]*/[\w-][\w.-]*)(?:/([\w./ +-]+\.gguf)|:([\w.-]+))?")
_SHARD = re.compile(r"-(\d{5})-of-(?!00000)(\d{5})(?=\.gguf$)")
_PREFERRED = "Q4_K_M"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

T = TypeVar("T")


def is_hub_id(path: str | os.PathLike[str]) -> bool:
    """Whether a file is meant that is on the hub; one that is called so here goes first."""
    return os.fspath(path).startswith(PREFIX) and not os.path.exists(path)


def is_offline() -> bool:
    """Whether only what has been downloaded before is to be used: HF_HUB_OFFLINE, which ``--offline`` sets."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def find(path: str | os.PathLike[str]) -> Path:
    """The file of an id, downloaded unless it is there already.

    Of a model in shards it is the first, with the others beside it.

    Raises:
        InvalidInput: no such id.
        BadFile: it is not on the hub, there are several and no quant says which, or it cannot be downloaded.
        AutoDecoError: huggingface_hub is not installed; names the extra.
    """
    name = Path(path).as_posix()  # which is what was given, but on Windows
    match = _ID.fullmatch(name)
    if match is None or ".." in name:
        raise InvalidInput.of("model id", name, FORMS)
    repo, file, quant = match.groups()
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as e:
        raise not_installed(f"{name}: a download takes huggingface_hub", "huggingface_hub", "hub") from e
    if is_offline():
        folder = Path(_asked(name, lambda: snapshot_download(repo, local_files_only=True, allow_patterns=[])))
        here = [p.relative_to(folder).as_posix() for p in folder.rglob("*.gguf")]
        return folder / choose(name, here, file, quant)[0]
    files = [file] if file else _files(name, repo)
    parts = choose(name, files, file, quant)
    paths = []
    for part in parts:
        _asked(name, functools.partial(fetch, name, repo, part))
        paths.append(Path(_asked(name, functools.partial(hf_hub_download, repo, part))))
    return paths[0]


def snapshot(name: str, patterns: Sequence[str], but: Sequence[str] = ()) -> Path:
    """The folder of a repository, ``user/repo`` or with ``hf:`` before it, with files of ``patterns``, none of ``but``.

    They are downloaded unless they are there already; without a connection there may be only those.

    Raises:
        BadFile: it cannot be downloaded.
        AutoDecoError: huggingface_hub is not installed; names the extra.
    """
    repo = name.removeprefix(PREFIX)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # which its manual has there
    except ImportError as e:
        what = f"{name}: {_no_file(name)}a download takes huggingface_hub"
        raise not_installed(what, "huggingface_hub", "hub") from e

    class Bar(tqdm):  # which by itself is shown in a pipe as well
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"disable": None, **kwargs})  # type: ignore[no-untyped-call]

    files: list[str] = []
    with suppress(BadFile):  # snapshot_download then takes what is there, or says what is wrong
        files = _files(name, repo)
    for file in files:
        if any(fnmatch(file, pattern) for pattern in patterns) and not any(fnmatch(file, pattern) for pattern in but):
            _asked(name, functools.partial(fetch, name, repo, file))
    chosen: dict[str, Any] = {"allow_patterns": [*patterns], "ignore_patterns": [*but], "tqdm_class": Bar}
    return Path(_asked(name, lambda: snapshot_download(repo, **chosen)))


def choose(name: str, files: Sequence[str], file: str | None, quant: str | None) -> list[str]:
    """The files that an id means of those in its repository: one, or all shards of a model.

    Raises:
        BadFile: none, or several; the message has what there is.
    """
    models = [f for f in files if f.endswith(".gguf") and not PurePosixPath(f).name.lower().startswith("mmproj")]
    firsts = [f for f in models if (shard := _SHARD.search(f)) is None or shard[1] == "00001"]
    if file is not None:
        found = [f for f in models if f == file]
    elif quant is not None:
        found = [f for f in firsts if _has_quant(f, quant)]
    else:
        found = firsts if len(firsts) == 1 else [f for f in firsts if _has_quant(f, _PREFERRED)]
    if len(found) != 1:
        there = ", ".join(sorted(firsts)) or "no GGUF"
        which = "which of them" if found or (quant is None and firsts) else "no such file"
        where = " among what was downloaded" if is_offline() else ""
        raise BadFile.of(name, f"{which}{where}? there is {there}; give {FORMS}", key="file", found=len(found))
    shard = _SHARD.search(found[0])
    if shard is None:
        return found
    begin, end, n = found[0][: shard.start()], found[0][shard.end() :], int(shard[2])
    return [f"{begin}-{i:05}-of-{n:05}{end}" for i in range(1, n + 1)]


def _has_quant(file: str, quant: str) -> bool:
    stem = _SHARD.sub("", file).removesuffix(".gguf")
    return re.search(rf"(?:^|[-._/]){re.escape(quant)}$", stem, re.IGNORECASE) is not None


def _files(name: str, repo: str) -> list[str]:
    from huggingface_hub import HfApi

    return _asked(name, lambda: [f.rfilename for f in HfApi().model_info(repo).siblings or ()])


def _no_file(name: str) -> str:
    """What is to be said first of a name that could have been a directory's."""
    return "" if name.startswith(PREFIX) else "no such directory, and "


def _asked(name: str, question: Callable[[], T]) -> T:
    """What the hub answers.

    Raises:
        BadFile: it does not; the reason in a line, with the proxy where there is one.
    """
    with _loopback_direct(), _quiet():
        try:
            return question()
        except AutoDecoError:
            raise
        except Exception as e:  # of what lies between here and the hub, it can be any
            reason = f"{_no_file(name)}not to be had from the Hugging Face hub: {reason_of(e)}{_advice()}"
            raise BadFile.of(name, reason) from e


def _advice() -> str:
    if is_offline():
        return "; it was not downloaded before, and --offline allows no download"
    from urllib.request import getproxies, proxy_bypass  # with http and ssl a tenth of the time that importing us takes

    url = urlsplit(_endpoint())
    proxy = {**getproxies()}.get(url.scheme) or getproxies().get("all")
    if not proxy or proxy_bypass(url.hostname or ""):
        return "; --offline takes what was downloaded before"
    address = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    shown = f"{address.scheme or url.scheme}://{(address.netloc.rpartition('@')[2])}"  # without a password
    return f"; by the proxy {shown} of {url.scheme.upper()}_PROXY or ALL_PROXY"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what huggingface_hub tells on its way: all of it, or on a terminal what its bar shows as well."""
    if "HF_HUB_VERBOSITY" in os.environ:
        yield
        return
    is_watched = sys.stderr is not None and sys.stderr.isatty()
    logger = logging.getLogger("huggingface_hub.file_download" if is_watched else "huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _loopback_direct() -> Iterator[None]:
    """Leave the proxies out for a hub on this machine."""
    names = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]
    kept = {name: os.environ.pop(name) for name in names if urlsplit(_endpoint()).hostname in _LOOPBACK}
    try:
        yield
    finally:
        os.environ.update(kept)
