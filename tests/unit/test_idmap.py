"""Id maps: written by ourselves, or by the setuid helpers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ocirt import idmap, spawn
from ocirt.errors import StepError, Unsupported

HOUSE = str(Path(__file__).parents[2])
RANGE = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def own(number):
    return [{"containerID": 0, "hostID": number, "size": 1}]


@pytest.fixture
def written(monkeypatch):
    """(file, text) of what is written, (program, words) of what is run."""
    calls = []
    monkeypatch.setattr(idmap, "_write", lambda _d, name, text, _field: calls.append((name, text)))
    monkeypatch.setattr(idmap, "_helper", lambda name, _pid, text, _field: calls.append((name, text.split())))
    return calls


def write_maps(linux, euid):
    pidfd = os.pidfd_open(os.getpid())
    idmap.write_maps(os.getpid(), pidfd, linux, euid)
    os.close(pidfd)


def test_root_writes_the_maps_itself(written):
    write_maps({"uidMappings": RANGE, "gidMappings": [*RANGE, *own(5)]}, 0)
    assert written == [("uid_map", "0 100000 65536\n"), ("gid_map", "0 100000 65536\n0 5 1\n")]


def test_a_user_maps_its_own_id_and_gives_up_setgroups(written):
    write_maps({"uidMappings": own(1000), "gidMappings": own(os.getegid())}, 1000)
    assert written == [
        ("setgroups", "deny"),
        ("uid_map", "0 1000 1\n"),
        ("gid_map", f"0 {os.getegid()} 1\n"),
    ]


@pytest.mark.parametrize("uids", [RANGE, own(1001), own(1000) + RANGE])
def test_for_more_the_helpers_are_called(written, uids):
    write_maps({"uidMappings": uids, "gidMappings": own(os.getegid())}, 1000)
    assert [call[0] for call in written] == ["newuidmap", "newgidmap"]


def test_a_pid_that_is_another_process_by_now_gets_no_map(written):
    child = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    with pytest.raises(StepError) as refused:
        idmap.write_maps(os.getpid(), pidfd, {"uidMappings": RANGE, "gidMappings": RANGE}, 0)
    os.close(pidfd)
    assert (refused.value.field, refused.value.errno) == ("linux.uidMappings", errno.ESRCH)
    assert written == []


@pytest.mark.root
def test_a_proc_that_is_none_is_not_written_to(tmp_path):
    """In a mount namespace with a directory over /proc that has a file for the map."""
    code = (
        "import os, sys; from ocirt import idmap; pidfd = os.pidfd_open(os.getpid()); "
        "os.system('mount --bind . /proc'); os.makedirs(f'/proc/{os.getpid()}'); "
        "open(f'/proc/{os.getpid()}/uid_map', 'w').close(); "
        "idmap.write_maps(os.getpid(), pidfd, {'uidMappings': [], 'gidMappings': []}, 0)"
    )
    command = ["unshare", "-m", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": HOUSE}, capture_output=True, text=True)
    assert "SpecError: /proc: is not a proc file system" in done.stderr, done.stderr


def test_a_refusal_names_the_field(tmp_path):
    directory = os.open(tmp_path, os.O_PATH)
    with pytest.raises(StepError) as refused:
        idmap._write(directory, "nosuch", "0 0 1", "linux.uidMappings")
    os.close(directory)
    assert (refused.value.field, refused.value.errno) == ("linux.uidMappings", errno.ENOENT)


def helper(monkeypatch, status, stderr=""):
    calls = []

    def run(argv, env):
        calls.append((argv, env))
        return spawn.Result(status, stderr, 0.0)

    monkeypatch.setattr(spawn, "run", run)
    monkeypatch.setattr(idmap.posix, "stat", lambda path: None)
    return calls


def test_the_helper_is_found_in_fixed_places_and_gets_no_environment(monkeypatch):
    calls = helper(monkeypatch, 0)
    idmap._helper("newuidmap", 42, "0 1000 1\n1 100000 65536\n", "linux.uidMappings")
    assert calls == [(["/usr/bin/newuidmap", "42", "0", "1000", "1", "1", "100000", "65536"], {})]


def test_what_the_helper_says_is_told(monkeypatch):
    helper(monkeypatch, 1, "newuidmap: uid range [0-1) -> [1-2) not allowed\n")
    with pytest.raises(StepError, match=r"linux\.uidMappings \(newuidmap: uid range .* not allowed\)"):
        idmap._helper("newuidmap", 42, "0 1 1\n", "linux.uidMappings")


def test_a_helper_that_is_missing_is_named(monkeypatch):
    def stat(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(idmap.posix, "stat", stat)
    with pytest.raises(Unsupported, match="newgidmap is not installed"):
        idmap._helper("newgidmap", 42, "0 1 1\n", "linux.gidMappings")
