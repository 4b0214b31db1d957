"""Mounts, masks and the change of the root: as an ordinary user in a user namespace."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocirt import kernel
from tests.lib.initrun import Result, Sandbox, user_directory

BIND = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC | kernel.AT_RECURSIVE
ONTO = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH


@pytest.fixture
def root() -> Iterator[Path]:
    with user_directory() as directory:
        directory.chmod(0o777)
        yield directory


@pytest.fixture
def sandbox(root: Path) -> Sandbox:
    return Sandbox(root).enter()


def go_into_root(sandbox: Sandbox, path: bytes = b"/") -> Sandbox:
    """A shell started now works in the root, as it is mounted by then."""
    register = sandbox.plan.register("cwd")
    flags = os.O_RDONLY | os.O_DIRECTORY
    return sandbox.add("open_in_root", register, sandbox.root, path, flags).add("fchdir", register)


def test_a_new_file_system_has_its_options_and_attributes(sandbox: Sandbox, root: Path) -> None:
    mount = sandbox.plan.register("mount")
    options = [b"source=a=b", b"mode=1700", b"size=64k", b"ro"]
    sandbox.add("new_fs", mount, b"tmpfs", options, kernel.MOUNT_ATTR_NOEXEC | kernel.MOUNT_ATTR_NODEV)
    sandbox.attach(mount, b"tmp")
    line = sandbox.output(f"grep {root}/tmp /proc/self/mountinfo")
    assert " rw,nodev,noexec,relatime " in line
    kind, source, options_seen = line.split(" - ")[1].split(maxsplit=2)
    assert (kind, source) == ("tmpfs", "a=b")
    assert {"ro", "size=64k", "mode=1700"} <= set(options_seen.strip().split(","))


def failed(sandbox: Sandbox, kind: bytes, options: list[bytes], attributes: int = 0) -> Result:
    return sandbox.add("new_fs", sandbox.plan.register("mount"), kind, options, attributes).run()


def test_a_refused_option_is_told_in_the_kernels_words(sandbox: Sandbox) -> None:
    result = failed(sandbox, b"tmpfs", [b"mode=755", b"colour=blue"])
    result.expect(errno.EINVAL, "fsconfig")
    assert result.error is not None
    assert result.error.text.startswith(b"colour=blue: ")
    assert b"Unknown parameter 'colour'" in result.error.text


def test_an_unknown_file_system_and_attribute_name_their_call(root: Path) -> None:
    failed(Sandbox(root).enter(), b"nosuchfs", []).expect(errno.ENODEV, "fsopen")
    failed(Sandbox(root).enter(), b"tmpfs", [], 1 << 31).expect(errno.EINVAL, "fsmount")


def test_options_are_whole_again_for_the_next_op(root: Path) -> None:
    sandbox = Sandbox(root).enter()
    for name in (b"one", b"two"):  # equal options are stored once
        mount = sandbox.plan.register("mount")
        sandbox.add("new_fs", mount, b"tmpfs", [b"size=64k"], 0).attach(mount, name)
    assert sandbox.output("grep -c size=64k /proc/self/mountinfo") == "2\n"


def test_a_bind_shows_its_source_and_can_be_read_only(sandbox: Sandbox, root: Path) -> None:
    (root / "source").mkdir()
    (root / "source/file").write_text("shown\n")
    mount = sandbox.plan.register("mount")
    sandbox.add("open_tree", mount, -100, os.fsencode(root / "source"), BIND)
    sandbox.add(
        "mount_setattr", mount, b"", kernel.AT_EMPTY_PATH, kernel.mount_attr(kernel.MOUNT_ATTR_RDONLY, 0, 0)
    )
    sandbox.attach(mount, b"target")
    go_into_root(sandbox, b"target")
    assert sandbox.output("cat file; touch new 2>/dev/null || echo refused") == "shown\nrefused\n"


def test_the_old_mount_call_reaches_only_the_checked_target(sandbox: Sandbox, root: Path) -> None:
    (root / "way").symlink_to("/real")
    place = sandbox.plan.register("place")
    sandbox.add("target", place, sandbox.root, b"way/mnt", 0, 0o755)
    sandbox.add("chdir", b"/usr")
    sandbox.add("old_mount", b"none", place, b"tmpfs", 0, b"size=32k")
    printed = sandbox.output("pwd; awk '/size=32k/ {print $5}' /proc/self/mountinfo")
    assert printed == f"/usr\n{root}/real/mnt\n"


def test_an_old_mount_that_is_refused_says_so(sandbox: Sandbox) -> None:
    sandbox.add("old_mount", None, sandbox.root, b"tmpfs", 0, b"size=blue").run().expect(
        errno.EINVAL, "mount"
    )


def masks(sandbox: Sandbox) -> tuple[int, int]:
    """Registers of what covers files and directories."""
    file, directory = sandbox.plan.register("null"), sandbox.plan.register("empty")
    flags = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC
    sandbox.add("open_tree", file, -100, b"/dev/null", flags)
    sandbox.add("new_fs", directory, b"tmpfs", [b"nr_inodes=1"], kernel.MOUNT_ATTR_RDONLY)
    return file, directory


def test_masked_paths_are_empty_and_what_is_missing_stays_missing(sandbox: Sandbox, root: Path) -> None:
    for name in ("secrets", "more", "keys"):
        (root / name).mkdir()
        (root / name / "key").write_text("key")
    for name in ("one", "two"):
        (root / name).write_text("secret")
    (root / "way").symlink_to("/keys")
    file, directory = masks(sandbox)
    for path in (b"/secrets", b"more", b"/one", b"/two", b"/way", b"/missing/x", b"one/x"):
        sandbox.add("mask_path", sandbox.root, path, file, directory)
    printed = go_into_root(sandbox).output(
        "cat one two; ls -A secrets; ls -A more; ls -A keys;"
        "touch secrets/new 2>/dev/null || echo refused; test -c one && echo device; ls missing 2>&1 | wc -l"
    )
    assert printed == "refused\ndevice\n1\n"


def test_a_read_only_path_covers_itself_and_leaves_the_rest(sandbox: Sandbox, root: Path) -> None:
    for name in ("sys", "free"):
        (root / name).mkdir()
    (root / "file").touch()
    (root / "way").symlink_to("/sys")
    sandbox.attach(sandbox.tmpfs(), b"sys/volume")
    for path in (b"/way", b"file", b"/missing", b"file/x"):
        sandbox.add("readonly_path", sandbox.root, path)
    printed = go_into_root(sandbox).output(
        "for p in sys/new file free/new sys/volume/new; do"
        "  (echo x > $p) 2>/dev/null && echo $p written || echo $p refused; done"
    )
    assert printed.splitlines() == [
        "sys/new refused",
        "file refused",
        "free/new written",
        "sys/volume/new written",
    ]


def own_root(sandbox: Sandbox, root: Path) -> Sandbox:
    """The root as a mount of its own with the host's programs in it."""
    sandbox.add("mount_setattr", -100, b"/", kernel.AT_RECURSIVE, kernel.mount_attr(0, 0, kernel.MS_SLAVE))
    sandbox.add("open_tree", sandbox.root, -100, os.fsencode(root), BIND)
    sandbox.add("move_mount", sandbox.root, b"", -100, os.fsencode(root), kernel.MOVE_MOUNT_F_EMPTY_PATH)
    for name in (b"usr", b"bin", b"lib", b"lib64"):
        mount, place = sandbox.plan.mount_register, sandbox.plan.target_register
        sandbox.add("open_tree", mount, -100, b"/" + name, BIND)
        sandbox.add("target_like", place, sandbox.root, name, mount)
        sandbox.add("move_mount", mount, b"", place, b"", ONTO)
    return sandbox


