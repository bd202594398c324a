"""Files named in a chat, as in a shell: ``~``, quotes, backslashes; and as nobody would there, with bare spaces."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from autodeco_gguf.errors import InvalidInput


def typed_path(text: str) -> Path:
    """The file that is meant.

    Raises:
        InvalidInput: no file can be called so.

    Examples:
        >>> [str(typed_path(text)) for text in ('"two words"', "two\\\\ words", "two words", "it's")]
        ['two words', 'two words', 'two words', "it's"]
    """
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe
        words = []
    name = words[0] if len(words) == 1 else text
    if "\0" in name:
        raise InvalidInput.of("file", repr(name), "a name without a zero byte")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as e:  # é where names are ASCII
        raise InvalidInput.of("file", ascii(name), f"a name in {sys.getfilesystemencoding()}") from e
    return Path(os.path.expanduser(name))


def last_words(line: str) -> list[str]:
    """A line's words, as completion has them: apart at spaces without a backslash; the last may be incomplete."""
    return re.split(r"(?<!\\) ", line)


def file_completions(word: str) -> Iterator[str]:
    """What a file's name may become, with backslashes where it needs them."""
    folder, slash, begin = word.rpartition("/")
    begin = re.sub(r"\\(.)", r"\1", begin)
    try:
        where = typed_path(folder + slash or ".")
        found = sorted(os.listdir(where))
    except (OSError, InvalidInput):
        return
    for name in found:
        if name.startswith(begin) and name.startswith(".") == begin.startswith("."):
            yield folder + slash + re.sub(r"""([\s\\'"])""", r"\\\1", name) + ("/" if (where / name).is_dir() else "")
