"""A profile decides what runtime-spec says it decides; shown by interpreting the program."""

from __future__ import annotations

import errno
import os
import posix
import subprocess
import sys
from pathlib import Path

import pytest

from ocirt import kernel, seccomp
from ocirt.errors import OcirtError, SpecError, Unsupported
from ocirt.seccomp_compile import compile_filter
from tests.lib import bpf

pytestmark = pytest.mark.skipif(posix.uname().machine != "x86_64", reason="numbers are those of x86_64")

READ, WRITE, OPEN, IOCTL, SOCKET, CLONE, PERSONALITY, OPENAT2 = 0, 1, 2, 16, 41, 56, 135, 437
GETPPID, PTRACE = 110, 101
NEW = 4000  # no kernel has it
AF_ALG, AF_VSOCK = 38, 40
EPERM, ENOSYS = errno.EPERM, errno.ENOSYS


def profile(*rules: dict, default: str = "SCMP_ACT_ERRNO", **more: object) -> dict:
    return {
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": list(rules),
        **more,
    }


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: object) -> dict:
    return {"names": list(names), "action": action, **more}


def condition(index: int, op: str, value: int, second: int = 0) -> dict:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


def test_named_calls_are_allowed_and_others_get_the_default() -> None:
    program = compile_filter(profile(rule("read", "openat2")))
    assert bpf.verdict(program, READ) == "allow"
    assert bpf.verdict(program, OPENAT2) == "allow"
    assert bpf.verdict(program, WRITE) == f"errno {EPERM}"


def test_default_errno_ret_is_what_the_default_returns() -> None:
    program = compile_filter(profile(rule("openat2"), defaultErrnoRet=errno.EACCES))
    assert bpf.verdict(program, WRITE) == f"errno {errno.EACCES}"


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("SCMP_ACT_ALLOW", "allow"),
        ("SCMP_ACT_ERRNO", "errno 1"),
        ("SCMP_ACT_TRAP", "trap"),
        ("SCMP_ACT_KILL", "kill thread"),
        ("SCMP_ACT_KILL_THREAD", "kill thread"),
        ("SCMP_ACT_KILL_PROCESS", "kill process"),
        ("SCMP_ACT_TRACE", "trace 1"),
        ("SCMP_ACT_LOG", "log"),
    ],
)
def test_every_action_for_a_rule_and_as_the_default(action: str, verdict: str) -> None:
    other = "SCMP_ACT_ERRNO" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    assert bpf.verdict(compile_filter(profile(rule("read", action=action), default=other)), READ) == verdict
    program = compile_filter(profile(rule("openat2", action=other), default=action))
    assert bpf.verdict(program, READ) == verdict


def test_a_rules_own_errno_is_returned() -> None:
    program = compile_filter(
        profile(rule("ptrace", action="SCMP_ACT_ERRNO", errnoRet=0), default="SCMP_ACT_ALLOW")
    )
    assert bpf.verdict(program, PTRACE) == "errno 0"


@pytest.mark.parametrize(
    ("op", "value", "second", "yes", "no"),
    [
        ("EQ", 5, 0, 5, 6),
        ("NE", 5, 0, 6, 5),
        ("LT", 5, 0, 4, 5),
        ("LE", 5, 0, 5, 6),
        ("GT", 5, 0, 6, 5),
        ("GE", 5, 0, 5, 4),
        ("EQ", 1 << 40, 0, 1 << 40, 0),  # all 64 bits are compared
        ("GT", (1 << 64) - 2, 0, (1 << 64) - 1, 1 << 63),
        ("MASKED_EQ", 0x7E020000, 0, 0x11, 0x10000000),  # docker's clone without new namespaces
        ("MASKED_EQ", 0xF0, 0x20, 0x2F, 0x30),
    ],
)
def test_operators(op: str, value: int, second: int, yes: int, no: int) -> None:
    program = compile_filter(profile(rule("clone", args=[condition(0, op, value, second)])))
    assert bpf.verdict(program, CLONE, (yes,)) == "allow"
    assert bpf.verdict(program, CLONE, (no,)) == f"errno {EPERM}"


