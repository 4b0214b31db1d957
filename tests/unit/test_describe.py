"""Plans in words: names for flags, fds and structures, steps in the order of execution."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from ocirt import describe, kernel
from ocirt.plan import AT_FDCWD, CHILD, ENTER, KINDS, SIGNATURE, SYNC_HOOKS, SYNC_READY, Op, Plan

AT_EMPTY = 0x1000


def shown(kind, *args, plan=None, tolerate=0):
    """One op as `ocirt plan` writes it."""
    ctx = SimpleNamespace(plan=plan or Plan())
    return describe.call(Op(CHILD, kind, "", args, "", tolerate, 0), ctx)


@pytest.mark.parametrize(
    ("kind", "args", "text"),
    [
        ("unshare", (0x20020000,), "unshare(CLONE_NEWNS|CLONE_NEWPID)"),
        ("unshare", (0x02000000,), "unshare(CLONE_NEWCGROUP)"),
        ("prctl", (38, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS, 1)"),
        ("umask", (0o22,), "umask(0022)"),
        ("setgroups", (2, b"\x05\0\0\0\x07\0\0\0"), "setgroups(2, [5, 7])"),
        ("chown_stdio", (1000, 0xFFFFFFFF), "chown_stdio(1000, -1)"),
        ("sethostname", (b"box", 3), 'sethostname("box", 3)'),
        ("keyctl", (1, b"_ses.x"), 'keyctl(KEYCTL_JOIN_SESSION_KEYRING, "_ses.x")'),
        ("close_range", (3, 0xFFFFFFFF, 4), "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)"),
        ("prlimit64", (0, 7, b"\0\4" + bytes(6) + b"\xff" * 8, 0),
         "prlimit64(0, RLIMIT_NOFILE, 1024:RLIM_INFINITY, 0)"),
        ("bounding_set", (0x21,), "bounding_set(CAP_CHOWN|CAP_KILL)"),
        ("capset", (0, (1 << 64) - 1, 0), "capset(none, all, none)"),
        ("mask_path", (AT_FDCWD, b"/proc/kcore", -1, -1), 'mask_path(AT_FDCWD, "/proc/kcore", -1, -1)'),
        ("mknod", (3, b"/dev/null", 0o020666, 0x103, 0, 0), 'mknod(3, "/dev/null", c 0666, 1:3, 0, 0)'),
        ("new_fs", (-1000, b"proc", [b"hidepid=2"], 0xA),
         'new_fs($mount, "proc", ["hidepid=2"], MOUNT_ATTR_NOSUID|MOUNT_ATTR_NOEXEC)'),
        ("new_fs", (-1000, b"tmpfs", [], 0x20), 'new_fs($mount, "tmpfs", [], MOUNT_ATTR_STRICTATIME)'),
        ("open_tree", (-1000, AT_FDCWD, b"/src", 0x88001),
         'open_tree($mount, AT_FDCWD, "/src", OPEN_TREE_CLOEXEC|OPEN_TREE_CLONE|AT_RECURSIVE)'),
        ("move_mount", (-1000, b"", -1001, b"", 0x44),
         'move_mount($mount, "", $target, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)'),
        ("target", (-1001, -1000, b"/data", 1, 0o755), 'target($target, $mount, "/data", file, 0755)'),
        ("old_mount", (None, -1001, None, 0x80000, None), "old_mount(NULL, $target, NULL, MS_SLAVE, NULL)"),
        ("openat", (-1000, AT_FDCWD, b"/", os.O_PATH), 'openat($mount, AT_FDCWD, "/", O_RDONLY|O_PATH)'),
        ("write_file", (3, b"a", b"1", os.O_WRONLY), 'write_file(3, "a", "1", O_WRONLY)'),
        ("check_fs", (3, 0x9FA0), "check_fs(3, PROC_SUPER_MAGIC)"),
        ("seccomp", (bytes(16), 4), "seccomp(<2 instructions>, SECCOMP_FILTER_FLAG_SPEC_ALLOW)"),
        ("seccomp", (b"", 0), "seccomp(<the filter compiled in OPEN>, 0)"),
        ("execve", ([b"sh", b"-c", b"x"], [b"A=1", b"B=2"]), 'execve(["sh", "-c", "x"], [2 variables])'),
        ("write_fd", (3, b"\x00\x01"), "write_fd(3, <2 bytes>)"),
        ("make_console", (3, 4, 24, 80, 1), "make_console(3, 4, 24, 80, on /dev/console)"),
    ],
)  # fmt: skip
def test_an_operation_reads_like_the_manual(kind, args, text):
    assert shown(kind, *args) == text


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ((0x1, 0, 0, 0), "set MOUNT_ATTR_RDONLY"),
        ((0, 0x1, 0, 0), "clear MOUNT_ATTR_RDONLY"),
        ((0x10, 0x70, 0, 0), "set MOUNT_ATTR_NOATIME, clear MOUNT_ATTR__ATIME"),
        ((0, 0, 1 << 18, 0), "MS_PRIVATE"),
        ((0, 0, 0, 0), "nothing"),
    ],
)
def test_struct_mount_attr_is_taken_apart(attributes, text):
    raw = kernel.mount_attr(*attributes)
    assert shown("mount_setattr", -1000, b"", AT_EMPTY, raw) == (
        f'mount_setattr($mount, "", AT_EMPTY_PATH, {text})'
    )


@pytest.mark.parametrize("kind", [name for name, _, _ in KINDS])
def test_every_kind_of_operation_can_be_shown(kind):
    values = {"d": -1, "i": 0, "s": b"s", "b": bytes(32), "p": bytes(16), "v": [b"w"], "o": -1000}
    args = [1 if kind == "sync" else values[letter] for letter in SIGNATURE[kind]]
    assert shown(kind, *args).startswith(kind)


def test_a_tolerated_errno_is_told():
    assert shown("setsid", tolerate=1) == "setsid()  # EPERM is fine"


def test_long_arguments_are_cut():
    assert len(shown("chdir", b"/" + b"d" * 500)) < 100


@pytest.fixture
def ctx():
    """A plan with a step of each sort."""
    plan = Plan()
    socket = plan.handle("start socket", "process", lambda: -1)
    plan.handle("/group", "linux.cgroupsPath", lambda: -1, late=True)
    plan.at("OPEN", "linux.seccomp", "compile the filter", print)
    plan.at("CGROUP", "linux.resources", "write limits", print)
    plan.at("HOOKS", "hooks.prestart", "run 1 prestart hook(s)", print)
    plan.clone_flags = 0x20000000
    plan.phase = ENTER
    plan.add("setns", "linux.namespaces", socket, 0x40000000)
    plan.phase = CHILD
    plan.add("sync", "hooks", SYNC_HOOKS)
    plan.add("sync", "process", SYNC_READY)
    rows = [("linux.resources.memory.limit", "/group/memory.max", "1048576")]
    cgroup = SimpleNamespace(describe=lambda resources: rows)
    linux = {"resources": {}}
    return SimpleNamespace(
        plan=plan, cgroup=cgroup, linux=linux, id="box", bundle="/b", warnings=["careful"], terminal=False,
        spec={"process": {"args": ["sh"]}, "root": {"path": "r", "readonly": True}, "linux": linux},
        new_ns={"pid", "mount"}, join_ns={"network": "/run/netns/x"},
    )  # fmt: skip


def test_steps_stand_in_the_order_of_execution_with_the_parents_where_they_happen(ctx):
    assert (
        describe.text(ctx)
        == """\
