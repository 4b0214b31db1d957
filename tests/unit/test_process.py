"""process.* as plan ops: the values, and the order that privileges are given up in."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from ocirt import capabilities, kernel, lsm, process
from ocirt.context import Context, lookup
from ocirt.errors import OcirtError, SpecError, StepError, Unsupported
from ocirt.fields import ROWS, load_module
from ocirt.options import CreateOptions
from ocirt.plan import LAST, PROCESS, Plan

KEEPCAPS, NO_NEW_PRIVS = 8, 38
KILL, DAC, SYS_ADMIN, SYS_RESOURCE = 1 << 5, 1 << 1 | 1 << 2, 1 << 21, 1 << 24
DOCUMENT: dict[str, Any] = {"cwd": "/", "args": ["sh"], "env": ["PATH=/bin", "HOME=/home"]}


def context(process: dict[str, Any] | None = None, *, euid: int = 1000, **spec: Any) -> Context:
    """A context whose init holds every capability, as seen by an ordinary user."""
    document = {"ociVersion": "1.2.0", "process": {**DOCUMENT, **(process or {})}, **spec}
    host = SimpleNamespace(euid=euid, rootless=euid != 0, capabilities=kernel.capget()[1])
    ctx = Context(
        document,
        Plan(),
        bundle="/b",
        container_id="c",
        options=CreateOptions(),
        host=host,  # type: ignore[arg-type]
    )
    ctx.root = -1002
    return ctx


def compiled(ctx: Context) -> list[tuple[Any, ...]]:
    """(kind, arguments…) of all ops of PROCESS and LAST, as the table of fields orders them."""
    for field, applier, _, phase, always, *_ in ROWS:
        value = lookup(ctx.spec, field)
        if phase in (PROCESS, LAST) and (value is not None or always):
            module, _, function = applier.partition(":")
            getattr(load_module(module), function)(ctx, value)
    return [(op.kind, *op.args) for op in ctx.plan.ops]


def kinds(ctx: Context) -> list[str]:
    return [op[0] for op in compiled(ctx)]


def only(ctx: Context, kind: str) -> Any:
    (op,) = [op for op in ctx.plan.ops if op.kind == kind]
    return op


def test_root_with_few_fields() -> None:
    ctx = context({"capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}})
    assert compiled(ctx) == [
        ("chown_stdio", 0, 0xFFFFFFFF),
        ("bounding_set", KILL),
        ("setgroups", 0, b""),
        ("setresgid", 0, 0, 0),
        ("setresuid", 0, 0, 0),
        ("umask", 0o022),
        ("enter_cwd", b"/"),
        ("capset", KILL, KILL, 0),
        ("find_executable", [b"sh"], [b"PATH=/bin", b"HOME=/home"]),
        ("close_others", 3, -1),
        ("sync", 4),
        ("close_range", 3, 0xFFFFFFFF, kernel.CLOSE_RANGE_CLOEXEC),
        ("exec_follows",),
        ("execve", [b"sh"], [b"PATH=/bin", b"HOME=/home"]),
    ]


def test_a_user_with_everything() -> None:
    sets = {name: ["CAP_KILL"] for name in capabilities.SETS}
    user = {"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o77}
    ctx = context(
        {"user": user, "capabilities": sets, "noNewPrivileges": True, "cwd": "/home/user"},
        linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}},
    )
    assert compiled(ctx)[:-6] == [
        ("chown_stdio", 1000, 0xFFFFFFFF),
        ("prctl", NO_NEW_PRIVS, 1, 0, 0, 0),
        ("bounding_set", KILL),
        ("prctl", KEEPCAPS, 1, 0, 0, 0),
        ("setgroups", 2, struct.pack("<II", 5, 6)),
        ("setresgid", 100, 100, 100),
        ("setresuid", 1000, 1000, 1000),
        ("umask", 0o77),
        ("capset", DAC, DAC | KILL, KILL),
        ("enter_cwd", b"/home/user"),
        ("capset", KILL, KILL, KILL),
        ("ambient", KILL),
        ("find_executable", [b"sh"], [b"PATH=/bin", b"HOME=/home"]),
    ]
    assert [op.kind for op in ctx.plan.ops[-6:]] == [
        "close_others",
        "sync",
        "close_range",
        "exec_follows",
        "seccomp",
        "execve",
    ]


def test_nothing_but_execve_follows_the_filter() -> None:
    for more in ({}, {"noNewPrivileges": True}, {"user": {"uid": 7}}):
        assert kinds(context(more, linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}))[-2:] == [
            "seccomp",
            "execve",
        ]


@pytest.mark.parametrize(("privileges", "kept"), [(False, SYS_ADMIN), (None, SYS_ADMIN), (True, 0)])
def test_sys_admin_is_kept_for_seccomp_without_no_new_privileges(privileges: bool | None, kept: int) -> None:
    ctx = context({"noNewPrivileges": privileges}, linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}})
    assert ("capset", kept, kept, 0) in compiled(ctx)
    assert only(ctx, "bounding_set").args == (0,)


def test_without_capabilities_the_process_gets_none() -> None:
    ops = compiled(context())
    assert ("bounding_set", 0) in ops
    assert ("capset", 0, 0, 0) in ops


def test_inheritable_is_empty_unless_asked_for() -> None:
    """CVE-2022-29162"""
    sets = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "ambient")}
    assert ("capset", KILL, KILL, 0) in compiled(context({"capabilities": sets}))


def test_ambient_needs_inheritable() -> None:
    sets = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "ambient")}
    assert "ambient" not in kinds(context({"capabilities": sets}))


def test_unknown_capabilities_are_ignored_with_one_warning() -> None:
    sets = {name: ["CAP_KILL", "CAP_NEW", "CAP_LAST_CAP"] for name in ("bounding", "effective", "permitted")}
    ctx = context({"capabilities": sets})
    assert ("capset", KILL, KILL, 0) in compiled(ctx)
    assert ctx.warnings == ["ignoring unknown or unavailable capabilities: [CAP_NEW CAP_LAST_CAP]"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"effective": ["CAP_KILL"]}, "process.capabilities.effective: CAP_KILL is not in permitted"),
        ({"inheritable": ["CAP_KILL"]}, "process.capabilities.inheritable: CAP_KILL is not in bounding"),
    ],
)
def test_sets_that_the_kernel_would_refuse(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace(".", r"\.")):
        compiled(context({"capabilities": sets}))


def test_capabilities_that_the_runtime_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "capget", lambda: (0, KILL | DAC, 0))
    sets = {name: ["CAP_KILL", "CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}
    ctx = context({"capabilities": sets}, euid=0)
    compiled(ctx)
    (action,) = ctx.plan.actions_at("OPEN")
    with pytest.raises(StepError) as caught:
        action.call(None)
    assert str(caught.value) == (
        "process.capabilities (the runtime itself lacks CAP_SYS_ADMIN): capset: Operation not permitted"
    )


def test_every_capability_has_a_number_and_a_name() -> None:
    last = kernel.CAP_LAST_CAP
    names = capabilities.names_of((1 << last + 1) - 1).split()
    assert len(names) == last + 1
    assert names[0] == "CAP_CHOWN"
    assert names[21] == "CAP_SYS_ADMIN"
    assert capabilities.parse(names) == ((1 << last + 1) - 1, [])


# ids


def test_only_a_user_namespace_may_refuse_to_drop_groups() -> None:
    tolerated = {}
    for name, ctx in (
        ("root", context(euid=0)),
        ("user", context()),
        ("user with groups", context({"user": {"additionalGids": [1]}})),
        ("userns", context(euid=0, linux={"namespaces": [{"type": "user"}]})),
    ):
        process.apply_user(ctx, ctx.spec["process"].get("user"))
        tolerated[name] = only(ctx, "setgroups").tolerate == kernel.EPERM
    assert tolerated == {"root": False, "user": True, "user with groups": False, "userns": True}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0", (0, None)),
        ("1000", (1000, None)),
        ("1000:100", (1000, 100)),
        ("007:0", (7, 0)),
        ("4294967294:4294967294", (4294967294, 4294967294)),
    ],
)
def test_exec_user(text: str, ids: tuple[int, int | None]) -> None:
    assert process.parse_user(text) == ids


@pytest.mark.parametrize(
    "text",
    ["", ":", "1:", ":1", "-1", "+1", "1abc", "abc", "4294967295", "4294967296", "1:4294967295", "1:2:3",
     " 1", "1 ", "1_000", "0x10", "1.0", "\u0661", "\u00b2", "9" * 5000, "1\n", "root"],
)  # fmt: skip
def test_exec_user_that_is_not_exact_is_refused(text: str) -> None:
    """CVE-2026-30892"""
    with pytest.raises(SpecError, match=r"^process\.user: "):
        process.parse_user(text)


# environment


@pytest.mark.parametrize(
    ("env", "result", "home"),
    [
        (["A=1", "HOME=/x"], [b"A=1", b"HOME=/x"], None),
        (["A=1"], [b"A=1", b"HOME=/"], 1),
        (["HOME=", "A=1"], [b"HOME=/", b"A=1"], 0),
        (["A=1", "B=2", "A=3"], [b"A=3", b"B=2", b"HOME=/"], 2),
        (["HOME=/x", "HOME="], [b"HOME=/"], 0),
    ],
)
def test_environment(env: list[str], result: list[bytes], home: int | None) -> None:
    ctx = context({"env": env, "user": {"uid": 12}})
    compiled(ctx)
    assert only(ctx, "execve").args[1] == result
    found = [op.args for op in ctx.plan.ops if op.kind == "set_home"]
    assert [args[2:] for args in found] == ([] if home is None else [(home, 12)])


def test_the_home_that_is_found_reaches_the_program() -> None:
    """The ops have one table in the plan's bytes, which set_home changes."""
    ctx = context({"env": []})
    compiled(ctx)
    assert len({id(op.args[1]) for op in ctx.plan.ops if op.kind in ("set_home", "execve")}) == 1
    data = ctx.plan.encode(4)
    tables = set()
    for i, op in enumerate(ctx.plan.ops):
        args = struct.unpack_from("<7Q", data, 64 + i * 64 + 8)
        if op.kind in ("set_home", "execve"):
            tables.add(args[1])
    assert len(tables) == 1


