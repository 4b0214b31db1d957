"""Limits by their effect on what runs inside, and what happens to the groups themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ocirt.host import Host
from tests.lib.bundle import Bundle, Probe
from tests.lib.declared import missing
from tests.lib.runtime import PREFIX, Runtime, end

pytestmark = pytest.mark.root

MiB = 1 << 20
DENY_ALL = {"allow": False, "access": "rwm"}
MAKE_NODES = ("CAP_MKNOD", "CAP_SYSLOG")


def limited(bundle: Bundle, **resources: object) -> Bundle:
    bundle.spec["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
    bundle.linux["resources"] = {"devices": [DENY_ALL], **resources}
    return bundle


def probe(runtime: Runtime, bundle: Bundle) -> Probe:
    done = runtime.run(bundle)
    assert done.returncode == 0, done.stderr
    return Probe(done.stdout)


def group_of(pid: int, controller: str) -> Path:
    """The directory with the files of a controller for a process."""
    host = Host()
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    if host.cgroup_layout == "v2":
        return Path(host.unified_mount + lines[0][2])
    found = [(names, path) for _, names, path in lines if controller in names.split(",")]
    if not found:
        missing(f"no {controller} controller here")
    names, path = found[0]
    return Path((host.v1_hierarchies[names] if names else host.unified_mount) + path)


def groups_named(name: str) -> list[str]:
    return [f"{top}/{name}" for top, names, _ in os.walk("/sys/fs/cgroup") if name in names]


def test_memory_above_the_limit_kills_and_below_does_not(any_runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, memory={"limit": 32 * MiB, "swap": 32 * MiB})
    done = any_runtime.run(bundle.args("/bin/probe", "alloc", str(64 * MiB)))
    assert done.returncode == 128 + signal.SIGKILL
    assert probe(any_runtime, bundle.args("/bin/probe", "alloc", str(16 * MiB)))[f"alloc {16 * MiB}"] == "ok"


@pytest.mark.parametrize(("version", "limit"), [("1.0.2-dev", "max"), ("1.2.1", "max"), ("1.3.0", "1")])
def test_a_pids_limit_of_0_is_no_limit_in_documents_from_before_1_3(
    runtime: Runtime, bundle: Bundle, version: str, limit: str
) -> None:
    limited(bundle, pids={"limit": 0}).args("/bin/sleep", "60")
    bundle.spec["ociVersion"] = version
    container = runtime.create(bundle)
    group = group_of(runtime.state(container)["pid"], "pids")
    assert (group / "pids.max").read_text().strip() == limit
    runtime.start(container)
    runtime("verify", container, check=True)
    runtime("update", "--pids-limit", "0", container, check=True)
    assert (group / "pids.max").read_text().strip() == "1"
    runtime("update", "--cpu-share", "100", container, check=True)
    assert (group / "pids.max").read_text().strip() == "1"
    runtime("verify", container, check=True)


@pytest.mark.parametrize("has_namespace", [True, False])
@pytest.mark.parametrize("option", ["ro", "rro"])
def test_no_cgroup_is_writable_below_a_mount_with_ro_or_rro(
    runtime: Runtime, bundle: Bundle, option: str, has_namespace: bool
) -> None:
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if "cgroup" not in m["destination"]]
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [option]}
    bundle.spec["mounts"].append(mount)
    others = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "cgroup"]
    bundle.linux["namespaces"] = [*others, *([{"type": "cgroup"}] * has_namespace)]
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    rows = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    found = {row[1]: row[3].split(",")[0] for row in rows if row[1].startswith("/sys/fs/cgroup")}
    assert found
    assert set(found.values()) == {"ro"}


def test_forks_beyond_the_pids_limit_are_refused(any_runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, pids={"limit": 5}).args("/bin/probe", "fork", "10")
    assert probe(any_runtime, bundle)["fork 10"] == "4 Resource temporarily unavailable"


def test_the_cpu_quota_throttles(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, cpu={"quota": 10000, "period": 100000, "shares": 512}).args("/bin/probe", "spin", "60")
    container = runtime.start_bundle(bundle)
    group = group_of(runtime.state(container)["pid"], "cpu")
    deadline = time.monotonic() + 10
    while "nr_throttled 0\n" in (text := (group / "cpu.stat").read_text()):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_a_cpuset_keeps_the_process_on_its_cpus(any_runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, cpu={"cpus": "0", "mems": "0"}).args("/bin/probe")
    assert probe(any_runtime, bundle).status("Cpus_allowed_list") == "0"


def test_only_devices_with_a_rule_can_be_opened(any_runtime: Runtime, bundle: Bundle) -> None:
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] += MAKE_NODES
    words = [
        "mknod",
        "/tmp/kmsg",
        "1",
        "11",
        "open",
        "/tmp/kmsg",
        "mknod",
        "/tmp/null",
        "1",
        "3",
        "open",
        "/tmp/null",
    ]
    limited(bundle).args("/bin/probe", *words)
    seen = probe(any_runtime, bundle)
    assert seen["mknod /tmp/kmsg"] == seen["mknod /tmp/null"] == seen["open /tmp/null"] == "ok"
    assert seen["open /tmp/kmsg"] == "Operation not permitted"
    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    bundle.linux["resources"]["devices"].append(rule)
    (bundle.rootfs / "tmp/kmsg").unlink()
    (bundle.rootfs / "tmp/null").unlink()
    assert probe(any_runtime, bundle)["open /tmp/kmsg"] == "ok"


def test_the_process_is_in_a_group_of_its_own_everywhere(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{PREFIX}-{os.getpid()}/inner"
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    try:
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers or Host().unified_mount:
                assert path == f"/{PREFIX}-{os.getpid()}/inner", line
        inside = runtime("exec", container, "cat", "/proc/self/cgroup", check=True).stdout
        own = Path(f"/proc/{pid}/cgroup").read_text()
        if any(entry["type"] == "cgroup" for entry in bundle.linux["namespaces"]):
            own = own.replace(f"/{PREFIX}-{os.getpid()}/inner", "/")
        assert inside == own
    finally:
        runtime("delete", "--force", container, check=True)
        for directory in groups_named(f"{PREFIX}-{os.getpid()}"):
            assert os.listdir(directory), directory
            os.rmdir(directory)


def test_groups_are_gone_after_the_run(any_runtime: Runtime, bundle: Bundle) -> None:
    done = any_runtime.run(limited(bundle).args("/bin/true"))
    assert done.returncode == 0, done.stderr
    assert groups_named(any_runtime.ids[-1]) == []


def test_a_group_in_use_is_refused_and_left_alone(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"/{PREFIX}-{os.getpid()}-used"
    first = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    second = runtime.run(bundle.args("/bin/true"))
    assert second.returncode != 0
    assert "container's cgroup is not empty: 1 process(es) found" in second.stderr
    assert "\n" not in second.stderr.strip()
    assert runtime.state(first)["status"] == "running"
    assert groups_named(f"{PREFIX}-{os.getpid()}-used")


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"cpu": {"cpus": "4000"}}, "linux.resources.cpu.cpus"),
        ({"blockIO": {"leafWeight": 10}}, "linux.resources.blockIO.leafWeight"),
    ],
)
def test_a_limit_that_fails_is_named_and_nothing_is_left(
    runtime: Runtime, bundle: Bundle, resources: dict, field: str
) -> None:
    done = runtime.run(limited(bundle, **resources).args("/bin/true"))
    assert done.returncode == 1
    assert field in done.stderr
    assert groups_named(runtime.ids[-1]) == []
    assert runtime("state", runtime.ids[-1]).returncode != 0


def test_kill_all_reaches_what_the_init_left_in_a_shared_pid_namespace(
    runtime: Runtime, bundle: Bundle
) -> None:
    bundle.namespaces("mount", "ipc", "uts", "network")
    container = runtime.start_bundle(bundle.sh("sleep 60 & echo $! > /tmp/child; exec sleep 61"))
    runtime.wait_for_status(container, "running")
    deadline = time.monotonic() + 5
    while not (bundle.rootfs / "tmp/child").exists() or not (bundle.rootfs / "tmp/child").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = int((bundle.rootfs / "tmp/child").read_text())
    runtime("kill", "--all", container, "KILL", check=True)
    runtime.wait_for_status(container, "stopped")
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.01)
    runtime("delete", container, check=True)
    assert groups_named(container) == []


def test_a_group_that_somebody_else_entered_is_named_by_delete(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    group = group_of(runtime.state(container)["pid"], "pids")
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(stranger.pid))
        runtime("kill", container, "KILL", check=True)
        runtime.wait_for_status(container, "stopped")
        started = time.monotonic()
        done = runtime("delete", container)
        assert time.monotonic() - started < 10
        assert done.returncode != 0
        assert f"pid {stranger.pid} (S" in done.stderr
    finally:
        end(stranger)
    runtime("delete", container, check=True)


def test_verify_shows_each_limit_as_asked_and_in_force(any_runtime: Runtime, bundle: Bundle) -> None:
    from ocirt.observe import cgroups as observer
    from ocirt.verify import Target

    limited(
        bundle,
        memory={"limit": 64 * MiB, "reservation": 32 * MiB},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        pids={"limit": 50},
    ).args("/bin/sleep", "60")
    container = any_runtime.start_bundle(bundle)
    target = Target(any_runtime.state(container)["pid"])
    try:
        rows = observer.observe(target, bundle.spec)
    finally:
        target.close()
    assert len(rows) >= 7
    assert [row for row in rows if row[1] != row[2]] == []
