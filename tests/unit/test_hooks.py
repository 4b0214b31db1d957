"""Hooks: what they are told, and what is said when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from ocirt import hooks, kernel
from ocirt.errors import HookFailed, SpecError
from tests.lib.compiled import context, ops

STATE = {"ociVersion": "1.2.0", "id": "c", "status": "created", "pid": 7, "bundle": "/b"}


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def run(*entries, **options):
    return hooks.run_hooks("prestart", list(entries), STATE, **options)


def test_the_state_document():
    assert hooks.hook_state({"ociVersion": "1.2.0", "annotations": None}, "c", "/b", "creating", 7) == {
        "ociVersion": "1.2.0",
        "id": "c",
        "status": "creating",
        "pid": 7,
        "bundle": "/b",
        "annotations": {},
    }


def test_a_hook_gets_the_state_on_stdin_its_args_and_its_environment_only(tmp_path):
    path = script(tmp_path / "h", f'cat > {tmp_path}/out; echo "$0 $1 $A $HOME" > {tmp_path}/words\n')
    run({"path": path, "args": ["zero", "one"], "env": ["A=1"]})
    assert json.loads((tmp_path / "out").read_text()) == STATE
    # the shell's $0 is the script; the kernel puts it there
    assert (tmp_path / "words").read_text() == f"{path} one 1 \n"


def test_without_env_a_hook_inherits_the_runtimes(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel, "environ", lambda: {b"A": b"here"})
    path = script(tmp_path / "h", f"echo $A > {tmp_path}/out\n")
    run({"path": path})
    assert (tmp_path / "out").read_text() == "here\n"
    run({"path": path, "env": []})
    assert (tmp_path / "out").read_text() == "\n"


def test_a_hook_that_fails_is_named_with_its_last_words(tmp_path):
    path = script(tmp_path / "h", "echo so not >&2; exit 3\n")
    with pytest.raises(HookFailed) as failed:
        run({"path": path})
    text = str(failed.value)
    assert text.startswith(f"hooks.prestart[0] ({path}): exit status 3 after 0.")
    assert text.endswith(" s, stderr: so not")


def test_a_hook_that_is_not_there():
    with pytest.raises(HookFailed, match=r"hooks\.prestart\[0\] \(/nosuch\): no such file or directory"):
        run({"path": "/nosuch"})


def test_a_relative_path_is_refused():
    with pytest.raises(SpecError, match=r"hooks\.prestart\[0\]\.path: 'h' is not absolute"):
        run({"path": "h"})


def test_the_rest_is_not_run_after_a_failure(tmp_path):
    good = {"path": script(tmp_path / "h", f"touch {tmp_path}/ran\n")}
    with pytest.raises(HookFailed):
        run({"path": "/nosuch"}, good)
    assert not (tmp_path / "ran").exists()


def test_poststop_goes_on_and_tells_all_failures(tmp_path):
    good = {"path": script(tmp_path / "h", f"touch {tmp_path}/ran\n")}
    failures = run({"path": "/nosuch"}, good, {"path": "/bin/false"}, only_warn=True)
    assert [failure.field for failure in failures] == ["hooks.prestart[0]", "hooks.prestart[2]"]
    assert (tmp_path / "ran").exists()


def test_a_hook_that_takes_too_long_is_killed(tmp_path):
    path = script(tmp_path / "h", "exec sleep 20\n")
    began = time.monotonic()
    with pytest.raises(HookFailed, match="timed out"):
        hooks.run_hooks("prestart", [{"path": path, "timeout": 0.1}], STATE)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("asked", "seconds"), [(None, None), (5, 5), (2**40, 2147483), (2**63 - 1, 2147483)])
def test_a_timeout_fits_poll(asked, seconds):
    assert hooks.prepare("f", {"path": "/h", "timeout": asked})[3] == seconds


def test_a_long_timeout_waits_no_longer_than_the_hook():
    run({"path": "/bin/true", "timeout": 2**62})


def test_hooks_inside_get_the_state_with_room_for_the_pid():
    ctx = context(annotations={"a": "b"})
    hooks.apply_create_container_hooks(
        ctx, [{"path": "/h", "args": ["h", "x"], "env": ["A=1"], "timeout": 2}]
    )
    kind, field, path, argv, env, blob, limit = ops(ctx)[0]
    assert (kind, field, path, argv, env, limit) == (
        "hook",
        "hooks.createContainer[0]",
        b"/h",
        [b"h", b"x"],
        [b"A=1"],
        2000,
    )
    assert blob.startswith(b'{"pid":          ,')
    document = json.loads(blob.replace(b"          ", b"4194304   "))
    assert document == {
        "pid": 4194304,
        "ociVersion": "1.2.0",
        "id": "c",
        "status": "creating",
        "bundle": "/b",
        "annotations": {"a": "b"},
    }


def test_start_container_hooks_run_when_it_is_created():
    ctx = context()
    hooks.apply_start_container_hooks(ctx, [{"path": "/h"}])
    assert b'"status":"created"' in ops(ctx)[0][5]


def test_runtime_hooks_are_the_parents():
    ctx = context()
    hooks.apply_runtime_hooks(ctx, {"prestart": [{"path": "/a"}], "createRuntime": None, "poststop": [{}]})
    assert [(action.when, action.field) for action in ctx.plan.actions] == [("HOOKS", "hooks.prestart")]


def test_output_of_a_daemon_that_stays_does_not_hold_us(tmp_path):
    path = script(tmp_path / "h", f"sleep 3 & echo $! > {tmp_path}/pid\n")
    began = time.monotonic()
    run({"path": path})
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert time.monotonic() - began < 2


def test_a_hook_ends_with_the_init_that_waits_for_it():
    init = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(init.pid)
    init.wait()
    began = time.monotonic()
    with pytest.raises(HookFailed, match="killed by signal 9"):
        hooks.run_hooks("prestart", [{"path": "/bin/sleep", "args": ["sleep", "9"]}], STATE, init=pidfd)
    os.close(pidfd)
    assert time.monotonic() - began < 5
