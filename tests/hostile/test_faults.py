"""Every write, fsync, rename and the rest fails once, or is the last; and kills, at any moment and in the write."""

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
    assert len(found) == 36
    by_call = {name: kinds for name, kinds in found.items() if "at each" in name}
    assert sum(sum(kinds.values()) for kinds in by_call.values()) > 300
    in_the_write = {name: kinds for name, kinds in found.items() if "in the write" in name}
    assert len(in_the_write) == 9
    for name, kinds in in_the_write.items():
        old_or_begun = kinds.get("killed, old", 0) + (kinds.get("killed, new", 0) if "journal" in name else 0)
        assert old_or_begun == 5, (name, kinds)
    for name, kinds in by_call.items():
        ended = "killed" if ", kill " in name else "refused"
        known = (ended, "done, new")  # where links fail, a new file is renamed
        assert all(kind.startswith(known) for kind in kinds), (name, kinds)
        assert f"{ended}, old" in kinds, name
