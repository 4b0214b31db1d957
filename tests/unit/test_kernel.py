"""ocirt.kernel against the running kernel; no privilege needed."""

from __future__ import annotations

import errno
import os
import signal
import threading

import pytest

from ocirt import kernel
from tests.lib.declared import missing


def run(script: str, *, keep: tuple[int, ...] = (), **options: object) -> tuple[int, int, int]:
    shell = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, pidfd = kernel.spawn(shell, [b"sh", b"-c", script.encode()], [b"A=b"], keep, **options)  # type: ignore[arg-type]
    finally:
        os.close(shell)
    ended = kernel.waitid_pidfd(pidfd)
    os.close(pidfd)
    assert ended is not None
    return ended


def output(script: str, keep: tuple[int, ...] = (), stdin: int = -1) -> str:
    read, write = os.pipe()
    run(script, keep=keep, stdio=(stdin, write, -1))
    os.close(write)
    with open(read, encoding="utf-8") as stream:
        return stream.read()


def test_constants_come_from_the_headers() -> None:
    assert kernel.CLONE_NEWNS == 0x20000
    assert kernel.AT_FDCWD == -100
    assert kernel.RLIM_INFINITY == 2**64 - 1
    with pytest.raises(AttributeError):
        _ = kernel.CLONE_NEWNONSENSE


def test_spawn_passes_argv_environment_and_exit_status() -> None:
    assert output('echo "$0 $A $#"; env | grep -c .').split()[:3] == ["sh", "b", "0"]
    _, code, status = run("exit 7")
    assert (code, status) == (kernel.CLD_EXITED, 7)


def test_spawn_raises_what_the_exec_failed_with() -> None:
    fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(PermissionError):
        kernel.spawn(fd, [b"x"], [], [])
    assert os.listdir("/proc/self/fd") == before
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.spawn(0, [b"x"], [], [900])


def test_spawn_leaves_only_the_named_fds_open_in_the_child() -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    kept = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    # the shell's own directory fd is the fourth
    names = output("for f in /proc/$$/fd/*; do echo ${f##*/}; done", keep=(kept,)).split()
    assert str(kept) in names
    assert str(leaked) not in names
    assert not os.get_inheritable(kept)
    os.close(leaked)
    os.close(kept)


def test_spawn_swaps_standard_fds_without_losing_one() -> None:
    read, write = os.pipe()
    # 1 and 2 exchange their places
    other = os.dup(write)
    os.write(write, b"input\n")
    assert output("read line; echo got $line", stdin=read) == "got input\n"
    for fd in (read, write, other):
        os.close(fd)


def test_spawned_process_has_default_signals_and_none_blocked() -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    lines = output("while read l; do case $l in SigBlk*|SigIgn*) echo $l;; esac; done </proc/self/status")
    assert lines.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_spawn_restores_the_signal_mask_of_the_caller() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    run("exit 0")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_exit_status_is_known_after_the_host_program_reaped_the_child() -> None:
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < (6, 15):
        missing("Linux 6.15")
    for script, expected in (("exit 5", (kernel.CLD_EXITED, 5)), ("kill -9 $$", (kernel.CLD_KILLED, 9))):
        shell = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)
        pid, pidfd = kernel.spawn(shell, [b"sh", b"-c", script.encode()], [], [])
        os.close(shell)
        os.waitpid(pid, 0)
        assert kernel.waitid_pidfd(pidfd) == (0, *expected)
        os.close(pidfd)


def test_spawn_works_while_other_threads_run() -> None:
    stop = threading.Event()
    counted = [0]

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            assert run("exit 0")[2] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert counted[0] > 0


def test_waitid_tells_a_killed_child_and_a_running_one() -> None:
    shell = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)
    pid, pidfd = kernel.spawn(shell, [b"sh", b"-c", b"kill -STOP $$"], [], [])
    os.close(shell)
    assert kernel.waitid_pidfd(pidfd, nohang=True) is None
    kernel.pidfd_send_signal(pidfd, kernel.SIGKILL)
    ended = kernel.waitid_pidfd(pidfd)
    assert ended == (pid, kernel.CLD_KILLED, kernel.SIGKILL)
    assert kernel.exit_status(ended[1], ended[2]) == 137
    os.close(pidfd)


def test_memfd_is_final_after_seal() -> None:
    fd = kernel.memfd_create(b"plan")
    os.write(fd, b"x")
    kernel.seal(fd)
    with pytest.raises(PermissionError):
        os.write(fd, b"y")
    os.close(fd)