def with_proc(sandbox: Sandbox) -> Sandbox:
    register = sandbox.plan.register("proc")
    return sandbox.add("new_fs", register, b"proc", [], 0).attach(register, b"proc")


@pytest.mark.parametrize("change", ["pivot_root", "move_root"])
def test_after_the_change_the_root_is_all_there_is(root: Path, change: str) -> None:
    (root / "marker").touch()
    sandbox = Sandbox(root).enter("CLONE_NEWPID").add("fork")
    own_root(sandbox, root)
    with_proc(sandbox)
    sandbox.add(change, sandbox.root)
    points = sandbox.output("pwd; echo /*; cut -d' ' -f5 /proc/self/mountinfo").splitlines()
    assert points[0] == "/"
    assert points[1] == "/bin /lib /lib64 /marker /proc /usr"
    wanted = {"/", "/bin", "/lib", "/lib64", "/proc", "/usr"}
    if change == "pivot_root":
        assert set(points[2:]) >= wanted
        assert not [point for point in points[2:] if point.split("/")[1] not in {name[1:] for name in wanted}]
    else:
        assert wanted <= set(points[2:])


def test_a_mount_of_the_container_does_not_travel_to_the_host(root: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    sandbox = Sandbox(root).enter("CLONE_NEWPID").add("fork")
    own_root(sandbox, root)
    with_proc(sandbox)
    sandbox.add("pivot_root", sandbox.root).run().expect_success()
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_root_that_is_no_mount_cannot_be_pivoted_to(sandbox: Sandbox) -> None:
    sandbox.add("pivot_root", sandbox.root).run().expect(errno.EINVAL, "pivot_root")


def test_a_directory_outside_of_the_root_is_no_working_directory(root: Path) -> None:
    # CVE-2024-21626: a leaked fd of a directory of the host
    sandbox = Sandbox(root).enter("CLONE_NEWPID").add("fork")
    own_root(sandbox, root)
    with_proc(sandbox)
    leaked = os.open("/usr", os.O_RDONLY | os.O_DIRECTORY)
    sandbox.keep.append(leaked)
    sandbox.add("pivot_root", sandbox.root)
    sandbox.add("enter_cwd", b"/proc/self/fd/%d" % leaked, tolerate=errno.ELOOP)
    # Were it reached in another way, the kernel would still say where it is.
    sandbox.add("fchdir", leaked)
    sandbox.add("enter_cwd", b".")
    try:
        sandbox.run().expect(errno.EPERM, "getcwd")
    finally:
        os.close(leaked)


def test_the_working_directory_is_entered_and_a_missing_one_named(root: Path) -> None:
    assert Sandbox(root).add("enter_cwd", b"/usr/bin").output("pwd") == "/usr/bin\n"
    Sandbox(root).add("enter_cwd", b"/nonexistent").run().expect(errno.ENOENT, "chdir")
    Sandbox(root).add("enter_cwd", b"/etc/passwd").run().expect(errno.ENOTDIR, "chdir")


def test_loopback_is_up(root: Path) -> None:
    sandbox = Sandbox(root).enter("CLONE_NEWNET").add("loopback_up")
    flags = sandbox.output("cat /proc/net/dev | grep -c lo:; cat /proc/net/if_inet6 2>/dev/null | grep -c lo")
    assert flags.split() == ["1", "1"]


def test_the_host_name_is_set_in_a_namespace_of_its_own(root: Path) -> None:
    sandbox = Sandbox(root).enter("CLONE_NEWUTS").add("sethostname", b"inside", 6)
    assert sandbox.output("uname -n") == "inside\n"
