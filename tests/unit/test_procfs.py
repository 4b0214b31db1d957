"""Parsers of /proc over real and over written-down content."""

from __future__ import annotations

import os
import subprocess
import time

from ocirt import procfs


def test_the_start_time_tells_a_process_from_a_later_one():
    pid = os.getpid()
    started = procfs.start_time(pid)
    assert procfs.process_is(pid, started)
    assert not procfs.process_is(pid, started + 1)


def test_a_zombie_is_not_running():
    with subprocess.Popen(["sleep", "60"]) as child:
        started = procfs.start_time(child.pid)
        assert procfs.process_is(child.pid, started)
        child.kill()
        deadline = time.monotonic() + 5
        while procfs.process_state(child.pid) != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert procfs.process_state(child.pid) == "Z"
        assert not procfs.process_is(child.pid, started)
    assert procfs.process_state(child.pid) == ""
    assert not procfs.process_is(child.pid, started)


def test_a_command_with_spaces_and_parentheses_does_not_shift_the_fields(monkeypatch):
    line = b"12 (a) R (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21\n"
    monkeypatch.setattr(procfs, "read", lambda _path: line)
    assert procfs.process_state(12) == "S"
    assert procfs.start_time(12) == 777


def test_cgroup_lines_become_hierarchy_and_path(monkeypatch):
    text = b"12:cpu,cpuacct:/a b\n3:name=systemd:/x:y\n0::/user.slice\n"
    monkeypatch.setattr(procfs, "read", lambda _path: text)
    assert procfs.cgroup_paths(1) == {"cpu,cpuacct": "/a b", "name=systemd": "/x:y", "": "/user.slice"}


def test_a_mount_line_is_taken_apart_and_unescaped():
    mount = procfs.Mount(
        rb"36 35 98:0 /mnt1 /with\040space\134 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
    )
    assert (mount.id, mount.parent, mount.device) == (36, 35, "98:0")
    assert (mount.root, mount.mount_point) == ("/mnt1", "/with space\\")
    assert (mount.options, mount.optional) == (["rw", "noatime"], ["master:1"])
    assert (mount.fstype, mount.source, mount.super) == ("ext3", "/dev/root", ["rw", "errors=continue"])


def test_own_mounts_hold_proc():
    assert any(m.mount_point == "/proc" and m.fstype == "proc" for m in procfs.mountinfo())


def test_a_file_of_many_pages_is_read_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    assert len(procfs.read(str(path))) == 1_000_000
    assert len(procfs.read(str(path), limit=100_000)) == 100_000


def test_id_map_rows_are_numbers():
    assert procfs.id_map("self")[0][0] == 0