# limits


LIMITS = [
    {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
    {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
]


def test_a_runtime_that_may_raise_limits_sets_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context({"rlimits": LIMITS})
    assert "prlimit64" not in kinds(ctx)
    (action,) = ctx.plan.actions_at("READY")
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(kernel, "prlimit", lambda *args: calls.append(args))
    action.call(SimpleNamespace(pid=77))
    assert calls == [(77, 7, 100, 200), (77, 4, 0, 2**64 - 1)]


def test_else_the_init_does_it_when_all_else_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "capget", lambda: (0, ~SYS_RESOURCE, 0))
    ctx = context({"rlimits": LIMITS}, euid=0)
    ops = compiled(ctx)
    assert list(ctx.plan.actions_at("READY")) == []
    start = [op[0] for op in ops].index("close_others") - 2
    assert ops[start : start + 2] == [
        ("prlimit64", 0, 7, struct.pack("<QQ", 100, 200), 0),
        ("prlimit64", 0, 4, struct.pack("<QQ", 0, 2**64 - 1), 0),
    ]


def test_a_limit_that_cannot_be_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(kernel.EPERM, "no")

    monkeypatch.setattr(kernel, "prlimit", refuse)
    ctx = context({"rlimits": LIMITS})
    compiled(ctx)
    (action,) = ctx.plan.actions_at("READY")
    with pytest.raises(StepError) as caught:
        action.call(SimpleNamespace(pid=77))
    text = "process.rlimits[0] (RLIMIT_NOFILE 100:200): prlimit: Operation not permitted"
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["RLIMIT_FOO", "NOFILE", "SIGKILL", "RLIMIT_", ""])
def test_what_is_no_limit_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"process\.rlimits\[3\]"):
        process.rlimit_number(name, "process.rlimits[3]")


