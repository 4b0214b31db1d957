"""Cases of single controllers, of pause, update and events: see guest_cases.py, which runs them."""

import contextlib
import glob
import json
import os
import subprocess

from guest_cases import (
    LIMITS,
    MIB,
    USER,
    USER_ENV,
    case,
    cgroup_of,
    config,
    expect,
    expect_in,
    read,
    shell,
    wait_until,
    where,
)

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.05; done"
DISK = {"major": 254, "minor": 0}
ROOT = "/sys/fs/cgroup"
ALL = ("cgroupfs", "systemd", "rootless")


def v1(container, key, file):
    """A file of the container's group in a hierarchy of v1."""
    directory = key.removeprefix("name=")
    return read(f"{ROOT}/{directory}{cgroup_of(container.pid, key)}/{file}")


def count(container):
    try:
        return read(f"/proc/{container.pid}/root/tmp/n")
    except FileNotFoundError:
        return ""


def update(container, resources):
    container.runtime.call(
        "update", "--resources", resources_file(container, resources), container.name, **container.how
    )


def resources_file(container, resources):
    path = f"{container.directory}/resources.json"
    with open(path, "w") as file:
        json.dump(resources, file)
    os.chmod(container.directory, 0o755)
    return path


def state(container):
    return json.loads(container.runtime.call("state", container.name, **container.how))["status"]


# pause


@case(*ALL, layouts=("v2",))
@case("cgroupfs", "systemd", layouts=("hybrid", "v1"))
def a_paused_container_does_nothing_until_it_is_resumed(runtime, driver):
    spec = shell(COUNT, rootless=driver == "rootless")
    with runtime.started(spec, **where(driver)) as container:
        wait_until(lambda: count(container), "it counts")
        runtime.call("pause", container.name, **container.how)
        expect(state(container), "paused", "the status")
        before = count(container)
        subprocess.run(["sleep", "0.5"], check=True)
        expect(count(container), before, "the count")
        status, output = runtime.call("exec", container.name, "true", check=False, **container.how)
        expect(status != 0, True, "exec is refused")
        expect_in("paused", output)
        runtime.call("resume", container.name, **container.how)
        wait_until(lambda: count(container) != before, "it counts again")


@case("cgroupfs", "systemd", layouts=("v2", "hybrid", "v1"), only="ocirt")
def a_paused_container_is_killed_at_once(runtime, driver):
    with runtime.started(shell(COUNT), **where(driver)) as container:
        runtime.call("pause", container.name, **container.how)
        runtime.call("kill", container.name, "KILL", **container.how)
        wait_until(lambda: state(container) == "stopped", "it is dead")


# update


@case(*ALL, only="ocirt")
def an_update_is_in_the_files_and_known_to_systemd(runtime, driver):
    spec = config(rootless=driver == "rootless", **LIMITS)
    with runtime.started(spec, **where(driver)) as container:
        limits = {"memory": {"limit": 96 * MIB, "swap": 128 * MIB}, "pids": {"limit": 77}}
        update(container, {**limits, "cpu": {"quota": 40_000}})
        files = "memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpuset.cpus"
        wanted = [str(96 * MIB), str(32 * MIB), "77", "40000 50000", "0"]
        expect([container.read(file) for file in files], wanted, "the files")
        if driver != "cgroupfs":
            names = "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec"
            known = {"MemoryMax": str(96 * MIB), "TasksMax": "77", "CPUQuotaPerSecUSec": "800ms"}
            expect(container.show(*names), known, "what systemd knows")
            words = ["systemctl"]
            if driver == "rootless":
                words = ["runuser", "-u", USER, "--", "env", *USER_ENV, "systemctl", "--user"]
            subprocess.run([*words, "daemon-reload"], check=True)
            expect([container.read(file) for file in files], wanted, "the files after a reload")
        _, output = runtime.call("verify", container.name, check=False, **container.how)
        expect_in(" 0 differ", output)


@case("cgroupfs", "systemd", only="ocirt")
def an_update_that_is_refused_changes_nothing(runtime, driver):
    with runtime.started(config(**LIMITS), **where(driver)) as container:
        limits = {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}, "cpu": {"mems": "7"}, "pids": {"limit": 9}}
        words = ("update", "-r", resources_file(container, limits), container.name)
        status, output = runtime.call(*words, check=False, **container.how)
        expect(status, 1, "the status")
        expect_in("linux.resources.cpu.mems", output)
        expect(container.read("memory.max"), str(64 * MIB), "memory.max")
        expect(container.read("pids.max"), "50", "pids.max")


