"""The runtime killed by SIGKILL at every step: `delete --force` always leaves nothing.

Issue 2, seen (e). What is left is found exactly: this process becomes the subreaper of whatever a
killed runtime leaves behind.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ocirt import kernel
from tests.lib.bundle import Bundle, give_away
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2]
DRIVER = Path(__file__).parents[1] / "lib" / "killed.py"
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def children() -> set[int]:
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


class Orphans:
    """Processes that came to us since the test began."""

    def __init__(self) -> None:
        self.before = children()

    def left(self, known: int = 0) -> list[str]:
        """The command lines of the living but known; the dead are reaped."""
        found = []
        for pid in children() - self.before - {known}:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@pytest.fixture
def orphans():
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    yield Orphans()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)


class Killed:
    """Runs commands that are killed on the way, and looks for what they leave."""

    def __init__(self, runtime: Runtime, bundle: Bundle, orphans: Orphans, log: Path) -> None:
        self.runtime = runtime
        self.bundle = bundle
        self.orphans = orphans
        self.log = log

    def run(self, last: int, *words: object) -> list[str]:
        """The steps that were begun; the last is "end" when it came through, and then it succeeded."""
        call = [sys.executable, "-B", DRIVER, last, self.log, "--root", self.runtime.root, *words]
        with open(self.bundle.path / "output", "w+") as output:
            done = subprocess.run(
                [str(word) for word in call],
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
            )
            output.seek(0)
            steps = self.log.read_text().splitlines()
            ended = steps[-1] == "end" and len(steps) != last
            assert done.returncode == (0 if ended else -9), (last, done.returncode, output.read())
        return steps

    def create(self, last: int, container_id: str) -> list[str]:
        return self.run(last, "create", "--bundle", self.bundle.path, container_id)

    def nothing_is_left_of(self, container_id: str, where: object) -> None:
        """After delete --force, and only after it."""
        words = self.runtime.command("delete", "--force", container_id)
        delete = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        while delete.poll() is None:
            # A dead process that was put into a pid namespace from outside keeps it alive until
            # its parent reaps it: that are we.
            self.orphans.left(delete.pid)
            time.sleep(0.002)
        assert delete.stderr is not None
        assert (delete.returncode, delete.stderr.read()) == (0, ""), where
        delete.stderr.close()
        assert not (self.runtime.root / container_id).exists(), where
        assert cgroups_named(container_id) == [], where
        deadline = time.monotonic() + 5
        while left := self.orphans.left():
            assert time.monotonic() < deadline, (where, left)
            time.sleep(0.002)


@pytest.fixture
def killed(runtime: Runtime, bundle: Bundle, orphans: Orphans, tmp_path: Path) -> Killed:
    bundle.args("/bin/sleep", "60")
    return Killed(runtime, bundle, orphans, tmp_path / "steps")


def test_create_killed_at_every_step(killed: Killed) -> None:
    killed.bundle.spec["hooks"] = {
        "createRuntime": [{"path": "/bin/true"}],
        "createContainer": [{"path": "/bin/true"}],
    }
    killed.bundle.write()
    container_id = killed.runtime.new_id()
    for last in itertools.count(1):
        begun = killed.create(last, container_id)
        killed.nothing_is_left_of(container_id, (last, begun[-3:]))
        if begun[-1] == "end":
            assert {"mkdir", "spawn", "receive", "go_on"} <= set(begun)
            return


def test_create_whose_init_is_there_before_its_plan_killed_at_every_step(killed: Killed) -> None:
    """Without a group of cgroup v2 to be cloned into, it waits while the plan is compiled."""
    killed.bundle.write()
    container_id = killed.runtime.new_id()
    words = ("--cgroup-manager", "disabled", "create", "--bundle", killed.bundle.path, container_id)
    for last in itertools.count(1):
        begun = killed.run(last, *words)
        killed.nothing_is_left_of(container_id, (last, begun[-3:]))
        if begun[-1] == "end":
            assert begun.index("spawn") < begun.index("mkdir") < begun.index("hand_over")
            return


def test_create_with_a_user_namespace_and_shared_pids_killed_at_every_sync_point(killed: Killed) -> None:
    """Two stages and id maps; no pid namespace whose end would take all processes along."""
    killed.bundle.namespaces("user", "mount", "ipc", "uts", "network")
    killed.bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
    killed.bundle.linux["maskedPaths"] = killed.bundle.linux["readonlyPaths"] = []
    killed.bundle.spec["mounts"] = []
    killed.bundle.spec["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    give_away(killed.bundle)
    killed.bundle.write()
    container_id = killed.runtime.new_id()
    steps = killed.create(0, container_id)
    killed.nothing_is_left_of(container_id, "not killed")
    assert steps.count("receive") == 4  # MAPS, PID, HOOKS, READY
    for last, name in enumerate(steps, 1):
        if name in ("spawn", "receive", "go_on"):
            killed.create(last, container_id)
            killed.nothing_is_left_of(container_id, (last, name))


def test_start_killed_at_every_step(killed: Killed) -> None:
    killed.bundle.spec["hooks"] = {
        "startContainer": [{"path": "/bin/true"}],
        "poststart": [{"path": "/bin/true"}],
    }
    killed.bundle.write()
    for last in itertools.count(1):
        container_id = killed.runtime.create(killed.bundle)
        begun = killed.run(last, "start", container_id)
        killed.nothing_is_left_of(container_id, (last, begun[-3:]))
        if begun[-1] == "end":
            return


def test_exec_killed_at_every_step(killed: Killed) -> None:
    container_id = killed.runtime.start_bundle(killed.bundle)
    words = ("exec", "--detach", container_id, "/bin/sleep", "60")
    begun: list[str] = []
    while begun[-1:] != ["end"]:
        begun = killed.run(len(begun) + 1, *words)
        assert killed.runtime.state(container_id)["status"] == "running", begun
    assert {"spawn", "receive", "go_on"} <= set(begun)
    killed.nothing_is_left_of(container_id, begun)


def test_update_killed_at_every_step(killed: Killed) -> None:
    """The old limits or the new ones are in force; what is on file is whole."""
    resources = killed.bundle.path / "resources.json"
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
    ]
    resources.write_text(json.dumps({"memory": {"limit": 64 << 20}, "pids": {"limit": 9}, "devices": rules}))
    begun: list[str] = []
    while begun[-1:] != ["end"]:
        container_id = killed.runtime.start_bundle(killed.bundle)
        begun = killed.run(len(begun) + 1, "update", "--resources", resources, container_id)
        assert killed.runtime.state(container_id)["status"] in ("running", "paused"), begun
        json.loads((killed.runtime.root / container_id / "config.json").read_text())
        killed.nothing_is_left_of(container_id, begun)
    assert "rename" in begun


def test_delete_killed_at_every_step(killed: Killed) -> None:
    killed.bundle.spec["hooks"] = {"poststop": [{"path": "/bin/true"}]}
    begun: list[str] = []
    while begun[-1:] != ["end"]:
        last = len(begun) + 1
        container_id = killed.runtime.start_bundle(killed.bundle)
        begun = killed.run(last, "delete", "--force", container_id)
        killed.nothing_is_left_of(container_id, (last, begun[-3:]))


def test_run_killed_while_its_container_lives(killed: Killed) -> None:
    killed.bundle.write()
    container_id = killed.runtime.new_id()
    words = killed.runtime.command("run", "--bundle", killed.bundle.path, container_id)
    run = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    await_running(killed.runtime, container_id)
    run.kill()
    run.wait()
    assert killed.runtime.state(container_id)["status"] == "running"
    killed.nothing_is_left_of(container_id, "run")


def await_running(runtime: Runtime, container_id: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        done = runtime("state", container_id)
        if '"running"' in done.stdout:
            return
        assert time.monotonic() < deadline, done
        time.sleep(0.01)


@pytest.mark.parametrize("own_pids", [True, False])
def test_a_hook_inside_that_outlives_its_runtime_is_killed_by_delete(killed: Killed, own_pids: bool) -> None:
    """Before READY no pid is saved: delete finds the hook in the container's groups."""
    script = killed.bundle.path / "hook"
    script.write_text(f"#!/bin/sh\ntouch {killed.bundle.path}/begun\nexec sleep 60\n")
    script.chmod(0o755)
    killed.bundle.spec["hooks"] = {"createContainer": [{"path": str(script)}]}
    if not own_pids:
        killed.bundle.namespaces("mount", "ipc", "uts", "network")
    killed.bundle.write()
    container_id = killed.runtime.new_id()
    words = killed.runtime.command("create", "--bundle", killed.bundle.path, container_id)
    create = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not (killed.bundle.path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    create.kill()
    create.wait()
    assert killed.runtime.state(container_id)["status"] == "stopped"
    killed.nothing_is_left_of(container_id, own_pids)


def test_processes_of_others_survive_the_delete_of_a_container_that_never_got_their_group(
    killed: Killed,
) -> None:
    """Killed before it looked whether the group is empty: whoever is inside is not its own."""
    killed.bundle.linux["cgroupsPath"] = f"/{killed.runtime.new_id()}"
    other = killed.runtime.start_bundle(killed.bundle)
    container_id = killed.runtime.new_id()
    words = ("create", "--bundle", killed.bundle.path, container_id)
    call = [sys.executable, "-B", DRIVER, 0, killed.log, "--root", killed.runtime.root, *words]
    subprocess.run(
        list(map(str, call)), env={**os.environ, "PYTHONPATH": str(SOURCE)}, stderr=subprocess.DEVNULL
    )
    steps = len(killed.log.read_text().splitlines())
    for last in range(1, steps):
        begun = killed.create(last, container_id)
        done = killed.runtime("delete", "--force", container_id)
        assert (done.returncode, done.stderr) == (0, ""), (last, begun[-3:])
        assert killed.runtime.state(other)["status"] == "running", (last, begun[-3:])
