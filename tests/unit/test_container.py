"""Container over a process of ours: status, kill and delete need no privilege."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ocirt import build, container, state
from ocirt.container import Container, write_pid_file
from ocirt.errors import AlreadyExists, HookFailed, InitDied, NotFound, OcirtError, StepError, WrongState
from ocirt.options import ExecOptions
from ocirt.procfs import start_time

DOCUMENT = {
    "ociVersion": "1.2.0",
    "id": "c",
    "pid": 0,
    "startTime": 0,
    "bundle": "/b",
    "rootfs": "/b/rootfs",
    "created": "2026-01-01T00:00:00.000000000Z",
    "annotations": {"a": "b"},
    "owner": "root",
    "pidNamespace": True,
    "noNewKeyring": False,
    "cgroup": None,
    "hooks": {},
    "steps": {"base": 0, "ops": []},
}


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def waiting(tmp_path):
    """A process that passes for an init that waits for start."""
    program = shutil.copy("/bin/sleep", tmp_path.parent / f"{tmp_path.name}.ocirt-init")
    process = subprocess.Popen([program, "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def made(tmp_path):
    """Make the state of a container whose first process is pid; created or running."""

    def make(pid=0, *, created=False, **more):
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        with state.reserve(str(tmp_path), "c") as directory:
            started = start_time(pid) if pid else 0
            directory.save({**DOCUMENT, "pid": pid, "startTime": started, **more})
            if created:
                os.close(os.open(f"{tmp_path}/c/start", os.O_CREAT | os.O_WRONLY, 0o600))
        return Container.load("c", str(tmp_path))

    return make


def test_an_id_that_nobody_has(tmp_path):
    with pytest.raises(NotFound, match="container does not exist"):
        Container.load("c", str(tmp_path))
    assert Container.list(str(tmp_path / "nosuch")) == []


def test_an_id_that_is_taken(made, tmp_path):
    made()
    with pytest.raises(AlreadyExists, match="container with given ID already exists: c"):
        state.reserve(str(tmp_path), "c")


def test_the_status_is_read_off_the_process(made, waiting):
    found = made(waiting.pid, created=True)
    assert (found.status, found.pid) == ("created", waiting.pid)
    os.unlink(f"{found.root}/c/start")
    assert found.status == "running"
    waiting.kill()
    waiting.wait()
    assert (found.status, found.pid) == ("stopped", 0)


def test_another_process_with_the_same_pid_is_not_the_containers(made, sleeper):
    found = made(sleeper.pid)
    found.saved["startTime"] += 1
    assert found.status == "stopped"
    with pytest.raises(WrongState, match="container not running"):
        found.kill(signal.SIGKILL)
    assert sleeper.poll() is None


def test_without_a_pid_it_is_being_created_as_long_as_the_creator_lives(made, sleeper):
    assert made().status == "stopped"  # whoever it was
    found = made(creator=[sleeper.pid, start_time(sleeper.pid)])
    assert found.status == "creating"
    found.saved["creator"][1] += 1  # its pid is another's now
    assert found.status == "stopped"
    found.saved["creator"][1] -= 1
    sleeper.kill()
    sleeper.wait()
    assert found.status == "stopped"


def test_who_looks_at_a_container_never_holds_its_lock(made, tmp_path):
    found = made(creator=[os.getpid(), start_time("self")])
    looks: list[str] = []
    done = threading.Event()

    def look():
        while not done.is_set():
            looks.append(found.status)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(2000):
            state.open_state(str(tmp_path), "c", patience=0).close()
    finally:
        done.set()
        thread.join()
    assert set(looks) == {"creating"}


def test_the_state_document(made, sleeper):
    assert made(sleeper.pid).state() == {
        "ociVersion": "1.2.0",
        "id": "c",
        "pid": sleeper.pid,
        "status": "running",
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "created": "2026-01-01T00:00:00.000000000Z",
        "annotations": {"a": "b"},
        "owner": "root",
    }


def test_a_stopped_container_has_pid_0(made):
    assert made().state()["pid"] == 0


def test_kill_sends_the_signal(made, sleeper):
    made(sleeper.pid).kill(signal.SIGTERM)
    assert sleeper.wait(5) == -signal.SIGTERM


def test_a_running_container_is_deleted_only_by_force(made, sleeper, tmp_path):
    found = made(sleeper.pid)
    with pytest.raises(WrongState, match="cannot delete container c that is not stopped: running"):
        found.delete()
    found.delete(force=True)
    assert not Path(f"/proc/{sleeper.pid}").exists()  # killed, and reaped as our child
    assert not (tmp_path / "c").exists()


def test_a_program_that_runs_is_running_although_its_start_socket_is_left(made, sleeper):
    found = made(sleeper.pid, created=True)
    assert found.status == "running"
    with pytest.raises(WrongState, match="that is not stopped: running"):
        found.delete()
    assert sleeper.poll() is None


def test_a_later_owner_of_the_pid_is_neither_killed_nor_waited_for(made, sleeper):
    found = made(sleeper.pid)
    found.saved["startTime"] += 1
    began = time.monotonic()
    found._kill_everything()
    assert (sleeper.poll(), time.monotonic() - began < 5) == (None, True)


def test_delete_by_force_kills_without_the_lock(made, sleeper, tmp_path):
    found = made(sleeper.pid)
    fd = os.open(f"{tmp_path}/c", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def holder():  # as a start that waits for its init
        sleeper.wait()
        os.close(fd)

    threading.Thread(target=holder).start()
    found.delete(force=True)
    assert not (tmp_path / "c").exists()


def test_delete_by_force_does_not_wait_for_ever(made, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "KILL_WAIT", 0.1)
    found = made()
    fd = os.open(f"{tmp_path}/c", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(OcirtError, match="container c is being changed by another command"):
        found.delete(force=True)
    os.close(fd)


def test_a_poststart_hook_may_delete_its_container(made, sleeper, tmp_path):
    found = made(sleeper.pid, hooks={"poststart": [{"path": "/bin/false"}]})
    Container.load("c", str(tmp_path)).delete(force=True)
    with pytest.raises(HookFailed):
        found._poststart()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["thesis", "config.json.bak", "rootfs", ".ssh"])
def test_a_directory_that_is_no_containers_is_not_deleted(tmp_path, name, force):
    """A wrong --root, as in --root /home delete NAME; runc and crun remove all that is in it."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).write_text("precious")
    (tmp_path / "c/config.json").write_text("{}")
    with pytest.raises(NotFound):
        Container(str(tmp_path), "c", {}).delete(force=force)
    assert (tmp_path / "c" / name).read_text() == "precious"
    assert (tmp_path / "c/config.json").exists()


