"""linux.namespaces as plan ops: one stage or two, and in which order."""

from __future__ import annotations

import os
import posix

import pytest

from ocirt import namespaces
from ocirt.errors import SpecError
from ocirt.spec.rules import sysctl_path
from tests.lib.compiled import context, kinds_of, ops

NEWNS, NEWPID, NEWNET, NEWUSER = 0x20000, 0x20000000, 0x40000000, 0x10000000
NEWCGROUP, NEWTIME, NEWUTS = 0x02000000, 0x80, 0x04000000
NOT_DUMPABLE = ("prctl", "linux.namespaces", 4, 0, 0, 0, 0)
MAPS = {"uidMappings": [], "gidMappings": []}


def applied(*kinds, **options):
    ctx = context(kinds, **options)
    namespaces.apply_namespaces(ctx, None)
    return ctx


def test_without_a_user_or_time_namespace_they_are_made_before_there_is_a_plan():
    ctx = applied("pid", "mount", "network")
    assert namespaces.first_flags(ctx) == (NEWPID, NEWNS | NEWNET)
    assert ops(ctx) == [NOT_DUMPABLE]


def test_the_cgroup_namespace_is_made_after_the_join():
    ctx = applied("cgroup", "mount")
    assert namespaces.first_flags(ctx) == (0, NEWNS)
    assert ops(ctx)[-1] == ("unshare", "linux.namespaces", NEWCGROUP)


def test_no_namespace_is_joined_while_the_init_can_be_traced():
    ctx = applied("mount", join={"network": "/n"})
    assert ops(ctx) == [
        NOT_DUMPABLE,
        ("setns", "linux.namespaces[1].path", ctx.plan.handles[-1], NEWNET),
    ]


def test_a_new_user_namespace_takes_two_stages():
    ctx = applied("user", "mount", "pid", linux=MAPS)
    assert namespaces.first_flags(ctx) == (0, 0)
    assert ops(ctx) == [
        ("unshare", "linux.namespaces", NEWUSER),
        ("sync", "linux.uidMappings", 2),
        ("setresgid", "linux.gidMappings", 0, 0, 0),
        ("setresuid", "linux.uidMappings", 0, 0, 0),
        NOT_DUMPABLE,
        ("unshare", "linux.namespaces", NEWNS | NEWPID),
        ("fork", "linux.namespaces"),
    ]
    assert [action.when for action in ctx.plan.actions] == ["MAPS"]


def test_what_the_new_user_namespace_does_not_own_is_joined_before_it():
    ctx = applied("user", "mount", join={"network": "/n", "uts": "/u"}, linux=MAPS)
    assert [op[:2] for op in ops(ctx)][:3] == [
        ("setns", "linux.namespaces[2].path"),
        ("setns", "linux.namespaces[3].path"),
        ("unshare", "linux.namespaces"),
    ]


def test_what_a_joined_user_namespace_owns_is_joined_after_it():
    ctx = applied("mount", join={"network": "/n", "user": "/u"})
    assert [op[0] for op in ops(ctx)] == [
        "prctl",
        "setns",
        "setresgid",
        "setresuid",
        "setns",
        "unshare",
        "fork",
    ]
    assert [op[3] for op in ops(ctx) if op[0] == "setns"] == [NEWUSER, NEWNET]


def test_time_offsets_are_written_before_anybody_enters():
    offsets = {"monotonic": {"secs": -5}, "boottime": {"secs": 7, "nanosecs": 3}}
    ctx = applied("time", "mount", linux={"timeOffsets": offsets})
    assert ops(ctx)[1:] == [
        ("unshare", "linux.namespaces", NEWTIME | NEWNS),
        (
            "write_file",
            "linux.timeOffsets",
            ctx.proc,
            b"self/timens_offsets",
            b"boottime 7 3\nmonotonic -5 0\n",
            os.O_WRONLY,
        ),
        ("fork", "linux.namespaces"),
    ]


def test_time_offsets_are_written_before_the_maps_take_the_file_away():
    ctx = applied("time", "user", "mount", linux={"timeOffsets": {"monotonic": {"secs": 1}}, **MAPS})
    assert kinds_of(ctx)[:3] == ["unshare", "write_file", "sync"]


def test_a_user_namespace_without_a_mount_namespace_is_refused():
    with pytest.raises(SpecError, match="needs a mount namespace"):
        applied("user", linux=MAPS)


def test_a_path_of_another_kind_is_refused_when_it_is_opened():
    ctx = applied("mount", join={"network": "/proc/self/ns/uts"})
    with pytest.raises(SpecError, match=r"linux.namespaces\[1\].path: /proc/self/ns/uts is not a network"):
        ctx.plan.handles[-1].opener()
    right = applied("mount", join={"uts": "/proc/self/ns/uts"})
    posix.close(right.plan.handles[-1].opener())


def test_a_session_and_a_keyring_that_exec_finds():
    ctx = context(("network",))
    namespaces.apply_session(ctx, None)
    assert ops(ctx) == [
        ("keyctl", "process", 1, b"_ses.c"),
        ("keyring_access", "process", 0x3F1B0000),
        ("setsid", "process"),
        ("loopback_up", "linux.namespaces"),
    ]


def test_exec_leaves_the_keyring_and_the_loopback_as_they_are():
    ctx = context(("network",))
    ctx.is_exec = True
    namespaces.apply_session(ctx, None)
    assert kinds_of(ctx) == ["keyctl", "setsid"]


def test_no_new_keyring():
    ctx = context(options={"no_new_keyring": True})
    namespaces.apply_session(ctx, None)
    assert kinds_of(ctx) == ["setsid"]


def test_names_are_counted_in_bytes():
    ctx = context(("uts",))
    namespaces.apply_hostname(ctx, "hé")
    namespaces.apply_domainname(ctx, "d")
    assert ops(ctx) == [
        ("sethostname", "hostname", b"h\xc3\xa9", 3),
        ("setdomainname", "domainname", b"d", 1),
    ]


def test_sysctls_go_through_the_parents_procfs():
    ctx = context(("network",))
    namespaces.apply_sysctl(ctx, {"net.ipv4.ip_forward": "1"})
    path = b"sys/net/ipv4/ip_forward"
    assert ops(ctx) == [
        ("write_file", "linux.sysctl[net.ipv4.ip_forward]", ctx.proc, path, b"1", os.O_WRONLY)
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel", "kernel"),
        ("net/../kernel/panic", ""),
        ("net..x", ""),
        ("/net/x", ""),
        ("", ""),
    ],
)
def test_the_first_separator_of_a_sysctl_is_the_separator(name, path):
    assert sysctl_path(name) == path


def test_exec_enters_all_namespaces_at_once():
    ctx = context(("pid", "mount"), join={"network": "/n"})
    pidfd = ctx.plan.handle("pidfd", "linux.namespaces", lambda: -1)
    namespaces.join_container(ctx, pidfd, lambda: -1)
    assert ops(ctx) == [
        NOT_DUMPABLE,
        ("setns", "linux.namespaces", pidfd, NEWNS | NEWPID | NEWNET),
        ("fork", "linux.namespaces"),
        ("openat", "root.path", ctx.root, -100, b"/", os.O_PATH | os.O_DIRECTORY),
    ]


def test_exec_without_a_mount_namespace_goes_to_the_root_of_the_init():
    ctx = context(("uts",))
    pidfd = ctx.plan.handle("pidfd", "linux.namespaces", lambda: -1)
    namespaces.join_container(ctx, pidfd, lambda: -1)
    assert kinds_of(ctx) == ["prctl", "setns", "fchdir", "chroot", "openat"]
