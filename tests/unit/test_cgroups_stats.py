"""stats from directories as the kernel would fill them, on v1 and v2, and the OOM watch."""

from __future__ import annotations

import errno
import os
import posix
import select
from pathlib import Path
from typing import Any

import pytest

from ocirt.cgroups import oom
from ocirt.cgroups import stats as module
from ocirt.cgroups.oom import Watch, report
from ocirt.cli.events import seconds
from ocirt.errors import OcirtError

V1 = {
    "cpuacct/cpuacct.usage": "3000\n",
    "cpuacct/cpuacct.usage_percpu": "1000 2000 \n",
    "cpuacct/cpuacct.usage_all": "cpu user system\n0 400 600\n1 900 1100\n",
    "cpuacct/cpuacct.stat": "user 3\nsystem 5\n",
    "cpu/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 77\nnr_bursts 1\nburst_time 5\n",
    "cpuset/cpuset.cpus": "0-1,3\n",
    "cpuset/cpuset.mems": "0\n",
    "cpuset/cpuset.cpu_exclusive": "1\n",
    "cpuset/cpuset.sched_relax_domain_level": "-1\n",
    "memory/memory.stat": "cache 512\nrss 7\n",
    "memory/memory.limit_in_bytes": "4096\n",
    "memory/memory.usage_in_bytes": "1024\n",
    "memory/memory.max_usage_in_bytes": "2048\n",
    "memory/memory.failcnt": "3\n",
    "memory/memory.kmem.usage_in_bytes": "64\n",
    "memory/memory.kmem.limit_in_bytes": "9223372036854771712\n",
    "pids/pids.current": "2\n",
    "pids/pids.max": "50\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "254:0 Read 10\n254:0 Total 10\nTotal 10\n",
    "blkio/blkio.throttle.io_serviced_recursive": "Total 0\n",
    "blkio/blkio.bfq.io_serviced_recursive": "254:0 Write 1\nTotal 1\n",
    "hugetlb/hugetlb.2MB.usage_in_bytes": "0\n",
    "hugetlb/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "hugetlb/hugetlb.2MB.failcnt": "6\n",
    "hugetlb/hugetlb.2MB.rsvd.usage_in_bytes": "5\n",
    "unified/cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n",
}
V2 = {
    "cpu.stat": "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_periods 2\nnr_throttled 1\nthrottled_usec 8\n",
    "cpu.pressure": (
        "some avg10=0.00 avg60=0.25 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    ),
    "cpuset.cpus.effective": "0-1\n",
    "cpuset.mems.effective": "0\n",
    "memory.current": "1000\n",
    "memory.max": "max\n",
    "memory.peak": "2000\n",
    "memory.stat": "anon 5\nfile 300\nkernel 40\n",
    "memory.events": "low 0\nmax 12\noom 1\noom_kill 1\n",
    "memory.swap.current": "24\n",
    "memory.swap.max": "50\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
    "io.stat": "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n",
    "hugetlb.2MB.current": "8\n",
    "hugetlb.2MB.events": "max 2\n",
    "hugetlb.2MB.rsvd.current": "1\n",
}


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)


def test_v1_is_read_under_runcs_keys(tmp_path):
    fill(tmp_path, V1)
    paths = {path.name: str(path) for path in tmp_path.iterdir()}
    paths[""] = paths.pop("unified")
    found = module.stats(paths, 1, os.getpid())
    assert found == {
        "cpu": {
            "usage": {
                "total": 3000,
                "percpu": [1000, 2000],
                "percpu_kernel": [600, 1100],
                "percpu_user": [400, 900],
                "kernel": 50000000,
                "user": 30000000,
            },
            "throttling": {"periods": 10, "throttledPeriods": 4, "throttledTime": 77},
            "burstData": {"burstsPeriods": 1, "burstTime": 5},
            "psi": {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 9}},
        },
        "cpuset": {
            "cpus": [0, 1, 3],
            "mems": [0],
            "cpu_exclusive": 1,
            "mem_hardwall": 0,
            "mem_exclusive": 0,
            "memory_migrate": 0,
            "memory_spread_page": 0,
            "memory_spread_slab": 0,
            "memory_pressure": 0,
            "sched_load_balance": 0,
            "sched_relax_domain_level": -1,
        },
        "memory": {
            "cache": 512,
            "usage": {"limit": 4096, "usage": 1024, "max": 2048, "failcnt": 3},
            "kernel": {"limit": 9223372036854771712, "usage": 64, "max": 0, "failcnt": 0},
            "raw": {"cache": 512, "rss": 7},
        },
        "pids": {"current": 2, "limit": 50},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 254, "minor": 0, "op": "Read", "value": 10},
                {"major": 254, "minor": 0, "op": "Total", "value": 10},
            ],
            "ioServicedRecursive": [{"major": 254, "minor": 0, "op": "Write", "value": 1}],
        },
        "hugetlb": {"2MB": {"usage": 0, "max": 4194304, "failcnt": 6}},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def test_v2_is_read_under_the_same_keys(tmp_path):
    fill(tmp_path, V2)
    found = module.stats({"": str(tmp_path)}, 2, os.getpid())
    none = {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0}
    assert found == {
        "cpu": {
            "usage": {"total": 9000, "kernel": 5000, "user": 4000},
            "throttling": {"periods": 2, "throttledPeriods": 1, "throttledTime": 8000},
            "psi": {"some": {"avg10": 0.0, "avg60": 0.25, "avg300": 0.0, "total": 1}, "full": none},
        },
        "cpuset": {"cpus": [0, 1], "mems": [0]},
        "memory": {
            "cache": 300,
            "usage": {"limit": 18446744073709551615, "usage": 1000, "max": 2000, "failcnt": 12},
            "swap": {"limit": 18446744073709551615, "usage": 1024, "failcnt": 0},
            "kernel": {"limit": 18446744073709551615, "usage": 40, "failcnt": 0},
            "raw": {"anon": 5, "file": 300, "kernel": 40},
        },
        "pids": {"current": 3},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 254, "minor": 0, "op": "Read", "value": 1},
                {"major": 254, "minor": 0, "op": "Write", "value": 2},
                {"major": 254, "minor": 0, "op": "Discard", "value": 5},
                {"major": 254, "minor": 0, "op": "Total", "value": 3},
            ],
            "ioServicedRecursive": [
                {"major": 254, "minor": 0, "op": "Read", "value": 3},
                {"major": 254, "minor": 0, "op": "Write", "value": 4},
                {"major": 254, "minor": 0, "op": "Discard", "value": 6},
                {"major": 254, "minor": 0, "op": "Total", "value": 7},
            ],
        },
        "hugetlb": {"2MB": {"usage": 8, "failcnt": 2}},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def test_the_limit_of_memory_and_swap_is_their_sum_on_v2(tmp_path):
    fill(tmp_path, {**V2, "memory.max": "2000\n"})
    found = module.stats({"": str(tmp_path)}, 2, os.getpid())
    assert found["memory"]["swap"]["limit"] == 2050


