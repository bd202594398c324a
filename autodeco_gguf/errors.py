"""The errors of this package, by what a caller can do about them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


MAX_MESSAGE = 4000
"""Characters of an error's line."""


def printable(text: str) -> str:
    """A text from a file as a terminal may have it: what would steer it, or hide, as an escape.

    Examples:
        >>> printable("a\\x1b[2Jé")
        'a\\\\x1b[2Jé'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_utf8(name: str) -> str:
    """A file's name, or what was typed, as UTF-8 may have it: bytes that are none, which Python escapes, replaced.

    Examples:
        >>> as_utf8("caf\\udce9") == "caf\\ufffd"
        True
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class AutoDecoError(Exception):
    """What all of them are: one line that names what is wrong, and the same as attributes.

    Attributes:
        file: the file or directory it is about; None where there is none.
        key: the tensor, metadata key, setting or argument it is about.
        expected: what would have been right.
        found: what is there instead.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | os.PathLike[str] | None = None,
        key: str | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        """Args: the line as a person reads it, complete; the attributes only repeat what is in it."""
        super().__init__(printable(message[:MAX_MESSAGE]))  # it can quote a file, which can say anything
        self.file = None if file is None else os.fspath(file)
        self.key, self.expected, self.found = key, expected, found
        self.__notes__ = list[str]()

    def with_log(self, lines: Sequence[str]) -> Self:
        """The same error with lines of llama.cpp's log, as notes, which Python shows below its line (PEP 678)."""
        self.__notes__ = [f"llama.cpp: {printable(line[:MAX_MESSAGE])}" for line in lines]
        return self

    def within(self, where: object) -> Self:
        """The same error of something larger: ``where`` stands before its message."""
        outer = type(self)(f"{where}: {self}", file=self.file, key=self.key, expected=self.expected, found=self.found)
        outer.__notes__ = self.__notes__
        return outer


class InvalidInput(AutoDecoError, ValueError):
    """An argument, a setting or a text that will not do, whatever the files: give another."""

    @classmethod
    def of(cls, key: str, found: object, expected: object) -> Self:
        """A value out of range: "k 0, expected at least 1"."""
        return cls(f"{key} {found}, expected {expected}", key=key, expected=expected, found=found)


class BadFile(AutoDecoError, ValueError):
    """A file that is missing, broken or unfit, or an output that cannot be written: give another.

    A ``ValueError``, as ``llama_cpp`` raises for a model it cannot load.
    """

    @classmethod
    def of(
        cls,
        file: str | os.PathLike[str],
        reason: object,
        *,
        key: str | None = None,
        expected: object = None,
        found: object = None,
    ) -> Self:
        """What is wrong with a file, whose name the message begins with; an error as reason has the attributes."""
        if isinstance(reason, AutoDecoError):
            key, expected, found = reason.key, reason.expected, reason.found
        return cls(f"{os.fspath(file)}: {reason}", file=file, key=key, expected=expected, found=found)


class Busy(AutoDecoError):
    """No room now, as a queue that is full or a file that another process uses: try again later."""


class Closed(AutoDecoError):
    """The object has been closed: make a new one."""


class ModelFailed(AutoDecoError, RuntimeError):
    """llama.cpp, the device, or what a model computes failed: a smaller context may help, or another device."""


def not_installed(what: str, package: str, extra: str, otherwise: str = "") -> AutoDecoError:
    """The error for a package that only an extra of this one brings: "training needs torch; pip install torch, ...".

    The extra is named as a clone has it: this package is on no index. ``otherwise`` is what to do without, "; or ...".
    """
    install = f'pip install {package}, or in a clone: pip install ".[{extra}]"'
    return AutoDecoError(f"{what}; {install}{otherwise}", key=extra)
