"""verify over this process: what is in force, next to what is asked."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time

import pytest

from ocirt.errors import NotFound
from ocirt.verify import Target, verify


@pytest.fixture
def process():
    """A process that sleeps; killed at the end."""
    started = subprocess.Popen(["sleep", "60"], cwd="/", env={"A": "1"})
    yield started.pid
    started.send_signal(signal.SIGKILL)
    started.wait()


def found(pid, **fields):
    """{field: (asked, in force)} for a document with these fields of process."""
    return {field: (asked, there) for field, asked, there in verify(pid, {"process": fields})}


def test_what_holds_is_equal_on_both_sides(process):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = found(
        process,
        cwd="/",
        user={"uid": os.geteuid(), "gid": os.getegid()},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
        noNewPrivileges=False,
        oomScoreAdj=int(open("/proc/self/oom_score_adj").read()),
    )
    assert rows["process.cwd"] == ("/", "/")
    assert rows
    assert {field: pair for field, pair in rows.items() if pair[0] != pair[1]} == {}


def test_what_does_not_hold_differs(process):
    rows = found(
        process,
        cwd="/home",
        user={"uid": 4711, "gid": os.getegid()},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 7, "hard": 9}],
        noNewPrivileges=True,
    )
    differing = {field for field, (asked, there) in rows.items() if asked != there}
    assert {"process.cwd", "process.noNewPrivileges"} <= differing
    assert any(field.startswith("process.user.uid") for field in differing)
    assert any(field.startswith("process.rlimits[0]") for field in differing)


def test_a_field_that_is_not_asked_for_has_no_row(process):
    assert verify(process, {"process": {}}) == []
    assert verify(process, {"process": {"rlimits": None, "cwd": None}}) == []


def test_the_hosts_root_is_no_root_of_a_containers_own(process):
    assert verify(process, {"root": {"path": "rootfs"}}) == [("root.path", "own root", "host's root")]


def test_a_mount_is_looked_up_in_mountinfo(process):
    spec = {"mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/nosuch", "type": "tmpfs"}]}
    rows = verify(process, spec)
    assert [asked == there for field, asked, there in rows if field.startswith("mounts[0]")] == [True]
    assert [asked == there for field, asked, there in rows if field.startswith("mounts[1]")] == [False]


def test_the_propagation_of_the_root(process):
    spec = {"linux": {"rootfsPropagation": "unbindable"}}
    ((field, asked, there),) = verify(process, spec)
    assert (field, asked) == ("linux.rootfsPropagation", "unbindable")
    assert there in ("shared", "private", "slave")


def test_a_pid_that_is_gone():
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(NotFound):
        verify(ended.pid, {})


def test_nothing_stays_open():
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Target(os.getpid()).close()
        with pytest.raises(NotFound):
            Target(2**22 + 1)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_status_is_a_dict(process):
    target = Target(process)
    deadline = time.monotonic() + 5
    while target.status()["Name"] != "sleep" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert target.status()["Name"] == "sleep"
    target.close()
