"""The six kinds of hooks: what they are told, where they run, and what their failure does."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
IN_THE_RUNTIMES_NAMESPACES = ("prestart", "createRuntime", "poststart", "poststop")
BEFORE_START = ("prestart", "createRuntime", "createContainer")

# $1 is the place of the notes, $2 the kind.
SCRIPT = """#!/bin/sh
cat > $1/$2.state
tr '\\0' '\\n' < /proc/self/environ > $1/$2.env
for arg in "$0" "$@"; do echo "$arg"; done > $1/$2.args
for ns in pid mnt net uts; do readlink /proc/self/ns/$ns; done > $1/$2.ns
echo $2 >> $1/order
"""


class Hooks:
    """Adds hooks to a bundle and reads what they noted."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.notes = bundle.path / "notes"
        self.notes.mkdir()
        bundle.spec["hooks"] = {}
        self.script = self._write(bundle.path / "hook")
        # startContainer runs inside: its program and its notes are the container's.
        self._write(bundle.rootfs / "bin/hook")
        (bundle.rootfs / "notes").mkdir()
        (bundle.rootfs / "bin/tr").symlink_to("busybox")

    def _write(self, path: Path) -> Path:
        path.write_text(SCRIPT)
        path.chmod(0o755)
        return path

    def add(self, kind: str, **more: Any) -> None:
        path, notes = (self.script, self.notes) if kind != "startContainer" else ("/bin/hook", "/notes")
        args = ["a name of its own", str(notes), kind]
        self._append(kind, {"path": str(path), "args": args, "env": [f"KIND={kind}", "EMPTY="], **more})

    def add_script(self, kind: str, script: str, **more: Any) -> Path:
        """A hook that does something else, a shell script."""
        inside = kind == "startContainer"
        number = len(self.bundle.spec["hooks"].get(kind, []))
        path = (self.bundle.rootfs if inside else self.bundle.path) / f"{kind}-{number}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self._append(kind, {"path": f"/{path.name}" if inside else str(path), **more})
        return path

    def _append(self, kind: str, hook: dict[str, Any]) -> None:
        self.bundle.spec["hooks"].setdefault(kind, []).append(hook)

    def read(self, kind: str, what: str) -> str:
        place = self.notes if kind != "startContainer" else self.bundle.rootfs / "notes"
        return (place / f"{kind}.{what}").read_text()

    def state(self, kind: str) -> dict[str, Any]:
        return dict(json.loads(self.read(kind, "state")))

    def namespaces(self, kind: str) -> dict[str, str]:
        return dict(zip(("pid", "mnt", "net", "uts"), self.read(kind, "ns").split(), strict=True))

    def order(self) -> list[str]:
        return (self.notes / "order").read_text().split()


@pytest.fixture
def hooks(bundle: Bundle) -> Hooks:
    bundle.args("/bin/sleep", "60")
    return Hooks(bundle)


def gone(runtime: Runtime, container_id: str) -> bool:
    return runtime("state", container_id).returncode != 0 and cgroups_named(container_id) == []


def create_fails(runtime: Runtime, bundle: Bundle) -> str:
    """The error of a create that must fail and leave nothing."""
    bundle.write()
    container_id = runtime.new_id()
    done = runtime("create", "--bundle", bundle.path, container_id)
    assert done.returncode == 1
    assert gone(runtime, container_id)
    assert not (runtime.root / container_id).exists()
    return done.stderr.strip()


def test_all_kinds_are_told_who_and_where_and_run_in_order(any_runtime: Runtime, hooks: Hooks) -> None:
    for kind in KINDS:
        hooks.add(kind)
    hooks.bundle.spec["annotations"] = {"org.example.a": "b", "ü": "\u2028"}
    container_id = any_runtime.create(hooks.bundle)
    pid = any_runtime.state(container_id)["pid"]
    runc = any_runtime.name == "runc"  # 1.1.5 runs poststart hooks in create
    assert hooks.order() == ["prestart", "createRuntime", "createContainer"] + ["poststart"] * runc
    any_runtime.start(container_id)
    any_runtime("delete", "--force", container_id, check=True)
    assert hooks.order() == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    for kind in KINDS:
        state = hooks.state(kind)
        assert state["id"] == container_id, kind
        if (any_runtime.name, kind) != ("crun", "startContainer"):  # it says "/"
            assert state["bundle"] == str(hooks.bundle.path), kind
        assert state["annotations"] == {"org.example.a": "b", "ü": "\u2028"}, kind
        assert state["ociVersion"][:2] == "1.", kind
        if kind in ("prestart", "createRuntime", "poststart"):
            assert state["pid"] == pid, kind