@case("cgroupfs", "systemd", layouts=("v2", "v1", "hybrid"), only="ocirt")
def an_update_replaces_the_device_rules(runtime, driver):
    with runtime.started(shell("mknod /tmp/d c 1 11; sleep 1000"), **where(driver)) as container:
        node = f"/proc/{container.pid}/root/tmp/d"
        wait_until(lambda: os.path.exists(node), "the node is made")
        look = ("exec", container.name, "sh", "-c", ": < /tmp/d")
        rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
        deny = {"allow": False, "access": "rwm"}
        for rules, wanted in (([deny], False), ([deny, rule], True), ([deny], False)):
            update(container, {"devices": rules})
            status, output = runtime.call(*look, check=False, **container.how)
            expect(status == 0, wanted, f"opened ({output.strip()})")
        update(container, {"devices": [{"allow": True, "access": "rwm"}]})
        runtime.call(*look, **container.how)
        update(container, {"devices": [deny]})
        status, output = runtime.call(*look, check=False, **container.how)
        expect(status != 0, True, f"refused once more ({output.strip()})")


@case("cgroupfs", "systemd", only="ocirt")
def check_refuses_a_memory_limit_below_use_on_v2(runtime, driver):
    with runtime.started(config(**LIMITS), **where(driver)) as container:
        words = ("update", "--check", "--memory", "4096", "--memory-swap", "4096", container.name)
        status, output = runtime.call(*words, check=False, **container.how)
        expect(status, 1, "the status")
        expect_in("in use now: ", output)
        expect(container.read("memory.max"), str(64 * MIB), "memory.max")
        expect(state(container), "running", "the status")


# Controllers of v2


@case("cgroupfs", "systemd", only="ocirt")
def io_limits_and_unified_are_in_the_files(runtime, driver):
    throttle = {
        "throttleReadBpsDevice": [{**DISK, "rate": 1048576}],
        "throttleWriteIOPSDevice": [{**DISK, "rate": 50}],
    }
    unified = {"memory.high": str(48 * MIB), "memory.min": str(4 * MIB), "pids.max": "33"}
    with runtime.started(config(blockIO=throttle, unified=unified), **where(driver)) as container:
        io = "254:0 rbps=1048576 wbps=max riops=max wiops=50"
        expect(container.read("io.max"), io, "io.max")
        files = [container.read(file) for file in unified]
        expect(files, list(unified.values()), "unified")
        if driver == "systemd":
            names = "MemoryHigh", "MemoryMin", "TasksMax", "IOReadBandwidthMax"
            found = container.show(*names)
            expect(found["MemoryHigh"], str(48 * MIB), "MemoryHigh")
            expect(found["TasksMax"], "33", "TasksMax")
            expect_in("1048576", found["IOReadBandwidthMax"])
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            expect(container.read("io.max"), io, "io.max after a reload")
            expect([container.read(file) for file in unified], files, "unified after a reload")
        update(container, {"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": 0}]}})
        expect(container.read("io.max"), "254:0 rbps=max wbps=max riops=max wiops=50", "io.max")


@case("cgroupfs", "systemd", only="ocirt")
def huge_pages_misc_and_idle_are_in_the_files(runtime, driver):
    limits = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}], "cpu": {"idle": 1}}
    with runtime.started(config(**limits), **where(driver)) as container:
        expect(container.read("hugetlb.2MB.max"), str(4 * MIB), "hugetlb.2MB.max")
        expect(container.read("hugetlb.2MB.rsvd.max"), str(4 * MIB), "hugetlb.2MB.rsvd.max")
        expect(container.read("cpu.idle"), "1", "cpu.idle")
        expect_in("misc", container.read("cgroup.controllers") + ("" if driver == "cgroupfs" else " misc"))


# Controllers of v1


