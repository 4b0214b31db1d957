"""The lifecycle next to runc's, and in the surroundings in which engines call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import Runtime
from tests.system.test_terminal import Terminal

pytestmark = pytest.mark.root


@pytest.fixture
def runc(tmp_path: Path):
    runtime = Runtime(Path("/usr/sbin/runc"), tmp_path / "runc")
    yield runtime
    runtime.delete_all()


def test_state_and_list_say_what_runc_says_at_every_stage(
    runtime: Runtime, runc: Runtime, bundle: Bundle
) -> None:
    bundle.spec["annotations"] = {"a": "1", "b": ""}
    bundle.args("/bin/sleep", "60")
    stages: dict[str, list[dict]] = {}
    for peer in (runtime, runc):
        found = stages[peer.name] = []

        def look(peer: Runtime = peer, found: list[dict] = found) -> None:
            state = peer.state(peer.ids[-1])
            (row,) = peer.state_list()
            # runc's state leaves the owner out, its list does not.
            assert {**row, "created": ""} == {**state, "created": "", "owner": "root"}
            moment = {"pid": state["pid"] > 0, "created": state["created"][:10]}
            found.append({**row, **moment, "id": "", "ociVersion": ""})  # runc's version is its own

        container_id = peer.create(bundle)
        look()
        peer.start(container_id)
        look()
        peer("kill", container_id, "KILL", check=True)
        peer.wait_for_status(container_id, "stopped")
        look()
        peer("delete", container_id, check=True)
        assert peer.state_list() == []
    assert stages["ocirt"] == stages["runc"]
    assert [state["status"] for state in stages["ocirt"]] == ["created", "running", "stopped"]


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (("start",), "running"), (("start",), "stopped"),
        (("kill",), "stopped"),
        (("delete",), "running"),
        (("exec", "", "true"), "stopped"),
        (("state",), "missing"), (("start",), "missing"), (("kill",), "missing"), (("delete",), "missing"),
        (("exec", "", "true"), "missing"),
    ],
)  # fmt: skip
def test_what_a_stage_does_not_allow_fails_as_with_runc(
    runtime: Runtime, runc: Runtime, bundle: Bundle, words: tuple[str, ...], stage: str
) -> None:
    statuses = []
    for peer in (runtime, runc):
        if stage == "missing":
            container_id = peer.new_id()
        else:
            container_id = peer.start_bundle(bundle.args("/bin/sleep", "60"))
            if stage == "stopped":
                peer("kill", container_id, "KILL", check=True)
                peer.wait_for_status(container_id, "stopped")
        verb, *rest = words
        done = peer(verb, container_id, *rest[1:])
        assert done.stdout == ""
        if stage == "missing":
            assert "container does not exist" in done.stderr
        statuses.append(done.returncode)
    assert statuses[0] == statuses[1]
    assert statuses[0] != 0


def test_a_created_container_ends_by_kill_and_can_be_deleted_at_once(
    any_runtime: Runtime, bundle: Bundle
) -> None:
    container_id = any_runtime.create(bundle.args("/bin/sleep", "60"))
    any_runtime("kill", container_id, "KILL", check=True)
    any_runtime.wait_for_status(container_id, "stopped")
    assert any_runtime("start", container_id).returncode == 1
    any_runtime("delete", container_id, check=True)
    container_id = any_runtime.create(bundle)
    any_runtime("delete", container_id, check=True)
    assert cgroups_named(container_id) == []


def test_a_state_path_of_110_bytes(ocirt: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Issue 2, seen (d): docker's is that long, and a socket's path holds 108."""
    start = tmp_path / "run"
    id_length = 64
    fill = 110 - len(f"{start}//") - id_length
    runtime = Runtime(ocirt, start / ("m" * max(fill, 1)))
    container_id = runtime.new_id().ljust(id_length, "0")
    runtime.ids.append(container_id)
    assert len(f"{runtime.root}/{container_id}") >= 110
    bundle.args("/bin/sleep", "60").write()
    try:
        with open(tmp_path / "out", "w") as out:
            call = runtime.command("create", "--bundle", bundle.path, container_id)
            subprocess.run(call, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
        assert runtime.state(container_id)["status"] == "created"
        runtime.start(container_id)
        assert runtime.state(container_id)["status"] == "running"
        assert runtime("exec", container_id, "echo", "in").stdout == "in\n"
    finally:
        runtime("delete", "--force", container_id, check=True)


@pytest.mark.parametrize("container_id", ["a", "A_b+c-d.e", "0", "..a", "-a", "a" * 200])
def test_ids_that_are_taken(runtime: Runtime, bundle: Bundle, container_id: str) -> None:
    bundle.args("/bin/true").write()
    words = ["--", container_id] if container_id.startswith("-") else [container_id]
    assert runtime("run", "--bundle", bundle.path, *words).stderr == ""


@pytest.mark.parametrize("container_id", ["", ".", "..", "a/b", "../a", "a b", "a\n", "ü", "a:b", "a\u0660"])
def test_ids_that_are_refused(runtime: Runtime, runc: Runtime, bundle: Bundle, container_id: str) -> None:
    bundle.args("/bin/true").write()
    for peer in (runtime, runc):
        assert peer("run", "--bundle", bundle.path, container_id).returncode == 1
        for verb in ("state", "start", "kill", "delete"):
            assert peer(verb, container_id).returncode == 1, verb
        assert peer.state_list() == []


def test_run_detach_leaves_a_running_container(any_runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.args("/bin/sleep", "60").write()
    container_id = any_runtime.new_id()
    words = ("run", "--detach", "--pid-file", tmp_path / "pid", "--bundle", bundle.path, container_id)
    with open(tmp_path / "out", "w+") as out:
        done = any_runtime(*words, capture_output=False, stdout=out, stderr=out)
        assert done.returncode == 0
    state = any_runtime.state(container_id)
    assert state["status"] == "running"
    assert (tmp_path / "pid").read_text() == str(state["pid"])
    assert (tmp_path / "out").read_text() == ""


def test_commands_work_with_an_empty_environment_in_a_removed_directory(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """podman's conmon passes no PATH and no HOME."""
    bundle.sh("exec sleep 60").write()
    container_id = runtime.new_id()
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec env -i "$@"'
    words: list[tuple[object, ...]] = [
        ("create", "--bundle", bundle.path, container_id),
        ("start", container_id),
        ("state", container_id),
        ("list",),
        ("exec", container_id, "true"),
        ("kill", container_id, "KILL"),
        ("delete", "--force", container_id),
    ]
    for call in words:
        gone.mkdir(exist_ok=True)
        with open(tmp_path / "out", "w+") as out:
            done = subprocess.run(
                ["sh", "-c", script, "sh", gone, *runtime.command(*call)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
            assert done.returncode == 0, (call, (tmp_path / "out").read_text())


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_caller_without_standard_fds(runtime: Runtime, bundle: Bundle, closed: str) -> None:
    """Our own fds must not take their places: they would be the container's stdio."""
    bundle.sh("ls -l /proc/self/fd > /tmp/fds; exec sleep 60").write()
    container_id = runtime.new_id()
    for words in (("create", "--bundle", bundle.path, container_id), ("start", container_id)):
        call = ["sh", "-c", f'exec "$@" {closed}', "sh", *runtime.command(*words)]
        null = subprocess.DEVNULL
        done = subprocess.run(call, stdin=null, stdout=null, stderr=null, timeout=60)
        assert done.returncode == 0, words
    runtime.wait_for_status(container_id, "running")
    done = runtime("exec", container_id, "cat", "/tmp/fds", check=True)
    targets = [line.split(" -> ")[1] for line in done.stdout.splitlines() if " -> " in line]
    assert set(targets) == {"/dev/null", "/tmp/fds"}


def test_the_callers_signals_umask_and_limits_do_not_reach_the_container(
    any_runtime: Runtime, bundle: Bundle
) -> None:
    """Python ignores SIGPIPE, an init blocks signals: none of it may be inherited."""
    bundle.write()
    call = any_runtime.command("run", "--bundle", bundle.path, any_runtime.new_id())

    def strange() -> None:
        os.umask(0o777)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})

    done = subprocess.run(
        call,
        preexec_fn=strange,
        restore_signals=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = Probe(done.stdout)
    assert seen["umask"] == "0022"
    assert seen.all("blocked") == [] or any_runtime.name != "ocirt"
    assert seen.all("ignored") == []
    assert not (any_runtime.root / any_runtime.ids[-1]).exists()


def test_a_machine_that_lost_its_power_while_state_was_written(runtime: Runtime, bundle: Bundle) -> None:
    """An empty state.json, as a file system may leave it: delete --force frees the id."""
    for _ in range(2):
        directory = runtime.root / "left"
        directory.mkdir(parents=True, mode=0o700)
        (directory / "state.json").touch()
        (directory / "config.json").write_text("{}")
        assert runtime("state", "left").returncode == 1
        assert runtime.state_list() == []
        runtime("delete", "--force", "left", check=True)
        assert not directory.exists()


def test_a_state_of_another_version_is_deleted_by_force_only(runtime: Runtime) -> None:
    """And without a signal to the pid that it names, which may be anybody's."""
    stranger = subprocess.Popen(["sleep", "60"])
    directory = runtime.root / "other"
    directory.mkdir(parents=True, mode=0o700)
    (directory / "state.json").write_text(json.dumps({"format": 999, "pid": stranger.pid}))
    try:
        done = runtime("delete", "other")
        assert done.returncode == 1
        assert "another version" in done.stderr
        assert (directory / "state.json").exists()
        runtime("delete", "--force", "other", check=True)
        assert not directory.exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_terminal_that_is_hung_up_ends_and_deletes_the_container(runtime: Runtime, bundle: Bundle) -> None:
    """A window that is closed: SIGHUP and SIGCONT come, and our terminal answers EIO."""
    bundle.process["terminal"] = True
    bundle.args("/bin/sh").write()
    container_id = runtime.new_id()
    terminal = Terminal(runtime.command("run", "--bundle", bundle.path, container_id))
    try:
        terminal.expect("# ")
    finally:
        os.close(terminal.slave)
        os.close(terminal.master)
    terminal.process.wait(10)  # with what sh makes of the end of its input
    assert runtime.state_list() == []
    assert cgroups_named(container_id) == []