def test_limits_have_the_kernels_numbers() -> None:
    numbers = {"CPU": 0, "STACK": 3, "NPROC": 6, "NOFILE": 7, "MEMLOCK": 8, "AS": 9, "RTTIME": 15}
    for name, number in numbers.items():
        assert process.rlimit_number(f"RLIMIT_{name}", "") == number


# scheduling and memory


def test_scheduler() -> None:
    ctx = context()
    asked = {"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"], "nice": -3}
    process.apply_scheduler(ctx, asked)
    pid, data, flags = only(ctx, "sched_setattr").args
    assert (pid, flags) == (0, 0)
    assert struct.unpack("<IIQiIQQQ", data) == (48, 1, 1, -3, 10, 0, 0, 0)
    process.apply_scheduler(ctx, {"policy": "SCHED_DEADLINE", "runtime": 10, "deadline": 20, "period": 30})
    assert struct.unpack("<IIQiIQQQ", ctx.plan.ops[-1].args[1]) == (48, 6, 0, 0, 0, 10, 20, 30)
    with pytest.raises(Unsupported, match=r"process\.scheduler\.policy"):
        process.apply_scheduler(ctx, {"policy": "SCHED_ISO"})


@pytest.mark.parametrize(
    ("name", "priority", "value"),
    [("IOPRIO_CLASS_RT", 0, 1 << 13), ("IOPRIO_CLASS_BE", 7, 2 << 13 | 7), ("IOPRIO_CLASS_IDLE", 0, 3 << 13)],
)
def test_io_priority(name: str, priority: int, value: int) -> None:
    ctx = context()
    process.apply_io_priority(ctx, {"class": name, "priority": priority})
    assert only(ctx, "ioprio_set").args == (1, 0, value)


