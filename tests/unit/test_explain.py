"""Diagnosers over small root file systems."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from ocirt.explain import executable_hint, init_died
from tests.lib.compiled import context

ENOENT, EACCES, ENOEXEC = errno.ENOENT, errno.EACCES, errno.ENOEXEC
OTHER = {"x86_64": (183, "aarch64"), "aarch64": (62, "x86_64")}[os.uname().machine]
OWN = {"x86_64": 62, "aarch64": 183}[os.uname().machine]


def elf(machine, loader=b"", *, bits=2):
    """The head of an ELF file, with an interpreter if one is named."""
    head = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9) + struct.pack("<HHI", 2, machine, 1)
    head += struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 1 if loader else 0, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader) + 1, 0, 1) + loader + b"\0"


@pytest.fixture
def hint(tmp_path):
    """Write a program into a rootfs and ask why it was not run."""
    (tmp_path / "bin").mkdir()

    def ask(content, error, *, command="/bin/x", mode=0o755, cwd="/"):
        program = tmp_path / "bin/x"
        if content is not None:
            program.write_bytes(content)
            program.chmod(mode)
        process = {"args": [command], "env": ["PATH=/sbin:/bin"], "cwd": cwd}
        ctx = context(process=process, root={"path": str(tmp_path)})
        return executable_hint(ctx, command, error, "execve")

    return ask


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (elf(OTHER[0]), ENOEXEC, f" (it is for {OTHER[1]}, this machine is {os.uname().machine})"),
        (elf(4711), ENOEXEC, f" (it is for unknown, this machine is {os.uname().machine})"),
        (elf(OWN), ENOEXEC, ""),
        (
            elf(OWN, b"/lib/ld.so"),
            ENOENT,
            " (its dynamic loader /lib/ld.so does not exist in the rootfs)",
        ),
        (elf(OWN, b"/bin/x"), ENOENT, ""),
        (b"\x7fELF", ENOEXEC, " (its ELF header is cut short)"),
        (b"", ENOEXEC, " (it is empty)"),
        (b"echo hi\n", ENOEXEC, " (neither ELF nor a script with a #! line)"),
        (b"#!/bin/sh\n", ENOENT, " (its interpreter /bin/sh does not exist in the rootfs)"),
        (b"#!/bin/x -e\n", ENOENT, ""),
        (b"#!\n", ENOEXEC, " (its #! line names no interpreter)"),
    ],
)
def test_why_a_program_is_not_run(hint, content, error, text):
    assert hint(content, error) == text


def test_a_script_from_another_world(hint):
    assert "its #! line ends in CR LF" in hint(b"#!/bin/sh\r\necho\r\n", ENOENT)


def test_a_file_without_the_x_bits(hint):
    assert hint(b"#!/bin/sh\n", EACCES, mode=0o644) == " (its mode is 0644)"
    assert hint(b"#!/bin/sh\n", EACCES, mode=0o755) == ""


@pytest.mark.parametrize(("command", "cwd"), [("x", "/"), ("./x", "/bin"), ("bin/x", "/")])
def test_the_program_is_found_as_the_init_finds_it(hint, command, cwd):
    assert hint(b"", ENOEXEC, command=command, cwd=cwd) == " (it is empty)"


def test_a_symlink_of_the_rootfs_does_not_lead_to_the_host(hint, tmp_path):
    (tmp_path / "bin/x").symlink_to("/etc/hostname")
    assert hint(None, ENOEXEC) == ""


def test_nothing_but_files_is_opened(hint, tmp_path):
    os.mkfifo(tmp_path / "bin/x")
    assert hint(None, ENOEXEC) == ""


def test_without_a_rootfs_there_is_nothing_to_add():
    ctx = context(process={"args": ["x"]}, root={"path": "/nonexistent"})
    assert executable_hint(ctx, "/x", ENOEXEC, "execve") == ""


class Group:
    def __init__(self, kills):
        self.oom_kills = lambda: kills


@pytest.mark.parametrize(
    ("status", "limit", "kills", "text"),
    [
        (None, 0, 0, "ocirt-init ended before the container was ready"),
        ((1, 1, 1), 0, 0, "ocirt-init exited with status 1 before the container was ready"),
        ((1, 2, 11), 0, 0, "ocirt-init was killed by signal 11 before the container was ready"),
        ((1, 2, 9), 0, 1, "ocirt-init was killed by signal 9 before the container was ready"),
        ((1, 2, 9), 4096, 0, "ocirt-init was killed by signal 9 before the container was ready"),
        (
            (1, 2, 9),
            4096,
            1,
            "linux.resources.memory.limit: 4096 bytes are too few to start in: out of memory",
        ),
    ],
)
def test_how_the_init_died(status, limit, kills, text):
    ctx = context(linux={"resources": {"memory": {"limit": limit}}})
    ctx.cgroup = Group(kills)
    assert init_died(status, ctx) == text
