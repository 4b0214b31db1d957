"""A whole distribution with the config that `runc spec` writes, unchanged (issue 2, seen (i))."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib.debian import system
from tests.lib.runtime import Runtime
from tests.system.test_terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json by runc, the rootfs a copy; nobody writes to it, for the root is read-only."""
    directory = tmp_path_factory.mktemp("debian")
    subprocess.run(["cp", "-a", system(), directory / "rootfs"], check=True)
    subprocess.run(["runc", "spec", "--bundle", directory], check=True)
    process = json.loads((directory / "config.json").read_text())["process"]
    assert (process["args"], process["terminal"]) == (["sh"], True)
    return directory


@pytest.fixture
def shell(any_runtime: Runtime, bundle: Path):
    """sh in the container on a terminal, at its first prompt."""
    call = any_runtime.command("run", "--bundle", bundle, any_runtime.new_id())
    terminal = Terminal(call, rows=40, cols=132, env={**os.environ, "TERM": "xterm"})
    terminal.expect("# ")
    yield terminal
    terminal.close()


def answer(shell: Terminal, command: str) -> str:
    """What the command writes, between marks that the echo of what is typed does not show."""
    shell.write(f"echo be''gin; {command}; echo status=$? e''nd\n")
    shell.expect("begin\r\n")
    start = shell.read_to
    shell.expect(" end\r\n")
    return shell.output[start : shell.read_to].decode().replace("\r", "").removesuffix(" end\n")


def test_bash_apt_and_ps(any_runtime: Runtime, shell: Terminal) -> None:
    assert re.fullmatch(r"apt 2\.\S+ \(\w+\)\nstatus=0", answer(shell, "apt --version"))
    assert answer(shell, "hostname") == "runc\nstatus=0"
    rows = answer(shell, "ps -eo pid,ppid,tty,args").splitlines()
    assert rows[0].split() == ["PID", "PPID", "TT", "COMMAND"]
    assert rows[1].split() == ["1", "0", "pts/0", "sh"]
    assert [row.split()[-1] for row in rows[2:]] == ["pid,ppid,tty,args", "status=0"]
    shell.write("bash --norc\n")
    shell.expect("bash-5.2# ")
    assert answer(shell, "echo $BASH_VERSION").startswith("5.2")
    if any_runtime.name != "crun":  # 1.8 leaves the size at 0 0
        assert answer(shell, "stty size; tty") == "40 132\n/dev/pts/0\nstatus=0"
        shell.resize(50, 100)
        assert answer(shell, 'until [ "$(stty size)" = "50 100" ]; do sleep 0.02; done') == "status=0"
    shell.write("exit 3\n")
    assert answer(shell, ":") == "status=0"
    shell.write("exit 5\n")
    assert shell.end() == 5


def in_foreground(*words: str, seconds: float = 10) -> None:
    """Wait until this command runs and has its terminal: bash gives it over after the start."""
    deadline = time.monotonic() + seconds
    wanted = b"".join(os.fsencode(word) + b"\0" for word in words)
    while True:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes() == wanted:
                    state, _, group, _, _, foreground = (
                        path.with_name("stat").read_text().rsplit(")", 1)[1].split()[:6]
                    )
                    if state == "S" and group == foreground:
                        return
        assert time.monotonic() < deadline, words
        time.sleep(0.02)


def test_job_control_keys_and_line_editing(shell: Terminal) -> None:
    shell.write("bash --norc\n")
    shell.expect("bash-5.2# ")
    shell.write("sleep 61\n")
    shell.expect("sleep 61\r\n")
    in_foreground("sleep", "61")
    shell.write("\x1a")
    shell.expect("Stopped")
    assert "Stopped" in answer(shell, "jobs")
    shell.write("fg\n")
    shell.expect("sleep 61\r\n")
    in_foreground("sleep", "61")
    shell.write("\x03")
    shell.expect("bash-5.2# ")
    assert answer(shell, "jobs") == "status=0"
    shell.write("echo onX\x7fe\n")
    shell.expect("\rone\r\n")
    shell.write("\x04")
    shell.expect("exit")
    shell.write("exit\n")
    assert shell.end() == 0


def test_the_readonly_root_the_network_and_the_limits(shell: Terminal) -> None:
    assert "Read-only file system" in answer(shell, "touch /etc/x")
    assert answer(shell, "ls /sys/class/net") == "lo\nstatus=0"
    assert answer(shell, "ulimit -n") == "1024\nstatus=0"
    assert answer(shell, "cat /proc/timer_list | wc -c") == "0\nstatus=0"
    assert answer(shell, "id -u; pwd; echo $HOME") == "0\n/\n/root\nstatus=0"
    assert "Operation not permitted" in answer(shell, "mknod /dev/x c 1 3")
    shell.write("exit\n")
    assert shell.end() == 0


def test_exec_while_it_runs(any_runtime: Runtime, shell: Terminal) -> None:
    done = any_runtime("exec", any_runtime.ids[-1], "ps", "-e")
    assert done.returncode == 0, done.stderr
    assert [row.split()[-1] for row in done.stdout.splitlines()] == ["CMD", "sh", "ps"]
    done = any_runtime("exec", any_runtime.ids[-1], "dpkg", "-l", "procps")
    assert done.returncode == 0
    assert "ii  procps" in done.stdout
    shell.write("exit\n")
    assert shell.end() == 0