def test_the_status_and_the_pid_are_those_of_the_moment(runtime: Runtime, hooks: Hooks) -> None:
    for kind in KINDS:
        hooks.add(kind)
    container_id = runtime.start_bundle(hooks.bundle)
    pid = runtime.state(container_id)["pid"]
    runtime("delete", "--force", container_id, check=True)
    seen = {kind: (hooks.state(kind)["status"], hooks.state(kind).get("pid")) for kind in KINDS}
    assert seen == {
        "prestart": ("creating", pid),
        "createRuntime": ("creating", pid),
        "createContainer": ("creating", 1),
        "startContainer": ("created", 1),
        "poststart": ("running", pid),
        "poststop": ("stopped", 0),
    }
    assert {frozenset(hooks.state(kind)) for kind in KINDS} == {
        frozenset(("ociVersion", "id", "status", "pid", "bundle", "annotations"))
    }


def test_args_and_env_are_exactly_those_of_the_config(any_runtime: Runtime, hooks: Hooks) -> None:
    for kind in KINDS:
        hooks.add(kind)
    container_id = any_runtime.start_bundle(hooks.bundle)
    any_runtime("delete", "--force", container_id, check=True)
    for kind in KINDS:
        place = hooks.notes if kind != "startContainer" else "/notes"
        assert hooks.read(kind, "args").split("\n")[1:-1] == [str(place), kind]
        words = set(hooks.read(kind, "env").split())
        assert {f"KIND={kind}", "EMPTY="} <= words
        assert words - {f"KIND={kind}", "EMPTY="} <= {"SHLVL=1", "PWD=/"}, kind


def test_they_run_in_the_namespaces_that_the_specification_names(any_runtime: Runtime, hooks: Hooks) -> None:
    for kind in KINDS:
        hooks.add(kind)
    container_id = any_runtime.start_bundle(hooks.bundle)
    pid = any_runtime.state(container_id)["pid"]
    inside = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("pid", "mnt", "net", "uts")}
    any_runtime("delete", "--force", container_id, check=True)
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net", "uts")}
    for kind in KINDS:
        seen = hooks.namespaces(kind)
        if kind in IN_THE_RUNTIMES_NAMESPACES:
            del seen["mnt"]  # crun's is one of ours
            assert seen == own, kind
        else:
            assert seen == inside, kind


def test_prestart_can_use_the_pid_to_reach_the_network(any_runtime: Runtime, hooks: Hooks) -> None:
    """What docker's hook does: /proc/PID/ns/net is the container's, which is not started yet."""
    script = 'pid=$(sed "s/.*\\"pid\\": *\\([0-9]*\\).*/\\1/"); readlink /proc/$pid/ns/net > '
    hooks.add_script("prestart", f"{script}{hooks.notes}/net")
    container_id = any_runtime.start_bundle(hooks.bundle)
    pid = any_runtime.state(container_id)["pid"]
    assert (hooks.notes / "net").read_text().strip() == os.readlink(f"/proc/{pid}/ns/net")


def test_createcontainer_sees_the_mounts_and_still_the_hosts_root(any_runtime: Runtime, hooks: Hooks) -> None:
    hooks.add_script(
        "createContainer", f"test -e {hooks.bundle.rootfs}/proc/self && echo yes > {hooks.notes}/mounted"
    )
    any_runtime.create(hooks.bundle)
    assert (hooks.notes / "mounted").read_text() == "yes\n"


