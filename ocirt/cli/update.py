"""update: other limits for a container that runs."""

from __future__ import annotations

from ocirt.cli.parse import BOOL, TEXT, expect
from ocirt.container import Container
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cli import Call

# option: section, member, kind of value
LIMITS = {
    "blkio-weight": ("blockIO", "weight", "number"),
    "cpu-period": ("cpu", "period", "number"),
    "cpu-quota": ("cpu", "quota", "number"),
    "cpu-burst": ("cpu", "burst", "number"),
    "cpu-share": ("cpu", "shares", "number"),
    "cpu-rt-period": ("cpu", "realtimePeriod", "number"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", "number"),
    "cpu-idle": ("cpu", "idle", "number"),
    "cpuset-cpus": ("cpu", "cpus", "text"),
    "cpuset-mems": ("cpu", "mems", "text"),
    "memory": ("memory", "limit", "size"),
    "memory-reservation": ("memory", "reservation", "size"),
    "memory-swap": ("memory", "swap", "size"),
    "pids-limit": ("pids", "limit", "number"),
}
RDT = {"l3-cache-schema": "l3CacheSchema", "mem-bw-schema": "memBwSchema"}
OPTIONS: dict[str, int | str] = {
    "resources": TEXT,
    "r": "resources",
    **dict.fromkeys(LIMITS, TEXT),
    **dict.fromkeys(RDT, TEXT),
    "check": BOOL,
}
UNITS = "bkmgtp"


def run(call: Call) -> int:
    expect("update", call.words, 1, 1)
    values = call.values
    schemata = {option: values.get(option.replace("-", "_")) for option in RDT}
    intel_rdt = {RDT[option]: text for option, text in schemata.items() if text}
    container = Container.load(call.words[0], call.root)
    container.update(asked_for(values), check=values.get("check", False), intel_rdt=intel_rdt)
    return 0


def asked_for(values: dict[str, Any]) -> dict[str, Any]:
    """linux.resources with what the file and the options name; options count more than the file."""
    asked: dict[str, Any] = {}
    if values.get("resources"):
        asked = read_resources(values["resources"])
    for option, (section, member, kind) in LIMITS.items():
        given = values.get(option.replace("-", "_"))
        if not given:
            continue
        value = given if kind == "text" else number(option, given, sizes=kind == "size")
        asked[section] = {**(asked.get(section) or {}), member: value}
    return asked


def read_resources(path: str) -> dict[str, Any]:
    """The object in a file, or on standard input where path is `-`."""
    from ocirt.spec import load

    if path != "-":
        return load.load(path)
    import posix

    parts = []
    total = 0
    while total <= load.MAX_SIZE and (part := posix.read(0, 65536)):
        parts.append(part)
        total += len(part)
    if total > load.MAX_SIZE:
        raise OcirtError(f"standard input holds more than {load.MAX_SIZE >> 20} MiB")
    return load.parse(b"".join(parts), "resources")


def number(option: str, text: str, *, sizes: bool = False) -> int:
    """A decimal number, perhaps negative; sizes: 512k, 1.5G, 64MiB: the units are powers of 1024."""
    digits, factor = text, 1
    if sizes:
        lower = text.lower().removesuffix("ib") if text.lower().endswith("ib") else text.lower()
        lower = lower.removesuffix("b") if lower[-2:-1] in tuple(UNITS) else lower
        if lower[-1:] in tuple(UNITS):
            digits, factor = lower[:-1].rstrip(), 1024 ** UNITS.index(lower[-1])
    whole, dot, rest = digits.removeprefix("-").partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) < 20) or (
        dot and not (sizes and is_digits(rest))
    ):
        raise OcirtError(f"invalid value for {option}: {text!r} is not a {'size' if sizes else 'number'}")
    value = int(whole) * factor + (int(rest) * factor // 10 ** len(rest) if dot else 0)
    return -value if digits.startswith("-") else value


def is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
