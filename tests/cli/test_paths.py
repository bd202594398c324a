"""Files named in a chat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autodeco_gguf.cli._paths import file_completions, last_words, typed_path
from autodeco_gguf.errors import InvalidInput


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("a.json", "a.json"),
        ("two words.json", "two words.json"),
        ("'two words.json'", "two words.json"),
        ('"two words.json"', "two words.json"),
        ("two\\ words.json", "two words.json"),
        ("it's mine.json", "it's mine.json"),
        ("~/a.json", "/home/x/a.json"),
        ("'~/a b.json'", "/home/x/a b.json"),
        ("~no-such-user/a", "~no-such-user/a"),
    ],
)
def test_a_file_is_meant(typed: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert typed_path(typed) == Path(name)


def test_a_zero_byte_is_no_name() -> None:
    with pytest.raises(InvalidInput, match=r"^file 'a\\x00b', expected a name without a zero byte$"):
        typed_path("a\0b")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="their names are Unicode")
def test_what_the_file_system_has_no_characters_for_is_no_name() -> None:
    code = "from autodeco_gguf.cli._paths import typed_path; typed_path('a b/\\u00e9.json')"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].endswith("InvalidInput: file 'a b/\\xe9.json', expected a name in ascii")


def test_files_are_completed_as_a_shell_does(tmp_path: Path) -> None:
    for name in ("talk.json", "two words.json", ".hidden", "it's"):
        (tmp_path / name).write_text("")
    (tmp_path / "tales of").mkdir()
    assert list(file_completions(f"{tmp_path}/t")) == [
        f"{tmp_path}/{name}" for name in ("tales\\ of/", "talk.json", "two\\ words.json")
    ]
    assert list(file_completions(f"{tmp_path}/two\\ w")) == [f"{tmp_path}/two\\ words.json"]
    assert list(file_completions(f"{tmp_path}/i")) == [f"{tmp_path}/it\\'s"]
    assert list(file_completions(f"{tmp_path}/.h")) == [f"{tmp_path}/.hidden"]
    assert len(list(file_completions(f"{tmp_path}/"))) == 4  # without it
    assert [*file_completions("/no/such/"), *file_completions("~no-such-user/"), *file_completions("a\0/")] == []
    for name in (f"{tmp_path}/two\\ words.json", f"{tmp_path}/it\\'s"):
        assert typed_path(name).exists()


def test_words_end_at_spaces_without_a_backslash() -> None:
    assert last_words("/load two\\ wo") == ["/load", "two\\ wo"]
    assert last_words("/set color ") == ["/set", "color", ""]
