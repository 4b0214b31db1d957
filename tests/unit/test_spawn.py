"""Programs of the host that the runtime starts: hooks and helpers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ocirt import interrupt, kernel
from ocirt.spawn import run

ENV = {b"PATH": b"/usr/bin:/bin"}


def test_input_and_both_outputs_pass_through() -> None:
    result = run(["/bin/sh", "-c", "cat; echo err >&2"], ENV, b"hello\n")
    assert (result.status, result.stderr) == (0, "hello\nerr\n")


def test_the_program_is_called_by_the_name_given_not_by_its_path() -> None:
    result = run(["named", "-c", "echo $0"], ENV, path="/bin/sh")
    assert (result.status, result.stderr) == (0, "named\n")


def test_no_signal_is_ignored_or_blocked_in_the_program() -> None:
    result = run(["/bin/sh", "-c", "grep -E 'SigBlk|SigIgn' /proc/self/status >&2"], ENV)
    _, blocked, _, ignored = result.stderr.split()
    assert int(blocked, 16) == 0
    # 32 and 33 belong to the C library, whose posix_spawn leaves them ignored
    assert int(ignored, 16) & ~(1 << 31 | 1 << 32) == 0


def test_large_input_does_not_block_a_program_that_ignores_it() -> None:
    assert run(["/bin/true"], ENV, b"x" * (1 << 20)).status == 0


def test_status_and_signal_are_told_apart() -> None:
    assert run(["/bin/sh", "-c", "exit 3"], ENV).describe() == "exit status 3"
    assert run(["/bin/sh", "-c", "kill -9 $$"], ENV).describe() == "killed by signal 9"


def test_a_program_is_killed_when_its_time_is_over() -> None:
    started = time.monotonic()
    assert run(["/bin/sleep", "100"], ENV, timeout=0.1).describe() == "timed out"
    assert time.monotonic() - started < 5


def test_a_signal_ends_it_once(tmp_path: Path) -> None:
    """Blocked and armed as in the foreground: killed and reaped at once, and no undo is disturbed."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    signals = kernel.signalfd(kernel.signal_mask([signal.SIGHUP]))
    interrupt.arm(signals)
    try:
        interrupt.check()
        script = f"echo $$ >{tmp_path}/pid; kill -HUP $PPID; exec sleep 100"
        with pytest.raises(interrupt.Interrupted, match="interrupted by signal 1") as caught:
            run(["/bin/sh", "-c", script], ENV)
        assert caught.value.exit_status == 129
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
        os.kill(os.getpid(), signal.SIGHUP)
        assert run(["/bin/true"], ENV).status == 0
    finally:
        interrupt.disarm()
        interrupt.read_signal(signals)
        os.close(signals)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_it_is_killed_and_reaped_whatever_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("ocirt.spawn._read", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MemoryError):
        run(["/bin/sh", "-c", f"echo $$ >{tmp_path}/pid; echo; exec sleep 100"], ENV)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert os.listdir("/proc/self/fd") == before


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for() -> None:
    started = time.monotonic()
    assert run(["/bin/sh", "-c", "sleep 3 & exit 0"], ENV).status == 0
    assert time.monotonic() - started < 2


def test_what_cannot_be_started_raises() -> None:
    with pytest.raises(FileNotFoundError):
        run(["/nosuch"], ENV)


def test_no_fd_is_left() -> None:
    before = os.listdir("/proc/self/fd")
    run(["/bin/sh", "-c", "cat"], ENV, b"text")
    assert os.listdir("/proc/self/fd") == before
