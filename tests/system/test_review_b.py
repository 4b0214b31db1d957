"""The lifecycle when hooks hang, fail or call back, and when start is killed on its way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import Runtime, end

pytestmark = pytest.mark.root

PROMPT = 8  # seconds: less than the time for which delete waits for a lock


def hook(bundle: Bundle, kind: str, script: str, **more: Any) -> Path:
    """Add a hook that is a shell script: startContainer's is in the container."""
    inside = kind == "startContainer"
    path = (bundle.rootfs if inside else bundle.path) / f"{kind}.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    entry = {"path": f"/{path.name}" if inside else str(path), **more}
    bundle.spec.setdefault("hooks", {}).setdefault(kind, []).append(entry)
    return path


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.01)


def background(runtime: Runtime, *words: object) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(runtime.command(*words), stdin=null, stdout=null, stderr=null)


def is_gone(runtime: Runtime, container_id: str) -> bool:
    return not (runtime.root / container_id).exists() and cgroups_named(container_id) == []


@pytest.fixture
def sleeping(bundle: Bundle) -> Bundle:
    return bundle.args("/bin/sleep", "60")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_delete_by_force_while_a_hook_of_create_hangs(runtime: Runtime, sleeping: Bundle, kind: str) -> None:
    begun = sleeping.path / "begun"
    hook(sleeping, kind, f"echo > {begun}\nexec sleep 40")
    sleeping.write()
    container_id = runtime.new_id()
    create = background(runtime, "create", "--bundle", sleeping.path, container_id)
    try:
        wait_for(begun)
        runtime("delete", "--force", container_id, check=True, timeout=PROMPT)
        assert create.wait(PROMPT) == 1
        assert is_gone(runtime, container_id)
    finally:
        end(create)


@pytest.mark.parametrize("pid_namespace", [True, False])
def test_delete_by_force_while_a_start_container_hook_hangs(
    runtime: Runtime, sleeping: Bundle, pid_namespace: bool
) -> None:
    if not pid_namespace:
        sleeping.namespaces("mount", "ipc", "uts", "network")
    hook(sleeping, "startContainer", "echo > /begun\nexec sleep 40")
    container_id = runtime.create(sleeping)
    start = background(runtime, "start", container_id)
    try:
        wait_for(sleeping.rootfs / "begun")
        runtime("delete", "--force", container_id, check=True, timeout=PROMPT)
        assert start.wait(PROMPT) == 1
        assert is_gone(runtime, container_id)
    finally:
        end(start)


def test_delete_by_force_while_a_poststart_hook_hangs(runtime: Runtime, sleeping: Bundle) -> None:
    begun = sleeping.path / "begun"
    hook(sleeping, "poststart", f"echo $$ > {begun}.new; mv {begun}.new {begun}\nexec sleep 40")
    container_id = runtime.create(sleeping)
    start = background(runtime, "start", container_id)
    try:
        wait_for(begun)
        runtime("delete", "--force", container_id, check=True, timeout=PROMPT)
        assert is_gone(runtime, container_id)
    finally:
        os.kill(int(begun.read_text()), signal.SIGKILL)
        start.wait(PROMPT)


