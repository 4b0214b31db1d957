"""ocirt verify: what config.json asked for next to what the kernel has in force, field by field.

Works for every running container, also those that runc or crun started: only the pid and the
document are needed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ocirt.context import lookup
from ocirt.errors import NotFound
from ocirt.fields import ROWS, load_module

if TYPE_CHECKING:
    from collections.abc import Iterator

Finding = tuple[str, str, str]  # field, asked, in force


class Target:
    """A live process to observe: pid, and fds of its /proc directory and of its root."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.proc = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"pid {pid}") from None
        self.root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.proc)

    def close(self) -> None:
        os.close(self.root)
        os.close(self.proc)

    def read(self, name: str) -> str:
        """Text of a file below /proc/PID."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    def link(self, name: str) -> str:
        return os.readlink(name, dir_fd=self.proc)

    def status(self) -> dict[str, str]:
        """/proc/PID/status as a dict."""
        lines = (line.partition(":") for line in self.read("status").splitlines())
        return {name: value.strip() for name, _, value in lines}


def verify(pid: int, spec: dict[str, Any]) -> list[Finding]:
    """One row per observed field: (field, asked, in force), equal texts when it holds.

    Raises NotFound when there is no such process.
    """
    target = Target(pid)
    try:
        return list(_findings(target, spec))
    finally:
        target.close()


def _findings(target: Target, spec: dict[str, Any]) -> Iterator[Finding]:
    seen = set()
    for field, _applier, observer, *_rest in ROWS:
        if not observer or observer in seen or lookup(spec, field) is None:
            continue
        seen.add(observer)
        name, _, function = observer.partition(":")
        yield from getattr(load_module(f"observe.{name}"), function)(target, spec)
