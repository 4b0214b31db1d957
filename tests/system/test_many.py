"""Many containers at once, and commands for one container at the same moment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import PREFIX, Runtime

pytestmark = pytest.mark.root

AT_ONCE = 8


def begin(runtime: Runtime, *words: object) -> subprocess.Popen[str]:
    """A command in the background. No pipes: a container would hold them open."""
    with open(runtime.root.parent / f"{words[0]}.{words[-1]}.err", "w") as errors:
        return subprocess.Popen(
            runtime.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )


def in_batches(runtime: Runtime, calls: list[tuple[object, ...]]) -> None:
    """Run commands, AT_ONCE at a time; all must succeed."""
    for first in range(0, len(calls), AT_ONCE):
        batch = calls[first : first + AT_ONCE]
        for words, process in [(words, begin(runtime, *words)) for words in batch]:
            status = process.wait(60)
            assert status == 0, (words, (runtime.root.parent / f"{words[0]}.{words[-1]}.err").read_text())


def all_at_once(runtime: Runtime, *calls: tuple[object, ...]) -> list[int]:
    """Exit statuses of commands that were begun together."""
    return [process.wait(60) for process in [begin(runtime, *words) for words in calls]]


def runs(pid: int) -> bool:
    """Is there a process, other than a zombie that its parent has yet to reap?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_hundred_containers_side_by_side_leave_nothing(runtime: Runtime, bundle: Bundle) -> None:
    """Issue 2, seen (h)."""
    parent = f"/{PREFIX}-{os.getpid()}-hundred"
    bundle.args("/bin/sleep", "600")
    ids = []
    copies = []
    for _ in range(100):
        container_id = runtime.new_id()
        copy = Bundle(bundle.path / container_id, {**bundle.spec, "linux": dict(bundle.linux)})
        copy.path.mkdir()
        copy.spec["root"] = {"path": str(bundle.rootfs)}
        copy.linux["cgroupsPath"] = f"{parent}/{container_id}"
        copy.write()
        ids.append(container_id)
        copies.append(copy)
    before = mounts()
    in_batches(
        runtime, [("create", "--bundle", copy.path, name) for copy, name in zip(copies, ids, strict=True)]
    )
    in_batches(runtime, [("start", name) for name in ids])
    states = runtime.state_list()
    assert {state["id"]: state["status"] for state in states} == dict.fromkeys(ids, "running")
    pids = [state["pid"] for state in states]
    assert len(set(pids)) == 100
    in_batches(runtime, [("kill", name, "KILL") for name in ids])
    for name in ids:
        runtime.wait_for_status(name, "stopped")
    in_batches(runtime, [("delete", name) for name in ids])
    assert runtime.state_list() == []
    assert os.listdir(runtime.root) == []
    assert mounts() == before
    assert [pid for pid in pids if runs(pid)] == []
    for group in cgroups_named(parent[1:]):
        assert not [name for name in os.listdir(group) if (Path(group) / name).is_dir()]
        os.rmdir(group)
    runtime.ids.clear()


def mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def test_of_creates_with_one_id_exactly_one_wins(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("/bin/sleep", "60").write()
    for _ in range(5):
        container_id = runtime.new_id()
        create = ("create", "--bundle", bundle.path, container_id)
        processes = []
        errors = []
        for i in range(4):
            errors.append(runtime.root.parent / f"same.{i}")
            with open(errors[-1], "w") as file:
                processes.append(
                    subprocess.Popen(
                        runtime.command(*create), stdin=subprocess.DEVNULL, stdout=file, stderr=file
                    )
                )
        statuses = [process.wait(60) for process in processes]
        texts = [file.read_text() for file, status in zip(errors, statuses, strict=True) if status]
        assert sorted(statuses) == [0, 1, 1, 1]
        assert all(f"container with given ID already exists: {container_id}" in text for text in texts), texts
        assert runtime.state(container_id)["status"] == "created"
        runtime("start", container_id, check=True)
        runtime("delete", "--force", container_id, check=True)


def test_of_starts_of_one_container_exactly_one_wins(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("/bin/sleep", "60")
    for _ in range(5):
        container_id = runtime.create(bundle)
        statuses = all_at_once(runtime, *[("start", container_id)] * 3)
        assert sorted(statuses) == [0, 1, 1]
        assert runtime.state(container_id)["status"] == "running"
        runtime("delete", "--force", container_id, check=True)


def test_start_and_delete_at_the_same_moment_leave_a_container_or_nothing(
    runtime: Runtime, bundle: Bundle
) -> None:
    bundle.args("/bin/sleep", "60")
    for _ in range(8):
        container_id = runtime.create(bundle)
        all_at_once(runtime, ("start", container_id), ("delete", "--force", container_id))
        gone = runtime("state", container_id)
        assert gone.returncode == 1
        assert "container does not exist" in gone.stderr
        assert cgroups_named(container_id) == []
        assert not (runtime.root / container_id).exists()


def test_create_and_forced_delete_at_the_same_moment(runtime: Runtime, bundle: Bundle) -> None:
    """Either delete came first, or it ended the create (1), or waited for it; never a half."""
    bundle.args("/bin/sleep", "60").write()
    for _ in range(8):
        container_id = runtime.new_id()
        create, delete = all_at_once(
            runtime, ("create", "--bundle", bundle.path, container_id), ("delete", "--force", container_id)
        )
        assert (create in (0, 1), delete) == (True, 0)
        done = runtime("state", container_id)
        if done.returncode == 0:
            assert runtime.state(container_id)["status"] == "created"
            runtime("delete", container_id, check=True)
        assert cgroups_named(container_id) == []
        assert not (runtime.root / container_id).exists()


def test_all_execs_at_once_come_through(runtime: Runtime, bundle: Bundle) -> None:
    container_id = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    processes = [
        subprocess.Popen(
            runtime.command("exec", container_id, "/bin/sh", "-c", f"echo {i}; exit {i}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(16)
    ]
    results = [(process.communicate(timeout=60)[0].strip(), process.returncode) for process in processes]
    assert results == [(str(i), i) for i in range(16)]


def test_delete_twice(any_runtime: Runtime, bundle: Bundle) -> None:
    container_id = any_runtime.create(bundle.args("/bin/sleep", "60"))
    any_runtime("delete", "--force", container_id, check=True)
    again: Any = any_runtime("delete", container_id)
    assert again.returncode == 1
    if any_runtime.name != "crun":  # whose words are its own
        assert "does not exist" in again.stderr
    assert any_runtime("delete", "--force", container_id).returncode == 0
