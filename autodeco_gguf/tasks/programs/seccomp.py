"""System calls that a program is refused: a seccomp filter of BPF instructions, as seccomp(2) describes it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple


class _Machine(NamedTuple):
    """A processor's AUDIT_ARCH, and its numbers of system calls by name."""

    audit: int
    calls: dict[str, int]


_NAMES = (
    # other processes
    *("fork", "vfork", "execve", "execveat", "clone", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp"),
    *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64"),
    # other namespaces
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot"),
    # the network, and vsock, which no namespace holds; socketpair is another call
    "socket",
    # memory that outlives its process or that no limit counts
    *("memfd_create", "shmget", "shmat", "semget", "msgget", "mq_open", "io_setup"),
    # what the kernel shares between users
    *("keyctl", "add_key", "request_key", "syslog", "bpf", "perf_event_open", "userfaultfd", "fanotify_init"),
)
_X86_64 = (
    *(57, 58, 59, 322, 56, 101, 310, 311, 312),
    *(62, 200, 234, 129, 297, 302),
    *(272, 308, 165, 166, 155, 161),
    41,
    *(319, 29, 30, 64, 68, 240, 206),
    *(250, 248, 249, 103, 321, 298, 323, 300),
)
_AARCH64 = (
    *(-1, -1, 221, 281, 220, 117, 270, 271, 272),
    *(129, 130, 131, 138, 240, 261),
    *(97, 268, 40, 39, 41, 51),
    198,
    *(279, 194, 196, 190, 186, 180, 0),
    *(219, 217, 218, 116, 280, 241, 282, 262),
)
_MACHINES = {
    "x86_64": _Machine(0xC000003E, dict(zip(_NAMES, _X86_64, strict=True))),
    "aarch64": _Machine(0xC00000B7, dict(zip(_NAMES, _AARCH64, strict=True))),
}

_NEW_CALLS = 424
"""From here on all machines have the same numbers; Python and libc do without every one of them."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
"""Where they stand in struct seccomp_data; of the argument the low half, which is all of a pid and of these flags."""

_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_ON_ITSELF = ("kill", "tgkill")
"""Allowed where the process in question is the calling one."""


def install() -> None:
    """Filter the system calls of this process from now on; it must be unable to gain privileges (PR_SET_NO_NEW_PRIVS).

    Raises:
        OSError: the kernel has no such filters, or the machine is none of those known here.
    """
    code = _filter(os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _filter(pid: int) -> bytes:
    """The instructions for a process of this pid."""
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"seccomp: {platform.machine()} is none of {', '.join(_MACHINES)}")
    machine = _MACHINES[platform.machine()]
    code = [
        _statement(_LOAD, _ARCH),
        _jump(_EQUAL, machine.audit, 1, 0),
        _statement(_RETURN, _KILL),
        _statement(_LOAD, _NUMBER),
        _jump(_AT_LEAST, _NEW_CALLS, 0, 1),
        _statement(_RETURN, _ERROR | errno.ENOSYS),
    ]
    for name, number in machine.calls.items():
        if number < 0:
            continue
        rule = [_statement(_RETURN, _ERROR | errno.EPERM)]
        if name in (*_ON_ITSELF, "prlimit64"):
            itself = [pid, 0] if name == "prlimit64" else [pid]
            rule = [
                *(_jump(_EQUAL, one, len(itself) - i, 0) for i, one in enumerate(itself)),
                *rule,
                _statement(_RETURN, _ALLOW),
            ]
            rule.insert(0, _statement(_LOAD, _FIRST_ARGUMENT))
        elif name == "clone":
            allowed = _jump(_ANY_BIT, _CLONE_THREAD, 1, 0)
            rule = [_statement(_LOAD, _FIRST_ARGUMENT), allowed, *rule, _statement(_RETURN, _ALLOW)]
        code += [_jump(_EQUAL, number, 0, len(rule)), *rule]
    return b"".join([*code, _statement(_RETURN, _ALLOW)])


def _statement(operation: int, value: int) -> bytes:
    return struct.pack("@HBBI", operation, 0, 0, value)


def _jump(operation: int, value: int, true: int, false: int) -> bytes:
    return struct.pack("@HBBI", operation, true, false, value)
