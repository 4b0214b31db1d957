"""mounts[] as plan ops: detached mount, checked target, move_mount."""

from __future__ import annotations

import os
import struct

import pytest

from ocirt import mounts
from ocirt.errors import SpecError, Unsupported
from ocirt.plan import SYNC_SOURCES
from tests.lib.compiled import MOUNT, NEXT, ROOT, TARGET, V1, V2, context, kinds_of, ops

RO, NOSUID, NODEV, NOEXEC, NOATIME, ATIME = 1, 2, 4, 8, 0x10, 0x70
PRIVATE, SLAVE, SHARED = 1 << 18, 1 << 19, 1 << 20
CLONE, EMPTY, TREE = 1 | os.O_CLOEXEC, 0x1000, 0x8000
F = "mounts[0]"
MOVED = ("move_mount", F, MOUNT, b"", TARGET, b"", 0x44)
BIND = {"destination": "/d", "source": "/s"}


def attributes(attr_set=0, attr_clear=0, propagation=0):
    return struct.pack("<4Q", attr_set, attr_clear, propagation, 0)


def applied(*entries, kinds=("mount",), **options):
    ctx = context(kinds, **options)
    mounts.apply_mounts(ctx, list(entries))
    return ctx


def bind(*options, **more):
    return ops(applied({**BIND, "options": ["bind", *options], **more}))


def test_a_bind_mount():
    assert bind() == [
        ("open_tree", F, MOUNT, -100, b"/s", CLONE),
        ("target_like", F, TARGET, ROOT, b"/d", MOUNT),
        MOVED,
    ]


def test_a_recursive_bind_mount_of_a_place_in_the_bundle():
    (first, *_) = ops(applied({"destination": "/d", "source": "s", "options": ["rbind"]}))
    assert first == ("open_tree", F, MOUNT, -100, b"/b/s", CLONE | TREE)


def test_type_bind_needs_no_option():
    assert ops(applied({**BIND, "type": "bind"})) == bind()
    assert ops(applied({**BIND, "type": "bind", "options": None})) == bind()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (("ro", "nosuid"), [(EMPTY, attributes(RO | NOSUID))]),
        (("ro", "rw"), [(EMPTY, attributes(0, RO))]),
        (("noatime",), [(EMPTY, attributes(NOATIME, ATIME))]),
        (("relatime",), [(EMPTY, attributes(0, ATIME))]),
        (("nodev", "relatime"), [(EMPTY, attributes(NODEV)), (EMPTY, attributes(0, ATIME))]),
        (("rro", "rexec"), [(EMPTY | TREE, attributes(RO, NOEXEC))]),
        (("ro", "rrw"), [(EMPTY, attributes(RO)), (EMPTY | TREE, attributes(0, RO))]),
        (("rslave",), [(EMPTY | TREE, attributes(propagation=SLAVE))]),
        (("sync", "lazytime", "defaults"), []),
    ],
)
def test_options_of_a_bind_mount(options, steps):
    set_on_it = [(op[4], op[5]) for op in bind(*options) if op[0] == "mount_setattr"]
    assert set_on_it == steps


def test_flags_come_before_the_mount_is_seen_and_propagation_behind():
    assert [op[0] for op in bind("ro", "private")] == [
        "open_tree",
        "mount_setattr",
        "target_like",
        "move_mount",
        "mount_setattr",
    ]


def test_what_a_user_namespace_locks_stays_as_it_is():
    ctx = applied({**BIND, "options": ["bind", "ro", "rw", "relatime", "nosuid"]})
    tolerated = [op.tolerate for op in ctx.plan.ops if op.kind == "mount_setattr"]
    assert tolerated == [0, 1]  # EPERM for clearing, nothing for nosuid


@pytest.mark.parametrize("word", ["size=1m", "mode=755", "unheard-of"])
def test_data_of_a_bind_mount_is_ignored_with_a_warning(word):
    """config.md, Linux mount options: "Runtimes SHOULD treat unknown options as filesystem-specific
    ones and pass those as a comma-separated string to the fifth (const void *data) argument of
    mount(2)", which takes no notice of it for a bind mount."""
    ctx = applied({**BIND, "options": ["bind", word]})
    assert kinds_of(ctx) == ["open_tree", "target_like", "move_mount"]
    (warning,) = ctx.warnings
    assert warning.startswith(f"mounts[0].options: {word!r} is for a new file system and ignored")


def test_a_bind_mount_needs_a_source():
    with pytest.raises(SpecError, match=r"mounts\[0\]\.source: is missing"):
        applied({"destination": "/d", "options": ["bind"]})


