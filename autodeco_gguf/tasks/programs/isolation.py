"""What confines a process: namespaces, a file system of its own, another user, limits. Linux only.

Each function is a step that the process itself takes; OSError says which one the system refuses.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from autodeco_gguf.tasks.programs import seccomp

MEMORY = 2 << 30
"""Bytes of addresses that a program may have, as there is nothing that it can hold without an address."""

DISK = 64 << 20
"""Bytes in its temporary directory, and of a file."""

_INODES, _FILES, _THREADS, _STACK = 1024, 64, 64, 64 << 20

_STANDARD = os.path.dirname(os.__file__)
"""The directory of the standard library."""

INPUT = "/input"
"""The standard input, as a file."""

HOME = "/tmp"
"""The one directory that can be written to."""

_PACKAGES = "/packages"
"""Where what may be imported besides the standard library stands."""

_LIBC = ctypes.CDLL(None, use_errno=True)

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 38, 9
_CAPABILITIES_3 = 0x20080522

_FIRST_USER, _USERS = 61184, 4336
"""Users that nobody is: the range that systemd takes for services of a while."""


def _call(name: str, *arguments: object, what: str = "") -> None:
    """A function of libc that gives -1 where it fails."""
    if getattr(_LIBC, name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what or name}: {os.strerror(number)}")


def end_with_parent() -> None:
    """Have the system end this process with the one that started it."""
    _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def enter_namespaces() -> None:
    """New namespaces of every kind; that of processes is for the children.

    Without root they need a user namespace, in which this user stays the one that it is.
    """
    flags = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _call("unshare", flags)
        return
    _call("unshare", flags | _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


# ---- files ----


def libraries() -> list[str]:
    """The directories that Python needs to import what it has."""
    base = [Path(sys.base_prefix, name) for name in ("lib", "lib64")]
    system = [Path(name) for name in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")]
    found: list[str] = []
    for path in (*system, *base, Path(_STANDARD)):
        if path.exists() and not any(path.is_relative_to(other) for other in found if not os.path.islink(other)):
            found.append(str(path))
    return found


def enter_root(packages: Iterable[str], text: bytes) -> None:
    """A root directory of our own: the libraries to read, ``text`` as the standard input, and an empty home.

    There is no ``/proc`` in it, no device that keeps anything, and nothing of this system's but those libraries.
    """
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None, what="mount private")
    # where links lead to: an absolute one in the way to a name leads out of /old
    shown = [(name if os.path.islink(name) else os.path.realpath(name), name) for name in libraries()]
    # over a directory that every system has; what lies under it is seen again below /old
    _mount_memory("/tmp", "mode=755")
    os.mkdir("/tmp/old")
    os.chdir("/tmp")
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _call("syscall", number, b".", b"old", what="pivot_root")
    os.chdir("/")
    os.mkdir(HOME)  # before what is shown below it
    _mount_memory(HOME, f"mode=1777,size={DISK},nr_inodes={_INODES}")
    for source, name in shown:
        _show(source, name)
    _show("/etc/ld.so.cache", "/etc/ld.so.cache")
    for name in packages:
        _show(name, f"{_PACKAGES}/{os.path.basename(name)}")
    for device in ("null", "zero", "full", "random", "urandom"):
        _show(f"/dev/{device}", f"/dev/{device}", device=True)
    os.symlink(INPUT, "/dev/stdin")
    Path(INPUT).write_bytes(text)
    _call("umount2", b"/old", _MNT_DETACH)
    os.rmdir("/old")
    _restrict("/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=False)


def _mount_memory(path: str, options: str) -> None:
    data = ctypes.c_char_p(options.encode())
    _call("mount", b"tmpfs", path.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, data, what="mount tmpfs")


def _show(source: str, target: str, *, device: bool = False) -> None:
    """What stands at ``source`` in the old root, to be read only; nothing where it is missing."""
    old = Path(f"/old{source}")
    if os.path.islink(old):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.readlink(old), target)
        return
    if not old.exists():
        return
    if old.is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _call("mount", bytes(old), target.encode(), None, _MS_BIND | _MS_REC, None, what=f"mount {source}")
    if not device:
        _restrict(target, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=True)


def _restrict(path: str, attributes: int, *, recursive: bool) -> None:
    data = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    where = (_AT_FDCWD, path.encode(), flags)
    _call("syscall", _SYS_MOUNT_SETATTR, *where, ctypes.c_char_p(data), len(data), what=f"mount_setattr {path}")


def import_only(packages: Iterable[str], *, isolated: bool) -> None:
    """Have Python import from the standard library, and these packages."""
    parents = [_PACKAGES] if isolated else [os.path.dirname(name) for name in packages]
    extensions = f"{_STANDARD}/lib-dynload"
    sys.path[:] = [_STANDARD, extensions, *dict.fromkeys(parents)]


# ---- rights and limits ----


def user_of(pid: int) -> int:
    """A user that nobody is, for a program that a process of this pid watches."""
    return _FIRST_USER + pid % _USERS


def _threads_of(user: int) -> int:
    found = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            found += len(os.listdir(f"/proc/{pid}/task")) if os.stat(f"/proc/{pid}").st_uid == user else 0
    return found


def give_up(cpu_s: int, user: int, *, isolated: bool) -> None:
    """Become ``user`` where this is root, and set the limits; whatever it runs from now on, it gains no right.

    It may start threads, but neither processes nor other programs, has no socket and can signal only itself. It ends
    with its parent.
    """
    # without namespaces all that this user has running counts, unless it becomes another one
    threads = _THREADS + (0 if isolated or os.geteuid() == 0 else _threads_of(os.getuid()))
    limits = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_AS: (MEMORY, MEMORY),
        resource.RLIMIT_FSIZE: (DISK, DISK),
        resource.RLIMIT_NOFILE: (_FILES, _FILES),
        resource.RLIMIT_NPROC: (threads, threads),
        resource.RLIMIT_STACK: (_STACK, _STACK),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    for kind, (soft, hard) in limits.items():
        most = resource.getrlimit(kind)[1]
        least = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        resource.setrlimit(kind, least)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    end_with_parent()  # which another user forgets
    header, none = struct.pack("=Ii", _CAPABILITIES_3, 0), bytes(24)
    _call("capset", ctypes.c_char_p(header), ctypes.c_char_p(none))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp.install()