def test_a_directory_with_a_state_of_others_and_more_is_not_deleted(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/state.json").write_text("{}")
    (tmp_path / "c/thesis").write_text("precious")
    with pytest.raises(OcirtError, match="was written by another version"):
        Container(str(tmp_path), "c", {}).delete(force=True)
    assert (tmp_path / "c/thesis").exists()


@pytest.mark.parametrize("names", [(), (".config.json.new",), ("config.json", ".state.json.new")])
def test_what_a_create_that_was_killed_leaves_is_deleted(tmp_path, names):
    (tmp_path / "c").mkdir()
    for name in names:
        (tmp_path / "c" / name).touch()
    Container(str(tmp_path), "c", {}).delete()
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("ends", [True, False])
def test_an_exec_that_fails_because_the_container_has_ended_says_so(made, sleeper, monkeypatch, ends):
    def build_exec(*_):
        if ends:
            sleeper.kill()
            sleeper.wait()
        raise StepError(errno.ENOENT, "clone3", "linux.namespaces")

    monkeypatch.setattr(build, "build_exec", build_exec)
    words = "cannot exec in a stopped container" if ends else "clone3: No such file or directory"
    with pytest.raises(OcirtError, match=words):
        made(sleeper.pid).exec({}, ExecOptions())


def test_a_created_container_is_killed_by_delete(made, waiting, tmp_path):
    made(waiting.pid, created=True).delete()
    assert not Path(f"/proc/{waiting.pid}").exists()  # killed, and reaped as our child
    assert not (tmp_path / "c").exists()


def test_a_poststop_hook_that_fails_is_told_and_the_container_is_gone(made, tmp_path):
    found = made(hooks={"poststop": [{"path": "/nosuch"}]})
    found.delete()
    assert found.warnings == [
        "hooks.poststop[0] (/nosuch): no such file or directory after 0.000 s",
    ]
    assert not (tmp_path / "c").exists()


def test_start_of_what_is_not_created(made, sleeper):
    with pytest.raises(WrongState, match="cannot start an already running container"):
        made(sleeper.pid).start()


def test_start_of_what_has_stopped(made):
    with pytest.raises(WrongState, match="cannot start a container that has stopped"):
        made().start()


def test_exec_needs_a_running_container(made):
    with pytest.raises(WrongState, match="cannot exec in a stopped container"):
        made().exec({}, None)


def test_the_pid_file_is_plain_decimal_and_complete_when_it_has_its_name(tmp_path):
    path = tmp_path / "pid"
    path.write_text("old")
    write_pid_file(str(path), 4194304)
    assert path.read_text() == "4194304"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pid"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_pid_file_replaces_nothing_but_a_file(tmp_path, kind):
    """--pid-file /dev/stdout as root took the host's link away (with runc too)."""
    path = tmp_path / "pid"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/proc/self/fd/1")
    before = os.lstat(path)
    with pytest.raises(OcirtError, match=r"--pid-file: .*/pid is there and is not a regular file"):
        write_pid_file(str(path), 7)
    assert os.lstat(path).st_ino == before.st_ino
    assert [entry.name for entry in tmp_path.iterdir()] == ["pid"]


def test_a_pid_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pid_file("pid", 7)
    assert (tmp_path / "pid").read_text() == "7"


def test_the_bundle_is_an_absolute_path_without_links(tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "link").symlink_to("bundle")
    monkeypatch.chdir(tmp_path)
    assert build.real_directory("link") == str(tmp_path / "bundle")
    with pytest.raises(StepError, match=r"bundle \(nosuch\): open: No such file or directory"):
        build.real_directory("nosuch")


def test_fds_to_preserve_must_have_been_passed_by_the_caller():
    fd = os.open("/dev/null", os.O_RDONLY)  # close-on-exec: one of ours
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 300)
    os.close(fd)
    try:
        with pytest.raises(StepError, match="--preserve-fds"):
            build.preserved_fds(high - 2)
    finally:
        os.close(high)
    assert build.preserved_fds(0) == []


