"""What a container uses, under the keys of `runc events`: read from its groups, once for each call.

On v1 each controller has its directory; v2 has one, and a hybrid host both: pressure and, where v1
has not mounted it, hugetlb come from there. What the kernel does not tell is left out.
"""

from __future__ import annotations

import posix

from ocirt.cgroups.files import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX = (1 << 64) - 1  # no limit on v2
TICK_NS = 10_000_000  # cpuacct.stat counts in hundredths of a second (USER_HZ)
USEC_NS = 1000
FLAGS = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)
BLKIO = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
)
IO_STAT = (
    ("ioServiceBytesRecursive", (("Read", "rbytes"), ("Write", "wbytes"), ("Discard", "dbytes"))),
    ("ioServicedRecursive", (("Read", "rios"), ("Write", "wios"), ("Discard", "dios"))),
)
NET_FIELDS = (  # columns of /proc/net/dev
    ("RxBytes", 0),
    ("RxPackets", 1),
    ("RxErrors", 2),
    ("RxDropped", 3),
    ("TxBytes", 8),
    ("TxPackets", 9),
    ("TxErrors", 10),
    ("TxDropped", 11),
)


def stats(paths: dict[str, str], version: int, pid: int) -> dict[str, Any]:
    """cpu in nanoseconds, memory in bytes. paths: controller to directory, "" for cgroup2.

    pid: a process in the container's network namespace.
    """
    v2 = paths.get("", "")
    found = _cgroup2(v2) if version == 2 else _cgroup1(paths)
    for section, name in (("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")):
        if pressure := _pressure(f"{v2}/{name}.pressure") if v2 else None:
            found[section]["psi"] = pressure
    found["hugetlb"] = _huge_pages(paths.get("hugetlb") or v2)
    found["intel_rdt"] = {}  # events fills it in for a container with linux.intelRdt
    found["network_interfaces"] = _interfaces(pid)
    return found


# cgroup v1


def _cgroup1(paths: dict[str, str]) -> dict[str, Any]:
    return {
        "cpu": _cpu_v1(paths.get("cpuacct"), paths.get("cpu")),
        "cpuset": _cpuset_v1(paths.get("cpuset")),
        "memory": _memory_v1(paths.get("memory")),
        "pids": _pids(paths.get("pids")),
        "blkio": _blkio_v1(paths.get("blkio")),
    }


def _cpu_v1(accounts: str | None, cpu: str | None) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    if accounts:
        usage["total"] = _number(f"{accounts}/cpuacct.usage")
        usage["percpu"] = [int(word) for word in read_text(f"{accounts}/cpuacct.usage_percpu").split()]
        rows = [line.split() for line in read_text(f"{accounts}/cpuacct.usage_all").splitlines()[1:]]
        usage["percpu_kernel"] = [int(row[2]) for row in rows]
        usage["percpu_user"] = [int(row[1]) for row in rows]
        ticks = _flat(f"{accounts}/cpuacct.stat")
        usage["kernel"] = ticks.get("system", 0) * TICK_NS
        usage["user"] = ticks.get("user", 0) * TICK_NS
    return {"usage": usage, **_throttling(_flat(f"{cpu}/cpu.stat") if cpu else {}, "throttled_time", 1)}


def _throttling(stat: dict[str, int], time: str, unit_ns: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "throttling": {
            "periods": stat.get("nr_periods", 0),
            "throttledPeriods": stat.get("nr_throttled", 0),
            "throttledTime": stat.get(time, 0) * unit_ns,
        }
    }
    if "nr_bursts" in stat:
        found["burstData"] = {
            "burstsPeriods": stat["nr_bursts"],
            "burstTime": stat.get("burst_time", stat.get("burst_usec", 0) * USEC_NS),
        }
    return found


def _cpuset_v1(cpuset: str | None) -> dict[str, Any]:
    if not cpuset:
        return {}
    found: dict[str, Any] = {"cpus": _ranges(read_text(f"{cpuset}/cpuset.cpus"))}
    found["mems"] = _ranges(read_text(f"{cpuset}/cpuset.mems"))
    return {**found, **{name: _number(f"{cpuset}/cpuset.{name}") for name in FLAGS}}


def _memory_v1(memory: str | None) -> dict[str, Any]:
    if not memory:
        return {}
    raw = _flat(f"{memory}/memory.stat")
    found: dict[str, Any] = {"cache": raw.get("cache", 0)}
    for key, prefix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        start = f"{memory}/memory.{prefix}"
        if read_text(f"{start}usage_in_bytes"):
            found[key] = {
                "limit": _number(f"{start}limit_in_bytes"),
                "usage": _number(f"{start}usage_in_bytes"),
                "max": _number(f"{start}max_usage_in_bytes"),
                "failcnt": _number(f"{start}failcnt"),
            }
    return {**found, "raw": raw}


def _blkio_v1(blkio: str | None) -> dict[str, Any]:
    """Counted by the BFQ scheduler where it is at work, else by the throttling code."""
    found: dict[str, Any] = {}
    for key, name in BLKIO if blkio else ():
        entries = _blkio_entries(f"{blkio}/blkio.bfq.{name}")
        found[key] = entries or _blkio_entries(f"{blkio}/blkio.throttle.{name}")
    return found


def _blkio_entries(path: str) -> list[dict[str, Any]]:
    """Lines MAJOR:MINOR OPERATION COUNT; the last line is the sum of all devices."""
    entries = []
    for words in map(str.split, read_text(path).splitlines()):
        if len(words) == 3:
            entries.append(_entry(words[0], words[1], int(words[2])))
    return entries


def _entry(device: str, operation: str, value: int) -> dict[str, Any]:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": value}


