"""Places below the root, nodes, links, copies: as an ordinary user in a user namespace."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocirt import kernel
from tests.lib.initrun import Sandbox, user_directory

DIRECTORY, FILE, PLAIN_DIRECTORY = 0, 1, 2


@pytest.fixture
def outside() -> Iterator[Path]:
    """The user's directory; the root is outside/root, and beside it nothing may change."""
    with user_directory() as directory:
        (directory / "sentinel").mkdir()
        (directory / "root").mkdir()
        yield directory
        assert os.listdir(directory / "sentinel") == []
        assert sorted(os.listdir(directory)) == ["root", "sentinel"]


def new(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture
def root(outside: Path) -> Path:
    return outside / "root"


def target(root: Path, path: bytes, kind: int = DIRECTORY, mode: int = 0o755) -> Sandbox:
    sandbox = Sandbox(root).enter()
    return sandbox.add("target", sandbox.plan.register("place"), sandbox.root, path, kind, mode)


def link(root: Path, name: str, goal: str) -> None:
    (root / name).symlink_to(goal)


def test_missing_directories_are_made_whatever_the_umask(root: Path) -> None:
    old = os.umask(0o077)
    try:
        target(root, b"/a/b//c/").run().expect_success()
    finally:
        os.umask(old)
    assert (root / "a/b/c").is_dir()
    assert {stat.S_IMODE((root / p).stat().st_mode) for p in ("a", "a/b", "a/b/c")} == {0o755}


def test_the_last_directory_gets_the_mode(root: Path) -> None:
    target(root, b"a/b", mode=0o1777).run().expect_success()
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o1777


def test_a_missing_file_is_made_empty(root: Path) -> None:
    target(root, b"etc/resolv.conf", FILE, 0o644).run().expect_success()
    assert (root / "etc/resolv.conf").read_bytes() == b""
    assert stat.S_IMODE((root / "etc/resolv.conf").stat().st_mode) == 0o644


def test_what_is_there_is_kept(root: Path) -> None:
    (root / "file").write_text("content")
    target(root, b"file", FILE).run().expect_success()
    assert (root / "file").read_text() == "content"


def test_a_directory_is_no_file_and_a_file_no_directory(root: Path) -> None:
    (root / "file").touch()
    (root / "dir").mkdir()
    target(root, b"file", DIRECTORY).run().expect(errno.ENOTDIR)
    target(root, b"dir", FILE).run().expect(errno.EISDIR)
    target(root, b"file/below").run().expect(errno.ENOTDIR)


@pytest.mark.parametrize("path", [b"../sentinel/x", b"/../../sentinel/x", b"a/../../sentinel/x"])
def test_dots_do_not_leave_the_root(root: Path, path: bytes) -> None:
    target(root, path).run().expect_success()
    assert (root / "sentinel/x").is_dir()


@pytest.mark.parametrize("goal", ["../sentinel", "/sentinel", "../../../../../../sentinel"])
def test_links_do_not_leave_the_root(root: Path, goal: str) -> None:
    link(root, "way", goal)
    target(root, b"way/x").run().expect_success()
    assert (root / "sentinel/x").is_dir()


def test_an_absolute_link_to_the_host_stays_inside(root: Path, outside: Path) -> None:
    link(root, "way", str(outside / "sentinel"))
    target(root, b"way/file", FILE).run().expect_success()
    inside = root / str(outside / "sentinel").lstrip("/")
    assert (inside / "file").is_file()


def test_a_dangling_link_at_the_end_is_made_inside(root: Path) -> None:
    # as Debian's /etc/resolv.conf
    (root / "etc").mkdir()
    link(root, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    target(root, b"/etc/resolv.conf", FILE).run().expect_success()
    assert (root / "run/systemd/resolve/stub-resolv.conf").is_file()
    assert (root / "etc/resolv.conf").is_symlink()


def test_links_in_a_circle_end(root: Path) -> None:
    link(root, "a", "b")
    link(root, "b", "a")
    target(root, b"a/x").run().expect(errno.ELOOP)


def test_a_link_that_grows_ends(root: Path) -> None:
    link(root, "a", "missing/../a/" + "y" * 200)
    result = target(root, b"a/x").run()
    assert result.error is not None
    assert result.error.error in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)


@pytest.mark.parametrize("path", [b"proc", b"proc/sys", b"proc/sys/new"])
def test_a_plain_directory_is_not_reached_through_links(root: Path, path: bytes) -> None:
    new(root / "elsewhere")
    new(root / "elsewhere/sys")
    link(root, "proc", "elsewhere")
    target(root, path, PLAIN_DIRECTORY).run().expect(errno.ELOOP)
    target(root, path, DIRECTORY).run().expect_success()


def test_a_plain_directory_is_made_when_missing(root: Path) -> None:
    target(root, b"a/proc", PLAIN_DIRECTORY).run().expect_success()
    assert (root / "a/proc").is_dir()


def test_magic_links_are_not_followed(root: Path) -> None:
    sandbox = Sandbox(root).enter("CLONE_NEWPID").add("fork")
    (root / "proc").mkdir()
    register = sandbox.plan.register("proc")
    sandbox.add("new_fs", register, b"proc", [], 0)
    sandbox.attach(register, b"proc")
    place = sandbox.plan.register("place")
    sandbox.add("open_in_root", place, sandbox.root, b"proc/self/cwd", os.O_PATH)
    sandbox.run().expect(errno.ELOOP)


def test_the_root_itself_is_a_place(root: Path) -> None:
    target(root, b"/").run().expect_success()
    target(root, b"/", FILE).run().expect(errno.EISDIR)


def test_a_path_that_is_too_long_is_refused(root: Path) -> None:
    target(root, b"a/" * 3000).run().expect(errno.ENAMETOOLONG)
    target(root, b"a" * 300).run().expect(errno.ENAMETOOLONG)


def test_a_target_is_like_its_source(root: Path) -> None:
    for source, check in (
        (b"/etc", Path.is_dir),
        (b"/etc/passwd", Path.is_file),
        (b"/dev/null", Path.is_file),
    ):
        sandbox = Sandbox(root).enter()
        fd = sandbox.plan.register("source")
        sandbox.add("openat", fd, -100, source, os.O_PATH)
        name = b"new" + source.replace(b"/", b"-")
        sandbox.add("target_like", sandbox.plan.register("place"), sandbox.root, name, fd)
        sandbox.run().expect_success()
        assert check(root / os.fsdecode(name))


def mknod(root: Path, path: bytes, mode: int, device: int = 0) -> Sandbox:
    sandbox = Sandbox(root).enter()
    return sandbox.add("mknod", sandbox.root, path, mode, device, 0, 0)


def test_a_node_has_the_exact_mode_and_its_directory_is_made(root: Path) -> None:
    mknod(root, b"/dev/log/fifo", stat.S_IFIFO | 0o622).run().expect_success()
    status = (root / "dev/log/fifo").stat()
    assert stat.S_ISFIFO(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o622


def test_the_same_node_is_kept_and_another_is_an_error(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o600)
    (root / "file").touch()
    mknod(root, b"fifo", stat.S_IFIFO | 0o666).run().expect_success()
    assert stat.S_IMODE((root / "fifo").stat().st_mode) == 0o600
    mknod(root, b"file", stat.S_IFIFO | 0o666).run().expect(errno.EEXIST, "mknodat")


def test_a_node_is_not_made_through_a_link(root: Path) -> None:
    link(root, "node", "../sentinel/node")
    link(root, "dev", "../sentinel")
    mknod(root, b"node", stat.S_IFIFO | 0o666).run().expect(errno.EEXIST)
    mknod(root, b"dev/fifo", stat.S_IFIFO | 0o666).run().expect_success()
    assert stat.S_ISFIFO((root / "sentinel/fifo").stat().st_mode)


def test_a_device_needs_a_privilege_that_a_user_lacks(root: Path) -> None:
    mknod(root, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3)).run().expect(errno.EPERM, "mknodat")


@pytest.mark.parametrize("path", [b"", b"/", b"dev/", b"dev/..", b"."])
def test_a_node_needs_a_name(root: Path, path: bytes) -> None:
    mknod(root, path, stat.S_IFIFO | 0o666).run().expect(errno.EINVAL)


def symlink(root: Path, path: bytes, goal: bytes) -> Sandbox:
    sandbox = Sandbox(root).enter()
    return sandbox.add("symlink", sandbox.root, path, goal)


def test_a_link_is_made_and_what_is_there_stays(root: Path) -> None:
    symlink(root, b"/dev/fd", b"/proc/self/fd").run().expect_success()
    symlink(root, b"/dev/fd", b"/else").run().expect_success()
    assert os.readlink(root / "dev/fd") == "/proc/self/fd"


def test_write_file_writes_below_its_directory_and_follows_no_link(root: Path) -> None:
    for name in ("attr", "outside"):
        (root / name).touch()
        (root / name).chmod(0o666)
    link(root, "way", "outside")
    flags = os.O_WRONLY
    sandbox = Sandbox(root).enter()
    sandbox.add("write_file", sandbox.root, b"attr", b"label", flags).run().expect_success()
    assert (root / "attr").read_text() == "label"
    sandbox = Sandbox(root).enter()
    sandbox.add("write_file", sandbox.root, b"way", b"label", flags).run().expect(errno.ELOOP, "openat")
    sandbox = Sandbox(root).enter()
    sandbox.add("write_file", sandbox.root, b"none", b"label", flags).run().expect(errno.ENOENT, "openat")


def test_write_fd_writes_to_what_the_parent_opened(root: Path) -> None:
    sandbox = Sandbox(root)
    with (root / "tasks").open("wb") as file:
        sandbox.keep.append(file.fileno())
        sandbox.add("write_fd", file.fileno(), b"0").run().expect_success()
    assert (root / "tasks").read_bytes() == b"0"


def test_checks_of_devices_and_file_systems(root: Path) -> None:
    def check(path: bytes, kind: str, *expected: int) -> Sandbox:
        sandbox = Sandbox(root)
        fd = sandbox.plan.register("fd")
        sandbox.add("openat", fd, -100, path, os.O_PATH)
        return sandbox.add(kind, fd, *expected)

    check(b"/dev/null", "check_device", 1, 3).run().expect_success()
    check(b"/dev/zero", "check_device", 1, 3).run().expect(errno.ENODEV)
    check(b"/etc/passwd", "check_device", 1, 3).run().expect(errno.ENODEV)
    check(b"/dev/null", "check_block", 1, 3).run().expect(errno.ENODEV)
    check(b"/proc", "check_fs", kernel.PROC_SUPER_MAGIC).run().expect_success()
    check(b"/dev", "check_fs", kernel.PROC_SUPER_MAGIC).run().expect(errno.EINVAL)


def copy_up(root: Path, *options: bytes) -> Sandbox:
    sandbox = Sandbox(root).enter()
    source = sandbox.plan.register("source")
    sandbox.add("open_in_root", source, sandbox.root, b"data", os.O_PATH)
    mount = sandbox.tmpfs(*options)
    sandbox.add("copy_up", source, mount)
    sandbox.add("copy_mode", source, mount)
    sandbox.attach(mount, b"data")
    sandbox.add("open_in_root", source, sandbox.root, b"data", os.O_RDONLY | os.O_DIRECTORY)
    return sandbox.add("fchdir", source)


def test_a_tree_is_copied_with_its_attributes(root: Path) -> None:
    data = new(root / "data")
    (data / "deep/deeper").mkdir(parents=True)
    (data / "deep/deeper/file").write_text("content\n")
    (data / "empty").touch()
    (data / "big").write_bytes(b"x" * 3_000_000)
    (data / "way").symlink_to("/nowhere")
    os.mkfifo(data / "fifo")
    (data / "fifo").chmod(0o620)
    (data / "empty").chmod(0o4711)
    (data / "deep").chmod(0o1750)
    for path, when in (("empty", 1_000_000_000), ("deep", 1_100_000_000), ("deep/deeper/file", 900_000_000)):
        os.utime(data / path, (when, when))
    os.setxattr(data / "empty", "user.colour", b"blue")
    data.chmod(0o3770)
    sandbox = copy_up(root)
    printed = sandbox.output(
        "stat -c '%n %F %a %u %Y' . empty deep way fifo deep/deeper/file; readlink way;"
        "cat deep/deeper/file; wc -c < big; ls | wc -l"
    )
    lines = printed.splitlines()
    assert lines[0].startswith(". directory 3770 0 ")
    assert lines[1] == "empty regular empty file 4711 0 1000000000"
    assert lines[2] == "deep directory 1750 0 1100000000"
    assert lines[3].startswith("way symbolic link 777 0 ")
    assert lines[4].startswith("fifo fifo 620 0 ")
    assert lines[5] == "deep/deeper/file regular file 644 0 900000000"
    assert lines[6:] == ["/nowhere", "content", "3000000", "5"]


def test_many_entries_and_many_directories_are_copied(root: Path) -> None:
    data = new(root / "data")
    for i in range(120):
        (data / f"directory-with-a-long-name-{i}/below").mkdir(parents=True)
        (data / f"file-with-a-long-name-{i}").write_text(str(i))
    printed = copy_up(root).output("find . -type f -exec cat {} + | wc -c; find . -type d | wc -l")
    assert printed.split() == [str(sum(len(str(i)) for i in range(120))), "241"]


def test_too_deep_a_tree_is_refused(root: Path) -> None:
    data = new(root / "data")
    (data / "/".join("d" * 140)).mkdir(parents=True)
    copy_up(root).run().expect(errno.ENAMETOOLONG)


def test_a_full_file_system_is_an_error_that_names_the_file(root: Path) -> None:
    data = new(root / "data")
    (data / "big").write_bytes(b"x" * 100_000)
    result = copy_up(root, b"size=8k").run()
    result.expect(errno.ENOSPC, "sendfile")
    assert result.error is not None
    assert result.error.text == b"big"