OPEN  (ocirt opens; nothing is changed yet)
  linux.seccomp                  compile the filter
  process                        open start socket
CGROUP  (ocirt)
  linux.resources                write limits
  linux.resources.memory.limit   write '1048576' to /group/memory.max
  linux.cgroupsPath              open /group
SPAWN  (ocirt)
  linux.namespaces               clone3(CLONE_NEWPID)
ENTER  (ocirt-init, stage 1)
  linux.namespaces               setns(<start socket>, CLONE_NEWNET)
CHILD  (ocirt-init, in its namespaces)
  hooks                          sync HOOKS: ocirt goes on when it has done
      hooks.prestart                 run 1 prestart hook(s)
  process                        sync READY: ocirt goes on when it has done
"""
    )


def test_an_init_that_is_started_early_stands_first_with_what_it_does_before_it_has_the_plan(ctx):
    ctx.plan.early = True
    ctx.plan.unshare_flags = 0x40020000
    assert describe.text(ctx).splitlines()[:4] == [
        "SPAWN  (ocirt)",
        "  linux.namespaces               clone3(CLONE_NEWPID)",
        "  linux.namespaces               ocirt-init: unshare(CLONE_NEWNS|CLONE_NEWNET)",
        "OPEN  (ocirt opens; nothing is changed yet)",
    ]
    who = [step["who"] for step in describe.document(ctx)["steps"][:3]]
    assert who == ["ocirt", "ocirt-init", "ocirt"]


def test_the_document_has_a_step_for_each_line(ctx):
    document = json.loads(json.dumps(describe.document(ctx)))
    assert (document["id"], document["bundle"], document["warnings"]) == ("box", "/b", ["careful"])
    assert len(document["steps"]) == 10
    assert document["steps"][6] == {
        "phase": "ENTER",
        "who": "ocirt-init",
        "field": "linux.namespaces",
        "call": "setns(<start socket>, CLONE_NEWNET)",
        "detail": "",
    }


def test_the_summary_says_what_the_container_will_be(ctx):
    assert (
        describe.summary(ctx)
        == """\
bundle        /b
program       sh
              uid 0, gid 0, in /
namespaces    new: mount pid
              network: /run/netns/x
root          r, read-only
mounts        none
paths         0 masked, 0 read-only
capabilities  none
seccomp       no filter
limits        memory.limit: 1048576
hooks         none
steps         7 by ocirt, 3 by ocirt-init
"""
    )
