"""Device rules: order, the lines for v1, and the program for v2 run by a small interpreter."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from ocirt.cgroups import devices
from ocirt.errors import SpecError, Unsupported
from tests.lib.declared import missing

DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True, "access": "rwm"}
IMPLICIT_LINES = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
]


def lines(*entries: dict) -> list[str]:
    return [
        f"{file.removeprefix('devices.')} {line}"
        for file, line, _ in devices.v1_lines(devices.rules(list(entries)))
    ]


@pytest.mark.parametrize("entries", [(), (DENY_ALL,), ({"allow": False},), (ALLOW_ALL, DENY_ALL)])
def test_nothing_but_the_usual_devices_is_allowed_without_rules(entries):
    assert lines(*entries) == ["deny a", *(f"allow {line}" for line in IMPLICIT_LINES)]


def test_all_devices_are_allowed_by_one_line():
    assert lines(DENY_ALL, ALLOW_ALL) == ["allow a"]


def test_rules_keep_their_order():
    rule = {"allow": True, "type": "c", "major": 4, "minor": 64, "access": "rw"}
    rest = {"allow": True, "type": "b", "major": 8, "access": "r"}
    assert lines(DENY_ALL, rule, rest)[:3] == ["deny a", "allow c 4:64 rw", "allow b 8:* r"]


def test_type_a_with_numbers_means_both_kinds():
    # The kernel would take it as all devices and ignore the numbers.
    assert lines(DENY_ALL, {"allow": True, "type": "a", "major": 8})[1:3] == [
        "allow b 8:* rwm",
        "allow c 8:* rwm",
    ]


def test_a_denial_takes_back_the_same_rule():
    rule = {"type": "c", "major": 4, "minor": 64}
    assert lines(DENY_ALL, {"allow": True, **rule}, {"allow": False, **rule, "access": "w"})[1:3] == [
        "allow c 4:64 rwm",
        "deny c 4:64 w",
    ]


@pytest.mark.parametrize(
    "entries",
    [
        (
            DENY_ALL,
            {"allow": True, "type": "c", "major": 4},
            {"allow": False, "type": "c", "major": 4, "minor": 1},
        ),
        (
            ALLOW_ALL,
            {"allow": False, "type": "b", "major": 8},
            {"allow": True, "type": "b", "major": 8, "minor": 1},
        ),
    ],
)
def test_v1_refuses_what_it_would_silently_get_wrong(entries):
    with pytest.raises(Unsupported, match=r"linux\.resources\.devices\[2\]"):
        lines(*entries)


def test_rules_of_no_kind_are_refused():
    with pytest.raises(SpecError, match=r"devices\[0\]"):
        devices.rules([{"allow": True, "type": "p"}])


# The program


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Interpret the few instructions that are used; unknown ones fail."""
    bits = {"m": 1, "r": 2, "w": 4}
    context = [sum(bits[a] for a in access) << 16 | {"b": 1, "c": 2}[kind], major, minor]
    registers = [0] * 11
    position = 0
    code = [struct.unpack("<BBhI", program[i : i + 8]) for i in range(0, len(program), 8)]
    while True:
        opcode, both, offset, value = code[position]
        target, source = both & 15, both >> 4
        position += 1
        match opcode:
            case 0x61:
                registers[target] = context[offset // 4]
            case 0xB7:
                registers[target] = value
            case 0xBF:
                registers[target] = registers[source]
            case 0x57:
                registers[target] &= value
            case 0x77:
                registers[target] >>= value
            case 0x55:
                position += offset if registers[target] != value else 0
            case 0x45:
                position += offset if registers[target] & value else 0
            case 0x05:
                position += offset
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(hex(opcode))


@pytest.mark.parametrize(
    ("entries", "question", "answer"),
    [
        ([DENY_ALL], ("c", 1, 3, "rw"), True),
        ([DENY_ALL], ("c", 136, 5, "rw"), True),
        ([DENY_ALL], ("b", 8, 0, "r"), False),
        ([DENY_ALL], ("b", 8, 0, "m"), True),
        ([DENY_ALL], ("b", 8, 0, "rm"), False),
        ([], ("b", 8, 0, "w"), False),
        ([ALLOW_ALL], ("b", 8, 0, "rwm"), True),
        ([DENY_ALL, {"allow": True, "type": "b", "major": 8, "access": "r"}], ("b", 8, 7, "r"), True),
        ([DENY_ALL, {"allow": True, "type": "b", "major": 8, "access": "r"}], ("b", 8, 7, "rw"), False),
        ([DENY_ALL, {"allow": True, "type": "b", "major": 8, "access": "r"}], ("c", 8, 7, "r"), False),
        # accesses from several rules add up
        (
            [
                DENY_ALL,
                {"allow": True, "type": "b", "major": 8, "access": "r"},
                {"allow": True, "type": "b", "minor": 7, "access": "w"},
            ],
            ("b", 8, 7, "rw"),
            True,
        ),
        # the last rule that matches decides, also inside an allowed range
        (
            [
                DENY_ALL,
                {"allow": True, "type": "b", "major": 8},
                {"allow": False, "type": "b", "major": 8, "minor": 7, "access": "w"},
            ],
            ("b", 8, 7, "rw"),
            False,
        ),
        (
            [
                DENY_ALL,
                {"allow": True, "type": "b", "major": 8},
                {"allow": False, "type": "b", "major": 8, "minor": 7, "access": "w"},
            ],
            ("b", 8, 7, "r"),
            True,
        ),
        ([ALLOW_ALL, {"allow": False, "type": "b", "major": 8}], ("b", 8, 0, "r"), False),
        ([ALLOW_ALL, {"allow": False, "type": "b", "major": 8}], ("b", 9, 0, "r"), True),
    ],
)
def test_the_program_decides_as_the_rules_say(entries, question, answer):
    assert run(devices.program(devices.rules(entries)), *question) is answer


def test_the_program_of_one_rule_is_as_written_down():
    code = devices.program([(False, "a", -1, -1, "rwm", -1), (True, "c", 1, 3, "rw", 0)])
    assert [code[i : i + 8].hex() for i in range(0, len(code), 8)] == [
        "6112000000000000",  # r2 = type and access
        "6114040000000000",  # r4 = major
        "6115080000000000",  # r5 = minor
        "bf23000000000000",  # r3 = r2
        "7703000010000000",  # r3 >>= 16
        "57020000ffff0000",  # r2 &= 0xffff
        "5502060002000000",  # if r2 != char goto +6
        "5504050001000000",  # if r4 != 1 goto +5
        "5505040003000000",  # if r5 != 3 goto +4
        "5703000001000000",  # r3 &= ~(read | write)
        "5503020000000000",  # if r3 != 0 goto +2
        "b700000001000000",  # r0 = 1
        "9500000000000000",  # exit
        "b700000000000000",  # r0 = 0
        "9500000000000000",  # exit
    ]


def cgroup2() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    return None


@pytest.mark.root
def test_the_kernel_takes_the_program_and_a_second_one_in_its_place():
    from ocirt import kernel

    top = cgroup2()
    if top is None:
        missing("no cgroup2 is mounted")
    group = top / f"ocirt-test-devices-{os.getpid()}"
    group.mkdir()
    tun = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"}
    try:
        devices.attach(str(group), devices.rules([DENY_ALL]))
        refused = in_group(group, "head -c0 /dev/kmsg")
        devices.attach(str(group), devices.rules([DENY_ALL, tun]))
        fd = os.open(group, os.O_RDONLY)
        attached = kernel.bpf_prog_query(fd, kernel.BPF_CGROUP_DEVICE)
        os.close(fd)
        allowed = in_group(group, "head -c0 /dev/kmsg")
        usual = in_group(group, "head -c1 /dev/zero >/dev/null")
    finally:
        group.rmdir()
    assert (refused, len(attached), allowed, usual) == (1, 1, 0, 0)


def in_group(group: Path, command: str) -> int:
    script = f"echo 0 > {group}/cgroup.procs && exec {command}"
    return subprocess.run(["sh", "-c", script], stderr=subprocess.DEVNULL, check=False).returncode