@pytest.mark.parametrize("more", [{"kinds": ("mount", "user")}, {"join": {"user": "/u"}}])
def test_root_opens_sources_that_the_containers_root_may_not_reach(more):
    entry = {**BIND, "options": ["bind"]}
    ctx = applied(entry, {**entry, "source": "t", "options": ["rbind"]}, **more)
    assert ops(ctx)[:3] == [
        ("sync", "mounts", SYNC_SOURCES),
        ("receive_fd", F, MOUNT),
        ("target_like", F, TARGET, ROOT, b"/d", MOUNT),
    ]
    assert kinds_of(ctx)[3:] == ["move_mount", "receive_fd", "target_like", "move_mount"]
    assert [(path, flags) for _, _, path, flags in ctx.sources] == [(b"/s", CLONE), (b"/b/t", CLONE | TREE)]
    assert len(list(ctx.plan.actions_at("SOURCES"))) == 1


def test_an_ordinary_user_opens_the_sources_inside():
    ctx = applied({**BIND, "options": ["bind"]}, kinds=("mount", "user"), facts={"euid": 1000})
    assert kinds_of(ctx) == ["open_tree", "target_like", "move_mount"]


@pytest.mark.parametrize("destination", ["data", "data/", "./data"])
def test_a_relative_destination_counts_from_the_root(destination):
    op = bind(destination=destination)[1]
    assert op == ("target_like", F, TARGET, ROOT, destination.encode(), MOUNT)


def test_a_new_file_system():
    entry = {"destination": "/run", "type": "tmpfs", "source": "x", "options": ["mode=755", "nosuid"]}
    assert ops(applied(entry)) == [
        ("new_fs", F, MOUNT, b"tmpfs", [b"source=x", b"mode=755"], NOSUID),
        ("target", F, TARGET, ROOT, b"/run", 3, 0o755),
        MOVED,
    ]


def test_a_file_system_without_a_source_is_its_own():
    (first, *_) = ops(applied({"destination": "/q", "type": "mqueue"}))
    assert first == ("new_fs", F, MOUNT, b"mqueue", [b"source=mqueue"], 0)


def test_proc_and_sysfs_lie_behind_no_symlink_and_stay_held():
    ctx = applied(
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "sys/", "type": "sysfs", "options": None},
    )
    assert [op[5] for op in ops(ctx) if op[0] == "target"] == [2, 2]
    assert ctx.held == {b"/proc": NEXT, b"sys/": NEXT - 1}


@pytest.mark.parametrize("more", [{}, {"kinds": ("mount", "user")}])
def test_a_procfs_and_a_sysfs_that_are_bound_stay_held(more):
    sources = [{"destination": path, "source": path, "options": ["rbind"]} for path in ("/proc", "/sys/")]
    ctx = applied(*sources, **more)
    assert ctx.held == {b"/proc": NEXT, b"/sys/": NEXT - 1}
    assert [op[2] for op in ops(ctx) if op[0] in ("open_tree", "receive_fd")] == [NEXT, NEXT - 1]


def test_a_tmpfs_keeps_the_mode_of_the_directory_that_it_hides():
    assert kinds_of(applied({"destination": "/run", "type": "tmpfs"})) == [
        "new_fs",
        "target",
        "copy_mode",
        "move_mount",
    ]


def test_tmpcopyup_fills_it_before_it_is_seen():
    ctx = applied({"destination": "/run", "type": "tmpfs", "options": ["tmpcopyup", "mode=700"]})
    assert kinds_of(ctx) == ["new_fs", "target", "copy_up", "move_mount"]


@pytest.mark.parametrize("word", ["ro", "rro"])
def test_a_tmpfs_turns_read_only_when_all_is_in_it(word):
    ctx = applied({"destination": "/t", "type": "tmpfs", "options": [word, "mode=1"]})
    assert ops(ctx)[0][-1] == 0
    mounts.finish_mounts(ctx, None)
    assert ops(ctx)[-2:] == [
        ("open_in_root", F, MOUNT, ROOT, b"/t", os.O_PATH),
        ("mount_setattr", F, MOUNT, b"", EMPTY, attributes(RO)),
    ]


@pytest.mark.parametrize(
    ("options", "found"),
    [(["rro"], RO), (["ro", "rrw"], 0), (["rnosuid", "nodev"], NOSUID | NODEV), (["rnoatime"], NOATIME)],
)
def test_recursive_flags_of_a_new_mount_are_its_own(options, found):
    (first, *_) = ops(applied({"destination": "/q", "type": "mqueue", "options": options}))
    assert first[-1] == found


