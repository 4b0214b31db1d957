"""A place of their own for the engines: private mount and network namespaces and directories.

Engines run there with their default paths (/var/lib/docker, /run/docker, ...), which are the
test's own directories or file systems, so nothing of the host's is seen or changed. Processes are
on the host; whatever lives in these namespaces, and its descendants, is ours and is ended at last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

USER = "octestuser"
USER_ID = 7531
# podman's --userns=auto takes ranges of "containers", docker's userns-remap those of root.
SUBIDS = f"{USER}:7600000:65536\nroot:7700000:65536\ncontainers:7800000:262144\n"
PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
SHARE = Path("/var/lib/octest")  # EngineHost.share as the engines see it
CGROUP_PREFIX = "octest"
HIERARCHIES = Path("/sys/fs/cgroup")
# Engines' own groups beside those that the tests name; removed when they were not there before.
ENGINE_CGROUPS = ("libpod_parent", "conmon", "docker", "default", "buildah-")

# The hybrid layout's unified part goes because Debian's crun refuses it. /run, /dev/shm and
# /var/lib are new; /etc is an overlay, so that users and settings can be added.
SETUP = r"""
set -e
data=$1
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
mount -t overlay -o lowerdir=/etc,upperdir=$data/etc,workdir=$data/work etc /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/user/$2 /run/devices
chown $2:$2 /run/user/$2
chmod 700 /run/user/$2
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mknod -m 666 /run/devices/tun c 10 200
mknod -m 666 /run/devices/fuse c 10 229
for node in net/tun fuse; do
    if [ -e /dev/$node ]; then mount --bind /run/devices/${node##*/} /dev/$node; fi
done
mount --bind $data/tmp /var/tmp
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p /var/lib/octest
mount --bind $data/share /var/lib/octest
mount --make-shared /var/lib/octest
for name in containers docker containerd; do
    mkdir /var/lib/$name
    mount --bind $data/$name /var/lib/$name
done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec sleep infinity
"""

# The hard limits: where the capability to raise them is missing, podman's defaults are refused.
# runtime_supports_nocgroup: podman's manual has it with an s, its code without.
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
default_sysctls = ["net.ipv4.ping_group_range=0 0"]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "localhost/octest-pause:latest"
runtime_supports_nocgroup = ["crun", "ocirt"]
runtime_supports_json = ["crun", "runc", "ocirt"]
"""


class EngineHost:
    """The namespaces, held by one process from start() to stop()."""

    def __init__(self, directory: Path, runtime: Path | None = None) -> None:
        """With a runtime podman knows it by its name: only so its abilities can be listed."""
        self.directory = directory
        self.runtime = runtime
        self.share = directory / "share"
        self.holder: subprocess.Popen[str] | None = None
        self._daemons: list[subprocess.Popen[Any]] = []
        self._groups: set[Path] = set()

    def start(self) -> None:
        self._groups = set(_engine_groups())
        self._write_settings()
        # With the death signal nothing stays behind when the tests themselves are killed.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-n", "--propagation", "private"]
        command += ["sh", "-c", SETUP, "sh", str(self.directory), str(USER_ID)]
        self.holder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.holder.stdout
        lines = []
        for line in self.holder.stdout:
            if line == "ready\n":
                return
            lines.append(line)
        raise AssertionError(f"the engines' namespaces: status {self.holder.wait()}: {''.join(lines)}")

    def _write_settings(self) -> None:
        for name in ("etc/containers", "work", "tmp", "share", "containers", "docker", "containerd"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "tmp").chmod(0o1777)
        for name in ("share", "share/home", "share/user"):
            (self.directory / name).mkdir(exist_ok=True)
        os.chown(self.share / "user", USER_ID, USER_ID)
        etc = self.directory / "etc"
        passwd = Path("/etc/passwd").read_text()
        (etc / "passwd").write_text(f"{passwd}{USER}:x:{USER_ID}:{USER_ID}::{SHARE}/user:/bin/sh\n")
        (etc / "group").write_text(f"{Path('/etc/group').read_text()}{USER}:x:{USER_ID}:\n")
        (etc / "subuid").write_text(SUBIDS)
        (etc / "subgid").write_text(SUBIDS)
        containers = etc / "containers"
        runtimes = f'[engine.runtimes]\n{self.runtime.name} = ["{self.runtime}"]\n' if self.runtime else ""
        (containers / "containers.conf").write_text(CONTAINERS_CONF + runtimes)
        (containers / "storage.conf").write_text(
            '[storage]\ndriver = "overlay"\n'
            'runroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'
        )
        (containers / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
        (containers / "registries.conf").write_text("unqualified-search-registries = []\n")

    def command(self, words: tuple[object, ...], user: bool = False) -> list[str]:
        """The words that run a command in the namespaces, as root or as the ordinary user."""
        assert self.holder
        enter = ["nsenter", "--target", str(self.holder.pid), "--mount", "--net", "--"]
        if user:
            enter += ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", "--"]
        return [*enter, *map(str, words)]

    def environment(self, user: bool = False, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        home = SHARE / ("user" if user else "home")
        environment = {"PATH": PATH, "HOME": str(home), "TERM": "xterm", "LANG": "C.UTF-8"}
        if user:
            environment |= {"USER": USER, "XDG_RUNTIME_DIR": f"/run/user/{USER_ID}"}
        return {**environment, **(extra or {})}

    def run(
        self,
        *words: object,
        user: bool = False,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """A command with its text captured; by default its failure fails the test."""
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            self.command(words, user),
            env=self.environment(user, env),
            text=True,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            stdin=subprocess.PIPE if "input" in options else options.pop("stdin"),
        )
        text = options.pop("input", None)
        assert not options, options
        try:
            out, err = process.communicate(text, timeout)
        except subprocess.TimeoutExpired as late:
            process.kill()
            _close_pipes(process)
            output = f"{late.stdout!r} {late.stderr!r}"
            raise AssertionError(f"{_show(words)}: not done after {timeout} s: {output}") from None
        done = subprocess.CompletedProcess(list(map(str, words)), process.returncode, out, err)
        if check:
            assert done.returncode == 0, (
                f"{_show(words)}: status {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def daemon(
        self, *words: object, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[Any]:
        """A command that runs on, ended by stop() at the latest."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command(words)],
                env=self.environment(extra=env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._daemons.append(process)
        return process

    def end_daemon(self, process: subprocess.Popen[Any], seconds: float = 15) -> None:
        self._daemons.remove(process)
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def terminal(self, *words: object, user: bool = False, size: tuple[int, int] = (24, 80)) -> Terminal:
        """A command on a terminal of its own."""
        return Terminal(self.command(words, user), self.environment(user), size)

    def processes(self) -> list[int]:
        """Every process in the namespaces and their descendants, without the holder."""
        assert self.holder
        ours = {_namespace(self.holder.pid, "mnt"), _namespace(self.holder.pid, "net")}
        children: dict[int, list[int]] = {}
        roots = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            children.setdefault(_parent(pid), []).append(pid)
            found = {_namespace(pid, "mnt"), _namespace(pid, "net")}
            if pid != self.holder.pid and found & ours - {""}:
                roots.append(pid)
        everything: list[int] = []
        while roots:
            pid = roots.pop()
            if pid not in everything:
                everything.append(pid)
                roots += children.get(pid, [])
        return everything

    def stop(self) -> list[str]:
        """Ends all that runs, removes the groups; the command lines of what had to be killed."""
        for daemon in list(reversed(self._daemons)):
            self.end_daemon(daemon)
        killed = []
        deadline = time.monotonic() + 20
        while self.holder and (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                killed.append(f"{pid} {_command_line(pid)}")
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        if self.holder:
            self.holder.kill()
            self.holder.wait()
            if self.holder.stdout:
                self.holder.stdout.close()
            self.holder = None
        _remove_groups(set(_engine_groups()) - self._groups)
        # Mounts of a namespace that died with its holder go a moment later.
        deadline = time.monotonic() + 10
        while subprocess.run(["rm", "-rf", str(self.directory)], capture_output=True).returncode:
            assert time.monotonic() < deadline, f"{self.directory} cannot be removed"
            time.sleep(0.1)
        return killed


class Terminal:
    """A process on the slave side of a pty; `seen` is all that came so far, without carriage returns:
    how many there are depends on how many terminals stand in a row."""

    def __init__(self, command: list[str], environment: dict[str, str], size: tuple[int, int]) -> None:
        self.master_fd, slave_fd = pty.openpty()
        self.resize(*size)
        self.seen = ""

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=slave_fd,
            stdout=slave_fd,
            stderr=slave_fd,
            preexec_fn=take_terminal,
        )
        os.close(slave_fd)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master_fd, text.encode())

    def read_until(self, words: str, seconds: float = 20) -> str:
        """All text so far, once it contains the words."""
        deadline = time.monotonic() + seconds
        while words not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {words!r} within {seconds} s in {self.seen!r}"
            if not self._read(left):
                raise AssertionError(f"the terminal closed without {words!r}: {self.seen!r}")
        return self.seen

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master_fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master_fd, 4096)
        except OSError as error:
            if error.errno != errno.EIO:  # every slave is closed
                raise
            data = b""
        self.seen += data.replace(b"\r", b"").decode("utf-8", "replace")
        return bool(data)

    def wait(self, seconds: float = 30) -> int:
        """The exit status; output is read meanwhile, a full terminal would block."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"not done after {seconds} s: {self.seen!r}"
            if not self._read(0.1):
                time.sleep(0.02)
        while select.select([self.master_fd], [], [], 0)[0] and self._read(0):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master_fd)


def wait_for(condition: Any, what: str, seconds: float = 20) -> Any:
    """The first true value of condition()."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return value


def cgroup_value(pid: int, controller: str, v1_file: str, v2_file: str) -> str:
    """The content of a control file of the process's group, in whichever layout the host has."""
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if controller in controllers.split(","):
            return (HIERARCHIES / controller / path.lstrip("/") / v1_file).read_text().strip()
    path = next(path for number, _, path in groups if number == "0")
    return (HIERARCHIES / path.lstrip("/") / v2_file).read_text().strip()


def _show(words: tuple[object, ...]) -> str:
    return " ".join(map(str, words))


def _close_pipes(process: subprocess.Popen[str]) -> None:
    """Without reading on: descendants may hold the other ends for long."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
    process.wait()


def _namespace(pid: int, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _engine_groups() -> Iterator[Path]:
    """The groups of engines and tests in every hierarchy, with those inside: engines leave some there."""
    for hierarchy in [HIERARCHIES, *HIERARCHIES.iterdir()]:
        for name in (CGROUP_PREFIX, *ENGINE_CGROUPS):
            for top in hierarchy.glob(f"{name}*"):
                yield from (Path(directory) for directory, _, _ in os.walk(top))


def _remove_groups(groups: set[Path], seconds: float = 3) -> None:
    """Killed processes leave their groups a moment later; what stays busy is in others' use."""
    deadline = time.monotonic() + seconds
    while groups:
        for group in sorted(groups, reverse=True):  # what is inside comes first
            try:
                group.rmdir()
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise
        groups = {group for group in groups if group.exists()}
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
