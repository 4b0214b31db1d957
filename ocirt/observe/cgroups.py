"""linux.resources read back from the cgroup files of a live process, on v1, hybrid and v2."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocirt.verify import Finding, Target

    Row = tuple[str, str, str]

NOTHING = "no such file"
PAGE = mmap.PAGESIZE


class Groups:
    """Where the files of a process's groups are: directory(controller), "" for cgroup v2."""

    def __init__(self, target: Target) -> None:
        own = {}
        for line in target.read("cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                own[controller] = path
        self.places: dict[str, str] = {}
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                before, _, after = line.partition(" - ")
                root, point = before.split()[3:5]
                kind, _, options = after.split(" ", 2)
                names = [""] if kind == "cgroup2" else options.strip().split(",") if kind == "cgroup" else []
                for name in names:
                    if name in own and own[name].startswith(root.rstrip("/")):
                        self.places.setdefault(name, point + own[name][len(root.rstrip("/")) :])
        self.v2 = "memory" not in self.places and "cpu" not in self.places and "" in self.places

    def read(self, name: str) -> str:
        """Text of a cgroup file such as memory.max; NOTHING when there is none."""
        controller = "" if self.v2 else name.partition(".")[0]
        # A hybrid host may have a controller in cgroup2 only (hugetlb here).
        place = self.places.get(controller) or self.places.get("")
        if place is None:
            return NOTHING
        try:
            with open(f"{place}/{name}", encoding="utf-8") as file:
                return file.read().strip()
        except OSError as error:
            return NOTHING if isinstance(error, FileNotFoundError) else (error.strerror or "error")

    def first(self, *names: str) -> str:
        """Of several files that mean the same, the one that there is."""
        return next((text for name in names if (text := self.read(name)) != NOTHING), NOTHING)


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    groups = Groups(target)
    resources = dict(spec["linux"]["resources"])
    if str(spec.get("ociVersion"))[:4] in ("1.0.", "1.1.", "1.2.") and resources.get("pids") == {"limit": 0}:
        del resources["pids"]  # which then was no limit
    found: list[Finding] = []
    for section, rows in SECTIONS.items():
        asked = resources.get(section)
        if asked:
            found += [(f"linux.resources.{section}{name}", a, b) for name, a, b in rows(asked, groups)]
    return found


def _memory(asked: dict[str, Any], groups: Groups) -> Iterator[Row]:
    for name, v1, v2 in (
        ("limit", "memory.limit_in_bytes", "memory.max"),
        ("reservation", "memory.soft_limit_in_bytes", "memory.low"),
        ("swap", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    ):
        value = asked.get(name)
        if not value:
            continue
        if name == "swap" and groups.v2 and value > 0 and (asked.get("limit") or 0) > 0:
            value -= asked["limit"]
        yield f".{name}", _bytes(value), _bytes_read(groups.read(v2 if groups.v2 else v1))
    if asked.get("kernelTCP") and not groups.v2:
        text = groups.read("memory.kmem.tcp.limit_in_bytes")
        yield ".kernelTCP", _bytes(asked["kernelTCP"]), _bytes_read(text)
    if (asked.get("swappiness") or -1) >= 0:
        yield ".swappiness", str(asked["swappiness"]), groups.read("memory.swappiness")
    if asked.get("disableOOMKiller"):
        text = groups.read("memory.oom_control")
        yield ".disableOOMKiller", "disabled", "disabled" if "oom_kill_disable 1" in text else text


def _bytes(value: int) -> str:
    """The kernel counts whole pages."""
    return "no limit" if value < 0 else f"{value // PAGE * PAGE} bytes"


def _bytes_read(text: str) -> str:
    if text == "max" or (text.isdigit() and int(text) >= (1 << 63) - PAGE):
        return "no limit"
    return f"{text} bytes" if text.isdigit() else text


def _cpu(asked: dict[str, Any], groups: Groups) -> Iterator[Row]:
    shares = asked.get("shares")
    if shares and not asked.get("idle"):  # which has the least share that there is
        if groups.v2:
            yield ".shares", f"weight {_weight(shares)}", f"weight {groups.read('cpu.weight')}"
        else:
            yield ".shares", str(shares), groups.read("cpu.shares")
    quota, period = asked.get("quota") or 0, asked.get("period") or 0
    if groups.v2:
        allowed, _, length = groups.read("cpu.max").partition(" ")
    else:
        allowed, length = groups.read("cpu.cfs_quota_us"), groups.read("cpu.cfs_period_us")
    if quota:
        in_force = "no limit" if allowed in ("max", "-1") else f"{allowed} us"
        yield ".quota", "no limit" if quota < 0 else f"{quota} us", in_force
    if period:
        yield ".period", f"{period} us", f"{length} us"
    for name, v1, v2 in (
        ("burst", "cpu.cfs_burst_us", "cpu.max.burst"),
        ("idle", "cpu.idle", "cpu.idle"),
        ("realtimePeriod", "cpu.rt_period_us", ""),
        ("realtimeRuntime", "cpu.rt_runtime_us", ""),
    ):
        if asked.get(name) is not None and (asked[name] or not name.startswith("realtime")):
            yield f".{name}", str(asked[name]), groups.read(v2 if groups.v2 else v1)
    for name in ("cpus", "mems"):
        if asked.get(name):
            yield f".{name}", _numbers(asked[name]), _numbers(groups.read(f"cpuset.{name}"))


def _weight(shares: int) -> int:
    """1024 is 100, 2 is 1, 262144 is 10000; between them a parabola of the logarithms."""
    if not 2 < shares < 262144:
        return 1 if shares <= 2 else 10000
    import math

    bits = math.log2(shares)
    return math.ceil(math.pow(10, (bits**2 + 125 * bits) / 612 - 7 / 34))


def _numbers(text: str) -> str:
    """0,1,2 and 0-2 are the same."""
    numbers: set[int] = set()
    for part in text.replace("\n", ",").split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit():
            return text
        numbers.update(range(int(first), int(last or first) + 1))
    return ",".join(str(number) for number in sorted(numbers))


def _pids(asked: dict[str, Any], groups: Groups) -> Iterator[Row]:
    limit = asked.get("limit")
    if limit is not None:
        yield ".limit", "max" if limit < 0 else str(limit or 1), groups.read("pids.max")


THROTTLES = (
    ("throttleReadBpsDevice", "read_bps", "rbps"),
    ("throttleWriteBpsDevice", "write_bps", "wbps"),
    ("throttleReadIOPSDevice", "read_iops", "riops"),
    ("throttleWriteIOPSDevice", "write_iops", "wiops"),
)


def _block_io(asked: dict[str, Any], groups: Groups) -> Iterator[Row]:
    if weight := asked.get("weight"):
        if groups.v2 and groups.read("io.bfq.weight") == NOTHING:
            found = groups.read("io.weight").removeprefix("default ")
            yield ".weight", f"io.weight {1 + (weight - 10) * 9999 // 990}", f"io.weight {found}"
        else:
            names = ("io.bfq.weight",) if groups.v2 else ("blkio.weight", "blkio.bfq.weight")
            yield ".weight", str(weight), groups.first(*names).removeprefix("default ").split("\n")[0]
    if leaf := asked.get("leafWeight"):
        yield ".leafWeight", str(leaf), groups.read("blkio.leaf_weight")
    for i, entry in enumerate(asked.get("weightDevice") or ()):
        device = f"{entry['major']}:{entry['minor']}"
        names = ("io.bfq.weight",) if groups.v2 else ("blkio.weight_device", "blkio.bfq.weight_device")
        if entry.get("weight"):
            lines = groups.first(*names)
            yield f".weightDevice[{i}]", f"{device} {entry['weight']}", _line_of(lines, device)
    for name, v1, key in THROTTLES:
        lines = groups.read("io.max" if groups.v2 else f"blkio.throttle.{v1}_device")
        for i, entry in enumerate(asked.get(name) or ()):
            device = f"{entry['major']}:{entry['minor']}"
            line = _line_of(lines, device)
            if groups.v2:
                words = dict(word.split("=") for word in line.split()[1:])
                line = f"{device} {words.get(key, 'max')}"
            yield f".{name}[{i}]", f"{device} {entry.get('rate') or 'max'}", line


def _line_of(text: str, key: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(f"{key} ")), f"{key} max")


def _huge_pages(asked: list[dict[str, Any]], groups: Groups) -> Iterator[Row]:
    for i, entry in enumerate(asked):
        files = [f"hugetlb.{entry['pageSize']}.{ending}" for ending in ("limit_in_bytes", "max")]
        yield f"[{i}]", str(entry["limit"]), groups.first(*files)


def _network(asked: dict[str, Any], groups: Groups) -> Iterator[Row]:
    if asked.get("classID"):
        yield ".classID", str(asked["classID"]), groups.read("net_cls.classid")
    lines = groups.read("net_prio.ifpriomap")
    for i, entry in enumerate(asked.get("priorities") or ()):
        line = _line_of(lines, entry["name"])
        yield f".priorities[{i}]", f"{entry['name']} {entry['priority']}", line


def _rdma(asked: dict[str, dict[str, Any]], groups: Groups) -> Iterator[Row]:
    lines = groups.read("rdma.max")
    for device, limits in asked.items():
        words = dict(word.split("=") for word in _line_of(lines, device).split()[1:] if "=" in word)
        for name, key in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(name) is not None:
                yield f".{device}.{name}", str(limits[name]), words.get(key, NOTHING)


def _unified(asked: dict[str, str], groups: Groups) -> Iterator[Row]:
    for name, value in asked.items():
        text = groups.read(name)
        # Of a file with many keys, the lines of those that were asked for.
        keys = [line.split()[0] for line in value.splitlines() if " " in line]
        if keys:
            text = "\n".join(line for line in text.splitlines() if line.split()[0] in keys)
        yield f".{name}", value, text


def _devices(asked: list[dict[str, Any]], groups: Groups) -> Iterator[Row]:
    """For each rule the accesses that the device it names has, by all rules and in force.

    On v2 only the presence of a program can be read; what it does has to be tried out.
    """
    if groups.v2:
        if len(asked) == 1 and asked[0].get("allow"):
            return
        yield "", "a device program", _program(groups.places[""])
        return
    text = groups.read("devices.list")
    entries = [_parse(line) for line in text.splitlines() if line[1:2] == " "]
    if text == NOTHING:
        yield "", "rules", NOTHING
        return
    for i, rule in enumerate(asked):
        kind = rule.get("type") or "a"
        for letter in ("b", "c") if kind == "a" else (kind,):
            device = (letter, _number(rule.get("major")), _number(rule.get("minor")))
            name = f"{letter} {_star(device[1])}:{_star(device[2])}"
            by_rules = "".join(a for a in "rwm" if _asked_for(asked, device, a)) or "nothing"
            in_force = "".join(a for a in "rwm" if any(_covers(e, device, a) for e in entries)) or "nothing"
            yield f"[{i}]", f"{name} {by_rules}", f"{name} {in_force}"


OTHER = -2  # a number that only rules for all numbers match
Device = tuple[str, int, int]

ALWAYS = (
    *(f"c 1:{minor} rwm" for minor in (3, 5, 7, 8, 9)),
    *(f"c 5:{minor} rwm" for minor in (0, 1, 2)),
    "c 136:* rwm",
    "c 10:200 rwm",
    "b *:* m",
    "c *:* m",
)


def _number(value: int | None) -> int:
    return OTHER if value is None or value < 0 else value


def _star(number: int) -> str:
    return "*" if number == OTHER else str(number)


def _parse(line: str) -> tuple[str, str, str, str]:
    kind, numbers, access = line.split()
    major, _, minor = numbers.partition(":")
    return kind, major, minor, access


def _covers(entry: tuple[str, str, str, str], device: Device, access: str) -> bool:
    kind, major, minor, letters = entry
    return (
        kind in ("a", device[0])
        and major in ("*", str(device[1]))
        and minor in ("*", str(device[2]))
        and access in letters
    )


def _asked_for(asked: list[dict[str, Any]], device: Device, access: str) -> bool:
    allowed = False
    for rule in asked:
        entry = (
            rule.get("type") or "a",
            _star(_number(rule.get("major"))),
            _star(_number(rule.get("minor"))),
            rule.get("access") or "rwm",
        )
        if _covers(entry, device, access):
            allowed = bool(rule.get("allow"))
    return allowed or any(_covers(_parse(line), device, access) for line in ALWAYS)


def _program(directory: str) -> str:
    """A program decides about devices in the group itself or, with systemd, in one above."""
    from ocirt import kernel

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ids = kernel.bpf_prog_query(fd, kernel.BPF_CGROUP_DEVICE, kernel.BPF_F_QUERY_EFFECTIVE)
    except OSError as error:
        return error.strerror or "error"
    finally:
        os.close(fd)
    return "a device program" if ids else "none"


SECTIONS: dict[str, Callable[[Any, Groups], Iterator[Row]]] = {
    "devices": _devices,
    "memory": _memory,
    "cpu": _cpu,
    "pids": _pids,
    "blockIO": _block_io,
    "hugepageLimits": _huge_pages,
    "network": _network,
    "rdma": _rdma,
    "unified": _unified,
}
