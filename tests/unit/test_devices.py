"""linux.devices and the defaults as plan ops."""

from __future__ import annotations

import os

import pytest

from ocirt import devices
from ocirt.errors import SpecError
from tests.lib.compiled import MOUNT, ROOT, TARGET, context, kinds_of, ops

F = "linux.devices[0]"
CHAR, BLOCK, FIFO = 0o020000, 0o060000, 0o010000
NULL = 0x103


def applied(*entries, **options):
    ctx = context(**options)
    devices.apply_devices(ctx, list(entries))
    return ctx


def first(**device):
    return ops(applied(device))[0]


def test_the_defaults():
    made = [op[3:6] for op in ops(applied()) if op[0] == "mknod"]
    assert made == [
        (b"/dev/null", CHAR | 0o666, 0x103),
        (b"/dev/zero", CHAR | 0o666, 0x105),
        (b"/dev/full", CHAR | 0o666, 0x107),
        (b"/dev/random", CHAR | 0o666, 0x108),
        (b"/dev/urandom", CHAR | 0o666, 0x109),
        (b"/dev/tty", CHAR | 0o666, 0x500),
    ]


def test_the_links():
    assert [op[3:] for op in ops(applied()) if op[0] == "symlink"] == [
        (b"/dev/ptmx", b"pts/ptmx"),
        (b"/dev/fd", b"/proc/self/fd"),
        (b"/dev/stdin", b"/proc/self/fd/0"),
        (b"/dev/stdout", b"/proc/self/fd/1"),
        (b"/dev/stderr", b"/proc/self/fd/2"),
    ]


@pytest.mark.parametrize(("letter", "kind"), [("c", CHAR), ("u", CHAR), ("b", BLOCK)])
def test_kinds(letter, kind):
    op = first(path="/dev/x", type=letter, major=8, minor=1)
    assert op == ("mknod", F, ROOT, b"/dev/x", kind | 0o666, 0x801, 0, 0)


def test_a_fifo_needs_no_numbers():
    assert first(path="/dev/f", type="p", fileMode=0o600)[4:6] == (FIFO | 0o600, 0)


@pytest.mark.parametrize(
    ("mode", "made"),
    [(None, 0o666), (0o600, 0o600), (0, 0), (0o20660, 0o660)],  # engines leave the type in
)
def test_the_mode(mode, made):
    assert first(path="/dev/x", type="c", major=1, minor=3, fileMode=mode)[4] == CHAR | made


def test_the_owner():
    op = first(path="/dev/x", type="c", major=1, minor=3, uid=5, gid=None)
    assert op[6:] == (5, 0)


@pytest.mark.parametrize("path", ["/dev/null", "dev/null", "//dev/null"])
def test_a_default_that_is_named_is_not_made_twice(path):
    ctx = applied({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o600})
    made = [op[4] for op in ops(ctx) if op[0] == "mknod" and op[3] == b"/dev/null"]
    assert made == [CHAR | 0o600]


def test_a_device_may_lie_anywhere():
    assert first(path="/opt/d/x", type="c", major=1, minor=3)[3] == b"/opt/d/x"


def test_large_numbers():
    assert first(path="/dev/x", type="b", major=259, minor=1048575)[5] == os.makedev(259, 1048575)


@pytest.mark.parametrize("missing", ["major", "minor"])
def test_a_device_without_numbers_is_refused(missing):
    device = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}
    del device[missing]
    with pytest.raises(SpecError, match=r"linux\.devices\[0\]: needs major and minor"):
        applied(device)


@pytest.mark.parametrize("options", [{"kinds": ("mount", "user")}, {"facts": {"in_userns": True}}])
def test_in_a_user_namespace_the_hosts_node_is_bound_after_a_look(options):
    ctx = applied({"path": "dev/sda", "type": "b", "major": 8, "minor": 0}, **options)
    assert ops(ctx)[:4] == [
        ("open_tree", F, MOUNT, -100, b"/dev/sda", 0x80001),
        ("check_block", F, MOUNT, 8, 0),
        ("target", F, TARGET, ROOT, b"/dev/sda", 1, 0o755),
        ("move_mount", F, MOUNT, b"", TARGET, b"", 0x44),
    ]
    assert "mknod" not in kinds_of(ctx)
    assert kinds_of(ctx).count("check_device") == 6


def test_a_fifo_is_made_in_a_user_namespace_too():
    assert ops(applied({"path": "/f", "type": "p"}, kinds=("mount", "user")))[0][0] == "mknod"


@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/dev", "type": "bind", "source": "/dev"},
        {"destination": "/dev/", "source": "/dev", "options": ["rbind"]},
        {"destination": "dev", "type": None, "source": "/dev", "options": ["bind"]},
    ],
)
def test_a_dev_that_is_bound_is_left_alone(mount):
    assert ops(applied({"path": "/dev/x", "type": "p"}, mounts=[mount])) == []


def test_a_dev_of_ones_own_is_filled():
    mount = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": None}
    assert len(ops(applied(mounts=[mount]))) == 11


def test_without_a_mount_namespace_the_rootfs_is_left_alone():
    assert ops(applied(kinds=("pid",))) == []


@pytest.mark.parametrize(("major", "minor"), [(-1, 3), (4096, 3), (1, 1 << 20), (1, 2**63 - 1)])
@pytest.mark.parametrize("facts", [{}, {"in_userns": True}])
def test_numbers_that_no_device_has_are_refused(major, minor, facts):
    device = {"path": "/dev/x", "type": "c", "major": major, "minor": minor}
    with pytest.raises(SpecError, match=rf"linux\.devices\[0\]: {major}:{minor} is not a device number"):
        applied(device, facts=facts)
