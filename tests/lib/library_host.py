"""A program that uses ocirt as a library, for tests/system/test_library.py:
library_host.py SCENARIO BUNDLE ROOT PREFIX. It ends with an assertion or with "done"."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from ocirt import (
    AlreadyExists,
    Container,
    CreateOptions,
    ExecOptions,
    OcirtError,
    StepError,
    WrongState,
    kernel,
)

_, SCENARIO, BUNDLE, ROOT, PREFIX = sys.argv
CONFIG = Path(BUNDLE, "config.json")
SPEC = json.loads(CONFIG.read_text())


def create(name: str, *, start: bool = False, **options: object) -> Container:
    return Container.create(
        BUNDLE, f"{PREFIX}-{name}", root=ROOT, options=CreateOptions(**options), start=start
    )


def process(*words: str) -> dict:
    return {**SPEC["process"], "args": list(words)}


def write(spec: dict, name: str = "other.json") -> str:
    path = Path(BUNDLE, name)
    path.write_text(json.dumps(spec))
    return str(path)


def fds() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return sorted(found)


def error_of(call: Callable[..., object], *words: object, **options: object) -> OcirtError:
    try:
        call(*words, **options)
    except OcirtError as error:
        return error
    raise AssertionError(f"{call} {words} {options} did not fail")


def no_children() -> None:
    for options in (os.WNOHANG, os.WNOHANG | 0x40000000):  # __WALL
        with contextlib.suppress(ChildProcessError):
            raise AssertionError(os.waitpid(-1, options))


def lifecycle() -> None:
    container = create("one")
    assert container.status == "created"
    assert container.pid > 0
    container.start()
    assert container.status == "running"
    started = container.exec(process("/bin/sh", "-c", "exit 7"), ExecOptions())
    assert started.wait() == 7
    started.close()
    loaded = Container.load(container.id, ROOT)
    assert loaded.state() == container.state()
    assert [row["id"] for row in Container.list(ROOT)] == [container.id]
    refused = error_of(container.delete)
    assert isinstance(refused, WrongState)
    assert (refused.now, refused.wanted) == ("running", "stopped")
    loaded.kill(signal.SIGKILL)
    assert container.wait() == 137
    assert container.wait() == 137
    assert container.status == "stopped"
    container.delete()
    assert Container.list(ROOT) == []


def statuses() -> None:
    for script, status in (("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 0), ("kill -SEGV $$", 0)):
        spec = {**SPEC, "process": process("/bin/sh", "-c", script)}
        if status == 0 and "kill" in script:
            spec["linux"] = {
                **SPEC["linux"],
                "namespaces": [n for n in SPEC["linux"]["namespaces"] if n["type"] != "pid"],
            }
            status = 143 if "TERM" in script else 139
        container = create("status", start=True, config_file=write(spec))
        assert container.wait() == status, script
        container.delete()
    container = create("forced", start=True)
    container.delete(force=True)
    assert container.wait() == 137


def threads() -> None:
    """Four threads make five containers each while others run programs and use memory."""
    before = fds()
    stop = threading.Event()
    troubles: list[BaseException] = []

    def guarded(call: object, *words: object) -> threading.Thread:
        def run() -> None:
            try:
                call(*words)  # type: ignore[operator]
            except BaseException as error:
                troubles.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def others() -> None:
        while not stop.is_set():
            assert subprocess.run(["sh", "-c", "exit 5"]).returncode == 5
            bytearray(1 << 20)

    def make(number: int) -> None:
        for i in range(5):
            container = create(f"{number}-{i}")
            container.start()
            started = container.exec(process("/bin/sh", "-c", f"exit {number + i}"), ExecOptions())
            assert started.wait() == number + i
            started.close()
            container.kill(signal.SIGKILL)
            assert container.wait() == 137
            container.delete()

    busy = [guarded(others) for _ in range(2)]
    for thread in [guarded(make, number) for number in range(4)]:
        thread.join()
    stop.set()
    for thread in busy:
        thread.join()
    assert not troubles, troubles
    assert fds() == before
    assert Container.list(ROOT) == []


def wait_of_the_host() -> None:
    """An exec makes every process its parent's to wait for: os.wait() may be faster than we.

    The kernel then still tells us how the container ended (Linux 6.15).
    """
    script = {**SPEC, "process": process("/bin/sh", "-c", "exit 6")}
    container = create("quiet", start=True, config_file=write(script))
    pid = container.saved["pid"]
    own = os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", "exit 9")
    assert {os.wait(), os.wait()} == {(own, 9 << 8), (pid, 6 << 8)}
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 15):
        assert container.wait() == 6
    else:
        with contextlib.suppress(ChildProcessError):
            raise AssertionError(container.wait())
    container.delete()
    container = create("killed", start=True)
    container.kill(signal.SIGKILL)
    assert os.wait()[1] == signal.SIGKILL
    container.delete()
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 15):
        assert container.wait() == 137


def under_asyncio() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 60  # a busy machine is no fault
        container = create("async", start=True)
        ended = asyncio.Event()
        loop.add_reader(container.pidfd, ended.set)
        own = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
        assert await own.wait() == 4
        assert not ended.is_set()
        container.kill(signal.SIGKILL)
        await asyncio.wait_for(ended.wait(), 10)
        loop.remove_reader(container.pidfd)
        assert container.wait() == 137
        container.delete()

    asyncio.run(main())


def failures(**options: object) -> None:
    """Of every kind, many times: typed, and nothing is kept open and no process is left."""
    bad_mount = {**SPEC, "mounts": [{"destination": "/x", "type": "nosuchfs", "source": "x"}]}
    bad_limit = {**SPEC, "linux": {**SPEC["linux"], "resources": {"pids": {"limit": 10**12}}}}
    bad_hook = {**SPEC, "hooks": {"createRuntime": [{"path": "/bin/false"}]}}
    bad_exec = {**SPEC, "process": process("/etc")}
    bad_document = {**SPEC, "process": process()}
    # The plan's compiler has something against these.
    bad_rlimit = {
        **SPEC,
        "process": {**process("true"), "rlimits": [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]},
    }
    bad_root = {**SPEC, "root": {"path": "config.json"}}
    with contextlib.suppress(OcirtError):
        create("warm", config_file=write(bad_mount), **options)  # what is loaded once stays
    before = fds()
    for _ in range(5):
        for spec in (bad_mount, bad_limit, bad_hook, bad_exec, bad_document, bad_rlimit, bad_root):
            error = error_of(create, "bad", config_file=write(spec), **options)
            assert "\n" not in str(error)
            no_children()
    error = error_of(create, "bad", config_file=write(bad_mount), **options)
    assert isinstance(error, StepError)
    assert (error.field, error.call, error.errno) == ("mounts[0]", "fsopen", 19)
    assert fds() == before
    assert os.listdir(ROOT) == []


def early_failures() -> None:
    """The same when the init is started before its plan is compiled, and what can only fail then."""
    failures(cgroup_manager="disabled")
    container = create("taken", cgroup_manager="disabled")
    before = fds()
    assert isinstance(error_of(create, "taken", cgroup_manager="disabled"), AlreadyExists)
    assert fds() == before
    container.delete(force=True)
    assert container.wait() == 137
    no_children()
    with mock.patch("ocirt.procfs.start_time", side_effect=MemoryError), contextlib.suppress(MemoryError):
        raise AssertionError(create("unknown", cgroup_manager="disabled"))
    assert os.listdir(ROOT) == []
    no_children()
    # The host's limit of namespaces is a failure of the init's own, before it has a plan.
    limit = Path("/proc/sys/user/max_net_namespaces")
    kernel.unshare(kernel.CLONE_NEWUSER)  # in which the limit counts for us alone
    Path("/proc/self/uid_map").write_text("0 0 1")
    before = fds()
    limit.write_text("0")
    error = error_of(create, "full", cgroup_manager="disabled")
    assert isinstance(error, StepError)
    assert (error.field, error.call, error.errno) == ("linux.namespaces", "unshare", errno.ENOSPC)
    assert fds() == before
    assert os.listdir(ROOT) == []


def forks() -> None:
    """A host that forks at every moment of a create: its children keep no fd of a container's.

    What the fd table holds is close-on-exec at all times, also while the init is being started.
    """
    stop = threading.Event()
    found: set[str] = set()
    words = ["sh", "-c", "for f in /proc/$$/fd/*; do echo ${f##*/}; done"]

    def spawn() -> None:
        while not stop.is_set():
            done = subprocess.run(words, capture_output=True, text=True, close_fds=False)
            found.update(done.stdout.split())

    thread = threading.Thread(target=spawn)
    thread.start()
    for i in range(20):
        container = create(f"fork-{i}", start=True, cgroup_manager="disabled")
        container.delete(force=True)
        container.wait()
    stop.set()
    thread.join()
    assert found <= {"0", "1", "2", "3"}, found  # 3 is sh's own, of the directory


def surroundings() -> None:
    """Nothing of the host is changed: mask, handlers, directory, umask, environment, limits."""

    def look() -> list[object]:
        mask = os.umask(0o22)
        os.umask(mask)
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        own = (os.getcwd(), dict(os.environ), os.getsid(0), os.getpgid(0), os.readlink("/proc/self/ns/mnt"))
        return [mask, handlers, blocked, own, Path("/proc/self/cgroup").read_text()]

    os.umask(0o27)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    before = look()
    lifecycle()
    assert look() == before


def large_host() -> None:
    """A host with much memory: nothing of it is copied."""
    memory = bytearray(512 << 20)
    memory[::4096] = b"x" * (len(memory) // 4096)
    lifecycle()


{
    "early_failures": early_failures,
    "failures": failures,
    "forks": forks,
    "large_host": large_host,
    "lifecycle": lifecycle,
    "statuses": statuses,
    "surroundings": surroundings,
    "threads": threads,
    "under_asyncio": under_asyncio,
    "wait_of_the_host": wait_of_the_host,
}[SCENARIO]()
no_children()
print("done")