@pytest.mark.parametrize("kind", ["poststart", "poststop", "prestart"])
def test_a_hook_may_delete_its_container(runtime: Runtime, sleeping: Bundle, kind: str) -> None:
    container_id = runtime.new_id()
    hook(sleeping, kind, " ".join(runtime.command("delete", "--force", container_id)))
    sleeping.write()
    began = time.monotonic()
    null = subprocess.DEVNULL
    create = runtime.command("create", "--bundle", sleeping.path, container_id)
    created = subprocess.run(create, stdin=null, stdout=null, stderr=null, timeout=PROMPT).returncode == 0
    assert created is (kind != "prestart")
    if created:
        runtime("start", container_id, timeout=PROMPT)
    runtime("delete", "--force", container_id, check=True, timeout=PROMPT)
    assert time.monotonic() - began < PROMPT
    deadline = time.monotonic() + PROMPT
    while not is_gone(runtime, container_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_start_killed_after_it_reached_the_init(runtime: Runtime, sleeping: Bundle) -> None:
    container_id = runtime.create(sleeping)
    directory = os.open(runtime.root / container_id, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
        starter.connect(f"/proc/self/fd/{directory}/start")
        while starter.recv(4096):
            pass  # to the end: the program runs
    os.close(directory)
    assert runtime.state(container_id)["status"] == "running"
    refused = runtime("delete", container_id)
    assert (refused.returncode, "is not stopped: running" in refused.stderr) == (1, True)
    assert "already running" in runtime("start", container_id).stderr
    assert runtime.state(container_id)["status"] == "running"


def test_a_start_killed_inside_a_start_container_hook(runtime: Runtime, sleeping: Bundle) -> None:
    hook(sleeping, "startContainer", "echo > /begun\nwhile [ ! -e /go ]; do sleep 0.05; done")
    container_id = runtime.create(sleeping)
    start = background(runtime, "start", container_id)
    wait_for(sleeping.rootfs / "begun")
    end(start)
    assert runtime.state(container_id)["status"] == "created"
    assert "is being started" in runtime("start", container_id).stderr
    (sleeping.rootfs / "go").touch()
    runtime.wait_for_status(container_id, "running")
    assert runtime("delete", container_id).returncode == 1


def test_an_init_killed_between_start_and_the_program(runtime: Runtime, sleeping: Bundle) -> None:
    hook(sleeping, "startContainer", "echo > /begun\nexec sleep 40")
    container_id = runtime.create(sleeping)
    pid = runtime.state(container_id)["pid"]
    start = subprocess.Popen(runtime.command("start", container_id), stderr=subprocess.PIPE, text=True)
    wait_for(sleeping.rootfs / "begun")
    os.kill(pid, signal.SIGKILL)
    _, errors = start.communicate(timeout=PROMPT)
    assert "the init that waited for start ended before the program ran" in errors
    assert start.returncode == 1


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_poststop_follows_a_hook_that_fails(runtime: Runtime, sleeping: Bundle, kind: str) -> None:
    noted = sleeping.path / "stopped"
    hook(sleeping, kind, "exit 3")
    hook(sleeping, "poststop", f"cat > {noted}; pwd >> {noted}")
    done = runtime.run(sleeping)
    assert done.returncode == 1
    assert f"hooks.{kind}[0]" in done.stderr
    assert '"status":"stopped"' in noted.read_text()
    assert noted.read_text().endswith(f"{sleeping.path}\n")


def test_no_poststop_hook_runs_before_the_others_could(runtime: Runtime, sleeping: Bundle) -> None:
    noted = sleeping.path / "stopped"
    hook(sleeping, "poststop", f"echo > {noted}")
    sleeping.spec["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such"})
    assert runtime.run(sleeping).returncode == 1
    assert not noted.exists()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "poststart", "poststop"])
def test_hooks_of_the_host_run_in_the_bundle(runtime: Runtime, sleeping: Bundle, kind: str) -> None:
    noted = sleeping.path / "cwd"
    hook(sleeping, kind, f"pwd > {noted}")
    container_id = runtime.start_bundle(sleeping)
    runtime("delete", "--force", container_id, check=True)
    assert noted.read_text() == f"{sleeping.path}\n"


def test_a_hook_runs_in_the_root_when_the_bundle_is_gone(runtime: Runtime, sleeping: Bundle) -> None:
    noted = sleeping.path.parent / "cwd"
    path = hook(sleeping, "poststop", f"pwd > {noted}")
    container_id = runtime.start_bundle(sleeping)
    sleeping.path.rename(sleeping.path.parent / "moved")
    sleeping.path.symlink_to("/no/such")
    elsewhere = sleeping.path.parent / "moved" / path.name
    saved = runtime.root / container_id / "state.json"
    saved.write_text(saved.read_text().replace(str(path), str(elsewhere)))
    runtime("delete", "--force", container_id, check=True)
    assert noted.read_text() == "/\n"


def test_kill_ends_all_processes_without_a_pid_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespaces("mount", "ipc", "uts", "network")
    bundle.sh("sleep 61 & echo $! > /pid.new; mv /pid.new /pid; wait")
    container_id = runtime.start_bundle(bundle)
    wait_for(bundle.rootfs / "pid")
    child = os.pidfd_open(int((bundle.rootfs / "pid").read_text()))
    runtime("kill", container_id, "KILL", check=True)
    deadline = time.monotonic() + 5
    try:
        while True:
            try:
                signal.pidfd_send_signal(child, 0)
            except ProcessLookupError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(child)


def test_a_hook_inside_does_not_see_the_engines_environment(
    runtime: Runtime, sleeping: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_SECRET", "s3cret")
    sleeping.process["env"] = ["PATH=/bin", "OF_THE_CONTAINER=yes"]
    hook(sleeping, "startContainer", "env > /env")
    hook(sleeping, "prestart", f"env > {sleeping.path}/env")
    container_id = runtime.start_bundle(sleeping)
    inside = (sleeping.rootfs / "env").read_text().splitlines()
    assert "OF_THE_CONTAINER=yes" in inside
    assert not any("ENGINE_SECRET" in line for line in inside)
    assert "ENGINE_SECRET=s3cret" in (sleeping.path / "env").read_text()
    runtime("delete", "--force", container_id, check=True)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_seccomp_profile_that_allows_nothing_ends_the_run(
    runtime: Runtime, bundle: Bundle, no_new_privileges: bool
) -> None:
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
    done = runtime.run(bundle, timeout=PROMPT)
    assert done.returncode == 128 + signal.SIGILL
    assert "linux.seccomp: the profile does not allow exit_group" in done.stderr
