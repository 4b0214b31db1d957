"""Id maps: written by ourselves, or by the setuid helpers."""

from __future__ import annotations

import errno
import os

import pytest

from ocirt import idmap, spawn
from ocirt.errors import StepError, Unsupported

RANGE = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def own(number):
    return [{"containerID": 0, "hostID": number, "size": 1}]


@pytest.fixture
def written(monkeypatch):
    """(file, text) of what is written, (program, words) of what is run."""
    calls = []
    monkeypatch.setattr(idmap, "_write", lambda _pid, name, text, _field: calls.append((name, text)))
    monkeypatch.setattr(idmap, "_helper", lambda name, _pid, text, _field: calls.append((name, text.split())))
    return calls


def test_root_writes_the_maps_itself(written):
    idmap.write_maps(1, {"uidMappings": RANGE, "gidMappings": [*RANGE, *own(5)]}, 0)
    assert written == [("uid_map", "0 100000 65536\n"), ("gid_map", "0 100000 65536\n0 5 1\n")]


def test_a_user_maps_its_own_id_and_gives_up_setgroups(written):
    idmap.write_maps(1, {"uidMappings": own(1000), "gidMappings": own(os.getegid())}, 1000)
    assert written == [
        ("setgroups", "deny"),
        ("uid_map", "0 1000 1\n"),
        ("gid_map", f"0 {os.getegid()} 1\n"),
    ]


@pytest.mark.parametrize("uids", [RANGE, own(1001), own(1000) + RANGE])
def test_for_more_the_helpers_are_called(written, uids):
    idmap.write_maps(1, {"uidMappings": uids, "gidMappings": own(os.getegid())}, 1000)
    assert [call[0] for call in written] == ["newuidmap", "newgidmap"]


def test_a_refusal_names_the_field():
    with pytest.raises(StepError) as refused:
        idmap._write(os.getpid(), "nosuch", "0 0 1", "linux.uidMappings")
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
