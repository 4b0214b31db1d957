"""containerd through ctr."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engines import Containerd
from tests.engines.host import cgroup_value, wait_for


@pytest.fixture
def task(ctr: Containerd) -> Iterator[str]:
    """A running container that does nothing."""
    ctr(*ctr.run_words("--detach", "--memory-limit", "67108864"), "octest-task", "/bin/sleep", "1000")
    yield "octest-task"
    ctr("task", "kill", "-s", "KILL", "octest-task", check=False)
    wait_for(lambda: ctr("task", "rm", "-f", "octest-task", check=False).returncode == 0, "the task's end")
    ctr("container", "rm", "octest-task")


def pid_of(ctr: Containerd, task: str) -> int:
    lines = ctr("task", "ls").stdout.splitlines()
    return int(next(line for line in lines if line.startswith(task)).split()[1])


def test_run_shows_the_output_and_passes_the_status(ctr):
    words = ctr.run_words("--rm")
    done = ctr(*words, "octest-run", "/bin/sh", "-c", "echo out; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr


def test_run_t_gives_a_terminal(ctr):
    terminal = ctr.terminal(*ctr.run_words("--rm", "--tty"), "octest-tty", "/bin/sh", size=(24, 80))
    try:
        terminal.read_until("# ")
        terminal.type("sleep 0.3; tty; stty size; exit 5\n")
        terminal.read_until("/dev/pts/0\n24 80\n")
        assert terminal.wait() == 5
    finally:
        terminal.close()


def test_exec_runs_in_the_container_and_passes_the_status(ctr, task):
    words = ("task", "exec", "--exec-id", "e1", task, "/bin/sh", "-c", "ps | grep -c 'sleep 100[0]'; exit 9")
    done = ctr(*words, check=False)
    assert (done.returncode, done.stdout) == (9, "1\n"), done.stderr


def test_pause_and_resume_are_seen_in_the_state_and_ps_lists_the_processes(ctr, task):
    def status() -> str:
        return next(line for line in ctr("task", "ls").stdout.splitlines() if line.startswith(task)).split()[
            2
        ]

    ctr("task", "pause", task)
    assert status() == "PAUSED"
    assert ctr("task", "ps", task).stdout.splitlines()[1].split()[0] == str(pid_of(ctr, task))
    ctr("task", "resume", task)
    assert status() == "RUNNING"


def test_exec_t_gives_a_terminal(ctr, task):
    terminal = ctr.terminal("task", "exec", "--exec-id", "e2", "--tty", task, "/bin/sh", size=(20, 70))
    try:
        terminal.read_until("# ")
        terminal.type("sleep 0.3; tty; stty size; exit 4\n")
        terminal.read_until("/dev/pts/0\n20 70\n")
        assert terminal.wait() == 4
    finally:
        terminal.close()


def test_kill_ends_the_task_and_the_limit_was_in_force(ctr, task):
    pid = pid_of(ctr, task)
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max") == "67108864"
    ctr("task", "kill", "-s", "KILL", task)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    wait_for(lambda: "STOPPED" in ctr("task", "ls").stdout, "the status")


def test_missing_command_is_an_error_that_names_it(ctr):
    done = ctr(*ctr.run_words("--rm"), "octest-missing", "/no/such/command", check=False)
    assert done.returncode == 1
    assert "/no/such/command" in done.stderr
    assert "no such file or directory" in done.stderr
    ctr("container", "rm", "octest-missing", check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "script", "output"),
    [
        (("--net-host",), "ls /sys/class/net | grep -c lo", "1\n"),
        (("--read-only",), "touch /x 2>/dev/null || echo read-only", "read-only\n"),
        (("--env", "KEY=value", "--cwd", "/tmp"), "echo $KEY; pwd", "value\n/tmp\n"),
        (("--seccomp",), "grep Seccomp: /proc/self/status | cut -f2", "2\n"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_option_of_run_is_in_force(ctr, options, script, output):
    done = ctr(*ctr.run_words("--rm", *options), "octest-option", "/bin/sh", "-c", script)
    assert done.stdout == output