def test_several_of_one_kind_run_in_their_order(runtime: Runtime, hooks: Hooks) -> None:
    for kind in KINDS:
        place = "/notes" if kind == "startContainer" else hooks.notes
        for i in range(3):
            hooks.add_script(kind, f"echo {i} >> {place}/{kind}")
    container_id = runtime.start_bundle(hooks.bundle)
    runtime("delete", "--force", container_id, check=True)
    for kind in KINDS:
        notes = hooks.bundle.rootfs / "notes" if kind == "startContainer" else hooks.notes
        assert (notes / kind).read_text() == "0\n1\n2\n", kind


def test_without_env_they_inherit_the_runtimes_environment(runtime: Runtime, hooks: Hooks) -> None:
    hooks.add_script("createRuntime", f'echo "$FROM_OUTSIDE" > {hooks.notes}/env')
    hooks.bundle.write()
    environment = {**os.environ, "FROM_OUTSIDE": "it is"}
    words = ("create", "--bundle", hooks.bundle.path, runtime.new_id())
    done = subprocess.run(runtime.command(*words), env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, timeout=60)  # fmt: skip
    assert done.returncode == 0
    assert (hooks.notes / "env").read_text() == "it is\n"


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_failure_before_start_undoes_the_container(runtime: Runtime, hooks: Hooks, kind: str) -> None:
    hooks.add_script(kind, "echo first >&2; echo the reason >&2; exit 7")
    hooks.add_script(kind, f"touch {hooks.notes}/second")
    hooks.add_script("poststop", f"touch {hooks.notes}/poststop")
    text = create_fails(runtime, hooks.bundle)
    assert text.startswith(f"hooks.{kind}[0] ({hooks.bundle.path}/{kind}-0): exit status 7 after 0."), text
    assert text.endswith(" s, stderr: first | the reason"), text
    assert not (hooks.notes / "second").exists()


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_failure_before_start_fails_create(any_runtime: Runtime, hooks: Hooks, kind: str) -> None:
    hooks.add_script(kind, "exit 7")
    hooks.bundle.write()
    container_id = any_runtime.new_id()
    done = any_runtime("create", "--bundle", hooks.bundle.path, container_id)
    assert done.returncode == (255 if any_runtime.name == "crun" and kind != "createContainer" else 1)
    assert gone(any_runtime, container_id)


def test_a_failure_of_startcontainer_fails_start_and_ends_the_container(
    runtime: Runtime, hooks: Hooks
) -> None:
    hooks.add_script("startContainer", "echo the reason >&2; exit 7")
    hooks.bundle.sh("touch /notes/it-ran; sleep 60")
    container_id = runtime.create(hooks.bundle)
    done = runtime("start", container_id)
    assert done.returncode == 1
    assert done.stderr.startswith("hooks.startContainer[0] (/startContainer-0): exit status 7 after 0.")
    assert done.stderr.endswith(" s, stderr: the reason\n")
    assert runtime.wait_for_status(container_id, "stopped")["pid"] == 0
    assert not (hooks.bundle.rootfs / "notes/it-ran").exists()
    runtime("delete", container_id, check=True)


def test_a_failure_of_poststart_ends_and_removes_the_container(runtime: Runtime, hooks: Hooks) -> None:
    """runtime.md, Lifecycle: poststop hooks run as well."""
    hooks.add_script("poststart", "echo the reason >&2; exit 7")
    hooks.add_script("poststop", f"touch {hooks.notes}/poststop")
    container_id = runtime.create(hooks.bundle)
    pid = runtime.state(container_id)["pid"]
    done = runtime("start", container_id)
    assert done.returncode == 1
    assert done.stderr.startswith(f"hooks.poststart[0] ({hooks.bundle.path}/poststart-0): exit status 7")
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()
    assert gone(runtime, container_id)
    assert (hooks.notes / "poststop").exists()


