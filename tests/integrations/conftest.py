"""llm's own command line with the plugin, and with a directory of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llm.plugins
import pytest
from click.testing import CliRunner, Result

import autodeco_gguf.integrations.llm as plugin

if not llm.plugins.pm.is_registered(plugin):  # the package is installed as it was before it had one
    llm.plugins.pm.register(plugin, "autodeco")

from llm.cli import cli  # isort: skip  lets plugins add commands when it is imported

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def empty_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llm's log before anything is in it, which takes longer to make than an answer."""
    directory = tmp_path_factory.mktemp("llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(directory))
        assert CliRunner().invoke(cli, ["-m", "autodeco/demo", ""]).exit_code == 1
    return directory / "logs.db"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_log: Path) -> Path:
    """llm's directory."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    shutil.copy(empty_log, tmp_path / "user" / "logs.db")
    plugin._warn.cache_clear()
    return tmp_path / "user"


@pytest.fixture
def run(user: Path) -> Iterator[Run]:
    """Runs llm; engines are closed afterwards."""
    before = dict(plugin._engines)

    def invoke(*args: str, **kwargs: Any) -> Result:
        return CliRunner().invoke(cli, args, **kwargs)

    yield invoke
    for source in plugin._engines.keys() - before.keys():
        if Path(source.model).is_relative_to(user.parent):
            plugin._engines.pop(source).close()
