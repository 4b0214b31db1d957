"""events and wait: what a container uses, that it ran out of memory, and how it ended."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle
from tests.lib.runtime import Runtime, end
from tests.system.test_cgroups import limited

pytestmark = pytest.mark.root

MiB = 1 << 20
OOM = "linux.resources.memory.limit: out of memory: the kernel killed "


def keys(value: Any, prefix: str = "") -> set[str]:
    """Paths of all members, without those of memory.raw, which are the kernel's."""
    found = set()
    for name, inner in value.items() if isinstance(value, dict) else ():
        found.add(f"{prefix}{name}")
        if name != "raw":
            found |= keys(inner, f"{prefix}{name}.")
    return found


def stats(runtime: Runtime, container: str) -> dict[str, Any]:
    return dict(json.loads(runtime("events", "--stats", container, check=True).stdout))


def test_stats_have_the_keys_of_runc_and_say_what_is_in_use(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    limited(bundle, memory={"limit": 64 * MiB}, pids={"limit": 50}).args("/bin/sleep", "60")
    seen = stats(runtime, runtime.start_bundle(bundle))
    assert seen["type"] == "stats"
    assert seen["id"] == runtime.ids[-1]
    data = seen["data"]
    assert data["memory"]["usage"]["limit"] == 64 * MiB
    assert 0 < data["memory"]["usage"]["usage"] < 64 * MiB
    assert data["pids"] == {"current": 1, "limit": 50}
    assert data["cpu"]["usage"]["total"] > 0
    assert [each["Name"] for each in data["network_interfaces"]] == ["lo"]
    runc = Runtime(Path(shutil.which("runc") or "runc"), tmp_path / "runc")
    try:
        theirs = stats(runc, runc.start_bundle(bundle))
    finally:
        runc.delete_all()
    assert keys(theirs) <= keys(seen)


@pytest.mark.parametrize("any_runtime", ["ocirt", "runc"], indirect=True)  # crun has no events
def test_a_busy_container_uses_more_and_more(any_runtime: Runtime, bundle: Bundle) -> None:
    container = any_runtime.start_bundle(limited(bundle).args("/bin/probe", "spin", "60"))
    first = stats(any_runtime, container)["data"]["cpu"]["usage"]["total"]
    deadline = time.monotonic() + 10
    while stats(any_runtime, container)["data"]["cpu"]["usage"]["total"] <= first:
        assert time.monotonic() < deadline


def test_events_come_until_the_container_ends(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(limited(bundle).args("/bin/sleep", "60"))
    words = runtime.command("events", "--interval", "20ms", container)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert [(line["type"], line["id"]) for line in lines] == [("stats", container)] * 3
        runtime("kill", container, "KILL", check=True)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        end(process)


@pytest.mark.parametrize("victim", ["exec", "init"])
def test_a_kill_for_want_of_memory_is_an_event(runtime: Runtime, bundle: Bundle, victim: str) -> None:
    limited(bundle, memory={"limit": 32 * MiB, "swap": 32 * MiB})
    script = "while ! test -e /tmp/go; do sleep 0.01; done; exec /bin/probe alloc 67108864"
    container = runtime.start_bundle(bundle.sh(script))
    words = runtime.command("events", "--interval", "100h", container)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 10
        while "eventfd" not in str([*map(_link, Path(f"/proc/{process.pid}/fd").iterdir())]):
            assert time.monotonic() < deadline, "it watches"
            time.sleep(0.01)
        if victim == "exec":
            assert runtime("exec", container, "/bin/probe", "alloc", str(64 * MiB)).returncode == 137
        else:
            (bundle.rootfs / "tmp/go").touch()
        assert json.loads(process.stdout.readline()) == {"type": "oom", "id": container}
        runtime("kill", container, "KILL")
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        end(process)


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


def test_run_tells_that_memory_was_wanting(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, memory={"limit": 32 * MiB, "swap": 32 * MiB})
    done = runtime.run(bundle.args("/bin/probe", "alloc", str(64 * MiB)))
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr == f"warning: {OOM}one process (the limit of {32 * MiB} bytes was reached)\n"
    done = runtime.run(bundle.sh("/bin/probe alloc 67108864; exit 4"))
    assert done.returncode == 4
    assert OOM in done.stderr


def test_wait_prints_how_the_container_ended(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, memory={"limit": 32 * MiB, "swap": 32 * MiB})
    script = "while ! test -e /tmp/go; do sleep 0.01; done; "
    for last, status, told in (
        ("exit 7", "7\n", ""),
        ("kill -TERM $$", "143\n", ""),
        ("exec /bin/probe alloc 67108864", "137\n", OOM),
    ):
        container = runtime.start_bundle(bundle.sh("trap - TERM; " + script + last))
        process = subprocess.Popen(
            runtime.command("wait", container),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.communicate(timeout=0.2)
            (bundle.rootfs / "tmp/go").touch()
            out, err = process.communicate(timeout=30)
        finally:
            end(process)
            (bundle.rootfs / "tmp/go").unlink(missing_ok=True)
        assert process.returncode == 0
        assert told in err
        # A signal from within does nothing to the first process of a pid namespace.
        if last.startswith("kill"):
            assert out in (status, "0\n")
        else:
            assert out == status or "nobody tells its exit status" in err


def test_wait_for_one_that_has_ended_says_that_nobody_tells(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/true"))
    runtime.wait_for_status(container, "stopped")
    deadline = time.monotonic() + 10
    while (done := runtime("wait", container)).stdout:  # its parent has not reaped it yet
        assert time.monotonic() < deadline
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warning: the container has ended, and nobody tells its exit status\n"


def test_what_does_not_run_has_no_events(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/true"))
    runtime.wait_for_status(container, "stopped")
    for words in (("--stats", container), (container,)):
        done = runtime("events", *words)
        assert (done.returncode, done.stderr) == (1, f"container with id {container} is not running\n")
    assert runtime("events", "--stats", "octest-nobody").stderr == "container does not exist\n"
    done = runtime("events", "--interval", "0s", container)
    assert done.stderr == "duration interval must be greater than 0\n"


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (("run",), 32768),
        (("run", "--detach"), 32768),
        (("create",), 32768),
        # The init fits in, and execve of the program does not.
        (("run",), 98304),
        (("run", "--detach"), 98304),
    ],
)
def test_a_limit_too_low_for_the_start_is_named(
    runtime: Runtime, bundle: Bundle, words: tuple[str, ...], limit: int
) -> None:
    limited(bundle, memory={"limit": limit, "swap": limit}).args("/bin/true").write()
    done = runtime(*words, "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    told = f"linux.resources.memory.limit: {limit} bytes are too few to start in: out of memory\n"
    assert done.stderr == told


@pytest.mark.parametrize("stage", ["createContainer", "startContainer"])
def test_a_hook_inside_that_memory_was_wanting_for_is_told_as_such(
    runtime: Runtime, bundle: Bundle, stage: str
) -> None:
    path = "/bin/probe" if stage == "startContainer" else str(bundle.rootfs / "bin/probe")
    bundle.spec["hooks"] = {stage: [{"path": path, "args": ["probe", "alloc", str(64 * MiB)]}]}
    limited(bundle, memory={"limit": 16 * MiB, "swap": 16 * MiB}).args("/bin/true").write()
    if stage == "startContainer":
        done = runtime("start", runtime.create(bundle))
    else:
        done = runtime("create", "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    assert f"hooks.{stage}[0] ({path}): killed by signal 9 for want of memory" in done.stderr
