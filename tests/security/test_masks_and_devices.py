"""Attacks through what lies in the rootfs's /dev: fake masks, fake terminals, links."""

from __future__ import annotations

import array
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime
from tests.security.conftest import Swapping, attempt, way_out

pytestmark = pytest.mark.root

DEV_NODES = ("null", "zero", "full", "random", "urandom", "tty")


def without_dev(bundle: Bundle) -> None:
    """No mount on /dev or below: the rootfs's own /dev is the container's."""
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/dev")]


def bound_dev(bundle: Bundle) -> Path:
    """/dev is a volume, in which the runtime makes nothing."""
    volume = bundle.path / "dev"
    volume.mkdir()
    without_dev(bundle)
    mount = {"destination": "/dev", "type": "bind", "source": str(volume), "options": ["rbind"]}
    bundle.spec["mounts"].insert(0, mount)
    return volume


@pytest.mark.parametrize("goal", ["/proc/sysrq-trigger", "SENTINEL", "WAY OUT", "/etc/passwd", "file"])
def test_cve_2025_31133_cve_2025_62161_a_fake_dev_null_is_no_mask(
    runtime: Runtime, bundle: Bundle, sentinel: Path, goal: str
) -> None:
    """/dev/null inside is a link or a file: what is masked is covered by the host's."""
    goals = {"SENTINEL": str(sentinel / "file"), "WAY OUT": way_out(sentinel / "file")}
    volume = bound_dev(bundle)
    for directory in (volume, bundle.rootfs / "dev"):
        if goal == "file":
            (directory / "null").write_text("not the device")
        else:
            (directory / "null").symlink_to(goals.get(goal, goal))
    (bundle.rootfs / "secret").write_text("secret")
    bundle.linux["maskedPaths"] += ["/secret", "/proc/uptime"]
    bundle.args(
        "/bin/probe", "read", "/secret", "read", "/proc/keys", "stat", "/proc/uptime", "write", "/secret", "x"
    )
    done = runtime.run(bundle)
    assert done.returncode == 0, done.stderr
    seen = Probe(done.stdout)
    assert (seen["/secret"], seen["/proc/keys"]) == ("", "")
    assert seen["stat /proc/uptime"].startswith("20666 0 0 1:3")
    assert (bundle.rootfs / "secret").read_text() == "secret"
    # In the rootfs itself the node would have to be made there, and nothing is taken away for it.
    without_dev(bundle)
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "linux.devices (/dev/null): mknodat: File exists\n"


