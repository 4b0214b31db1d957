"""root, propagation, masked and read-only paths as plan ops."""

from __future__ import annotations

import os
import struct

import pytest

from ocirt import kernel, mounts, rootfs
from ocirt.errors import SpecError
from ocirt.host import Host
from tests.lib.compiled import NEXT, ROOT, context, kinds_of, ops

TREE, EMPTY = 0x8000, 0x1000
UNBINDABLE, PRIVATE, SLAVE, SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
PROC = {"destination": "/proc", "type": "proc"}


def propagation(kind):
    return struct.pack("<4Q", 0, 0, kind, 0)


def applied(*appliers, value=None, **options):
    ctx = context(**options)
    ctx.plan.register_names.pop()  # apply_root makes it
    rootfs.apply_root(ctx, ctx.spec["root"])
    del ctx.plan.ops[:]
    for apply in appliers:
        apply(ctx, value)
    return ctx


def test_the_rootfs_becomes_a_mount_of_its_own_below_slaves():
    ctx = context()
    ctx.plan.register_names.pop()
    rootfs.apply_root(ctx, {"path": "rootfs"})
    assert ops(ctx) == [
        ("mount_setattr", "linux.rootfsPropagation", -100, b"/", TREE, propagation(SLAVE)),
        ("open_tree", "root.path", ROOT, -100, b"/b/rootfs", 1 | os.O_CLOEXEC | TREE),
        # the target may be a symlink too, as open_tree's source
        ("move_mount", "root.path", ROOT, b"", -100, b"/b/rootfs", 0x14),
    ]


@pytest.mark.parametrize(
    ("asked", "point", "recursive", "kind"),
    [
        ("", b"/", True, SLAVE),
        ("private", b"/", True, PRIVATE),
        ("rslave", b"/", True, SLAVE),
        ("unbindable", b"/", True, SLAVE),
        ("shared", b"/var", False, PRIVATE),  # pivot_root refuses a shared parent
        ("rshared", b"/var", False, PRIVATE),
    ],
)
def test_what_happens_to_the_mounts_of_the_host(asked, point, recursive, kind):
    ctx = context(root={"path": "/var/r"}, linux={"rootfsPropagation": asked})
    rootfs.apply_root(ctx, ctx.spec["root"])
    assert ops(ctx)[0][2:] == (-100, point, TREE if recursive else 0, propagation(kind))


@pytest.mark.parametrize(
    ("asked", "flags", "kind"),
    [("shared", 0, SHARED), ("rslave", TREE, SLAVE), ("runbindable", TREE, UNBINDABLE)],
)
def test_the_new_root_gets_the_propagation_that_is_asked_for(asked, flags, kind):
    ctx = applied(rootfs.apply_propagation, value=asked, linux={"rootfsPropagation": asked})
    assert ops(ctx) == [("mount_setattr", "linux.rootfsPropagation", -100, b"/", flags, propagation(kind))]


def test_an_empty_propagation_asks_for_nothing():
    assert ops(applied(rootfs.apply_propagation, value="")) == []


def test_the_root_is_changed_by_pivot_root():
    assert kinds_of(applied(rootfs.apply_pivot)) == ["pivot_root", "openat"]
    assert kinds_of(applied(rootfs.apply_pivot, options={"no_pivot": True})) == ["move_root", "openat"]


def test_without_a_mount_namespace_it_is_changed_by_chroot():
    ctx = context(kinds=("pid",))
    rootfs.apply_root(ctx, ctx.spec["root"])
    rootfs.apply_pivot(ctx, None)
    assert [op[0] for op in ops(ctx)] == ["openat", "fchdir", "chroot", "chdir"]
    with pytest.raises(SpecError, match=r"root\.readonly: needs a mount namespace"):
        rootfs.apply_readonly_root(ctx, True)


def test_a_read_only_root():
    read_only = struct.pack("<4Q", 1, 0, 0, 0)
    ctx = applied(rootfs.apply_readonly_root, value=True)
    assert ops(ctx) == [("mount_setattr", "root.readonly", -100, b"/", 0, read_only)]
    assert ops(applied(rootfs.apply_readonly_root, value=False)) == []


def test_the_parent_is_waited_for_only_if_it_has_something_to_do():
    ctx = context()
    rootfs.apply_hooks_sync(ctx, None)
    assert ops(ctx) == []
    ctx.plan.at("HOOKS", "hooks", "run", lambda _: None)
    rootfs.apply_hooks_sync(ctx, None)
    assert ops(ctx) == [("sync", "hooks", 3)]


def test_masks_are_the_hosts_null_device_and_one_empty_tmpfs():
    ctx = context()
    rootfs.prepare_masks(ctx, ["/a"])
    assert (ctx.null, ctx.empty) == (NEXT, NEXT - 1)
    assert [op[0] for op in ops(ctx)] == ["open_tree", "check_device", "new_fs"]
    assert ops(ctx)[1] == ("check_device", "linux.maskedPaths", NEXT, 1, 3)
    assert ops(ctx)[2][-1] == 1  # read-only
    none = context()
    rootfs.prepare_masks(none, [])
    assert ops(none) == []


@pytest.mark.parametrize(
    ("path", "start", "rest"),
    [
        ("/etc/x", ROOT, b"/etc/x"),
        ("etc/x", ROOT, b"etc/x"),
        ("/proc/kcore", NEXT, b"kcore"),
        ("proc//acpi", NEXT, b"acpi"),
        ("/proc/../etc", ROOT, b"/proc/../etc"),  # only the kernel knows what .. means
        ("/process", ROOT, b"/process"),
        ("/proc", ROOT, b"/proc"),
    ],
)
def test_paths_in_proc_count_from_the_mount_itself(path, start, rest):
    ctx = context()
    mounts.apply_mounts(ctx, [PROC])
    del ctx.plan.ops[:]
    rootfs.apply_readonly_paths(ctx, [path])
    rootfs.apply_masked_paths(ctx, [path])
    assert ops(ctx) == [
        ("readonly_path", "linux.readonlyPaths[0]", start, rest),
        ("mask_path", "linux.maskedPaths[0]", start if path != "/proc" else ROOT, rest, 0, 0),
    ]


@pytest.mark.parametrize("path", ["/", "/./", "//"])
def test_the_root_among_the_read_only_paths(path):
    """A read-only mount over it would lie above the root that everybody has."""
    ctx = context()
    rootfs.apply_readonly_paths(ctx, [path])
    attributes = kernel.mount_attr(kernel.MOUNT_ATTR_RDONLY, 0, 0)
    assert ops(ctx) == [("mount_setattr", "linux.readonlyPaths[0]", -100, b"/", 0, attributes)]


def test_a_mount_over_sys_makes_paths_count_from_the_root_again():
    ctx = context()
    cover = {"destination": "/sys/", "type": "tmpfs"}
    mounts.apply_mounts(ctx, [{"destination": "/sys", "type": "sysfs"}, cover])
    rootfs.apply_masked_paths(ctx, ["/sys/firmware"])
    assert ops(ctx)[-1][2:4] == (ROOT, b"/sys/firmware")


def test_the_mount_point_of_a_rootfs_is_found_behind_a_symlink(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/proc/self")
    assert Host().mount_point_of(str(link)) == "/proc"
    assert Host().mount_point_of("/proc/nosuch") == "/proc"
