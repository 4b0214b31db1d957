"""update by its effect on what runs, and by what later commands know of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle
from tests.lib.declared import missing
from tests.lib.runtime import Runtime
from tests.system.test_cgroups import DENY_ALL, MAKE_NODES, group_of, limited

pytestmark = pytest.mark.root

MiB = 1 << 20


def sleeper(runtime: Runtime, bundle: Bundle, **resources: object) -> str:
    return runtime.start_bundle(limited(bundle, **resources).args("/bin/sleep", "1000"))


def values(runtime: Runtime, container: str, controller: str, *names: str) -> list[str]:
    group = group_of(runtime.state(container)["pid"], controller)
    return [(group / name).read_text().strip() for name in names]


MEMORY = ("memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes")


@pytest.fixture(autouse=True)
def v1() -> None:
    if not Path("/sys/fs/cgroup/memory").is_dir():
        missing("the memory controller on v1; tests/vm has the file names of v2")


def test_limits_are_in_force_and_others_stay(any_runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(any_runtime, bundle, memory={"limit": 64 * MiB, "swap": 96 * MiB}, pids={"limit": 50})
    words = ("--memory", "134217728", "--memory-swap", "167772160", "--memory-reservation", "33554432")
    words += ("--cpu-share", "512", "--cpu-quota", "50000", "--cpu-period", "200000")
    if any_runtime.name != "crun":  # 1.8 makes JSON of it that it cannot read itself; nor takes it units
        words += ("--cpuset-cpus", "0", "--cpuset-mems", "0")
    any_runtime("update", *words, container, check=True)
    assert values(any_runtime, container, *MEMORY) == ["134217728", "167772160", "33554432"]
    cpu = values(any_runtime, container, "cpu", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    assert cpu == ["512", "50000", "200000"]
    if any_runtime.name != "crun":
        assert values(any_runtime, container, "cpuset", "cpuset.cpus", "cpuset.mems") == ["0", "0"]
    assert values(any_runtime, container, "pids", "pids.max") == ["50"]
    any_runtime("update", "--pids-limit", "20", container, check=True)
    assert values(any_runtime, container, "pids", "pids.max") == ["20"]
    assert values(any_runtime, container, *MEMORY)[0] == "134217728"


def test_memory_and_swap_are_raised_and_lowered_in_the_order_that_works(
    any_runtime: Runtime, bundle: Bundle
) -> None:
    container = sleeper(any_runtime, bundle, memory={"limit": 64 * MiB, "swap": 64 * MiB})
    for limit, swap in ((128, 160), (32, 32), (256, 256)):
        words = ("--memory", limit * MiB, "--memory-swap", swap * MiB)
        any_runtime("update", *words, container, check=True)
        assert values(any_runtime, container, *MEMORY)[:2] == [str(limit * MiB), str(swap * MiB)]
    if any_runtime.name != "crun":  # which leaves swap where it is, and then memory cannot be above it
        any_runtime("update", "--memory", "-1", container, check=True)
        assert values(any_runtime, container, *MEMORY)[:2] == ["9223372036854771712"] * 2


def test_resources_come_from_a_file_or_stdin_and_zeros_say_nothing(runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(runtime, bundle, cpu={"shares": 700, "cpus": "0"}, pids={"limit": 50})
    asked = {
        "memory": {"limit": 64 * MiB, "reservation": 0, "swap": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        "blockIO": {"weight": 0},
    }
    runtime("update", "--resources", "-", container, input=json.dumps(asked), check=True)
    assert values(runtime, container, *MEMORY)[0] == str(64 * MiB)
    assert values(runtime, container, "cpu", "cpu.shares") == ["700"]
    file = bundle.path / "resources.json"
    file.write_text('{"pids": {"limit": 30}}')
    runtime("update", "-r", file, "--cpu-share", "800", container, check=True)
    assert values(runtime, container, "pids", "pids.max") == ["30"]
    assert values(runtime, container, "cpu", "cpu.shares") == ["800"]


def test_forks_beyond_the_new_limit_are_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(runtime, bundle, pids={"limit": 50})
    assert runtime("exec", container, "/bin/probe", "fork", "10", check=True)
    runtime("update", "--pids-limit", "4", container, check=True)
    done = runtime("exec", container, "/bin/probe", "fork", "10", check=True)
    assert "fork 10\t2 Resource temporarily unavailable" in done.stdout


def test_memory_above_the_new_limit_kills(runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(runtime, bundle)
    alloc = ("exec", container, "/bin/probe", "alloc", str(48 * MiB))
    assert runtime(*alloc).returncode == 0
    runtime("update", "--memory", "24M", "--memory-swap", "24M", container, check=True)
    assert runtime(*alloc).returncode == 137
    assert runtime.state(container)["status"] == "running"


def test_verify_and_the_next_update_know_the_new_values(runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(runtime, bundle, memory={"limit": 64 * MiB, "swap": 64 * MiB})
    runtime("update", "--memory", "48M", "--cpu-quota", "50000", container, check=True)
    rows = json.loads(runtime("verify", "--json", container, check=True).stdout)
    found = {row["field"]: row["asked"] for row in rows if row["field"].startswith("linux.resources")}
    assert found["linux.resources.memory.limit"] == f"{48 * MiB} bytes"
    assert found["linux.resources.cpu.quota"] == "50000 us"
    assert all(row["ok"] for row in rows)
    done = runtime("update", "--memory", "72M", container)
    assert done.returncode == 1
    assert "linux.resources.memory.limit: write '75497472' to " in done.stderr
    assert f"memory.swap, the limit of memory and swap together, is {64 * MiB}" in done.stderr


def test_an_update_that_fails_changes_nothing(runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(runtime, bundle, memory={"limit": 64 * MiB, "swap": 64 * MiB}, pids={"limit": 50})
    saved = (runtime.root / container / "config.json").read_bytes()
    words = ("--memory", "32M", "--memory-swap", "48M", "--pids-limit", "9", "--cpuset-cpus", "4000")
    done = runtime("update", *words, container)
    assert done.returncode == 1
    assert done.stderr.startswith("linux.resources.cpu.cpus: write '4000' to ")
    assert done.stderr.count("\n") == 1
    assert values(runtime, container, *MEMORY)[:2] == [str(64 * MiB)] * 2
    assert values(runtime, container, "pids", "pids.max") == ["50"]
    assert (runtime.root / container / "config.json").read_bytes() == saved


def test_check_refuses_a_memory_limit_below_use(runtime: Runtime, bundle: Bundle) -> None:
    container = sleeper(runtime, bundle, memory={"limit": 64 * MiB})
    done = runtime("update", "--check", "--memory", "4096", container)
    assert done.returncode == 1
    used = int(done.stderr.partition("in use now: ")[2].split()[0])
    assert 4096 < used < 64 * MiB
    assert done.stderr.startswith("linux.resources.memory.limit: write '4096' to ")
    assert values(runtime, container, *MEMORY)[0] == str(64 * MiB)
    runtime("update", "--check", "--memory", "32M", container, check=True)


def test_without_a_change_nothing_happens_and_a_paused_container_can_be_updated(
    any_runtime: Runtime, bundle: Bundle
) -> None:
    container = sleeper(any_runtime, bundle, pids={"limit": 50})
    any_runtime("pause", container, check=True)
    any_runtime("update", "--pids-limit", "60", container, check=True)
    assert values(any_runtime, container, "pids", "pids.max") == ["60"]
    assert any_runtime.state(container)["status"] == "paused"


@pytest.mark.parametrize(
    ("words", "text", "told"),
    [
        (("--memory", "much"), "", "invalid value for memory: 'much' is not a size\n"),
        (("--cpu-period", "1.5"), "", "invalid value for cpu-period: '1.5' is not a number\n"),
        (("-r", "-"), "", "resources"),
        (("-r", "-"), '{"memory": 5}', "/linux/resources/memory"),
        (("-r", "-"), '{"memory": {"limit": "5"}}', "/linux/resources/memory/limit"),
        (("-r", "/nonexistent"), "", "open"),
        (
            ("--cpu-quota", "50", "--cpu-burst", "60"),
            "",
            "linux.resources.cpu.burst: 60 is above the quota 50",
        ),
        (("--l3-cache-schema", "L3:0=f"), "", "linux.intelRdt: not supported: a mounted resctrl"),
        (("--mem-bw-schema", "MB:0=10"), "", "linux.intelRdt: not supported: a mounted resctrl"),
    ],
)
def test_what_cannot_be_is_refused_on_one_line(
    runtime: Runtime, bundle: Bundle, words: tuple[str, ...], text: str, told: str
) -> None:
    container = sleeper(runtime, bundle)
    done = runtime("update", *words, container, input=text)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert "internal error" not in done.stderr


def test_a_container_that_does_not_run_cannot_be_updated(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/true"))
    runtime.wait_for_status(container, "stopped")
    assert runtime("update", "--pids-limit", "5", container).stderr == "container not running\n"
    assert runtime("update", "--pids-limit", "5", "octest-nobody").stderr == "container does not exist\n"


def test_device_rules_take_the_place_of_the_old_ones(runtime: Runtime, bundle: Bundle) -> None:
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] += MAKE_NODES
    container = sleeper(runtime, bundle)
    look = ("exec", container, "/bin/probe", "open", "/tmp/kmsg")
    runtime("exec", container, "/bin/probe", "mknod", "/tmp/kmsg", "1", "11", check=True)
    assert "open /tmp/kmsg\tOperation not permitted" in runtime(*look).stdout
    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    asked = json.dumps({"devices": [DENY_ALL, rule]})
    runtime("update", "-r", "-", container, input=asked, check=True)
    assert "open /tmp/kmsg\tok" in runtime(*look).stdout
    asked = json.dumps({"devices": [DENY_ALL], "pids": {"limit": 77}})
    runtime("update", "-r", "-", container, input=asked, check=True)
    assert "open /tmp/kmsg\tOperation not permitted" in runtime(*look).stdout
    assert "open /dev/null\tok" in runtime("exec", container, "/bin/probe", "open", "/dev/null").stdout
    assert runtime.state(container)["status"] == "running"


def test_the_quota_of_an_update_throttles(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(limited(bundle).args("/bin/probe", "spin", "60"))
    group = group_of(runtime.state(container)["pid"], "cpu")
    assert "nr_throttled 0\n" in (group / "cpu.stat").read_text()
    runtime("update", "--cpu-quota", "10000", "--cpu-period", "100000", container, check=True)
    deadline = time.monotonic() + 10
    while "nr_throttled 0\n" in (text := (group / "cpu.stat").read_text()):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_cpuset_keeps_running_processes_on_the_new_cpus(runtime: Runtime, bundle: Bundle) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        missing("a second cpu")
    container = sleeper(runtime, bundle)
    runtime("update", "--cpuset-cpus", "1", container, check=True)
    status = Path(f"/proc/{runtime.state(container)['pid']}/status").read_text()
    assert "Cpus_allowed_list:\t1\n" in status