def test_cve_2025_31133_dev_null_is_swapped_while_masks_are_made(
    runtime: Runtime, bundle: Bundle, sentinel: Path, swapping: Swapping, rounds: int
) -> None:
    """/dev is a volume; its null is exchanged for a link to a file of the host."""
    volume = bound_dev(bundle)
    os.mknod(volume / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (volume / "link").symlink_to("/proc/sysrq-trigger")
    bundle.args("/bin/cat", "/proc/self/mountinfo").write()
    with swapping(volume / "null", volume / "link"):
        for _ in range(rounds):
            done = attempt(runtime, bundle)
            assert done.returncode == 0, done.stderr
            masks = [line.split() for line in done.stdout.splitlines() if " /proc/keys " in line]
            assert [(mask[3], mask[4]) for mask in masks] == [("/null", "/proc/keys")]


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("outside", ["absolute", "relative"])
def test_cve_2026_41579_cve_2026_47766_dev_is_a_link_to_a_directory_of_the_host(
    runtime: Runtime, bundle: Bundle, sentinel: Path, outside: str, readonly: bool
) -> None:
    """Nothing is made or removed there; the nodes appear where the link leads inside, if at all."""
    for name in DEV_NODES:
        (sentinel / name).unlink(missing_ok=True)
        (sentinel / name).touch()
    before = sorted(os.listdir(sentinel))
    without_dev(bundle)
    shutil.rmtree(bundle.rootfs / "dev")
    (bundle.rootfs / "dev").symlink_to(sentinel if outside == "absolute" else way_out(sentinel))
    bundle.spec["root"]["readonly"] = readonly
    done = runtime.run(bundle.args("/bin/probe", "stat", "/dev/null"))
    assert sorted(os.listdir(sentinel)) == before
    assert all((sentinel / name).is_file() for name in DEV_NODES)
    for name in DEV_NODES:
        (sentinel / name).unlink()
    (sentinel / "null").symlink_to("file")
    assert done.returncode == 0, done.stderr
    assert Probe(done.stdout)["stat /dev/null"].startswith("20666 0 0 1:3")
    inside = bundle.rootfs / str(sentinel).lstrip("/")
    assert set(DEV_NODES) <= set(os.listdir(inside))


def test_cve_2026_41579_dev_is_swapped(
    runtime: Runtime, bundle: Bundle, sentinel: Path, swapping: Swapping, rounds: int
) -> None:
    without_dev(bundle)
    (bundle.rootfs / "link").symlink_to(way_out(sentinel))
    bundle.args("/bin/true").write()
    with swapping(bundle.rootfs / "dev", bundle.rootfs / "link"):
        for _ in range(rounds):
            done = attempt(runtime, bundle)
            assert done.returncode == 0 or done.stderr.startswith("linux.devices"), done.stderr


@contextmanager
def terminal_receiver(path: Path) -> Iterator[list[str]]:
    """A console socket; the list gets what each master that arrives is."""
    found: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(64)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    fds = array.array("i")
                    size = socket.CMSG_SPACE(4 * fds.itemsize)
                    _data, ancillary, _, _ = connection.recvmsg(4096, size)
                    for _level, _type, data in ancillary:
                        fds.frombytes(data)
                    for fd in fds:
                        status = os.fstat(fd)
                        kind = stat.S_IFMT(status.st_mode)
                        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
                        found.append(
                            "ptmx" if kind == stat.S_IFCHR and device == (5, 2) else f"{kind:o} {device}"
                        )
                        os.close(fd)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield found
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def run_with_terminal(
    runtime: Runtime, bundle: Bundle, socket_path: Path
) -> subprocess.CompletedProcess[str]:
    bundle.process["terminal"] = True
    bundle.write()
    return runtime("create", "--bundle", bundle.path, "--console-socket", socket_path, runtime.new_id())


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("kind", ["link", "way out", "sysrq", "fifo", "directory"])
def test_cve_2026_88264_cve_2026_88265_dev_console_of_the_rootfs_with_nothing_mounted(
    runtime: Runtime, bundle: Bundle, sentinel: Path, tmp_path: Path, kind: str, readonly: bool
) -> None:
    """Neither /dev nor /dev/pts is mounted: what the rootfs has instead is not followed outside."""
    without_dev(bundle)
    dev = bundle.rootfs / "dev"
    (dev / "pts").mkdir()
    for name in ("console", "ptmx", "pts/ptmx", "pts/0"):
        if kind == "fifo":
            os.mkfifo(dev / name)
        elif kind == "directory":
            (dev / name).mkdir()
        else:
            goals = {
                "link": str(sentinel / "file"),
                "way out": way_out(sentinel / "made"),
                "sysrq": "/proc/sysrq-trigger",
            }
            (dev / name).symlink_to(goals[kind])
    bundle.spec["root"]["readonly"] = readonly
    with terminal_receiver(tmp_path / "socket") as found:
        done = run_with_terminal(runtime, bundle, tmp_path / "socket")
    assert done.returncode == 1
    assert done.stderr.startswith("process.terminal")
    assert done.stderr.count("\n") == 1
    assert found == []


@pytest.mark.parametrize("goal", ["/proc/sysrq-trigger", "/etc/passwd", "WAY OUT"])
def test_cve_2025_52565_dev_console_is_a_link_while_pts_is_real(
    runtime: Runtime, bundle: Bundle, sentinel: Path, tmp_path: Path, goal: str
) -> None:
    """The terminal is mounted where the link leads inside the root, or nowhere."""
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if m["destination"] != "/dev"]
    (bundle.rootfs / "dev/pts").mkdir()
    (bundle.rootfs / "dev/console").symlink_to(way_out(sentinel / "file") if goal == "WAY OUT" else goal)
    with terminal_receiver(tmp_path / "socket") as found:
        done = run_with_terminal(runtime, bundle, tmp_path / "socket")
    if done.returncode == 0:
        assert found == ["ptmx"]
        pid = runtime.state(runtime.ids[-1])["pid"]
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        assert sum(" - devpts " in line for line in lines) == 2
    else:
        assert done.stderr.startswith("process.terminal")


def test_cve_2025_52565_pts_is_swapped_while_the_terminal_is_made(
    runtime: Runtime, bundle: Bundle, sentinel: Path, tmp_path: Path, swapping: Swapping, rounds: int
) -> None:
    """In a shared /dev console and pts are exchanged for links to files of the host: a master that
    is handed out belongs to a pty."""
    without_dev(bundle)
    volume = bundle.rootfs / "dev"
    (volume / "pts").mkdir()
    (volume / "console").touch()
    (volume / "link").symlink_to("/proc/sysrq-trigger")
    (volume / "fake").mkdir()
    (volume / "fake/ptmx").symlink_to(way_out(sentinel / "file"))
    options = ["newinstance", "ptmxmode=0666"]
    bundle.spec["mounts"].append(
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}
    )
    made = 0
    with terminal_receiver(tmp_path / "socket") as found:
        with swapping(volume / "console", volume / "link"), swapping(volume / "pts", volume / "fake"):
            for _ in range(rounds // 2):
                done = run_with_terminal(runtime, bundle, tmp_path / "socket")
                made += done.returncode == 0
                assert done.returncode == 0 or done.stderr.startswith(("process.terminal", "mounts[")), (
                    done.stderr
                )
                runtime("delete", "--force", runtime.ids.pop())
    assert set(found) <= {"ptmx"}
    assert len(found) >= made