def test_a_value_that_fsconfig_refuses_goes_by_the_old_call_onto_the_checked_target():
    long = "lowerdir=" + "/x" * 200
    entry = {"destination": "/m", "type": "overlay", "source": "o", "options": [long, "ro", "private"]}
    assert ops(applied(entry)) == [
        ("target", F, TARGET, ROOT, b"/m", 3, 0o755),
        ("old_mount", F, b"o", TARGET, b"overlay", 1, long.encode()),
        ("open_in_root", F, MOUNT, ROOT, b"/m", os.O_PATH),
        ("mount_setattr", F, MOUNT, b"", EMPTY, attributes(propagation=PRIVATE)),
    ]


def test_more_data_than_a_page_is_refused():
    with pytest.raises(SpecError, match=r"mounts\[0\]\.options: 4\d\d\d bytes of data; mount\(2\) takes"):
        applied({"destination": "/m", "type": "overlay", "options": ["lowerdir=" + "/x" * 2100]})


def test_remount_changes_what_is_there():
    assert ops(applied({"destination": "/p", "options": ["remount", "ro", "rnodev", "rshared"]})) == [
        ("open_in_root", F, MOUNT, ROOT, b"/p", os.O_PATH),
        ("mount_setattr", F, MOUNT, b"", EMPTY, attributes(RO)),
        ("mount_setattr", F, MOUNT, b"", EMPTY | TREE, attributes(NODEV)),
        ("mount_setattr", F, MOUNT, b"", EMPTY | TREE, attributes(propagation=SHARED)),
    ]


def test_remount_does_not_drop_data():
    with pytest.raises(Unsupported, match=r"mounts\[0\]\.options: not supported: 'size=1m' with remount"):
        applied({"destination": "/p", "options": ["remount", "size=1m"]})


@pytest.mark.parametrize("kind", [None, "none"])
def test_neither_a_type_nor_bind(kind):
    with pytest.raises(SpecError, match=r"mounts\[0\]\.type"):
        applied({"destination": "/d", "source": "/s", "type": kind})


def test_id_mapped_mounts_are_named():
    with pytest.raises(Unsupported, match=r"mounts\[0\]\.uidMappings: not supported: id-mapped mounts"):
        applied({**BIND, "options": ["bind"], "uidMappings": [{}], "gidMappings": [{}]})


def test_the_notify_directory_is_bound_only_into_a_mount_namespace():
    options = {"notify_directory": "/state/c/notify"}
    assert kinds_of(applied(options=options)) == ["open_tree", "mount_setattr", "target_like", "move_mount"]
    assert kinds_of(applied(kinds=(), options=options)) == []


CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}


class Group:
    paths = {"": "/sys/fs/cgroup/g", "memory": "/sys/fs/cgroup/memory/g"}


def test_cgroup2_with_a_namespace_is_mounted_anew():
    assert ops(applied(CGROUP, kinds=("mount", "cgroup"), facts=V2))[0] == (
        "new_fs",
        F,
        MOUNT,
        b"cgroup2",
        [b"source=cgroup"],
        RO | NOSUID,
    )


def test_cgroup2_without_a_namespace_shows_the_containers_own_group():
    ctx = context(facts=V2)
    ctx.cgroup = Group()
    mounts.apply_mounts(ctx, [CGROUP])
    assert ops(ctx)[:2] == [
        ("open_tree", F, MOUNT, -100, b"/sys/fs/cgroup/g", CLONE),
        ("mount_setattr", F, MOUNT, b"", EMPTY, attributes(RO | NOSUID)),
    ]


def test_the_hosts_cgroups_are_never_writable():
    entry = {**CGROUP, "options": ["rw"]}
    assert ops(applied(entry, facts=V2))[1][-1] == attributes(RO)


def test_v1_is_a_tmpfs_with_a_mount_for_each_hierarchy():
    facts = {**V1, "v1_hierarchies": {"cpu,cpuacct": "/c/cpu,cpuacct", "name=systemd": "/c/systemd"}}
    ctx = applied(CGROUP, kinds=("mount", "cgroup"), facts=facts)
    assert [op[3:5] for op in ops(ctx) if op[0] == "new_fs"] == [
        (b"tmpfs", [b"source=tmpfs", b"mode=755"]),
        (b"cgroup", [b"source=cgroup", b"cpu", b"cpuacct"]),
        (b"cgroup", [b"source=cgroup", b"none", b"name=systemd"]),
    ]
    assert [op[3:] for op in ops(ctx) if op[0] == "symlink"] == [
        (b"/sys/fs/cgroup/cpu", b"cpu,cpuacct"),
        (b"/sys/fs/cgroup/cpuacct", b"cpu,cpuacct"),
    ]
    assert ctx.deferred == [(F, b"/sys/fs/cgroup")]
