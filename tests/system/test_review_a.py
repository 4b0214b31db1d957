"""Signals that end a run or exec on its way, damaged state, ids, pid files, what exec inherits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ocirt.cli.exec import build_process
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import end

pytestmark = pytest.mark.root


def processes_with(word: str) -> list[str]:
    """Command lines that hold a word."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if word in line:
            found.append(f"{pid} {line}")
    return found


def started(runtime, *words):
    return subprocess.Popen(
        runtime.command(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def nothing_is_left_of(runtime, container_id, where):
    assert not (runtime.root / container_id).exists(), where
    assert cgroups_named(container_id) == [], where
    assert processes_with(container_id) == [], where
    assert container_id not in Path("/proc/self/mountinfo").read_text(), where


# Signals before the program runs


def test_run_that_is_ended_at_any_moment_leaves_nothing(runtime, bundle):
    hook = {"path": "/bin/sleep", "args": ["sleep", "0.003"]}
    bundle.spec["hooks"] = {"prestart": [hook], "createContainer": [hook]}
    bundle.sh("trap 'exit 5' TERM; while :; do sleep 0.02; done").write()
    delays = random.Random(7)
    interrupted = 0
    for _ in range(25):
        container_id = runtime.new_id()
        process = started(runtime, "run", "--bundle", bundle.path, container_id)
        delay = delays.uniform(0.002, 0.06)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        try:
            # A program that runs already gets the signal; as pid 1 it ignores it before its trap.
            _, errors = process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            runtime("kill", container_id, "KILL", check=True)
            _, errors = process.communicate(timeout=10)
        if process.returncode == 143:
            interrupted += 1
            assert errors == "interrupted by signal 15\n", delay
        nothing_is_left_of(runtime, container_id, (delay, process.returncode, errors))
    assert interrupted


def test_a_hook_that_runs_is_killed_when_run_is_ended(runtime, bundle):
    seconds = f"{3600 + os.getpid()}"
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", seconds]}]}
    bundle.args("/bin/true").write()
    container_id = runtime.new_id()
    process = started(runtime, "run", "--bundle", bundle.path, container_id)
    deadline = time.monotonic() + 10
    while not processes_with(f"sleep {seconds}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=10)[1] == "interrupted by signal 1\n"
    assert process.returncode == 129
    assert processes_with(f"sleep {seconds}") == []
    nothing_is_left_of(runtime, container_id, "hook")


@pytest.mark.parametrize("kind", ["createContainer", "startContainer"])
def test_a_hook_inside_is_killed_when_run_is_ended(runtime, bundle, kind):
    seconds = f"{7200 + os.getpid()}"
    bundle.spec["hooks"] = {kind: [{"path": "/bin/sleep", "args": ["sleep", seconds]}]}
    bundle.args("/bin/true").write()
    container_id = runtime.new_id()
    process = started(runtime, "run", "--bundle", bundle.path, container_id)
    deadline = time.monotonic() + 10
    while not processes_with(f"sleep {seconds}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[1] == "interrupted by signal 15\n"
    assert processes_with(f"sleep {seconds}") == []
    nothing_is_left_of(runtime, container_id, kind)


def test_several_signals_do_not_interrupt_the_undoing(runtime, bundle):
    bundle.spec["hooks"] = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "60"]}]}
    bundle.args("/bin/true").write()
    container_id = runtime.new_id()
    process = started(runtime, "run", "--bundle", bundle.path, container_id)
    deadline = time.monotonic() + 10
    while not cgroups_named(container_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            process.send_signal(number)
        time.sleep(0.001)
        assert time.monotonic() < deadline
    assert process.returncode in range(129, 144)
    assert process.stderr.read() == f"interrupted by signal {process.returncode - 128}\n"
    nothing_is_left_of(runtime, container_id, "several")
    end(process)


def test_exec_that_is_ended_at_any_moment_leaves_the_container_alone(runtime, bundle):
    container_id = runtime.start_bundle(bundle.args("/bin/sleep", "600"))
    delays = random.Random(8)
    seconds = f"{1800 + os.getpid()}"
    for _ in range(15):
        process = started(runtime, "exec", container_id, "/bin/sleep", seconds)
        time.sleep(delays.uniform(0.02, 0.1))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode in (143, -15)
        assert processes_with(f"sleep {seconds}") == []
    assert runtime.state(container_id)["status"] == "running"


def test_program_and_hooks_start_with_no_signal_blocked(runtime, bundle):
    bundle.sh("grep SigBlk /proc/self/status")
    script = bundle.path / "hook"
    script.write_text(f"#!/bin/sh\ngrep SigBlk /proc/self/status > {bundle.path}/hook-mask\n")
    script.chmod(0o755)
    bundle.spec["hooks"] = {"prestart": [{"path": str(script)}]}
    clean = "SigBlk:\t0000000000000000\n"
    assert runtime.run(bundle).stdout == clean
    assert (bundle.path / "hook-mask").read_text() == clean


# Words


def test_an_id_that_is_no_file_name_is_told_as_such(runtime, bundle):
    bundle.write()
    done = runtime("run", "--bundle", bundle.path, "x" * 256)
    assert done.returncode == 1
    assert done.stderr.startswith("invalid container ID format")


def test_an_empty_path_finds_nothing(runtime, bundle):
    bundle.args("true")
    bundle.spec["process"].update(env=["PATH="], cwd="/bin")
    done = runtime.run(bundle)
    assert done.returncode == 1
    assert 'exec: "true": executable file not found in $PATH' in done.stderr


# State that cannot be read


@pytest.fixture(params=["garbage", "format", "damaged", "directory", "latin"])
def damaged(request, runtime, bundle):
    """The id of a running container whose state.json is not one of ours, and the pid inside."""
    container_id = runtime.start_bundle(bundle.args("/bin/sleep", "600"))
    pid = runtime.state(container_id)["pid"]
    path = runtime.root / container_id / "state.json"
    texts = {
        "garbage": b"{nonsense",
        "format": b'{"format":2}',
        "damaged": b'{"format":1,"pid":"no"}',
        "latin": b"\xff\xfe",
    }
    if request.param == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(texts[request.param])
    return container_id, pid


def test_list_tells_of_a_damaged_state_and_shows_the_others(runtime, bundle, damaged):
    container_id, _ = damaged
    other = runtime.start_bundle(bundle)
    done = runtime("list", "--quiet", check=True)
    assert done.stdout == f"{other}\n"
    assert done.stderr.startswith("warning: ")
    assert done.stderr.count("\n") == 1
    assert container_id in done.stderr
    assert [entry["id"] for entry in runtime.state_list()] == [other]


def test_delete_with_force_removes_what_has_a_damaged_state(runtime, damaged):
    container_id, pid = damaged
    assert runtime("delete", container_id).returncode == 1
    assert (runtime.root / container_id).exists()
    done = runtime("delete", "--force", container_id)
    assert done.returncode == 0, done.stderr
    assert not (runtime.root / container_id).exists()
    assert cgroups_named(container_id) == []
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_delete_with_force_removes_a_directory_that_says_nothing(runtime):
    container_id = runtime.new_id()
    directory = runtime.root / container_id
    directory.mkdir(parents=True)
    (directory / "state.json").write_text("{")
    (directory / "config.json").write_text("{")
    (directory / "claimed").touch()
    done = runtime("delete", "--force", container_id)
    assert (done.returncode, directory.exists()) == (0, False), done.stderr


# Pid files


def test_a_pid_file_is_not_written_through_a_link(runtime, bundle, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".pid.new").symlink_to(victim)
    container_id = runtime.create(bundle.args("/bin/true"), "--pid-file", tmp_path / "pid")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "pid").is_symlink()
    assert (tmp_path / "pid").read_text() == str(runtime.state(container_id)["pid"])
    assert not (tmp_path / ".pid.new").exists()