def test_a_failure_of_poststop_is_a_warning(any_runtime: Runtime, hooks: Hooks) -> None:
    hooks.add_script("poststop", "echo the reason >&2; exit 7")
    hooks.add_script("poststop", f"touch {hooks.notes}/second")
    container_id = any_runtime.start_bundle(hooks.bundle)
    done = any_runtime("delete", "--force", container_id)
    assert done.returncode == 0
    assert gone(any_runtime, container_id)
    if any_runtime.name == "ocirt":
        assert "hooks.poststop[0]" in done.stderr
        assert "exit status 7" in done.stderr
        assert (hooks.notes / "second").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_takes_too_long_is_killed(runtime: Runtime, hooks: Hooks, kind: str) -> None:
    place = "/notes" if kind == "startContainer" else hooks.notes
    hooks.add_script(kind, f"echo $$ > {place}/pid; exec sleep 30", timeout=1)
    hooks.bundle.write()
    container_id = runtime.new_id()
    begun = time.monotonic()
    error = ""
    for words in (("create", "--bundle", hooks.bundle.path), ("start",), ("delete", "--force")):
        with open(hooks.notes / "err", "w") as errors:  # a pipe would be held by the container
            done = runtime(
                *words, container_id, capture_output=False, stderr=errors, stdout=subprocess.DEVNULL
            )
        error += (hooks.notes / "err").read_text()
        if done.returncode:
            break
    assert 0.9 < time.monotonic() - begun < 5
    assert f"hooks.{kind}[0]" in error
    assert "timed out" in error
    notes = hooks.bundle.rootfs / "notes" if kind == "startContainer" else hooks.notes
    if kind not in ("createContainer", "startContainer"):
        assert not Path(f"/proc/{(notes / 'pid').read_text().strip()}").exists()
    runtime("delete", "--force", container_id, check=True)
    assert gone(runtime, container_id)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_cannot_be_run_is_named(runtime: Runtime, hooks: Hooks, kind: str) -> None:
    hooks.bundle.spec["hooks"] = {kind: [{"path": "/no/such/hook"}]}
    hooks.bundle.write()
    container_id = runtime.new_id()
    errors = hooks.notes / "err"
    for words in (("create", "--bundle", hooks.bundle.path), ("start",), ("delete", "--force")):
        with open(errors, "a") as file:
            runtime(*words, container_id, capture_output=False, stderr=file, stdout=subprocess.DEVNULL)
    first = errors.read_text().splitlines()[0]
    assert f"hooks.{kind}[0] (/no/such/hook)" in first
    # poststop's is a warning, and no warning may look like a reason to podman.
    assert ("ENOENT" if kind == "poststop" else "no such file or directory") in first


def test_a_relative_path_is_refused(runtime: Runtime, hooks: Hooks) -> None:
    hooks.bundle.spec["hooks"] = {"createRuntime": [{"path": "hook"}]}
    assert "hooks" in (text := create_fails(runtime, hooks.bundle))
    assert "absolute" in text or "does not match" in text


def test_much_output_and_unread_input_stop_nobody(runtime: Runtime, hooks: Hooks) -> None:
    hooks.bundle.spec["annotations"] = {"large": "x" * 300_000}
    for kind in KINDS:
        line = "0123456789" * 4
        hooks.add_script(kind, f"exec 0<&-; i=0; while [ $i -lt 3000 ]; do echo {line} >&2; i=$((i+1)); done")
    container_id = runtime.start_bundle(hooks.bundle)
    runtime("delete", "--force", container_id, check=True)


def test_a_daemon_that_a_hook_leaves_holds_nobody_up(runtime: Runtime, hooks: Hooks) -> None:
    hooks.add_script("createRuntime", f"sleep 30 & echo $! > {hooks.notes}/pid")
    begun = time.monotonic()
    runtime.create(hooks.bundle)
    os.kill(int((hooks.notes / "pid").read_text()), 9)
    assert time.monotonic() - begun < 5


def test_the_state_can_be_asked_for_by_a_hook(runtime: Runtime, hooks: Hooks) -> None:
    """Hooks call the runtime: they must not wait for the lock of the command that runs them."""
    container_id = '$(sed \'s/.*"id": *"\\([^"]*\\)".*/\\1/\')'
    for kind in ("createRuntime", "poststart"):
        call = f"{runtime.path} --root {runtime.root} state {container_id} > {hooks.notes}/{kind}"
        hooks.add_script(kind, call)
    runtime.start_bundle(hooks.bundle)
    assert json.loads((hooks.notes / "createRuntime").read_text())["status"] == "creating"
    assert json.loads((hooks.notes / "poststart").read_text())["status"] == "running"