def test_an_owner_without_a_name_is_told_by_number():
    assert container._owner(0) == "root"
    assert container._owner(4000000000) == "4000000000"


@pytest.mark.parametrize("text", ["", "../x", "a/b", ".", "..", "a b"])
def test_ids_that_cannot_be(text):
    with pytest.raises(OcirtError, match="invalid container ID format"):
        state.check_id(text)


# A limit that no program fits into


def small(tmp_path, kills: int, limit: int) -> Container:
    (tmp_path / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    saved = {"cgroup": {"driver": "cgroupfs", "version": 1, "paths": {"memory": str(tmp_path)}}}
    container = Container("/run", "x", saved)
    container._spec = {"linux": {"resources": {"memory": {"limit": limit}}}}
    return container


@pytest.mark.parametrize(
    ("kills", "limit", "command", "refused"),
    [
        (1, 131072, "true", True),
        (0, 131072, "true", False),  # it ended by itself
        (1, 131072, "sleep 60", False),  # another process was killed
        (1, 1048576, "true", False),  # it has run
        (1, 0, "true", False),
    ],
)
def test_a_start_that_ended_for_want_of_memory_is_one_that_failed(
    tmp_path, monkeypatch, kills, limit, command, refused
):
    from ocirt import running

    monkeypatch.setattr(running, "END_WAIT_MS", 200)
    process = subprocess.Popen(["sh", "-c", f"exec {command}"])
    pidfd = os.pidfd_open(process.pid)
    try:
        if refused:
            with pytest.raises(InitDied, match=f"{limit} bytes are too few to start in: out of memory"):
                small(tmp_path, kills, limit).check_started(pidfd)
        else:
            small(tmp_path, kills, limit).check_started(pidfd)
    finally:
        process.kill()
        process.wait()
        os.close(pidfd)


def test_v2_counts_kills_in_memory_events(tmp_path):
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 3\noom_group_kill 7\n")
    saved = {"cgroup": {"driver": "cgroupfs", "version": 2, "paths": {"": str(tmp_path)}}}
    assert Container("/run", "x", saved)._oom_kills() == 3
    assert Container("/run", "x", {"cgroup": None})._oom_kills() == 0