# What exec --process FILE leaves out


STATUS = {
    "args": ["/bin/sh", "-c", "grep -E '^(Cap|NoNewPrivs)' /proc/self/status; ulimit -n"],
    "cwd": "/",
    "env": ["PATH=/bin"],
    "user": {"uid": 0, "gid": 0},
}
CAP_KILL, CAP_CHOWN = 1 << 5, 1 << 0


@pytest.mark.parametrize(
    ("given", "options", "mask"),
    [
        ({}, (), CAP_KILL),
        ({"capabilities": {}}, (), 0),
        ({"capabilities": {name: ["CAP_CHOWN"] for name in ("bounding", "permitted")}}, (), CAP_CHOWN),
        ({}, ("--cap", "CAP_CHOWN"), CAP_KILL | CAP_CHOWN),
    ],
)
def test_a_process_file_without_capabilities_gets_the_containers(
    runtime, bundle, tmp_path, given, options, mask
):
    process = bundle.spec["process"]
    process["capabilities"] = {name: ["CAP_KILL"] for name in ("bounding", "permitted", "effective")}
    process["noNewPrivileges"] = True
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 77}]
    container_id = runtime.start_bundle(bundle.args("/bin/sleep", "600"))
    (tmp_path / "process.json").write_text(json.dumps({**STATUS, **given}))
    done = runtime("exec", *options, "--process", tmp_path / "process.json", container_id, check=True)
    *lines, files = done.stdout.splitlines()
    values = dict(line.split(":\t") for line in lines)
    assert [int(values[name], 16) for name in ("CapPrm", "CapBnd")] == [mask, mask]
    assert values["NoNewPrivs"] == "0"  # as the file says, which does not say it
    assert files != "77"


class Confined:
    """As much of a container as build_process needs; no test machine has both security modules."""

    spec = {"process": {"apparmorProfile": "profile", "selinuxLabel": "label"}}  # noqa: RUF012


@pytest.mark.parametrize("given", [{}, {"apparmorProfile": "", "selinuxLabel": ""}])
def test_a_process_file_without_labels_gets_the_containers(tmp_path, given):
    path = tmp_path / "process.json"
    path.write_text(json.dumps({**STATUS, **given}))
    process = build_process(Confined(), {"process": str(path)}, [])
    assert (process["apparmorProfile"], process["selinuxLabel"]) == ("profile", "label")
    path.write_text(json.dumps({**STATUS, "apparmorProfile": "other", "selinuxLabel": "own"}))
    process = build_process(Confined(), {"process": str(path)}, [])
    assert (process["apparmorProfile"], process["selinuxLabel"]) == ("other", "own")