def test_openat2_stays_in_the_root(tmp_path: os.PathLike[str]) -> None:
    os.symlink("/etc/passwd", os.path.join(tmp_path, "link"))
    root = os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)
    with pytest.raises(FileNotFoundError):
        kernel.openat2(root, b"link", os.O_RDONLY, resolve=kernel.RESOLVE_IN_ROOT)
    with pytest.raises(OSError, match="Too many levels"):
        kernel.openat2(root, b"link", os.O_RDONLY, resolve=kernel.RESOLVE_NO_SYMLINKS)
    os.close(root)


def test_prlimit_sets_and_tells_the_old_limit() -> None:
    soft, hard = kernel.prlimit_get(0, kernel.RLIMIT_NOFILE)
    assert kernel.prlimit(0, kernel.RLIMIT_NOFILE, soft - 1, hard) == (soft, hard)
    assert kernel.prlimit(0, kernel.RLIMIT_NOFILE, soft, hard) == (soft - 1, hard)


def test_fds_travel_over_a_socket() -> None:
    left, right = kernel.socketpair()
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    kernel.send_fd(left, null, b"hello")
    got, payload = kernel.recv_fd(right)
    assert payload == b"hello"
    assert os.fstat(got).st_rdev == os.fstat(null).st_rdev
    assert not os.get_inheritable(got)
    os.close(left)
    assert kernel.recv_fd(right) == (-1, b"")
    for fd in (right, null, got):
        os.close(fd)


def test_unix_socket_is_reached_through_a_directory_fd(tmp_path: os.PathLike[str]) -> None:
    deep = os.path.join(tmp_path, "d" * 120)
    os.mkdir(deep)
    fd = os.open(deep, os.O_PATH | os.O_CLOEXEC)
    path = f"/proc/self/fd/{fd}/start"
    listener = kernel.unix_listen(path)
    client = kernel.unix_connect(path)
    server = kernel.accept(listener)
    assert kernel.peer_credentials(server)[0] == os.getpid()
    with pytest.raises(OSError, match="too long") as raised:
        kernel.unix_connect(os.path.join(deep, "start"))
    assert raised.value.errno == errno.ENAMETOOLONG
    for each in (fd, listener, client, server):
        os.close(each)


def test_signalfd_reports_a_blocked_signal() -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    fd = kernel.signalfd(kernel.signal_mask([signal.SIGUSR2]))
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)  # not to another thread
        assert int.from_bytes(os.read(fd, 128)[:4], "little") == signal.SIGUSR2
    finally:
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_terminal_becomes_raw_and_takes_a_size() -> None:
    master, slave = os.openpty()
    kernel.set_winsize(master, 33, 77)
    assert kernel.winsize(slave) == (33, 77)
    before = kernel.tcgetattr(slave)
    raw = kernel.cfmakeraw(before)
    assert raw != before
    kernel.tcsetattr(slave, kernel.TCSANOW, raw)
    assert kernel.tcgetattr(slave) == raw
    peer = kernel.pty_peer(master, os.O_RDWR | os.O_NOCTTY)
    assert os.ttyname(peer) == os.ttyname(slave)
    for fd in (master, slave, peer):
        os.close(fd)


def test_namespace_type_refuses_what_is_no_namespace() -> None:
    with open("/proc/self/ns/uts", "rb") as stream:
        assert kernel.namespace_type(stream.fileno()) == kernel.CLONE_NEWUTS
    with open("/dev/null", "rb") as stream, pytest.raises(OSError, match="Inappropriate ioctl"):
        kernel.namespace_type(stream.fileno())


@pytest.mark.parametrize(
    ("attributes", "flags"),
    [
        (["RDONLY", "NOSUID"], ["RDONLY", "NOSUID"]),
        (["NOATIME", "NODIRATIME"], ["NOATIME", "NODIRATIME"]),
        (["STRICTATIME"], ["STRICTATIME"]),
        (["RELATIME"], []),
    ],
)
def test_mount_attributes_become_mount_flags(attributes: list[str], flags: list[str]) -> None:
    asked = sum(getattr(kernel, f"MOUNT_ATTR_{name}") for name in attributes)
    assert kernel.mount_flags(asked) == sum(getattr(kernel, f"MS_{name}") for name in flags)


def test_text_that_is_not_utf8_survives() -> None:
    assert kernel.fsencode(kernel.fsdecode(b"a\xff")) == b"a\xff"
    assert kernel.fsdecode("text") == "text"