@pytest.mark.parametrize(("paths", "version"), [({}, 2), ({"": "/nowhere"}, 1), ({"": "/nowhere"}, 2)])
def test_where_nothing_is_told_the_keys_are_there(paths, version):
    found = module.stats(paths, version, os.getpid())
    names = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"]
    assert list(found) == names


# Out of memory


def test_v2_tells_a_kill_by_its_counter(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("oom 0\noom_kill 1\n")
    watch = Watch({"": str(tmp_path)}, 2)
    try:
        assert watch.event == select.POLLPRI
        assert not watch.happened()  # that one was before
        events.write_text("oom 3\noom_kill 1\n")
        assert not watch.happened()
        events.write_text("oom 3\noom_kill 2\n")
        assert watch.happened()
        assert not watch.happened()
    finally:
        watch.close()


class Gone:
    """posix where a group that was there is gone."""

    def __init__(self) -> None:
        self.is_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(posix, name)

    def pread(self, *words: Any) -> bytes:
        if self.is_gone:
            raise OSError(errno.ENODEV, "No such device")
        return posix.pread(*words)


@pytest.mark.parametrize(
    ("counts", "told", "unread"),
    [
        ("max 4\noom_kill 0\n", False, False),
        ("max 5\noom_kill 0\n", False, True),  # the limit was reached, and the kill is told of too late
        ("max 4\noom_kill 0\n", True, True),
    ],
)
def test_a_group_that_is_gone_with_its_count_leaves_what_was_seen_before(
    tmp_path, monkeypatch, counts, told, unread
):
    kernel = Gone()
    monkeypatch.setattr(oom, "posix", kernel)
    events = tmp_path / "memory.events"
    events.write_text("max 4\noom_kill 0\n")
    watch = Watch({"": str(tmp_path)}, 2)
    events.write_text(counts)
    assert not watch.happened()
    kernel.is_gone = True
    assert not watch.happened(told)
    assert watch.unread == unread
    assert watch.fd == -1


def test_v1_registers_an_eventfd_for_the_oom_control_file(tmp_path):
    (tmp_path / "memory.oom_control").write_text("")
    (tmp_path / "cgroup.event_control").write_text("")
    watch = Watch({"memory": str(tmp_path)}, 1)
    try:
        assert (tmp_path / "cgroup.event_control").read_text().split()[0] == str(watch.fd)
        assert not watch.happened()
        os.eventfd_write(watch.fd, 1)
        assert watch.happened()
        os.eventfd_write(watch.fd, 1)
        (tmp_path / "memory.oom_control").unlink()  # it is also written to when the group goes
        assert not watch.happened()
        os.eventfd_write(watch.fd, 1)
        os.eventfd_write(watch.fd, 1)
        assert watch.happened()  # both
    finally:
        watch.close()


@pytest.mark.parametrize(("paths", "version"), [({}, 2), ({"pids": "/x"}, 1), ({"": "/nowhere"}, 2)])
def test_what_cannot_be_watched_is_not(paths, version):
    assert Watch(paths, version).fd == -1


@pytest.mark.parametrize(
    ("kills", "resources", "told"),
    [
        (1, {"memory": {"limit": 5}}, ["killed one process (the limit of 5 bytes was reached)"]),
        (3, None, ["killed 3 processes (a limit above the container's or the host's memory was reached)"]),
    ],
)
def test_a_kill_is_told_with_the_limit(kills, resources, told):
    lines = report(kills, resources)
    assert [line.partition("the kernel ")[2] for line in lines] == told


# The command line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5s", 5.0),
        ("100ms", 0.1),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("250us", 0.00025),
    ],
)
def test_durations_are_gos(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "s", "5x", "-5s", "1..5s", ".s", "5 s", "5s5"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(OcirtError, match="for flag -interval"):
        seconds(text)