def test_conditions_on_different_arguments_must_all_hold() -> None:
    program = compile_filter(profile(rule("ioctl", args=[condition(0, "EQ", 1), condition(1, "EQ", 2)])))
    assert bpf.verdict(program, IOCTL, (1, 2)) == "allow"
    assert bpf.verdict(program, IOCTL, (1, 3)) == f"errno {EPERM}"
    assert bpf.verdict(program, IOCTL, (0, 2)) == f"errno {EPERM}"


def test_of_several_conditions_on_one_argument_any_suffices() -> None:
    values = (0x0, 0x8, 0x20000, 0xFFFFFFFF)
    program = compile_filter(profile(rule("personality", args=[condition(0, "EQ", v) for v in values])))
    for value in values:
        assert bpf.verdict(program, PERSONALITY, (value,)) == "allow"
    assert bpf.verdict(program, PERSONALITY, (1,)) == f"errno {EPERM}"


def test_a_refusal_by_argument_stands_out_of_an_allowed_call() -> None:
    """CVE-2026-31431: engines refuse AF_ALG while other sockets stay allowed."""
    rules = [rule("socket", args=[condition(0, "NE", family)]) for family in (AF_ALG,)]
    program = compile_filter(profile(*rules))
    assert bpf.verdict(program, SOCKET, (2,)) == "allow"
    assert bpf.verdict(program, SOCKET, (AF_ALG,)) == f"errno {EPERM}"


def test_names_that_libseccomp_does_not_know_are_skipped() -> None:
    program = compile_filter(profile(rule("read", "no_such_call", "osf_syscall")))
    assert bpf.verdict(program, READ) == "allow"


def test_a_rule_that_repeats_the_default_changes_nothing() -> None:
    program = compile_filter(profile(rule("read"), rule("write", action="SCMP_ACT_ERRNO", errnoRet=1)))
    assert bpf.verdict(program, WRITE) == f"errno {EPERM}"


@pytest.mark.parametrize("default", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
@pytest.mark.parametrize("arch", [bpf.X86_64, bpf.I386])
def test_calls_newer_than_the_profile_get_enosys(default: str, arch: int) -> None:
    program = compile_filter(profile(rule("read", "openat2"), default=default))
    assert bpf.verdict(program, OPENAT2, arch=arch) == "allow"
    assert bpf.verdict(program, OPENAT2 + 1, arch=arch) == f"errno {ENOSYS}"
    assert bpf.verdict(program, NEW, arch=arch) == f"errno {ENOSYS}"
    assert bpf.verdict(program, OPENAT2 - 1, arch=arch) != f"errno {ENOSYS}"


@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_a_permissive_default_holds_for_new_calls_too(default: str) -> None:
    program = compile_filter(profile(rule("ptrace", action="SCMP_ACT_KILL_PROCESS"), default=default))
    assert bpf.verdict(program, NEW) == {
        "SCMP_ACT_ALLOW": "allow",
        "SCMP_ACT_LOG": "log",
        "SCMP_ACT_TRACE": "trace 1",
    }.get(default)


def test_x32_calls_have_a_limit_of_their_own() -> None:
    program = compile_filter(profile(rule("read", "openat2")))
    assert bpf.verdict(program, bpf.X32_BIT | READ) == "allow"
    assert bpf.verdict(program, bpf.X32_BIT | OPENAT2) == "allow"
    assert bpf.verdict(program, bpf.X32_BIT | NEW) == f"errno {ENOSYS}"
    assert bpf.verdict(program, bpf.X32_BIT | WRITE) == f"errno {EPERM}"


def test_x32_is_refused_where_the_profile_does_not_have_it() -> None:
    program = compile_filter(profile(rule("read"), architectures=["SCMP_ARCH_X86_64"]))
    for number in (READ, OPENAT2, NEW):
        assert bpf.verdict(program, bpf.X32_BIT | number).startswith("kill")


def test_another_architecture_is_refused_however_new_the_call() -> None:
    program = compile_filter(profile(rule("read"), architectures=["SCMP_ARCH_X86_64"]))
    for number in (READ, NEW):
        assert bpf.verdict(program, number, arch=bpf.I386).startswith("kill")
        assert bpf.verdict(program, number, arch=bpf.AARCH64).startswith("kill")


def test_without_architectures_the_native_one_is_meant() -> None:
    program = compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read")]})
    assert bpf.verdict(program, READ) == "allow"
    assert bpf.verdict(program, NEW) == f"errno {ENOSYS}"


def test_socket_calls_of_i386_go_through_both_their_ways() -> None:
    program = compile_filter(profile(rule("socket", "connect")))
    i386_socket, i386_socketcall, sys_socket, sys_bind = 359, 102, 1, 2
    assert bpf.verdict(program, i386_socket, arch=bpf.I386) == "allow"
    assert bpf.verdict(program, i386_socketcall, (sys_socket,), arch=bpf.I386) == "allow"
    assert bpf.verdict(program, i386_socketcall, (sys_bind,), arch=bpf.I386) == f"errno {EPERM}"


def test_an_architecture_of_another_byte_order_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"linux\.seccomp\.architectures\[0\].*S390X"):
        compile_filter(profile(rule("read"), architectures=["SCMP_ARCH_S390X"]))


