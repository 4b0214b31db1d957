"""linux.resources: one table from fields to cgroup files and systemd properties.

A row is (name, v1 file, v2 file, systemd property, conversion) below its section of
linux.resources; the controller is the file name's first word. In the file columns

    a|b     the first of these files that exists; the conversion then gives a text for each
    ?file   the file may be missing if what was asked for holds without it ("-1", "max", "0")
    *       is replaced by the key of each (key, text) pair that the conversion gives
    !why    this version cannot do it: Unsupported
    -why    the field is left alone, as runc does, and `ocirt plan` says why

A systemd property is "for v1|for v2" or one name for both, with its D-Bus signature.
A conversion is called as convert(value, section, version) and gives None when there is nothing to
write. As in runc, 0 and absence mean the same for most limits, and -1 is no limit.
"""

from __future__ import annotations

from ocirt.errors import SpecError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Text = str | tuple[str, ...]
    Write = tuple[str, str, Text]  # field, file name with its marks, text

FIELD = "linux.resources"
MEMORY = "config-linux.md, Memory"
UNLIMITED = (1 << 63) - 1
DEFAULT_PERIOD_US = 100_000


# Older documents

BEFORE_1_3 = ("1.0.", "1.1.", "1.2.")


def read_as_written(spec: dict[str, Any]) -> dict[str, Any]:
    """A valid document without a pids.limit of 0 from before runtime-spec 1.3, where it was no limit.

    podman writes it for --pids-limit=-1, CRI-O for none. Now it is one (config-linux.md, PIDs).
    """
    linux = spec.get("linux") or {}
    resources = linux.get("resources") or {}
    version = spec.get("ociVersion") or ""
    if (resources.get("pids") or {}).get("limit") != 0 or not version.startswith(BEFORE_1_3):
        return spec
    others = {name: value for name, value in resources.items() if name != "pids"}
    return {**spec, "linux": {**linux, "resources": others}}


# Conversions


def limit(value: int | None, _section: Any, version: int) -> str | None:
    """0 is not set, anything below is no limit."""
    if not value:
        return None
    if value < 0:
        return "max" if version == 2 else "-1"
    return str(value)


def tasks_limit(value: int | None, _section: Any, _version: int) -> str | None:
    """0 is a limit (config-linux.md, PIDs): no fork, as with 1, which is what systemd takes."""
    if value is None:
        return None
    return "max" if value < 0 else str(value or 1)


def positive(value: int | None, _section: Any, _version: int) -> str | None:
    return str(value) if value else None


def given(value: int | None, _section: Any, _version: int) -> str | None:
    """0 is a value as good as any other."""
    return None if value is None else str(value)


def text(value: str | None, _section: Any, _version: int) -> str | None:
    return value or None


def flag(value: bool | None, _section: Any, _version: int) -> str | None:
    return "1" if value else None


def swap_limit(value: int | None, memory: dict[str, Any], version: int) -> str | None:
    """memory.swap counts memory and swap together; cgroup v2 limits the part above memory."""
    total = value or 0
    size = memory.get("limit") or 0
    if size < 0 and not total:
        total = -1  # no memory limit, and swap was not mentioned: none for both
    if not total:
        return None
    if version == 1:
        return "-1" if total < 0 else str(total)
    if total < 0:
        return "max"
    if size <= 0:
        raise SpecError(f"{FIELD}.memory.swap", "needs memory.limit as well: it is the sum of both", MEMORY)
    if total < size:
        raise SpecError(f"{FIELD}.memory.swap", f"{total} is less than memory.limit, {size}", MEMORY)
    return str(total - size)


def swappiness(value: int | None, _section: Any, _version: int) -> str | None:
    if value is None or value < 0 or value > UNLIMITED:  # -1, also as an unsigned number
        return None
    if value > 100:
        raise SpecError(f"{FIELD}.memory.swappiness", f"{value} is not in 0 to 100", MEMORY)
    return str(value)


def shares(value: int | None, _section: Any, version: int) -> str | None:
    """cpu.shares of v1 (2 to 262144, 1024 is usual) or cpu.weight of v2 (1 to 10000, 100 is usual)."""
    if not value:
        return None
    if version == 2:
        return str(weight_of_shares(value))
    for bad, word, edge in ((value < 2, "minimum", 2), (value > 262144, "maximum", 262144)):
        if bad:
            raise SpecError(f"{FIELD}.cpu.shares", f"the {word} allowed cpu-shares is {edge}")
    return str(value)


def weight_of_shares(value: int) -> int:
    """Least, usual and greatest shares are the same of weight: a curve through these three."""
    if value <= 2:
        return 1
    if value >= 262144:
        return 10000
    from math import ceil, log2

    power = log2(value)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def quota(value: int | None, cpu: dict[str, Any], version: int) -> str | None:
    if version == 1:
        return str(value) if value else None
    period = cpu.get("period") or 0
    if not value and not period:
        return None
    first = str(value) if value and value > 0 else "max"
    return f"{first} {period or DEFAULT_PERIOD_US}"