def test_memory_policy() -> None:
    ctx = context()
    process.apply_memory_policy(
        ctx, {"mode": "MPOL_BIND", "nodes": "0-1,3", "flags": ["MPOL_F_STATIC_NODES"]}
    )
    mode, mask, bits = only(ctx, "set_mempolicy").args
    assert (mode, mask[:8], bits) == (2 | 1 << 15, bytes([0b1011]) + bytes(7), 65)
    assert len(mask) * 8 >= bits
    process.apply_memory_policy(ctx, {"mode": "MPOL_DEFAULT"})
    assert ctx.plan.ops[-1].args == (0, b"", 0)


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("0-2,7", [0, 1, 2, 7]), (" 1 , 3", [1, 3]), ("5-5", [5])]
)
def test_number_lists(text: str, numbers: list[int]) -> None:
    assert process.number_list(text, 8, "f") == numbers


@pytest.mark.parametrize("text", ["", ",", "1-", "-1", "3-1", "8", "0-8", "a", "1--2", "9" * 30, "1;2"])
def test_what_is_no_number_list_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^linux"):
        process.number_list(text, 8, "linux.memoryPolicy.nodes")


def test_personality() -> None:
    ctx = context()
    process.apply_personality(ctx, {"domain": "LINUX32"})
    assert only(ctx, "personality").args == (8,)
    with pytest.raises(Unsupported, match=r"linux\.personality\.flags"):
        process.apply_personality(ctx, {"domain": "LINUX", "flags": ["X"]})


def test_affinity_is_for_exec_only() -> None:
    ctx = context()
    asked = {"initial": "0", "final": "1,64"}
    process.apply_initial_affinity(ctx, asked)
    assert ctx.plan.ops == []
    ctx.is_exec = True
    process.apply_initial_affinity(ctx, asked)
    process.apply_final_affinity(ctx, asked)
    masks = [op.args for op in ctx.plan.ops]
    assert masks == [(0, 8, bytes([1]) + bytes(7)), (0, 16, bytes([2]) + bytes(7) + bytes([1]) + bytes(7))]


