"""Programs that try to get out, or to be taken for right: each prints SECRET, which its test expects, if it does."""

from __future__ import annotations

_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_WIN = "print(SECRET)\n"

HOSTILE: dict[str, str] = {
    # ---- processes ----
    "fork": f"import os\nif os.fork() >= 0:\n    {_WIN}",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "vfork": f"{_LIBC}if libc.vfork() >= 0:\n    {_WIN}",
    "clone": f"{_LIBC}if libc.syscall(56, 17, 0, 0, 0, 0) >= 0:\n    {_WIN}",
    "clone3": f"{_LIBC}x = (ctypes.c_uint64 * 11)(*[0] * 4, 17)\nif libc.syscall(435, x, 88) >= 0:\n    {_WIN}",
    "subprocess": f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])\n{_WIN}",
    "shell": f"import os\nif os.system('true') == 0:\n    {_WIN}",
    "another program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(1)'])",
    "multiprocessing": f"import multiprocessing\nmultiprocessing.Process(target=print).start()\n{_WIN}",
    "thread bomb": f"""
import threading, time
started = []
while len(started) < 5000:
    started.append(threading.Thread(target=time.sleep, args=(60,), daemon=True))
    started[-1].start()
{_WIN}""",
    "daemon": f"import os, time\nos.setsid()\nif os.fork() == os.fork() == 0:\n    time.sleep(60)\n{_WIN}",
    "stays": "import time\ntime.sleep(60)",
    "closes everything and stays": "import os, time\nos.closerange(0, 100)\ntime.sleep(60)",
    "a thread stays": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    "atexit stays": "import atexit, time\natexit.register(time.sleep, 60)",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "catches signals": """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, lambda *_: None)
while True:
    pass""",
    "ignores the limit of time": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
    "outlives its parent": f"{_LIBC}libc.prctl(1, 0, 0, 0, 0)\nimport time\ntime.sleep(60)",
    # ---- signals, and other processes' memory ----
    "kills its parent": f"import os\nos.kill(os.getppid(), 9)\n{_WIN}",
    "kills the grader": f"import os\nos.kill(GRADER, 9)\n{_WIN}",
    "kills everybody": f"import os\nos.kill(-1, 9)\n{_WIN}",
    "kills its group": f"import os\nos.killpg(0, 9)\n{_WIN}",
    "kills by tgkill": f"{_LIBC}if libc.syscall(234, GRADER, GRADER, 9) == 0:\n    {_WIN}",
    "kills by tkill": f"{_LIBC}if libc.syscall(200, GRADER, 9) == 0:\n    {_WIN}",
    "kills by a queue": f"{_LIBC}if libc.syscall(129, GRADER, 9, bytes(128)) == 0:\n    {_WIN}",
    "kills by a descriptor": f"import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(GRADER), 9)\n{_WIN}",
    "limits the grader": f"import resource\nresource.prlimit(GRADER, resource.RLIMIT_CPU, (1, 1))\n{_WIN}",
    "limits its parent": f"import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))\n{_WIN}",
    "traces its parent": f"{_LIBC}if libc.ptrace(16, os.getppid(), 0, 0) == 0:\n    {_WIN}",
    "traces the grader": f"{_LIBC}if libc.ptrace(16, GRADER, 0, 0) == 0:\n    {_WIN}",
    "reads memory": f"""{_LIBC}
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
here, there = ctypes.create_string_buffer(8), Part(0x400000, 8)
mine = Part(ctypes.addressof(here), 8)
for pid in (1, GRADER):
    if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(there), 1, 0) >= 0 or ctypes.get_errno() != 1:
        {_WIN}""",
    "reads /proc": f"import os\nos.listdir('/proc')\n{_WIN}",
    "mounts /proc": f"{_LIBC}os.mkdir('p')\nif libc.mount(b'proc', b'p', b'proc', 0, None) == 0:\n    {_WIN}",
    # ---- rights ----
    "is root": f"import os\nif os.getuid() == 0:\n    {_WIN}",
    "becomes root": f"import os\nos.setuid(0)\n{_WIN}",
    "raises its limits": f"""
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    try:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        continue
    {_WIN}""",
    "another user namespace": f"{_LIBC}if libc.unshare(0x10000000) == 0:\n    {_WIN}",
    "another namespace of files": f"{_LIBC}if libc.unshare(0x20000) == 0:\n    {_WIN}",
    "another root": f"import os\nos.mkdir('r')\nos.chroot('r')\n{_WIN}",
    "a device": f"import os, stat\nos.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\nopen('disk')\n{_WIN}",
    "a vsock device": f"open('/dev/vsock')\n{_WIN}",
    "memory as a device": f"open('/dev/mem')\n{_WIN}",
    "the other machine's calls": f"{_LIBC}if libc.syscall(0x40000000 + 57) >= 0:\n    {_WIN}",
    "performance counters": f"{_LIBC}if libc.syscall(298, bytes(128), 0, -1, -1, 0) >= 0:\n    {_WIN}",
    "a ring of calls": f"{_LIBC}if libc.syscall(425, 8, ctypes.create_string_buffer(256)) >= 0:\n    {_WIN}",
    "keys": f"{_LIBC}if libc.syscall(250, 0, -3, 1) >= 0:\n    {_WIN}",
    "the kernel's log": f"{_LIBC}if libc.klogctl(10, 0, 0) >= 0:\n    {_WIN}",
    # ---- network ----
    "tcp": f"import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)\n{_WIN}",
    "udp": f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'out', ('127.0.0.1', PORT))\n{_WIN}",
    "ipv6": f"import socket\nsocket.socket(socket.AF_INET6)\n{_WIN}",
    "an abstract socket": f"import socket\nsocket.socket(socket.AF_UNIX).connect(chr(0) + ABSTRACT)\n{_WIN}",
    "a socket in a file": f"import socket\nsocket.socket(socket.AF_UNIX).connect(FOLDER + '/socket')\n{_WIN}",
    "netlink": f"import socket\nsocket.socket(socket.AF_NETLINK)\n{_WIN}",
    "vsock": f"import socket\nsocket.socket(40)\n{_WIN}",
    "a name": f"import socket\nsocket.getaddrinfo('localhost', 80)\nsocket.gethostbyname('example.org')\n{_WIN}",
    "a server": f"import socket\nsocket.create_server(('127.0.0.1', 0))\n{_WIN}",
    # ---- files ----
    "reads a file": f"open(FOLDER + '/canary').read()\n{_WIN}",
    "reads users": f"open('/etc/passwd').read()\n{_WIN}",
    "writes a file": f"open(FOLDER + '/written', 'w').write('x')\n{_WIN}",
    "writes at the root": f"open('/written', 'w')\n{_WIN}",
    "writes its input": f"open('/input', 'w')\n{_WIN}",
    "writes its input by another name": f"open('/dev/stdin', 'w')\n{_WIN}",
    "changes the library": f"import os\nopen(os.__file__, 'a')\n{_WIN}",
    "removes the library": f"import os\nos.remove(os.__file__)\n{_WIN}",
    "changes a package": f"import numpy\nopen(numpy.__file__, 'a')\n{_WIN}",
    "a link out": f"import os\nos.symlink(FOLDER + '/canary', 'link')\nopen('link').read()\n{_WIN}",
    "a hard link": f"import os\nos.link('/input', 'link')\n{_WIN}",
    "a way up": f"open('../' * 40 + FOLDER + '/canary').read()\n{_WIN}",
    "a huge file": f"with open('huge', 'wb') as f:\n    for _ in range(200):\n        f.write(bytes(1 << 20))\n{_WIN}",
    "a sparse file": f"with open('huge', 'wb') as file:\n    file.truncate(1 << 40)\n{_WIN}",
    "many bytes": f"for i in range(40):\n    open(str(i), 'wb').write(bytes(10 << 20))\n{_WIN}",
    "many files": f"for i in range(100_000):\n    open(str(i), 'w').close()\n{_WIN}",
    "many directories": f"import os\nfor i in range(100_000):\n    os.mkdir('d')\n    os.chdir('d')\n{_WIN}",
    "many open files": f"import os\nopened = [os.open('/dev/null', 0) for _ in range(1000)]\n{_WIN}",
    "no directory": "import os, shutil\nshutil.rmtree('/tmp', ignore_errors=True)\nos.rmdir('/tmp')",
    "a terminal": f"open('/dev/tty')\n{_WIN}",
    # ---- memory ----
    "memory": f"x = bytearray(64 << 30)\n{_WIN}",
    "memory by and by": f"x = []\nwhile len(x) < 1 << 16:\n    x.append(bytes(range(256)) * 4096)\n{_WIN}",
    "shared memory": f"import mmap\nx = [mmap.mmap(-1, 1 << 30) for _ in range(8)]\n{_WIN}",
    "memory in a file": f"import os\nos.memfd_create('x')\n{_WIN}",
    "memory that stays": f"{_LIBC}if libc.shmget(0, 1 << 20, 0o1600) >= 0:\n    {_WIN}",
    "messages that stay": f"{_LIBC}if libc.msgget(0, 0o1600) >= 0:\n    {_WIN}",
    "deep recursion": f"import sys\nsys.setrecursionlimit(1 << 30)\ndef f():\n    f()\nf()\n{_WIN}",
    "deep in C": f"x = []\nfor _ in range(10_000_000):\n    x = [x]\nrepr(x)\n{_WIN}",
    "a crash": f"import ctypes\nctypes.string_at(0)\n{_WIN}",
    "a code that is too deep": f"eval('(' * 100_000 + ')' * 100_000)\n{_WIN}",
    # ---- output ----
    "endless output": "while True:\n    print('x' * 1000)",
    "endless output to a descriptor": "import os\nwhile True:\n    os.write(1, b'x' * 65536)",
    "endless errors": "import sys\nwhile True:\n    sys.stderr.write('x' * 1000)",
    "no end of line": "import sys\nwhile True:\n    sys.stdout.write('x')",
    "no output": "import sys\nsys.stdout = None",
    "leaves at once": "import os\nos._exit(0)",
    "leaves early": "raise SystemExit(0)",
    "no text": "import os\nos.write(1, bytes(range(256)))",
    "right, then an error": f"{_WIN}1 / 0",
    "right, then a signal": f"import os, sys\n{_WIN}sys.stdout.flush()\nos.kill(os.getpid(), 9)",
    "right, then a status": f"import os, sys\n{_WIN}sys.stdout.flush()\nos._exit(3)",
    "right, and more": f"{_WIN}{_WIN}",
    # ---- what is expected ----
    "looks for it in frames": """
import sys
frame = sys._getframe()
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
        if type(value) is str and value.startswith(PART) and len(value) > len(PART):
            print(value)
    frame = frame.f_back""",
    "looks for it in all objects": """
import gc
for value in gc.get_objects():
    if type(value) in (list, tuple, dict) and value is not vars():
        for one in (value.values() if type(value) is dict else value):
            if type(one) is str and one.startswith(PART) and len(one) > len(PART):
                print(one)""",
    "looks for it in descriptors": f"""
import os
for number in range(3, 1024):
    try:
        os.read(number, 1)
    except OSError:
        continue
    {_WIN}""",
    "looks for it in the environment": f"import os\nif 'PROGRAMS_CANARY' in os.environ:\n    {_WIN}",
    "changes what compares": """
import builtins, json, sys
for module in list(sys.modules.values()):
    for name in ("same_output", "same_value", "_outcome", "_reply"):
        setattr(module, name, lambda *_: True)
builtins.print = json.dumps = lambda *_, **__: None""",
}
"""By what each of them does."""

NOT_RUN = {
    "no code": "I can't.",
    "an open block": "```python\nprint(1)",
    "an empty block": "```python\n```",
    "no Python": "```python\ndef f(:\n```",
    "zeros": "```python\nprint(1)\0\n```",
    "half a character": "```python\nprint('\ud800')\n```",
}
"""Responses that have no program."""