def test_an_errno_that_the_kernel_cannot_return_is_refused() -> None:
    with pytest.raises(SpecError, match=r"linux\.seccomp\.syscalls\[1\].*4096 is above 4095"):
        compile_filter(profile(rule("read"), rule("write", action="SCMP_ACT_ERRNO", errnoRet=4096)))


@pytest.mark.parametrize(
    "asked",
    [
        profile(rule("read", action="SCMP_ACT_NOTIFY")),
        profile(default="SCMP_ACT_NOTIFY"),
        profile(rule("read"), listenerPath="/run/listener"),
    ],
)
def test_notifications_are_refused_by_name(asked: dict) -> None:
    with pytest.raises(Unsupported, match=r"linux\.seccomp\.listenerPath"):
        seccomp.check(asked)


def test_flags() -> None:
    log, allow = kernel.SECCOMP_FILTER_FLAG_LOG, kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    assert seccomp.filter_flags(profile()) == allow
    assert seccomp.filter_flags(profile(flags=[])) == 0
    names = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]
    assert seccomp.filter_flags(profile(flags=names)) == log | allow
    # the kernel refuses it without a listener
    assert seccomp.filter_flags(profile(flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])) == 0


LOAD = """
import ctypes, os, sys
program = sys.stdin.buffer.read()
libc = ctypes.CDLL(None, use_errno=True)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(317, 1, int(sys.argv[1]), ctypes.byref(Filter(len(program) // 8, program))) == 0
for number in map(int, sys.argv[2:]):
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    print(number, ctypes.get_errno() if result < 0 else 0)
"""


def test_the_kernel_loads_the_program_and_decides_the_same() -> None:
    asked = profile(
        rule("getppid", action="SCMP_ACT_ERRNO", errnoRet=errno.EXDEV),
        rule("cachestat", "openat2", action="SCMP_ACT_LOG"),
        default="SCMP_ACT_ALLOW",
    )
    program, flags = seccomp.compile_profile(asked)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(flags), str(GETPPID), "39"], input=program, capture_output=True
    )
    assert done.stderr == b""
    assert done.stdout.decode().split("\n")[:2] == [f"{GETPPID} {errno.EXDEV}", "39 0"]