# the rest


def test_oom_score_adj_is_written_by_the_init_of_a_container_only() -> None:
    ctx = context()
    process.apply_oom_score_adj(ctx, -500)
    assert only(ctx, "write_file").args[:3] == (ctx.proc, b"self/oom_score_adj", b"-500")
    ctx = context()
    ctx.is_exec = True
    process.apply_oom_score_adj(ctx, 5)
    assert ctx.plan.ops == []


def test_a_missing_cwd_is_made_for_create_only() -> None:
    ctx = context()
    process.apply_cwd_directory(ctx, "/a/b")
    assert only(ctx, "target").args[1:] == (ctx.root, b"/a/b", 0, 0o755)
    ctx = context()
    ctx.is_exec = True
    process.apply_cwd_directory(ctx, "/a/b")
    assert ctx.plan.ops == []


def test_preserved_fds_stay_open() -> None:
    ctx = context()
    ctx.plan.keep_fds = [3, 4]
    process.apply_close_fds(ctx, None)
    assert only(ctx, "close_range").args[0] == 5


def test_labels_are_written_through_the_checked_proc() -> None:
    ctx = context()
    lsm.apply_apparmor(ctx, "docker-default")
    lsm.apply_selinux(ctx, "system_u:system_r:container_t:s0")
    assert [op.args[:3] for op in ctx.plan.ops] == [
        (ctx.proc, b"thread-self/attr/apparmor/exec", b"exec docker-default"),
        (ctx.proc, b"thread-self/attr/exec", b"system_u:system_r:container_t:s0"),
    ]


def test_a_label_without_its_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "APPARMOR_ENABLED", "/nonexistent")
    monkeypatch.setattr(lsm, "SELINUX_MOUNT", "/nonexistent")
    ctx = context()
    lsm.apply_apparmor(ctx, "docker-default")
    lsm.apply_selinux(ctx, "label")
    errors = []
    for action in ctx.plan.actions_at("OPEN"):
        with pytest.raises(Unsupported) as caught:
            action.call(None)
        errors.append(str(caught.value))
    assert errors == [
        "process.apparmorProfile: not supported: apparmor is not enabled on the host",
        "process.selinuxLabel: not supported: selinux is not enabled on the host",
    ]


def test_unconfined_needs_no_apparmor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "APPARMOR_ENABLED", "/nonexistent")
    ctx = context()
    lsm.apply_apparmor(ctx, "unconfined")
    lsm.apply_apparmor(ctx, "")
    lsm.apply_selinux(ctx, "")
    assert (ctx.plan.ops, ctx.plan.actions) == ([], [])


def test_enabled_is_read_from_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for text, enabled in (("Y\n", True), ("N\n", False)):
        (tmp_path / "enabled").write_text(text)
        monkeypatch.setattr(lsm, "APPARMOR_ENABLED", str(tmp_path / "enabled"))
        assert lsm.apparmor_is_enabled() is enabled
    monkeypatch.setattr(lsm, "SELINUX_MOUNT", str(tmp_path))
    assert lsm.selinux_is_enabled() is False


def test_values_of_random_shape_give_ops_or_a_typed_error() -> None:
    import random

    random.seed(5)
    names = [*(f"CAP_{n}" for n in ("KILL", "SYS_ADMIN", "NEW")), "", "KILL"]
    for _ in range(300):
        sets = {
            name: random.choices(names, k=random.randint(0, 3))
            for name in capabilities.SETS
            if random.random() < 0.7
        }
        user = {"uid": random.choice([0, 1, 2**32 - 2]), "additionalGids": [1] * random.randint(0, 2)}
        ctx = context({"capabilities": sets, "user": user, "noNewPrivileges": random.choice([True, False])})
        try:
            ops = kinds(ctx)
        except OcirtError:
            continue
        assert ops[-1] == "execve"
        ctx.plan.encode(4)
