"""The limits of cgroup v1 by what they do, as far as this machine has their controllers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle
from tests.lib.declared import missing
from tests.lib.runtime import Runtime, end
from tests.system.test_cgroups import group_of, limited

pytestmark = pytest.mark.root

MiB = 1 << 20


def disk_of(path: Path) -> tuple[int, int]:
    """Numbers of the whole disk that a directory is on."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not entry.exists():
        missing(f"{path} is not on a disk")
    if (entry / "partition").exists():
        entry = entry.resolve().parent
    major, _, minor = (entry / "dev").read_text().strip().partition(":")
    return int(major), int(minor)


def wait_until(true: Any, what: str) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize("limit", ["throttleWriteBpsDevice", "throttleWriteIOPSDevice"])
def test_what_is_written_to_a_throttled_disk_waits_until_the_limit_is_raised(
    runtime: Runtime, bundle: Bundle, limit: str
) -> None:
    major, minor = disk_of(bundle.rootfs)
    device = {"major": major, "minor": minor, "rate": 1}
    script = "dd if=/dev/zero of=/tmp/out bs=64k count=8 oflag=direct && sync && echo all > /tmp/written"
    limited(bundle, blockIO={limit: [device]}).sh(script).write()
    container = runtime.new_id()
    words = runtime.command("run", "--bundle", bundle.path, container)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until((bundle.rootfs / "tmp/out").exists, "dd has begun")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        assert not (bundle.rootfs / "tmp/written").exists()
        asked = {"blockIO": {limit: [{**device, "rate": 0}]}}
        runtime("update", "--resources", "-", container, input=json.dumps(asked), check=True)
        assert process.wait(60) == 0
        assert (bundle.rootfs / "tmp/written").read_text() == "all\n"
    finally:
        end(process)


def test_without_the_oom_killer_a_process_waits_for_memory(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, memory={"limit": 32 * MiB, "swap": 32 * MiB, "disableOOMKiller": True})
    bundle.args("/bin/probe", "alloc", str(48 * MiB)).write()
    container = runtime.new_id()
    words = runtime.command("run", "--bundle", bundle.path, container)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: runtime("state", container).returncode == 0, "it is there")
        pid = runtime.wait_for_status(container, "running")["pid"]
        control = group_of(pid, "memory") / "memory.oom_control"
        if not control.exists():
            missing("cgroup v2 has no such setting")
        wait_until(lambda: "under_oom 1" in control.read_text(), "it needs more than it may have")
        assert process.poll() is None
        asked = {"memory": {"limit": 64 * MiB, "swap": 64 * MiB}}
        runtime("update", "-r", "-", container, input=json.dumps(asked), check=True)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert f"alloc {48 * MiB}\tok" in out
    finally:
        end(process)


ROWS: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    ({"memory": {"reservation": 8 * MiB}}, "memory", {"memory.soft_limit_in_bytes": "8388608"}),
    ({"memory": {"swappiness": 7}}, "memory", {"memory.swappiness": "7"}),
    ({"memory": {"kernelTCP": 4 * MiB}}, "memory", {"memory.kmem.tcp.limit_in_bytes": "4194304"}),
    (
        {"cpu": {"idle": 1, "shares": 512}},
        "cpu",
        {"cpu.idle": "1", "cpu.shares": "3"},
    ),  # what idle makes of it
    (
        {"cpu": {"quota": 20000, "period": 50000, "burst": 1000}},
        "cpu",
        {"cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "50000", "cpu.cfs_burst_us": "1000"},
    ),
    (
        {"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 500000}},
        "cpu",
        {"cpu.rt_runtime_us": "1000", "cpu.rt_period_us": "500000"},
    ),
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MiB}]}, "", {"hugetlb.2MB.max": "4194304"}),
]


@pytest.mark.parametrize(
    ("resources", "controller", "files"), ROWS, ids=[json.dumps(row[0])[:60] for row in ROWS]
)
def test_files_hold_what_was_asked_for_and_verify_agrees(
    runtime: Runtime, bundle: Bundle, resources: dict, controller: str, files: dict[str, str]
) -> None:
    container = runtime.start_bundle(limited(bundle, **resources).args("/bin/sleep", "60"))
    group = group_of(runtime.state(container)["pid"], controller)
    for name, text in files.items():
        if not (group / name).exists():
            missing(f"{group}/{name} does not exist")
        assert (group / name).read_text().strip() == text, name
    rows = json.loads(runtime("verify", "--json", container).stdout)
    found = [row for row in rows if row["field"].startswith("linux.resources.")]
    assert found
    assert [row for row in found if not row["ok"]] == []


@pytest.fixture
def six_huge_pages() -> Iterator[None]:
    """More than there are now, which a test may use."""
    file = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not file.exists():
        missing("huge pages of 2 MiB")
    before = int(file.read_text())
    file.write_text(str(before + 6))
    try:
        if int(file.read_text()) < before + 6:
            missing("room for six huge pages")
        yield
    finally:
        file.write_text(str(before))


@pytest.mark.usefixtures("six_huge_pages")
def test_more_huge_pages_than_the_limit_are_not_to_be_had(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MiB}])
    done = runtime.run(bundle.args("/bin/probe", "hugepages", "2", "hugepages", "3", "hugepages", "2"))
    seen = done.stdout.splitlines()
    assert seen == ["hugepages 2\tok", "hugepages 3\tCannot allocate memory", "hugepages 2\tok"], done
    del bundle.linux["resources"]["hugepageLimits"]
    assert runtime.run(bundle.args("/bin/probe", "hugepages", "3")).stdout == "hugepages 3\tok\n"


def test_a_container_is_in_the_named_hierarchy_and_in_each_mounted_controller(
    runtime: Runtime, bundle: Bundle
) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    mounted = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            mounted[left.split()[4]] = right.split()[0]
    for point in mounted:
        groups = [path for path in Path(point).rglob(container) if path.is_dir()]
        assert len(groups) == 1, point
        assert str(pid) in (groups[0] / "cgroup.procs").read_text().split(), point
