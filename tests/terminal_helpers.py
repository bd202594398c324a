"""A chat on a terminal as a person sees it: what the screen shows, and what is left of it afterwards."""

from __future__ import annotations

import os
import select
import struct
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from typing import Any

import pyte
from broken import Terminal


class Screen(Terminal):
    """A terminal whose screen is read."""

    def __init__(self, *args: object, columns: int = 80, **kwargs: Any) -> None:
        super().__init__("run", "-t", 1, *args, **kwargs)
        self.before, self.bytes = termios.tcgetattr(self.fd), b""
        self.screen = pyte.Screen(columns, 50)
        self.stream = pyte.ByteStream(self.screen)
        self.resize(columns)

    def resize(self, columns: int) -> None:
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.screen.resize(50, columns)

    def read(self, seconds: float) -> bool:
        try:
            data = os.read(self.fd, 1 << 16) if select.select([self.fd], [], [], seconds)[0] else b""
        except OSError:  # everybody has gone
            return False
        self.bytes += data
        self.stream.feed(data)
        return bool(data)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def until(self, ready: Callable[[list[str]], bool], seconds: float = 20) -> list[str]:
        """Read until the screen is as wanted, and nothing more comes."""
        end = time.monotonic() + seconds
        while not ready(self.lines or [""]):
            assert time.monotonic() < end, self.lines
            self.read(0.1)
        while self.read(0.05):
            pass
        return self.lines

    def until_bytes(self, wanted: bytes) -> None:
        """Read until these have come."""
        end = time.monotonic() + 20
        while wanted not in self.bytes:
            assert time.monotonic() < end, self.lines
            self.read(0.1)

    def prompt(self) -> list[str]:
        return self.until(lambda lines: bool(lines) and lines[-1] == ">")

    def type(self, text: str | bytes, end: bytes = b"\r") -> list[str]:
        self.send((text.encode() if isinstance(text, str) else text) + end)
        return self.lines

    def say(self, text: str | bytes) -> list[str]:
        """Type a line, and wait for the prompt after it."""
        seen = len(self.bytes)
        self.type(text)
        self.until(lambda _: b"\x1b[?2004h" in self.bytes[seen:].partition(b"\x1b[?2004l")[2])  # ended, and begun anew
        return self.prompt()

    def left_clean(self) -> None:
        """The terminal is as it was before."""
        while self.read(0.2):
            pass
        assert termios.tcgetattr(self.fd) == self.before
        assert self.bytes.rfind(b"\x1b[?2004l") >= self.bytes.rfind(b"\x1b[?2004h")
        assert self.bytes.rfind(b"\x1b[?25h") >= self.bytes.rfind(b"\x1b[?25l")
        last = self.bytes.rfind(b"\x1b[0m") + 4
        assert b"\x1b[38" not in self.bytes[last:]
