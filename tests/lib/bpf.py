"""What a seccomp filter decides, by interpreting it: classic BPF as the kernel allows it there."""

from __future__ import annotations

import struct

INSTRUCTION = struct.Struct("<HBBI")
DATA = struct.Struct("<iIQ6Q")  # struct seccomp_data: number, architecture, instruction, arguments

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32_BIT = 0x40000000

LD_W_ABS, RET_K, JA = 0x20, 0x06, 0x05
ALU_AND_K, ALU_OR_K, TAX, TXA = 0x54, 0x44, 0x07, 0x87
LD_IMM, ST, LD_MEM, STX, LDX_MEM = 0x00, 0x02, 0x60, 0x03, 0x61
JUMPS = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}

ACTIONS = {
    0x80000000: "kill process",
    0x00000000: "kill thread",
    0x00030000: "trap",
    0x00050000: "errno",
    0x7FF00000: "trace",
    0x7FFC0000: "log",
    0x7FFF0000: "allow",
}


def run(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """Return value of the filter. Raises for anything that the kernel would refuse to load."""
    data = DATA.pack(number, arch, 0, *args, *(0,) * (6 - len(args)))
    code = list(INSTRUCTION.iter_unpack(program))
    a = x = at = 0
    memory = [0] * 16
    for _ in range(len(code)):  # jumps only go forward
        op, if_true, if_false, k = code[at]
        at += 1
        if op == LD_W_ABS:
            (a,) = struct.unpack_from("<I", data, k)
        elif op == RET_K:
            return k
        elif op == JA:
            at += k
        elif op in JUMPS:
            at += if_true if JUMPS[op](a, k) else if_false
        elif op == ALU_AND_K:
            a &= k
        elif op == ALU_OR_K:
            a |= k
        elif op == TAX:
            x = a
        elif op == TXA:
            a = x
        elif op == LD_IMM:
            a = k
        elif op == ST:
            memory[k] = a
        elif op == STX:
            memory[k] = x
        elif op == LD_MEM:
            a = memory[k]
        elif op == LDX_MEM:
            x = memory[k]
        else:
            raise ValueError(f"instruction {at - 1} has code {op:#x}")
    raise ValueError("the program runs off its end")


def verdict(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> str:
    """ "allow", "errno 38", "kill process", ..."""
    value = run(program, number, args, arch)
    name = ACTIONS[value & 0xFFFF0000]
    return f"{name} {value & 0xFFFF}" if name in ("errno", "trace") else name
