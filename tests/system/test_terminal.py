"""Terminals: the container's own pty relayed to ours, and the console socket."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


class Terminal:
    """A command on a pty of its own, as a terminal emulator has it."""

    def __init__(self, call, rows=24, cols=80, **options):
        self.master, slave = pty.openpty()
        self.resize(rows, cols)
        self.modes_before = termios.tcgetattr(slave)

        def take():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        arguments = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": take, **options}
        self.process = subprocess.Popen(call, **arguments)
        self.slave = slave  # held open: the modes can be read when the command has ended
        self.output = b""
        self.read_to = 0

    def resize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))

    def write(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, seconds=15):
        """Read until text has come behind what was expected before."""
        wanted = text.encode()
        deadline = time.monotonic() + seconds
        while wanted not in self.output[self.read_to :]:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.output!r}"
            if select.select([self.master], [], [], min(left, 0.2))[0]:
                self.output += os.read(self.master, 4096)
        self.read_to = self.output.index(wanted, self.read_to) + len(wanted)

    def end(self, seconds=15):
        """Wait for the command, with all of its output read; its status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            assert time.monotonic() < deadline, f"it does not end: {self.output!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.output += os.read(self.master, 4096)
        return self.process.returncode

    def modes(self):
        return termios.tcgetattr(self.slave)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    """Terminals that are closed in the end."""
    made = []

    def make(call, **options):
        made.append(Terminal(call, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def interactive(runtime, bundle, terminal):
    """`run` of a script on a terminal."""

    def start(script, **options):
        bundle.process["terminal"] = True
        bundle.sh(script).write()
        return terminal(runtime.command("run", "--bundle", bundle.path, runtime.new_id()), **options)

    return start


def test_the_container_has_a_terminal_of_its_own_with_our_size(interactive):
    shown = interactive("tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all", rows=33, cols=77)
    assert shown.end() == 0
    assert shown.output.decode().splitlines() == ["/dev/pts/0", "33 77", "all"]


def test_it_is_the_controlling_terminal_and_on_dev_console(interactive):
    shown = interactive("echo via-tty > /dev/tty; echo via-console > /dev/console; exit 3")
    assert shown.end() == 3
    assert shown.output == b"via-tty\r\nvia-console\r\n"


def test_what_is_typed_goes_in_and_what_is_written_comes_out(interactive):
    shown = interactive("read line; echo got $line; exit 5")
    shown.write("some words\n")
    shown.expect("got some words")
    assert shown.end() == 5


def test_keys_of_the_terminal_act_inside_and_not_on_the_runtime(interactive):
    shown = interactive("trap 'echo interrupted; exit 6' INT; echo on; while :; do sleep 0.02; done")
    shown.expect("on\r\n")
    shown.write("\x03")
    shown.expect("interrupted")
    assert shown.end() == 6


def test_end_of_file_is_typed_as_ctrl_d(interactive):
    shown = interactive("echo on; cat; echo end")
    shown.expect("on\r\n")  # before, our own terminal would still take it for its own
    shown.write("\x04")
    shown.expect("end")
    assert shown.end() == 0


def test_a_resize_reaches_the_container(interactive):
    shown = interactive("trap 'stty size; exit 7' WINCH; echo on; while :; do sleep 0.02; done")
    shown.expect("on\r\n")
    shown.resize(11, 22)
    shown.expect("11 22")
    assert shown.end() == 7


def test_our_terminal_is_raw_meanwhile_and_as_before_in_the_end(interactive):
    shown = interactive("echo on; read line")
    shown.expect("on\r\n")
    during = shown.modes()
    assert not during[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert during[1] == shown.modes_before[1]  # output is still processed: CR before LF
    shown.write("\n")
    assert shown.end() == 0
    assert shown.modes() == shown.modes_before


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_our_terminal_is_restored_when_a_signal_ends_it(interactive, name):
    shown = interactive(f"trap 'exit 8' {name}; echo on; while :; do sleep 0.02; done")
    shown.expect("on\r\n")
    shown.process.send_signal(getattr(signal, f"SIG{name}"))
    assert shown.end() == 8
    assert shown.modes() == shown.modes_before


def test_our_terminal_is_restored_when_the_container_is_killed(runtime, interactive):
    shown = interactive("echo on; sleep 600")
    shown.expect("on\r\n")
    runtime("kill", runtime.ids[-1], "KILL", check=True)
    assert shown.end() == 137
    assert shown.modes() == shown.modes_before


def test_our_terminal_is_untouched_when_the_container_cannot_be_made(interactive, bundle):
    bundle.spec["hooks"] = {"prestart": [{"path": "/bin/false"}]}
    shown = interactive("echo on")
    assert shown.end() == 1
    assert shown.modes() == shown.modes_before
    assert b"hooks.prestart" in shown.output


def test_newlines_are_turned_into_cr_lf_once(runtime, bundle, tmp_path):
    bundle.process["terminal"] = True
    done = runtime.run(bundle.sh("echo one; echo two"))
    assert done.stdout == "one\ntwo\n"  # into a pipe: as the program wrote it


def test_much_output_arrives_whole_also_when_the_reader_is_slow(runtime, bundle):
    bundle.process["terminal"] = True
    bundle.sh("i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done").write()
    call = runtime.command("run", "--bundle", bundle.path, runtime.new_id())
    process = subprocess.Popen(call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    time.sleep(0.5)
    output = process.stdout.read()
    assert process.wait(timeout=30) == 0
    assert output == b"".join(b"line %d of many\n" % i for i in range(20000))


def test_stdin_may_be_a_pipe_or_a_file(runtime, bundle, tmp_path):
    bundle.process["terminal"] = True
    bundle.sh("stty -echo; cat; echo end")
    done = runtime.run(bundle, input="through a pipe\n")
    assert done.stdout.endswith("through a pipe\nend\n")
    assert done.returncode == 0
    (tmp_path / "file").write_text("out of a file\n")
    with open(tmp_path / "file") as file:
        bundle.write()
        call = runtime.command("run", "--bundle", bundle.path, runtime.new_id())
        done = subprocess.run(call, stdin=file, capture_output=True, text=True, timeout=30)
    assert done.stdout.endswith("out of a file\nend\n")


def test_more_input_than_the_terminal_holds_is_not_lost(runtime, bundle):
    bundle.process["terminal"] = True
    bundle.sh("stty -echo; echo on; sleep 0.3; wc -l")
    lines = "".join(f"line {i}\n" for i in range(20000))
    done = runtime.run(bundle, input=lines)
    assert done.stdout.split()[-1] == "20000"


def test_a_closed_stdout_does_not_stop_the_container(runtime, bundle):
    bundle.process["terminal"] = True
    bundle.sh("i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; exit 9").write()
    read, write = os.pipe()
    call = runtime.command("run", "--bundle", bundle.path, runtime.new_id())
    process = subprocess.Popen(call, stdin=subprocess.DEVNULL, stdout=write)
    os.close(write)
    os.close(read)
    assert process.wait(timeout=30) == 9


def test_no_cpu_is_used_while_nothing_happens(interactive):
    # Also not while no process has the terminal open, which epoll tells for ever by level.
    shown = interactive("echo on; exec </dev/null >/dev/null 2>&1; sleep 1; exit 2")
    shown.expect("on\r\n")
    stat = Path(f"/proc/{shown.process.pid}/stat")
    time.sleep(0.2)
    before = sum(map(int, stat.read_text().rsplit(")", 1)[1].split()[11:13]))
    time.sleep(0.6)
    after = sum(map(int, stat.read_text().rsplit(")", 1)[1].split()[11:13]))
    assert after - before <= 1
    assert shown.end() == 2


# exec


@pytest.fixture
def sleeper(runtime, bundle):
    return runtime.start_bundle(bundle.sh("sleep 600"))


def test_exec_tty_is_an_interactive_shell(runtime, sleeper, terminal):
    shown = terminal(runtime.command("exec", "--tty", sleeper, "sh"), rows=40, cols=100)
    shown.expect("# ")
    shown.write("echo a$((1+1))b; stty size; tty\r")
    shown.expect("a2b\r\n40 100\r\n/dev/pts/")
    shown.resize(12, 34)
    shown.expect("# ")
    shown.write("stty size\r")
    shown.expect("12 34")
    shown.write("exit 9\r")
    assert shown.end() == 9
    assert shown.modes() == shown.modes_before


def test_two_execs_have_terminals_of_their_own(runtime, sleeper, terminal):
    first = terminal(runtime.command("exec", "-t", sleeper, "sh", "-c", "tty; read x"))
    first.expect("/dev/pts/0")
    second = terminal(runtime.command("exec", "-t", sleeper, "sh", "-c", "tty; read x"))
    second.expect("/dev/pts/1")
    for shown in (first, second):
        shown.write("\n")
        assert shown.end() == 0


def test_exec_without_tty_has_none(runtime, sleeper, terminal):
    shown = terminal(runtime.command("exec", sleeper, "sh", "-c", "ls /dev/pts"))
    assert shown.end() == 0
    assert shown.output == b"ptmx\r\n"


# The console socket


@pytest.fixture
def console_socket(tmp_path):
    """A listening socket and a function that takes the master which arrives there."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "console.sock"))
    server.listen(1)
    server.settimeout(10)
    masters = []

    def take():
        connection, _ = server.accept()
        payload, fds, _, _ = socket.recv_fds(connection, 100, 1)
        connection.close()
        assert payload
        masters.extend(fds)
        return fds[0]

    yield tmp_path / "console.sock", take
    server.close()
    for master in masters:
        os.close(master)


def read_until(master, text, seconds=10):
    output = b""
    deadline = time.monotonic() + seconds
    while text.encode() not in output:
        left = deadline - time.monotonic()
        assert left > 0, output
        if select.select([master], [], [], left)[0]:
            try:
                output += os.read(master, 4096)
            except OSError:  # EIO: the container has closed its end
                break
    return output.decode()


def test_create_sends_the_master_and_start_runs_on_it(runtime, bundle, console_socket):
    path, take = console_socket
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 21, "width": 43}
    container_id = runtime.create(bundle.sh("tty; stty size; read x; echo $x"), "--console-socket", path)
    master = take()
    runtime.start(container_id)
    assert "/dev/pts/0\r\n21 43\r\n" in read_until(master, "21 43\r\n")
    os.write(master, b"typed\n")
    assert "typed\r\n" in read_until(master, "typed\r\n")
    runtime.wait_for_status(container_id, "stopped")


def test_run_detach_and_exec_detach_send_it_too(runtime, bundle, console_socket):
    path, take = console_socket
    bundle.process["terminal"] = True
    bundle.sh("echo from run; sleep 600").write()
    container_id = runtime.new_id()
    runtime("run", "-d", "--bundle", bundle.path, "--console-socket", path, container_id, check=True)
    assert "from run" in read_until(take(), "from run")
    words = ["exec", "-d", "-t", "--console-socket", path, container_id, "sh", "-c", "echo from exec; tty"]
    runtime(*words, check=True)
    assert "/dev/pts/1" in read_until(take(), "/dev/pts/")


def test_a_socket_path_longer_than_sun_path_works(runtime, bundle, tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    fd = os.open(deep, os.O_PATH)
    server.bind(f"/proc/self/fd/{fd}/s")
    server.listen(1)
    bundle.process["terminal"] = True
    runtime.create(bundle.sh("exit 0"), "--console-socket", deep / "s")
    connection, _ = server.accept()
    _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert os.isatty(fds[0])
    for each in (fd, *fds):
        os.close(each)
    connection.close()
    server.close()


@pytest.mark.parametrize("words", [["create"], ["run", "--detach"]])
def test_a_terminal_that_nobody_takes_is_refused(runtime, bundle, words):
    bundle.process["terminal"] = True
    bundle.write()
    done = runtime(*words, "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    assert done.stderr.startswith("process.terminal: ")
    assert runtime("list", "-q").stdout == ""


def test_a_console_socket_without_a_terminal_is_refused(runtime, bundle, console_socket):
    bundle.write()
    done = runtime("create", "--bundle", bundle.path, "--console-socket", console_socket[0], runtime.new_id())
    assert done.returncode == 1
    assert done.stderr.startswith("process.terminal: ")


def test_a_console_socket_in_the_foreground_is_refused(runtime, bundle, sleeper, console_socket):
    bundle.process["terminal"] = True
    bundle.write()
    words = ["--bundle", bundle.path, "--console-socket", console_socket[0], runtime.new_id()]
    assert runtime("run", *words).returncode == 1
    assert runtime("exec", "-t", "--console-socket", console_socket[0], sleeper, "tty").returncode == 255
