"""The groups themselves: which are refused, what the container makes of its own, and their end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from ocirt import container as module
from ocirt.container import Container
from ocirt.host import Host
from tests.lib.bundle import Bundle
from tests.lib.declared import missing
from tests.lib.runtime import PREFIX, Runtime, end
from tests.system.test_cgroups import group_of, groups_named

pytestmark = pytest.mark.root


def freezer_group(name: str) -> Path:
    top = Host().v1_hierarchies.get("freezer")
    if not top:
        missing("no v1 freezer here")
    return Path(top, name)


def test_a_frozen_group_is_refused_with_runcs_words(runtime: Runtime, bundle: Bundle) -> None:
    name = f"{PREFIX}-{os.getpid()}-frozen"
    group = freezer_group(name)
    group.mkdir()
    try:
        (group / "freezer.state").write_text("FROZEN")
        bundle.linux["cgroupsPath"] = f"/{name}"
        done = runtime.run(bundle.args("/bin/true"))
        assert done.returncode == 1
        assert "container's cgroup unexpectedly frozen" in done.stderr
        (group / "freezer.state").write_text("THAWED")
        assert runtime.run(bundle).returncode == 0
    finally:
        if group.exists():
            (group / "freezer.state").write_text("THAWED")
            group.rmdir()


def test_an_empty_group_that_exists_is_taken_and_removed_with_the_container(
    any_runtime: Runtime, bundle: Bundle
) -> None:
    name = f"{PREFIX}-{os.getpid()}-empty"
    group = freezer_group(name)
    group.mkdir()
    bundle.linux["cgroupsPath"] = f"/{name}"
    done = any_runtime.run(bundle.args("/bin/true"))
    assert done.returncode == 0, done.stderr
    assert groups_named(name) == []


@pytest.mark.parametrize("own_pids", [True, False])
def test_groups_below_the_containers_go_with_their_processes(
    any_runtime: Runtime, bundle: Bundle, own_pids: bool
) -> None:
    if not own_pids:
        bundle.namespaces("mount", "ipc", "uts", "network")
    container = any_runtime.start_bundle(bundle.sh("sleep 60 & echo $! > /tmp/child; exec sleep 61"))
    state = any_runtime.state(container)
    file = bundle.rootfs / "tmp/child"
    deadline = time.monotonic() + 5
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{state['pid']}/task/{state['pid']}/children").read_text().split()
    for controller in ("freezer", "devices", "memory", "pids"):
        below = group_of(state["pid"], controller) / "inner/most"
        below.mkdir(parents=True)
        (below / "cgroup.procs").write_text(children[0])
    any_runtime("delete", "--force", container, check=True)
    assert groups_named(container) == []
    deadline = time.monotonic() + 5
    while (stat := Path(f"/proc/{children[0]}/stat")).exists() and " Z " not in stat.read_text():
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.01)


def test_exec_goes_where_the_init_is_when_its_first_group_is_gone(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    moved = []
    for controller in ("pids", "blkio", ""):
        if not controller and not Host().unified_mount:
            continue
        group = group_of(pid, controller)
        other = group.with_name(f"{container}-moved")
        other.mkdir()
        (other / "cgroup.procs").write_text(str(pid))
        group.rmdir()
        moved.append(other)
    try:
        done = runtime("exec", container, "cat", "/proc/self/cgroup", check=True)
        assert done.stdout == runtime("exec", container, "cat", "/proc/1/cgroup", check=True).stdout
        assert "-moved" in Path(f"/proc/{pid}/cgroup").read_text()
    finally:
        runtime("delete", "--force", container, check=True)
        deadline = time.monotonic() + 5
        while moved:
            try:
                moved[-1].rmdir()
                moved.pop()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_who_keeps_a_group_is_named_with_state_program_directory_and_files(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    group = group_of(runtime.state(container)["pid"], "pids")
    (tmp_path / "held").touch()
    stranger = subprocess.Popen(["sh", "-c", "exec sleep 60 3<held 4<held"], cwd=tmp_path)
    try:
        (group / "cgroup.procs").write_text(str(stranger.pid))
        runtime("kill", container, "KILL", check=True)
        runtime.wait_for_status(container, "stopped")
        done = runtime("delete", container)
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"linux.cgroupsPath: rmdir {group}: Device or resource busy (still inside: "
        )
        assert f"pid {stranger.pid} (S, in " in done.stderr
        assert f"): sleep in {tmp_path} with {tmp_path}/held open)\n" in done.stderr
        assert runtime.state(container)["status"] == "stopped"
    finally:
        end(stranger)
    runtime("delete", container, check=True)


def test_an_init_that_does_not_end_is_named_by_delete(
    runtime: Runtime, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the signal, which is as good as a process that the kernel cannot end."""
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    monkeypatch.setattr(module, "KILL_WAIT", 0.05)
    monkeypatch.setattr(Container, "_signal", lambda self, pidfd, signal: None)
    with pytest.raises(module.OcirtError) as caught:
        Container.load(container, str(runtime.root)).delete(force=True)
    words = f"container {container} did not end within 0.05 s of SIGKILL: pid {pid} (S, in "
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("): sleep in /")


def test_the_systemd_manager_without_systemd_says_so(runtime: Runtime, bundle: Bundle) -> None:
    if Path("/run/systemd/private").exists():
        missing("a machine without systemd; tests/vm has the cases with it")
    bundle.args("/bin/true").write()
    for option in ("--cgroup-manager=systemd", "--systemd-cgroup"):
        done = runtime(option, "run", "--bundle", bundle.path, runtime.new_id())
        assert done.returncode == 1
        assert "linux.cgroupsPath: " in done.stderr
        assert "systemd" in done.stderr
        assert groups_named(runtime.ids[-1]) == []


def test_the_disabled_manager_leaves_the_container_where_the_runtime_is(
    runtime: Runtime, bundle: Bundle
) -> None:
    del bundle.linux["resources"]
    bundle.args("/bin/sleep", "60").write()
    container = runtime.new_id()
    words = ("--cgroup-manager", "disabled", "run", "--detach", "--bundle", bundle.path, container)
    runtime(*words, check=True, capture_output=False)
    pid = runtime.state(container)["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    assert groups_named(container) == []
    bundle.linux["resources"] = {"pids": {"limit": 5}}
    bundle.write()
    done = runtime("--cgroup-manager", "disabled", "run", "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    assert done.stderr.startswith(
        "linux.resources.pids.limit: not supported: a cgroup, and the manager is disabled"
    )
