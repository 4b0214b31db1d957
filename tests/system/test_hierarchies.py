"""The four rules of hierarchies, tasks against cgroup.procs, notify_on_release: docs/cgroups.md."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocirt.host import Host
from tests.lib.bundle import Bundle
from tests.lib.declared import missing
from tests.lib.runtime import PREFIX, Runtime, end
from tests.system.test_cgroups import group_of, groups_named

pytestmark = pytest.mark.root

THREADED = (
    "import os, sys, threading, time\n"
    "inner = threading.Thread(target=time.sleep, args=(60,), daemon=True)\n"
    "inner.start()\n"
    "print(inner.native_id, flush=True)\n"
    "time.sleep(60)\n"
)


def memberships(pid: int) -> dict[str, str]:
    """Hierarchy to group, from /proc/PID/cgroup."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    found = {controllers: path for _, controllers, path in lines}
    assert len(found) == len(lines)  # a process is in one group of each hierarchy
    return found


def hierarchies() -> dict[str, str]:
    """Hierarchy to mount point; "" is cgroup2."""
    host = Host()
    return host.v1_hierarchies | ({"": host.unified_mount} if host.unified_mount else {})


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of this test's own in the pids hierarchy of v1."""
    top = Host().v1_hierarchies.get("pids")
    if not top:
        missing("no v1 hierarchy with pids here")
    directory = Path(top, f"{PREFIX}-{os.getpid()}-rules")
    directory.mkdir()
    yield directory
    deadline = time.monotonic() + 5
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    while directory.exists():
        try:
            directory.rmdir()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def threaded() -> Iterator[tuple[int, int]]:
    """(pid, id of its second thread)."""
    process = subprocess.Popen([sys.executable, "-c", THREADED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    end(process)
    process.stdout.close()


def test_rule_1_a_hierarchy_has_any_number_of_controllers_and_the_container_one_group_in_it(
    runtime: Runtime, bundle: Bundle
) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    own = memberships(runtime.state(container)["pid"])
    for key, top in hierarchies().items():
        group = Path(top + own[key])
        assert group.name == container, key
        for controller in key.split(",") if key and "=" not in key else ():
            files = [path.name for path in group.iterdir() if path.name.startswith(f"{controller}.")]
            assert files or controller in ("perf_event", "net_cls"), controller
    assert len(groups_named(container)) == len(hierarchies())


def test_rule_2_a_controller_is_in_one_hierarchy(runtime: Runtime, bundle: Bundle) -> None:
    places: dict[str, list[str]] = {}
    for key, top in hierarchies().items():
        names = key.split(",") if key else Path(top, "cgroup.controllers").read_text().split()
        for name in names:
            places.setdefault({"io": "blkio"}.get(name, name), []).append(top)
    assert {name: tops for name, tops in places.items() if len(tops) != 1} == {}
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    for name, (top,) in places.items():
        key = next(key for key, place in hierarchies().items() if place == top)
        assert Path(top + memberships(pid)[key]).name == container, name


def test_rule_3_a_process_is_in_one_group_of_each_hierarchy(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    before = memberships(pid)
    assert set(before) >= set(hierarchies())
    first = group_of(pid, "pids")
    second = first / "second"
    second.mkdir()
    (second / "cgroup.procs").write_text(str(pid))
    assert str(pid) in (second / "cgroup.procs").read_text().split()
    assert str(pid) not in (first / "cgroup.procs").read_text().split()
    changed = {key for key, path in memberships(pid).items() if path != before[key]}
    assert len(changed) == 1
    assert "pids" in changed.pop().split(",")


def test_rule_4_a_child_begins_in_its_parents_groups_and_may_move_alone(
    runtime: Runtime, bundle: Bundle
) -> None:
    container = runtime.start_bundle(bundle.sh("sleep 60 & exec sleep 61"))
    pid = runtime.state(container)["pid"]
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 5
    while not children.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = int(children.read_text().split()[0])
    assert memberships(child) == memberships(pid)
    before = memberships(pid)
    inner = group_of(pid, "pids") / "inner"
    inner.mkdir()
    (inner / "cgroup.procs").write_text(str(child))
    assert memberships(pid) == before
    assert memberships(child) != before
    runtime("kill", "--all", container, "KILL", check=True)  # reaches both


def test_tasks_moves_a_thread_and_cgroup_procs_the_process(group: Path, threaded: tuple[int, int]) -> None:
    pid, thread = threaded
    (group / "tasks").write_text(str(thread))
    assert (group / "tasks").read_text().split() == [str(thread)]
    assert Path(f"/proc/{pid}/task/{thread}/cgroup").read_text() != Path(f"/proc/{pid}/cgroup").read_text()
    (group / "cgroup.procs").write_text(str(pid))
    assert set((group / "tasks").read_text().split()) == {str(pid), str(thread)}
    assert (group / "cgroup.procs").read_text().split() == [str(pid)]


def test_the_init_is_in_tasks_and_in_cgroup_procs_of_its_group(runtime: Runtime, bundle: Bundle) -> None:
    """It joins by tasks, as the single thread that it is then: the same as joining by cgroup.procs."""
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    group = group_of(pid, "pids")
    assert (group / "cgroup.procs").read_text() == (group / "tasks").read_text() == f"{pid}\n"


def test_notify_on_release_is_what_the_group_above_says_and_delete_works_all_the_same(
    runtime: Runtime, bundle: Bundle, group: Path
) -> None:
    (group / "notify_on_release").write_text("1")
    bundle.linux["cgroupsPath"] = f"/{group.name}/box"
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    inner = group_of(runtime.state(container)["pid"], "pids")
    assert inner == group / "box"
    assert (inner / "notify_on_release").read_text() == "1\n"
    runtime("delete", "--force", container, check=True)
    assert not inner.exists()
    for directory in groups_named(group.name):
        if Path(directory) != group:
            os.rmdir(directory)


def test_no_release_agent_is_in_sight_of_a_container(runtime: Runtime, bundle: Bundle) -> None:
    """Only the top group of a hierarchy has that file; who can write it runs programs of the host."""
    bundle.sh(
        "for f in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do ls $f; done\n"
        "ls /sys/fs/cgroup"
    )
    done = runtime.run(bundle)
    assert "release_agent" not in done.stdout
    assert done.stderr.count("No such file or directory") >= 2
    assert done.stdout.split()