# The cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setattr(seccomp, "SYSTEM_CACHE", str(directory))
    monkeypatch.setitem(posix.environ, b"XDG_RUNTIME_DIR", os.fsencode(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    return directory if os.geteuid() == 0 else tmp_path / "run/ocirt-cache"


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def test_the_second_time_libseccomp_is_not_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = profile(rule("read"))
    program = seccomp.get(asked)
    assert len(files(cache)) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    assert files(cache)[0].stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(seccomp, "compile_profile", lambda _: pytest.fail("it was compiled again"))
    assert seccomp.get(asked) == program


def test_a_changed_profile_has_another_file(cache: Path) -> None:
    seccomp.get(profile(rule("read")))
    seccomp.get(profile(rule("write")))
    assert len(files(cache)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:30],
        lambda data: data[:-8],
        lambda data: data + bytes(8),
        lambda data: b"x" + data[1:],
        lambda data: data[:8] + bytes(8) + data[16:],  # made by another libseccomp
        lambda data: data[:32] + b"\xff\xff\xff\xff" + data[36:],
    ],
)
def test_a_damaged_or_outdated_file_is_made_anew(cache: Path, damage) -> None:
    asked = profile(rule("read"))
    program = seccomp.get(asked)
    file = files(cache)[0]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert seccomp.get(asked) == program
    assert file.read_bytes() == whole


def test_a_directory_that_others_may_write_is_not_used(cache: Path) -> None:
    cache.mkdir(mode=0o755)
    cache.chmod(0o770)
    (cache.parent / "run").chmod(0o555)
    program = seccomp.get(profile(rule("read")))
    assert bpf.verdict(program, READ) == "allow"
    assert files(cache) == []


@pytest.mark.root
def test_a_directory_of_somebody_else_is_not_used(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    os.chown(cache, 12345, 12345)
    seccomp.get(profile(rule("read")))
    assert files(cache) == []


def test_a_link_in_place_of_the_directory_is_not_followed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    seccomp.get(profile(rule("read")))
    assert files(tmp_path / "elsewhere") == []


def test_the_cache_does_not_grow_without_end(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocirt.seccomp_compile.MAX_FILES", 6)
    for code in range(20):
        seccomp.get(profile(rule("read"), defaultErrnoRet=code + 1))
    assert len(files(cache)) <= 6


def test_a_hit_loads_neither_libseccomp_nor_hashlib(cache: Path) -> None:
    asked = profile(rule("read"))
    seccomp.get(asked)
    script = f"""
import sys
from ocirt import seccomp
seccomp.SYSTEM_CACHE = {str(cache)!r}
seccomp.get({asked!r})
print([name for name in ("ocirt._seccomp", "ocirt.seccomp_compile", "hashlib") if name in sys.modules])
"""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(cache.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_profile_of_random_shape_gives_a_typed_error_or_a_program() -> None:
    import random

    random.seed(4)
    names = ["read", "write", "", "socket", "\udcff", "clone3", "__NR_read", "x" * 300]
    ops = ["EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ"]
    actions = [*seccomp_actions(), "SCMP_ACT_NOTIFY"]
    for _ in range(150):
        rules = [
            rule(
                *random.choices(names, k=random.randint(1, 4)),
                action=random.choice(actions),
                errnoRet=random.choice([None, 0, 1, 4095, 4096, 70000]),
                args=[
                    condition(
                        random.randint(0, 5), random.choice(ops), *random.choices([0, 1, 2**64 - 1], k=2)
                    )
                    for _ in range(random.randint(0, 4))
                ],
            )
            for _ in range(random.randint(0, 6))
        ]
        try:
            program, _ = seccomp.compile_profile(profile(*rules, default=random.choice(actions)))
        except OcirtError:
            continue
        for number in (READ, SOCKET, NEW):
            bpf.verdict(program, number)


def seccomp_actions() -> list[str]:
    from ocirt.seccomp_compile import ACTIONS

    return list(ACTIONS)