def period_v1(value: int | None, _section: Any, version: int) -> str | None:
    return str(value) if value and version == 1 else None  # v2: a part of cpu.max


def blkio_weight(value: int | None, _section: Any, version: int) -> Text | None:
    """10 to 1000. io.weight takes 1 to 10000; BFQ's file keeps the old scale."""
    if not value:
        return None
    return (str(value), str(value) if version == 1 else str(io_weight(value)))


def io_weight(value: int) -> int:
    """10 to 1000 as 1 to 10000; BFQ also has 1 to 9."""
    return max(1, 1 + (value - 10) * 9999 // 990)


def device_weights(value: list[dict[str, Any]] | None, _section: Any, version: int) -> Text | None:
    old, new = [], []
    for entry in value or ():
        if weight := entry.get("weight"):
            device = f"{entry['major']}:{entry['minor']}"
            old.append(f"{device} {weight}")
            new.append(f"{device} {weight if version == 1 else io_weight(weight)}")
    return ("\n".join(old), "\n".join(new)) if old else None


def device_leaf_weights(value: list[dict[str, Any]] | None, _section: Any, _version: int) -> str | None:
    """leafWeight is a key of weightDevice's entries that has a file of its own."""
    lines = [f"{e['major']}:{e['minor']} {e['leafWeight']}" for e in value or () if e.get("leafWeight")]
    return "\n".join(lines) or None


def throttle(key: str) -> Any:
    """Lines MAJOR:MINOR RATE for v1, MAJOR:MINOR key=RATE for io.max; 0 takes a limit away."""

    def convert(value: list[dict[str, Any]] | None, _section: Any, version: int) -> str | None:
        lines = []
        for entry in value or ():
            rate = entry.get("rate") or 0
            right = str(rate) if version == 1 else f"{key}={rate or 'max'}"
            lines.append(f"{entry['major']}:{entry['minor']} {right}")
        return "\n".join(lines) or None

    return convert


def huge_pages(value: list[dict[str, Any]], _section: Any, _version: int) -> list[tuple[str, str]]:
    """(page size, limit): 0 is a limit."""
    return [(entry["pageSize"], str(entry["limit"])) for entry in value]


def priorities(value: list[dict[str, Any]] | None, _section: Any, _version: int) -> str | None:
    return "\n".join(f"{entry['name']} {entry['priority']}" for entry in value or ()) or None


def rdma(value: dict[str, dict[str, Any]], _section: Any, _version: int) -> str | None:
    lines = []
    for device, limits in value.items():
        words = [
            f"{key}={limits[name]}"
            for name, key in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(name) is not None
        ]
        if words:
            lines.append(" ".join((device, *words)))
    return "\n".join(lines) or None


OURS = frozenset(
    f"cgroup.{name}" for name in ("freeze", "kill", "procs", "subtree_control", "threads", "type")
)


def unified(value: dict[str, str], _section: Any, _version: int) -> list[tuple[str, str]]:
    for name in value:
        reason = ""
        if "/" in name or "." not in name.lstrip("."):
            reason = "is not the name of a cgroup file"
        elif name in OURS:
            reason = "is no limit: by this file the runtime itself makes and ends the container"
        if reason:
            raise SpecError(f"{FIELD}.unified.{name}", reason, "config-linux.md, Unified")
    return list(value.items())


_OOM = "cgroup v2 cannot switch the OOM killer off"
_SWAPPINESS = "cgroup v2 has no swappiness of one cgroup"
_REALTIME = "cgroup v2 has no realtime bandwidth"
_LEAF = "cgroup v2 has no leaf weight"
_NETWORK = "cgroup v2 has no network controllers; filter by cgroup with nftables instead"
_KERNEL = "-no kernel since 5.16 limits kernel memory apart"
_TCP = "-cgroup v2 counts the buffers of TCP as part of memory.limit"
_HIERARCHY = "-memory is always accounted hierarchically since Linux 5.11"
_CHECK = "-read when memory.limit is written; v1's kernel always checks"

TABLE: dict[str, tuple[tuple[str, str, str, str, Any], ...]] = {
    "memory": (
        ("limit", "memory.limit_in_bytes", "memory.max", "MemoryLimit|MemoryMax t", limit),
        ("swap", "?memory.memsw.limit_in_bytes", "?memory.swap.max", "|MemorySwapMax t", swap_limit),
        ("reservation", "memory.soft_limit_in_bytes", "memory.low", "|MemoryLow t", limit),
        ("swappiness", "memory.swappiness", f"!{_SWAPPINESS}", "", swappiness),
        ("disableOOMKiller", "memory.oom_control", f"!{_OOM}", "", flag),
        ("kernel", _KERNEL, _KERNEL, "", positive),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", _TCP, "", limit),
        ("useHierarchy", _HIERARCHY, _HIERARCHY, "", given),
        ("checkBeforeUpdate", _CHECK, _CHECK, "", flag),
    ),
    "cpu": (
        ("shares", "cpu.shares", "cpu.weight", "CPUShares|CPUWeight t", shares),
        ("idle", "?cpu.idle", "?cpu.idle", "|CPUWeight t", given),  # an idle group takes no shares any more
        ("period", "cpu.cfs_period_us", "cpu.max", "CPUQuotaPeriodUSec t", period_v1),
        ("quota", "cpu.cfs_quota_us", "cpu.max", "CPUQuotaPerSecUSec t", quota),
        ("burst", "?cpu.cfs_burst_us", "?cpu.max.burst", "", given),
        ("realtimePeriod", "cpu.rt_period_us", f"!{_REALTIME}", "", positive),
        ("realtimeRuntime", "cpu.rt_runtime_us", f"!{_REALTIME}", "", positive),
        ("cpus", "cpuset.cpus", "cpuset.cpus", "AllowedCPUs ay", text),
        ("mems", "cpuset.mems", "cpuset.mems", "AllowedMemoryNodes ay", text),
    ),
    "pids": (("limit", "pids.max", "pids.max", "TasksMax t", tasks_limit),),
    "blockIO": (
        (
            "weight",
            "blkio.weight|blkio.bfq.weight",
            "io.bfq.weight|io.weight",
            "BlockIOWeight|IOWeight t",
            blkio_weight,
        ),
        ("leafWeight", "blkio.leaf_weight", f"!{_LEAF}", "", positive),
        (
            "weightDevice",
            "blkio.weight_device|blkio.bfq.weight_device",
            "io.bfq.weight|io.weight",
            "BlockIODeviceWeight|IODeviceWeight a(st)",
            device_weights,
        ),
        ("weightDevice", "blkio.leaf_weight_device", f"!{_LEAF}", "", device_leaf_weights),
        (
            "throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "io.max",
            "BlockIOReadBandwidth|IOReadBandwidthMax a(st)",
            throttle("rbps"),
        ),
        (
            "throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "io.max",
            "BlockIOWriteBandwidth|IOWriteBandwidthMax a(st)",
            throttle("wbps"),
        ),
        (
            "throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "io.max",
            "|IOReadIOPSMax a(st)",
            throttle("riops"),
        ),
        (
            "throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "io.max",
            "|IOWriteIOPSMax a(st)",
            throttle("wiops"),
        ),
    ),
    "hugepageLimits": (
        ("", "hugetlb.*.limit_in_bytes", "hugetlb.*.max", "", huge_pages),
        ("", "?hugetlb.*.rsvd.limit_in_bytes", "?hugetlb.*.rsvd.max", "", huge_pages),
    ),
    "network": (
        ("classID", "net_cls.classid", f"!{_NETWORK}", "", positive),
        ("priorities", "net_prio.ifpriomap", f"!{_NETWORK}", "", priorities),
    ),
    "rdma": (("", "rdma.max", "rdma.max", "", rdma),),
    "unified": (("", "!this host has cgroup v1, which has other files", "*", "", unified),),
}


def writes(resources: dict[str, Any], version: int, field: str = FIELD) -> list[Write]:
    """What to write for linux.resources, in this order; devices are not here, see `devices`.

    Raises SpecError for a value that cannot be, Unsupported for what this version cannot do.
    """
    result: list[Write] = []
    column = version  # 1 and 2 are also the columns
    for section, rows in TABLE.items():
        values = resources.get(section)
        if not values:
            continue
        for row in rows:
            name = row[0]
            value = row[4](values.get(name) if name else values, values, version)
            if not value:
                continue
            file = row[column]
            where = f"{field}.{section}.{name}" if name else f"{field}.{section}"
            if file[0] == "!":
                raise Unsupported(where, file[1:])
            if file[0] == "-":
                continue
            if type(value) is list:
                result += [(f"{where}.{key}", file.replace("*", key), line) for key, line in value]
            else:
                result.append((where, file, value))
    return result


def left_alone(resources: dict[str, Any], version: int, field: str = FIELD) -> Iterator[tuple[str, str]]:
    """(field, reason) for what was asked for and is not applied."""
    for section, rows in TABLE.items():
        values = resources.get(section) or {}
        for row in rows if values else ():
            if row[version][0] == "-" and row[4](values.get(row[0]), values, version):
                yield f"{field}.{section}.{row[0]}", row[version][1:]


def is_harmless(file: str, value: Text) -> bool:
    """May the file be missing? Then what was asked for is in force without it."""
    return file[0] == "?" and (value in ("-1", "max", "0") or ".rsvd." in file)


# systemd


def properties(resources: dict[str, Any], version: int) -> list[tuple[str, str, str, Any]]:
    """(field, property, D-Bus signature, value) for what systemd knows of linux.resources.

    What it does not know has to be written to the files as well, by apply().
    """
    result: list[tuple[str, str, str, Any]] = []
    for section, rows in TABLE.items():
        values = resources.get(section) or {}
        for name, _v1, _v2, column, convert in rows if values else ():
            names, _, signature = column.partition(" ")
            words = names.split("|")
            wanted = words[version - 1 if len(words) > 1 else 0]
            if not wanted:
                continue
            value = _property_value(wanted, values, name, convert, version)
            if value is not None:
                result.append((f"{FIELD}.{section}.{name}", wanted, signature, value))
    if version == 2 and resources.get("unified"):
        result += _unified_properties(resources["unified"])
    return result


UNIFIED_PROPERTIES = {
    "cpu.weight": "CPUWeight",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}


def _unified_properties(files: dict[str, str]) -> list[tuple[str, str, str, Any]]:
    """What systemd knows of the files that are written by name; it would write its own values else."""
    result: list[tuple[str, str, str, Any]] = []
    for name, content in files.items():
        field, value = f"{FIELD}.unified.{name}", content.strip()
        if name in UNIFIED_PROPERTIES and (value == "max" or is_decimal(value)):
            number = INFINITY if value == "max" else int(value)
            if name == "pids.max":
                number = number or 1  # systemd has no 0
            result.append((field, UNIFIED_PROPERTIES[name], "t", number))
        elif name == "cpu.max":
            allowed, _, period = value.partition(" ")
            if (allowed == "max" or is_decimal(allowed)) and (not period or is_decimal(period)):
                per_second = _quota_per_second(-1 if allowed == "max" else int(allowed), int(period or 0))
                result.append((field, "CPUQuotaPeriodUSec", "t", int(period or DEFAULT_PERIOD_US)))
                result.append((field, "CPUQuotaPerSecUSec", "t", per_second))
        elif name in ("cpuset.cpus", "cpuset.mems") and value:
            wanted = "AllowedCPUs" if name == "cpuset.cpus" else "AllowedMemoryNodes"
            result.append((field, wanted, "ay", cpu_mask(value, field)))
    return result


def is_decimal(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 20


def _property_value(wanted: str, section: dict[str, Any], name: str, convert: Any, version: int) -> Any:
    value = section.get(name)
    if name == "idle":  # to systemd a weight of its own; not idle is the weight that there was
        usual = weight_of_shares(section["shares"]) if section.get("shares") else INFINITY
        return None if value is None else IDLE_WEIGHT if value else usual
    if wanted == "CPUQuotaPeriodUSec":
        return value or None
    if wanted == "CPUQuotaPerSecUSec":
        return _quota_per_second(value or 0, section.get("period") or 0)
    written = convert(value, section, version)
    if written is None:
        return None
    if type(value) is list:
        return _device_values(value, version)
    if wanted in ("AllowedCPUs", "AllowedMemoryNodes"):
        return cpu_mask(written, f"{FIELD}.cpu.{name}")
    if type(written) is tuple:
        written = written[-1]
    return INFINITY if written in ("max", "-1") else int(written)


INFINITY = (1 << 64) - 1
IDLE_WEIGHT = 0  # systemd 252


def _device_values(entries: list[dict[str, Any]], version: int) -> list[tuple[str, int]]:
    """(node, weight or rate): systemd finds the device by a path, which udev makes of its numbers."""
    values = []
    for entry in entries:
        node = f"/dev/block/{entry['major']}:{entry['minor']}"
        if "rate" in entry:
            values.append((node, entry["rate"] or INFINITY))
        elif weight := entry.get("weight"):
            values.append((node, weight if version == 1 else io_weight(weight)))
    return values


def _quota_per_second(quota_us: int, period_us: int) -> int | None:
    """systemd keeps whole percents of a CPU: rounded up, so that the file can get what was asked."""
    if not quota_us and not period_us:
        return None
    if quota_us <= 0:
        return INFINITY
    per_second = quota_us * 1_000_000 // (period_us or DEFAULT_PERIOD_US)
    return -(-per_second // 10_000) * 10_000


def cpu_mask(ranges: str, field: str) -> bytes:
    """ "0-2,7" as bits, the lowest first, as systemd wants it."""
    mask = 0
    for part in ranges.split(","):
        first, _, last = part.strip().partition("-")
        if not part.strip():
            continue
        if not first.isdigit() or (last and not last.isdigit()) or int(last or first) > 65535:
            raise SpecError(field, f"{ranges!r} is not a list of numbers and ranges")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    return mask.to_bytes((mask.bit_length() + 7) // 8 or 1, "little")
