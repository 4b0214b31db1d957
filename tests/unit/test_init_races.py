"""Somebody swaps directories and links in the root while the init works there.

CVE-2021-30465, CVE-2024-45310, CVE-2026-41579: whatever the moment, nothing outside changes.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lib.initrun import Sandbox, user_directory

RENAME_EXCHANGE = 2
ROUNDS, OPS = 25, 40  # a thousand attempts

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def outside() -> Iterator[Path]:
    with user_directory() as directory:
        directory.chmod(0o777)
        (directory / "sentinel").mkdir()
        (directory / "sentinel").chmod(0o777)
        (directory / "root/a/real").mkdir(parents=True)
        Sandbox(directory).give()
        (directory / "root/a/link").symlink_to(f"{'../' * 12}{str(directory)[1:]}/sentinel")
        yield directory


@contextmanager
def swapping(first: Path, second: Path) -> Iterator[list[int]]:
    """Exchange the two names in bursts, in which no walk with ".." gets through, and with pauses after
    them; the list holds how often it was done."""
    stop = threading.Event()
    count = [0]

    def swap() -> None:
        one, two = os.fsencode(first), os.fsencode(second)
        while not stop.is_set():
            count[0] += libc.renameat2(-100, one, -100, two, RENAME_EXCHANGE) == 0
            if count[0] % 1000 > 900:
                stop.wait(count[0] % 7 * 20e-6)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def attempt(outside: Path, kind: str, number: int) -> None:
    """One run of the init that makes many things below the name that is swapped."""
    root = outside / "root"
    sandbox = Sandbox(root).enter()
    place = sandbox.plan.register("place")
    for i in range(OPS):
        name = b"a/real/%d-%d" % (number, i)
        if kind == "directory":
            sandbox.add("target", place, sandbox.root, name + b"/below", 0, 0o755)
        elif kind == "file":
            sandbox.add("target", place, sandbox.root, name + b"/file", 1, 0o644)
        elif kind == "node":
            sandbox.add("mknod", sandbox.root, name, stat.S_IFIFO | 0o666, 0, 0, 0)
        elif kind == "symlink":
            sandbox.add("symlink", sandbox.root, name, b"goal")
    sandbox.run(give=False)  # success, or ELOOP and the like where the moment was bad


@pytest.mark.parametrize("kind", ["directory", "file", "node", "symlink"])
def test_nothing_is_made_outside_while_names_are_swapped(outside: Path, kind: str) -> None:
    with swapping(outside / "root/a/real", outside / "root/a/link") as count:
        for number in range(ROUNDS):
            attempt(outside, kind, number)
    assert count[0] > ROUNDS
    assert os.listdir(outside / "sentinel") == []


def test_a_mount_lands_below_the_root_while_names_are_swapped(outside: Path) -> None:
    with swapping(outside / "root/a/real", outside / "root/a/link"):
        for _ in range(ROUNDS):
            sandbox = Sandbox(outside / "root").enter()
            for _ in range(8):
                sandbox.attach(sandbox.tmpfs(), b"a/real/m")
                sandbox.plan.register_names[3:] = []  # the registers are used again
            sandbox.script(f"cut -d' ' -f5 /proc/self/mountinfo | grep -c ^{outside}/sentinel && kill -9 $$")
            result = sandbox.run(give=False)
            assert result.status != -9, "mounted outside"
    assert os.listdir(outside / "sentinel") == []
