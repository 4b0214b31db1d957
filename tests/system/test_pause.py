"""pause, resume and ps by what they do to processes that count."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ocirt.host import Host
from tests.lib.bundle import Bundle
from tests.lib.declared import missing
from tests.lib.runtime import Runtime, end

pytestmark = pytest.mark.root

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.01; done"


def counter(bundle: Bundle) -> Bundle:
    (bundle.rootfs / "bin/mv").symlink_to("busybox")
    return bundle.sh(COUNT)


def count(bundle: Bundle) -> int:
    file = bundle.rootfs / "tmp/n"
    return int(file.read_text()) if file.exists() else 0


def counts_on(bundle: Bundle) -> bool:
    """Does the counter move? Looked at for half a second."""
    before = count(bundle)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if count(bundle) != before:
            return True
        time.sleep(0.01)
    return False


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or " Z " in stat.read_text()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.01)


def test_a_paused_container_does_nothing_until_it_is_resumed(any_runtime: Runtime, bundle: Bundle) -> None:
    container = any_runtime.start_bundle(counter(bundle))
    assert counts_on(bundle)
    any_runtime("pause", container, check=True)
    assert not counts_on(bundle)
    assert any_runtime.state(container)["status"] == "paused"
    assert any_runtime.state_list()[0]["status"] == "paused"
    any_runtime("resume", container, check=True)
    assert counts_on(bundle)
    assert any_runtime.state(container)["status"] == "running"


@pytest.mark.parametrize("limit", ["kill", "delete"])
def test_sigkill_ends_a_paused_container(runtime: Runtime, bundle: Bundle, limit: str) -> None:
    """crun lets it wait until it is resumed, which nobody may ever do."""
    container = runtime.start_bundle(counter(bundle))
    pid = runtime.state(container)["pid"]
    runtime("pause", container, check=True)
    runtime(
        *(("kill", container, "KILL") if limit == "kill" else ("delete", "--force", container)), check=True
    )
    wait_until_gone(pid)


def test_delete_force_ends_a_paused_container_with_any_runtime(any_runtime: Runtime, bundle: Bundle) -> None:
    container = any_runtime.start_bundle(counter(bundle))
    pid = any_runtime.state(container)["pid"]
    any_runtime("pause", container, check=True)
    any_runtime("delete", "--force", container, check=True)
    wait_until_gone(pid)
    assert any_runtime("state", container).returncode != 0


def test_sigkill_ends_all_that_is_paused_in_a_shared_pid_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespaces("mount", "ipc", "uts", "network")
    container = runtime.start_bundle(bundle.sh("sleep 60 & echo $! > /tmp/child; exec sleep 61"))
    deadline = time.monotonic() + 5
    while not (bundle.rootfs / "tmp/child").exists() or not (bundle.rootfs / "tmp/child").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = int((bundle.rootfs / "tmp/child").read_text())
    runtime("pause", container, check=True)
    runtime("kill", container, "KILL", check=True)
    wait_until_gone(child)
    runtime.wait_for_status(container, "stopped")


def test_other_signals_wait_for_resume(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.sh("trap 'echo got > /tmp/got; exit 3' TERM; " + COUNT))
    (bundle.rootfs / "bin/mv").symlink_to("busybox")
    assert counts_on(bundle)
    pid = runtime.state(container)["pid"]
    runtime("pause", container, check=True)
    runtime("kill", container, "TERM", check=True)
    assert not counts_on(bundle)
    assert runtime.state(container)["status"] == "paused"
    runtime("resume", container, check=True)
    wait_until_gone(pid)
    assert (bundle.rootfs / "tmp/got").read_text() == "got\n"


def test_exec_in_a_paused_container_is_refused_or_waits_when_told(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(counter(bundle))
    runtime("pause", container, check=True)
    done = runtime("exec", container, "/bin/true")
    assert done.returncode == 255
    assert done.stderr == "cannot exec in a paused container (use --ignore-paused to override)\n"
    words = runtime.command("exec", "--ignore-paused", container, "/bin/echo", "ran")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.3)
        runtime("resume", container, check=True)
        assert process.communicate(timeout=20)[0] == "ran\n"
        assert process.returncode == 0
    finally:
        end(process)


def test_a_created_container_can_be_paused_but_not_started_until_it_is_resumed(
    runtime: Runtime, bundle: Bundle
) -> None:
    container = runtime.create(counter(bundle))
    runtime("pause", container, check=True)
    done = runtime("start", container)
    assert (done.returncode, done.stderr) == (1, "cannot start a container in the paused state\n")
    runtime("resume", container, check=True)
    assert runtime.state(container)["status"] == "created"
    runtime.start(container)
    assert counts_on(bundle)


def test_what_makes_no_sense_is_refused_with_runcs_words(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(counter(bundle))
    assert runtime("resume", container).stderr == "container not paused\n"
    runtime("pause", container, check=True)
    assert runtime("pause", container).stderr == "container already paused\n"
    done = runtime("delete", container)
    assert done.stderr == f"cannot delete container {container} that is not stopped: paused\n"
    runtime("kill", container, "KILL", check=True)
    runtime.wait_for_status(container, "stopped")
    for verb, words in (("pause", "container not running\n"), ("resume", "container not paused\n")):
        done = runtime(verb, container)
        assert (done.returncode, done.stderr) == (1, words)
        assert runtime(verb, "octest-nobody").stderr == "container does not exist\n"


def test_a_container_without_a_cgroup_cannot_be_paused_and_says_why(runtime: Runtime, bundle: Bundle) -> None:
    del bundle.linux["resources"]
    bundle.args("/bin/sleep", "60").write()
    container = runtime.new_id()
    words = ("--cgroup-manager", "disabled", "run", "--detach", "--bundle", bundle.path, container)
    runtime(*words, check=True, capture_output=False)
    done = runtime("pause", container)
    assert done.returncode == 1
    assert done.stderr == "pause: not supported: a cgroup, and the manager is disabled\n"


def test_a_group_that_is_frozen_above_is_not_paused(runtime: Runtime, bundle: Bundle) -> None:
    freezer = Host().v1_hierarchies.get("freezer")
    if not freezer:
        missing("no v1 freezer here")
    container = runtime.new_id()
    bundle.linux["cgroupsPath"] = f"/{container}/inner"
    bundle.args("/bin/sleep", "60").write()
    runtime("run", "--detach", "--bundle", bundle.path, container, check=True, capture_output=False)
    above = Path(freezer, container, "freezer.state")
    above.write_text("FROZEN")
    try:
        assert runtime.state(container)["status"] == "running"
        assert runtime("exec", container, "/bin/true").returncode == 255
        assert runtime("resume", container).returncode == 1
    finally:
        above.write_text("THAWED")
        runtime("delete", "--force", container, check=True)
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            if (hierarchy / container).is_dir():
                (hierarchy / container).rmdir()


# ps


def children(pid: int) -> set[int]:
    found = {pid}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found |= children(int(child))
    return found


def two_sleepers(bundle: Bundle) -> Bundle:
    return bundle.sh("sleep 1001 & exec sleep 1002")


def test_ps_shows_the_processes_of_the_container_and_no_other(any_runtime: Runtime, bundle: Bundle) -> None:
    container = any_runtime.start_bundle(two_sleepers(bundle))
    pid = any_runtime.state(container)["pid"]
    deadline = time.monotonic() + 5
    while len(children(pid)) < 2 or b"1002" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(json.loads(any_runtime("ps", "--format", "json", container, check=True).stdout)) == children(
        pid
    )
    lines = any_runtime("ps", container, check=True).stdout.splitlines()
    header = lines[0].split()
    if any_runtime.name != "crun":  # which shows pids only
        assert header[:3] == ["UID", "PID", "PPID"]
    assert {int(line.split()[header.index("PID")]) for line in lines[1:]} == children(pid)


def test_ps_passes_options_on_and_finds_the_column(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "1003"))
    pid = runtime.state(container)["pid"]
    deadline = time.monotonic() + 5
    while b"1003" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lines = runtime("ps", container, "-e", "-o", "comm,pid", check=True).stdout.splitlines()
    assert [line.split() for line in lines] == [["COMMAND", "PID"], ["sleep", str(pid)]]
    done = runtime("ps", container, "-e", "-o", "comm")
    assert done.stderr == "ps: there is no column PID in the output that was asked for\n"
    assert runtime("ps", "-f", "xml", container).stderr == "invalid format option\n"
    assert runtime("ps", container, "--no-such-option").returncode == 1


def test_ps_of_a_container_without_a_cgroup_goes_by_its_pid_namespace(
    runtime: Runtime, bundle: Bundle
) -> None:
    del bundle.linux["resources"]
    two_sleepers(bundle).write()
    container = runtime.new_id()
    words = ("--cgroup-manager", "disabled", "run", "--detach", "--bundle", bundle.path, container)
    runtime(*words, check=True, capture_output=False)
    pid = runtime.state(container)["pid"]
    deadline = time.monotonic() + 5
    while len(children(pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(json.loads(runtime("ps", "-f", "json", container, check=True).stdout)) == children(pid)


def test_ps_of_a_stopped_container_is_empty(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/true"))
    runtime.wait_for_status(container, "stopped")
    assert runtime("ps", "--format", "json", container, check=True).stdout == "null\n"
    assert len(runtime("ps", container, check=True).stdout.splitlines()) == 1


def test_a_paused_process_that_is_killed_was_ended_by_sigkill(runtime: Runtime, bundle: Bundle) -> None:
    counter(bundle).write()
    container = runtime.new_id()
    words = runtime.command("run", "--bundle", bundle.path, container)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not count(bundle):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        runtime("pause", container, check=True)
        runtime("kill", container, "KILL", check=True)
        assert process.wait(20) == 128 + signal.SIGKILL
    finally:
        end(process)
