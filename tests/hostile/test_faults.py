"""Every write, fsync, rename and the rest fails once, or is the last; hostile/faults.py kills at any moment too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from hostile.faults import preloaded

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


def test_files_are_old_or_new() -> None:
    done = subprocess.run(
        preloaded("--errors", "eio", "kill", "--kills", "45"), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == 27
    by_call = {name: kinds for name, kinds in found.items() if "at each" in name}
    assert sum(sum(kinds.values()) for kinds in by_call.values()) > 300
    for name, kinds in by_call.items():
        ended = "killed" if ", kill " in name else "refused"
        known = (ended, "done, new")  # where links fail, a new file is renamed
        assert all(kind.startswith(known) for kind in kinds), (name, kinds)
        assert f"{ended}, old" in kinds, name