@case("cgroupfs", "systemd", layouts=("v1", "hybrid"), only="ocirt")
def every_controller_of_v1_holds_its_limits(runtime, driver):
    limits = {
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "swappiness": 7, "kernelTCP": 4 * MIB},
        "network": {"classID": 0x100001, "priorities": [{"name": "lo", "priority": 5}]},
        "blockIO": {"throttleWriteBpsDevice": [{**DISK, "rate": 1048576}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        "cpu": {"shares": 300},
    }
    place = {**where(driver), "path": "oct-test.slice:oct:@"} if driver == "systemd" else where(driver)
    with runtime.started(config(**limits), **place) as container:
        for key, file, wanted in (
            ("memory", "memory.limit_in_bytes", str(64 * MIB)),
            ("memory", "memory.memsw.limit_in_bytes", str(96 * MIB)),
            ("memory", "memory.swappiness", "7"),
            ("memory", "memory.kmem.tcp.limit_in_bytes", str(4 * MIB)),
            ("net_cls,net_prio", "net_cls.classid", "1048577"),
            ("blkio", "blkio.throttle.write_bps_device", "254:0 1048576"),
            ("hugetlb", "hugetlb.2MB.limit_in_bytes", str(4 * MIB)),
            ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", str(4 * MIB)),
            ("cpu,cpuacct", "cpu.shares", "300"),
        ):
            expect(v1(container, key, file), wanted, file)
        expect_in("lo 5", v1(container, "net_cls,net_prio", "net_prio.ifpriomap"))
        inside = f"{os.sep}{os.path.basename(cgroup_of(container.pid, 'memory'))}"
        for key in ("perf_event", "rdma", "freezer", "name=systemd"):
            expect_in(inside, cgroup_of(container.pid, key))
        update(container, {"memory": {"limit": 128 * MIB, "swap": 160 * MIB}, "network": {"classID": 7}})
        expect(v1(container, "memory", "memory.limit_in_bytes"), str(128 * MIB), "memory.limit_in_bytes")
        expect(v1(container, "net_cls,net_prio", "net_cls.classid"), "7", "net_cls.classid")
        name = container.name
    left = [path for path in glob.glob(f"{ROOT}/*/octest/{name}") if os.path.exists(path)]
    expect(left, [], "what is left")


@contextlib.contextmanager
def swap_space():
    """The guest with 256 MiB of swap."""
    file = "/var/lib/octest-swap"
    subprocess.run(["fallocate", "-l", str(256 * MIB), file], check=True)
    os.chmod(file, 0o600)
    subprocess.run(["mkswap", file], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", file], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", file], check=True)
        os.unlink(file)


@case("cgroupfs", "systemd", layouts=("v2",))
@case("cgroupfs", layouts=("v1", "hybrid"))
def memory_beyond_the_limit_goes_to_swap_as_far_as_that_goes(runtime, driver):
    words = ("dd", "if=/dev/zero", "of=/dev/null", "bs=40M", "count=1")
    with swap_space():
        for swap, wanted in ((96, 0), (32, 137)):
            spec = config(*words)
            spec["linux"]["resources"]["memory"] = {"limit": 24 * MIB, "swap": swap * MIB}
            status, output = runtime.run(spec, **where(driver))
            expect(status, wanted, f"the status with {swap} MiB in all ({output.strip()})")


# events, wait, doctor


@case(*ALL, layouts=("v2",), only="ocirt")
@case("cgroupfs", "systemd", layouts=("v1", "hybrid"), only="ocirt")
def events_tell_what_is_used_and_that_memory_was_wanting(runtime, driver):
    limits = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}, "pids": {"limit": 50}}
    with runtime.started(config(rootless=driver == "rootless", **limits), **where(driver)) as container:
        line = runtime.call("events", "--stats", container.name, **container.how)
        data = json.loads(line)["data"]
        expect(data["memory"]["usage"]["limit"], 16 * MIB, "the limit")
        expect(data["pids"], {"current": 1, "limit": 50}, "pids")
        words = runtime.words("events", "--interval", "100h", container.name, **container.how)
        events = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            subprocess.run(["sleep", "3"], check=True)
            alloc = ("exec", container.name, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
            status, output = runtime.call(*alloc, check=False, **container.how)
            expect(status, 137, f"the status ({output.strip()})")
            event = json.loads(events.stdout.readline())
            expect(event, {"type": "oom", "id": container.name}, "the event")
        finally:
            events.kill()
            events.wait()


@case("cgroupfs", "systemd", layouts=("v2", "v1", "hybrid"), only="ocirt")
def run_says_that_memory_was_wanting(runtime, driver):
    spec = config("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    spec["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    status, output = runtime.run(spec, **where(driver))
    expect(status, 137, "the status")
    expect_in("linux.resources.memory.limit: out of memory", output)


@case(layouts=("v2", "v1", "hybrid"), only="ocirt")
def doctor_finds_the_layout_and_what_is_delegated(runtime):
    for user in (False, True):
        document = json.loads(runtime.call("doctor", "--json", user=user))
        expect(document["ok"], True, "ok")
        found = {each["name"]: each for each in document["findings"]}
        names = {("cgroup2", ROOT): "v2", ("cgroup2", f"{ROOT}/unified"): "hybrid"}
        mounts = [line.split() for line in read("/proc/self/mounts").splitlines()]
        layout = next((names[kind, point] for _, point, kind, *_ in mounts if (kind, point) in names), "v1")
        expect(found["layout"]["found"], layout, "the layout")
        expect(found["systemd"]["state"], "ok", "systemd")
        expect(found["misc"]["state"], "ok", "misc")
        if not user:
            expect(found["criu"]["found"], "/usr/sbin/criu: `criu check` succeeds", "criu")
        if layout == "v2":
            expect(found["delegation to 1000"]["state"], "ok", "delegation")
        else:
            expect(found["net_cls"]["state"], "ok", "net_cls")
        if user:
            expect(found["subuid"]["found"], "65536 from 100000", "subuid")