# cgroup v2


def _cgroup2(group: str) -> dict[str, Any]:
    if not group:  # no cgroup of its own
        return {"cpu": {}, "cpuset": {}, "memory": {}, "pids": {}, "blkio": {}}
    return {
        "cpu": _cpu_v2(_flat(f"{group}/cpu.stat")),
        "cpuset": _cpuset_v2(group),
        "memory": _memory_v2(group),
        "pids": _pids(group),
        "blkio": _io_v2(read_text(f"{group}/io.stat")),
    }


def _cpu_v2(stat: dict[str, int]) -> dict[str, Any]:
    usage = {
        "total": stat.get("usage_usec", 0) * USEC_NS,
        "kernel": stat.get("system_usec", 0) * USEC_NS,
        "user": stat.get("user_usec", 0) * USEC_NS,
    }
    return {"usage": usage, **_throttling(stat, "throttled_usec", USEC_NS)}


def _cpuset_v2(group: str) -> dict[str, Any]:
    files = {name: read_text(f"{group}/cpuset.{name}.effective") for name in ("cpus", "mems")}
    return {name: _ranges(text) for name, text in files.items() if text}


def _memory_v2(group: str) -> dict[str, Any]:
    """swap counts memory as well, as on v1: runc has it so."""
    current = read_text(f"{group}/memory.current")
    if not current:
        return {}
    raw = _flat(f"{group}/memory.stat")
    events = _flat(f"{group}/memory.events")
    usage = {
        "limit": _number(f"{group}/memory.max"),
        "usage": int(current),
        "max": _number(f"{group}/memory.peak"),
        "failcnt": events.get("max", 0),
    }
    found = {"cache": raw.get("file", 0), "usage": usage}
    if swapped := read_text(f"{group}/memory.swap.current"):
        limit = _number(f"{group}/memory.swap.max")
        both = MAX if MAX in (limit, usage["limit"]) else limit + usage["limit"]
        found["swap"] = {"limit": both, "usage": int(swapped) + int(current), "failcnt": 0}
    if "kernel" in raw:
        found["kernel"] = {"limit": MAX, "usage": raw["kernel"], "failcnt": 0}
    return {**found, "raw": raw}


def _io_v2(text: str) -> dict[str, Any]:
    """Lines MAJOR:MINOR rbytes=… wbytes=… rios=… wios=… dbytes=… dios=…"""
    found: dict[str, Any] = {key: [] for key, _ in IO_STAT}
    for line in text.splitlines():
        device, *words = line.split()
        counts = dict(word.split("=", 1) for word in words if "=" in word)
        for key, operations in IO_STAT:
            values = [(name, int(counts[file])) for name, file in operations if file in counts]
            found[key] += [_entry(device, name, value) for name, value in values]
            if values:
                total = sum(value for name, value in values if name != "Discard")
                found[key].append(_entry(device, "Total", total))
    return found


# Both


def _pids(pids: str | None) -> dict[str, Any]:
    if not pids or not read_text(f"{pids}/pids.current"):
        return {}
    limit = read_text(f"{pids}/pids.max")
    found = {"current": _number(f"{pids}/pids.current")}
    return found if limit in ("max", "") else {**found, "limit": int(limit)}


def _huge_pages(group: str) -> dict[str, Any]:
    """By page size, such as 2MB."""
    try:
        names = posix.listdir(group) if group else []
    except FileNotFoundError:
        return {}
    found = {}
    for name in sorted(names):
        words = name.split(".")
        if len(words) != 3 or words[0] != "hugetlb":
            continue
        start = f"{group}/hugetlb.{words[1]}"
        if words[2] == "usage_in_bytes":
            most, failed = _number(f"{start}.max_usage_in_bytes"), _number(f"{start}.failcnt")
            found[words[1]] = {"usage": _number(f"{group}/{name}"), "max": most, "failcnt": failed}
        elif words[2] == "current":
            failed = _flat(f"{start}.events").get("max", 0)
            found[words[1]] = {"usage": _number(f"{group}/{name}"), "failcnt": failed}
    return found


def _pressure(path: str) -> dict[str, Any] | None:
    """PSI: the share of time in which some, or all, waited. None where the kernel does not count it."""
    try:
        text = read_text(path)
    except OSError:  # EOPNOTSUPP: switched off
        return None
    found: dict[str, Any] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        averages = {name: float(values[name]) for name in ("avg10", "avg60", "avg300")}
        found[kind] = {**averages, "total": int(values["total"])}
    return found or None


def _interfaces(pid: int) -> list[dict[str, Any]] | None:
    """Counters of the container's own network namespace; None when it has the runtime's."""
    from ocirt.procfs import read

    try:
        if posix.readlink(f"/proc/{pid}/ns/net") == posix.readlink("/proc/self/ns/net"):
            return None
        lines = read(f"/proc/{pid}/net/dev").decode("utf-8", "replace").splitlines()[2:]
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has just ended
    return list(_interface_rows(lines))


def _interface_rows(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        name, _, rest = line.partition(":")
        counts = rest.split()
        yield {"Name": name.strip(), **{key: int(counts[column]) for key, column in NET_FIELDS}}


def _number(path: str) -> int:
    """A file with one number; "max" is the largest, a missing file 0."""
    text = read_text(path).strip()
    return MAX if text == "max" else int(text or 0)


def _flat(path: str) -> dict[str, int]:
    """A file with lines NAME NUMBER."""
    found = {}
    for line in read_text(path).splitlines():
        name, _, number = line.partition(" ")
        if number.isdigit():
            found[name] = int(number)
    return found


def _ranges(text: str) -> list[int]:
    """ "0-2,7" as numbers."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
