#!/usr/bin/python3
"""Cases that need cgroup v2, systemd or AppArmor: run by root in the guest of `vm`, without pytest,
as Python is slow there. Each prints one line: `ok NAME` or `FAIL NAME: reason`.

    guest_cases.py RUNTIME LAYOUT [NAME...]        LAYOUT: v2, hybrid, v1
"""

import contextlib
import copy
import glob
import itertools
import json
import os
import subprocess
import sys
import time
import traceback

WORK = "/var/lib/octest"
ROOTFS = f"{WORK}/rootfs"
USER, UID = "tester", 1000
USER_ENV = [
    f"XDG_RUNTIME_DIR=/run/user/{UID}",
    f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{UID}/bus",
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    f"HOME=/home/{USER}",
]
USER_MANAGER = f"/user.slice/user-{UID}.slice/user@{UID}.service"
MIB = 1 << 20
KMSG = "c 1 11"  # a device that nobody allows
CASES = []  # (name, function, arguments, layouts, only)


def case(*drivers, layouts=("v2",), only=""):
    """Make a function a case, once for each driver. only: the runtime that it is about."""

    def register(function):
        for driver in drivers or ("",):
            name = f"{function.__name__}[{driver}]" if driver else function.__name__
            arguments = {"driver": driver} if driver else {}
            CASES.append((name, function, arguments, layouts, only))
        return function

    return register


# Bundles


CAPABILITIES = ["CAP_KILL", "CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]
DENY_ALL = {"allow": False, "access": "rwm"}
BASE = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["sleep", "1000"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    },
    "root": {"path": ROOTFS, "readonly": True},
    "hostname": "octest",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network", "cgroup")],
        "resources": {"devices": [DENY_ALL]},
    },
}


def config(*args, rootless=False, **resources):
    """A config.json with other words to run and more of linux.resources."""
    spec = copy.deepcopy(BASE)
    if args:
        spec["process"]["args"] = list(args)
    spec["linux"]["resources"].update(resources)
    if rootless:
        spec["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            spec["linux"][kind] = [{"containerID": 0, "hostID": UID, "size": 1}]
        del spec["linux"]["resources"]["devices"]
    return spec


def shell(script, **more):
    return config("sh", "-c", script, **more)


def make_rootfs():
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        os.makedirs(f"{ROOTFS}/{name}", exist_ok=True)
    subprocess.run(["cp", "/bin/busybox", f"{ROOTFS}/bin/busybox"], check=True)
    for applet in ("sh", "cat", "sleep", "dd", "mknod", "echo", "true", "id", "ls", "touch", "mkdir", "wget"):
        with contextlib.suppress(FileExistsError):
            os.symlink("busybox", f"{ROOTFS}/bin/{applet}")


# Runtimes


class Failed(Exception):
    """What a case expected is not so."""


class Runtime:
    def __init__(self, path):
        self.path = path
        self.name = os.path.basename(path)
        self.numbers = itertools.count(1)

    def words(self, *words, systemd=False, user=False):
        root = f"/run/user/{UID}/octest" if user else "/run/octest"
        options = ["--root", root, *(["--systemd-cgroup"] if systemd else [])]
        call = [self.path, *options, *words]
        return ["runuser", "-u", USER, "--", "env", "-i", *USER_ENV, *call] if user else call

    def call(self, *words, systemd=False, user=False, check=True):
        """Output of a command; (status, output) without check."""
        done = subprocess.run(
            self.words(*words, systemd=systemd, user=user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if not check:
            return done.returncode, done.stdout
        if done.returncode:
            raise Failed(f"{words[0]}: status {done.returncode}: {done.stdout.strip()}")
        return done.stdout

    def bundle(self, spec, path=None, user=False):
        """(id, directory) of a new bundle; path is its linux.cgroupsPath."""
        name = f"octest{next(self.numbers)}"
        directory = f"{WORK}/{name}"
        os.makedirs(directory)
        if path is not None:
            spec["linux"]["cgroupsPath"] = path.replace("@", name)
        with open(f"{directory}/config.json", "w") as file:
            json.dump(spec, file)
        return name, directory

    def run(self, spec, path=None, systemd=False, user=False):
        """(status, output) of `run`."""
        name, directory = self.bundle(spec, path)
        return self.call("run", "--bundle", directory, name, systemd=systemd, user=user, check=False)

    @contextlib.contextmanager
    def started(self, spec, path=None, systemd=False, user=False):
        """A running container."""
        name, directory = self.bundle(spec, path)
        how = {"systemd": systemd, "user": user}
        with open(f"{directory}/output", "w+") as output:
            words = self.words("create", "--bundle", directory, name, **how)
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60)
            output.seek(0)
            if done.returncode:
                raise Failed(f"create: status {done.returncode}: {output.read().strip()}")
        container = Container(self, name, how, directory)
        try:
            self.call("start", name, **how)
            yield container
        finally:
            container.delete()


class Container:
    def __init__(self, runtime, name, how, directory):
        self.runtime = runtime
        self.name = name
        self.how = how
        self.directory = directory
        self.pid = json.loads(runtime.call("state", name, **how))["pid"]
        v1 = not os.path.ismount("/sys/fs/cgroup/unified") and os.path.ismount("/sys/fs/cgroup/memory")
        self.cgroup = cgroup_of(self.pid, "name=systemd" if v1 else "")
        self.unit = os.path.basename(self.cgroup)

    def exec(self, *words):
        return self.runtime.call("exec", self.name, *words, **self.how)

    def delete(self):
        self.runtime.call("delete", "--force", self.name, **self.how)

    def read(self, file):
        return read(f"/sys/fs/cgroup{self.cgroup}/{file}")

    def show(self, *names):
        """Properties of the scope, as systemctl shows them."""
        words = ["systemctl", "show", self.unit, *(f"--property={name}" for name in names)]
        if self.how["user"]:
            words = ["runuser", "-u", USER, "--", "env", *USER_ENV, words[0], "--user", *words[1:]]
        found = {}
        for line in subprocess.check_output(words, text=True).splitlines():
            name, _, value = line.partition("=")
            found[name] = f"{found[name]}; {value}" if name in found else value  # a list: a line for each
        return found


def cgroup_of(pid, key=""):
    """Path of a process in a hierarchy."""
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == key:
            return path
    raise Failed(f"process {pid} is in no hierarchy {key!r}")


def read(path):
    with open(path) as file:
        return file.read().strip()


def expect(found, wanted, what=""):
    if found != wanted:
        raise Failed(f"{what or 'value'} is {found!r}, not {wanted!r}")


def expect_in(part, text):
    if part not in text:
        raise Failed(f"{part!r} is not in {text!r}")


def wait_until(condition, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def where(driver):
    """Arguments that put a container under the care of a driver."""
    if driver == "systemd":
        return {"systemd": True, "path": "oct-test.slice:oct:@"}
    if driver == "rootless":
        return {"systemd": True, "user": True, "path": "user.slice:oct:@"}
    return {"path": "/octest/@"}


def expected_group(driver, container):
    scope = f"oct-{container.name}.scope"
    if driver == "systemd":
        return f"/oct.slice/oct-test.slice/{scope}"
    if driver == "rootless":
        return f"{USER_MANAGER}/user.slice/{scope}"
    return f"/octest/{container.name}"


# Limits


LIMITS = {
    "memory": {"limit": 64 * MIB, "swap": 64 * MIB, "reservation": 16 * MIB},
    "cpu": {"shares": 2048, "quota": 25_500, "period": 50_000, "cpus": "0"},
    "pids": {"limit": 50},
}
ALL = ("cgroupfs", "systemd", "rootless")


@case(*ALL)
def limits_are_in_the_files_of_the_group(runtime, driver):
    with runtime.started(config(rootless=driver == "rootless", **LIMITS), **where(driver)) as container:
        expect(container.cgroup, expected_group(driver, container), "the group")
        expect(container.read("memory.max"), str(64 * MIB), "memory.max")
        expect(container.read("memory.swap.max"), "0", "memory.swap.max")
        expect(container.read("memory.low"), str(16 * MIB), "memory.low")
        expect(container.read("cpu.max"), "25500 50000", "cpu.max")
        expect(container.read("pids.max"), "50", "pids.max")
        expect(container.read("cpuset.cpus"), "0", "cpuset.cpus")


@case(*ALL)
def a_fork_above_the_pids_limit_is_refused(runtime, driver):
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 20 & done"
    spec = shell(script, rootless=driver == "rootless", pids={"limit": 4})
    _, output = runtime.run(spec, **where(driver))
    expect_in("fork", output)


@case(*ALL)
def memory_above_the_limit_is_killed(runtime, driver):
    spec = config("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", rootless=driver == "rootless")
    spec["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    status, output = runtime.run(spec, **where(driver))
    expect(status, 137, f"the status ({output.strip()})")


@case("cgroupfs", "systemd")
def a_device_that_is_not_allowed_cannot_be_opened(runtime, driver):
    script = f"mknod /tmp/d {KMSG} && echo made; (: < /tmp/d); (: < /dev/null) && echo null"
    _, output = runtime.run(shell(script), **where(driver))
    expect_in("made", output)
    expect_in("can't open /tmp/d: Operation not permitted", output)
    expect_in("null", output)


@case("cgroupfs", "systemd")
def a_device_that_is_allowed_can_be_opened(runtime, driver):
    allow = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    script = f"mknod /tmp/d {KMSG}; (: < /tmp/d) && echo reads; (: > /tmp/d) && echo writes"
    _, output = runtime.run(shell(script, devices=[DENY_ALL, allow]), **where(driver))
    expect_in("reads", output)
    if "writes" in output:
        raise Failed("it may be written, too")


# The group


@case(*ALL)
def exec_is_in_the_group_of_the_container(runtime, driver):
    spec = config(rootless=driver == "rootless")
    # Seen from the host's side: without a cgroup namespace the process reads its own path.
    spec["linux"]["namespaces"].remove({"type": "cgroup"})
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    with runtime.started(spec, **where(driver)) as container:
        inside = container.exec("cat", "/proc/self/cgroup").strip()
        expect(inside, f"0::{container.cgroup}", "what exec reads")


@case(*ALL)
def the_cgroup_namespace_begins_at_the_group(runtime, driver):
    script = "cat /proc/self/cgroup /sys/fs/cgroup/pids.max; (: > /sys/fs/cgroup/pids.max) || echo kept"
    spec = shell(script, rootless=driver == "rootless", pids={"limit": 33})
    _, output = runtime.run(spec, **where(driver))
    expect_in("0::/\n33\n", output)
    expect_in("kept", output)


@case("cgroupfs", "systemd", only="ocirt")
def without_a_cgroup_namespace_only_the_own_group_is_seen(runtime, driver):
    spec = shell(
        "cat /sys/fs/cgroup/pids.max; (: > /sys/fs/cgroup/pids.max) || echo kept", pids={"limit": 33}
    )
    spec["linux"]["namespaces"].remove({"type": "cgroup"})
    _, output = runtime.run(spec, **where(driver))
    expect_in("33\n", output)
    expect_in("kept", output)


@case(*ALL)
def delete_removes_the_group(runtime, driver):
    with runtime.started(config(rootless=driver == "rootless"), **where(driver)) as container:
        group = f"/sys/fs/cgroup{container.cgroup}"
        expect(os.path.isdir(group), True, "the group is there")
    expect(os.path.exists(group), False, "the group is there after delete")


@case("cgroupfs", only="ocirt")
def a_group_with_processes_is_not_taken(runtime, driver):
    with runtime.started(config(), **where(driver)) as container:
        status, output = runtime.run(config("true"), path=container.cgroup)
        expect(status, 1, "the status")
        expect_in("not empty", output)


@case("systemd", only="ocirt")
def a_scope_in_use_is_not_taken_and_not_stopped(runtime, driver):
    with runtime.started(config(), **where(driver)) as container:
        status, output = runtime.run(
            config("true"), systemd=True, path=f"oct-test.slice:oct:{container.name}"
        )
        expect(status, 1, f"the status ({output})")
        expect(container.show("ActiveState"), {"ActiveState": "active"})
        expect(cgroup_of(container.pid), container.cgroup)


@case(*ALL, only="ocirt")
def verify_finds_in_force_what_was_asked(runtime, driver):
    with runtime.started(config(rootless=driver == "rootless", **LIMITS), **where(driver)) as container:
        output = runtime.call("verify", container.name, **container.how)
        expect_in(" 0 differ", output)
        expect_in("linux.resources.memory.limit", output)


@case(*ALL, only="ocirt")
def delete_ends_all_processes_of_a_shared_pid_namespace(runtime, driver):
    spec = shell("sleep 1234 & sleep 1234 & sleep 1234", rootless=driver == "rootless")
    spec["linux"]["namespaces"].remove({"type": "pid"})
    spec["mounts"][0] = {"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]}
    with runtime.started(spec, **where(driver)) as container:
        pids = f"/sys/fs/cgroup{container.cgroup}/cgroup.procs"
        wait_until(lambda: len(read(pids).split()) >= 3, "all processes run")
        found = read(pids).split()
    expect([pid for pid in found if os.path.exists(f"/proc/{pid}")], [], "processes that still run")


@case(*ALL, only="ocirt")
def a_runtime_killed_anywhere_leaves_only_what_delete_removes(runtime, driver):
    place = where(driver)
    how = {"systemd": place.get("systemd", False), "user": place.get("user", False)}
    log = open(f"{WORK}/log", "w")
    for tenths in range(1, 9):
        name, directory = runtime.bundle(config(rootless=driver == "rootless"), place["path"])
        words = runtime.words("create", "--bundle", directory, name, **how)
        create = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        time.sleep(tenths * 0.12)
        # Of a rootless runtime the child is runuser, and the runtime its only child.
        target = read(f"/proc/{create.pid}/task/{create.pid}/children").split() if how["user"] else []
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(target[0]) if target else create.pid, 9)
        create.wait()
        runtime.call("delete", "--force", name, **how)
        groups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if name in path]
        expect(groups, [], f"what is left after {tenths * 0.12:.2f} s")


# systemd


@case("systemd", "rootless")
def systemd_knows_the_limits(runtime, driver):
    spec = config(rootless=driver == "rootless", **LIMITS)
    spec["annotations"] = {"org.systemd.property.TimeoutStopSec": "7"}
    with runtime.started(spec, **where(driver)) as container:
        names = "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "Delegate", "Slice", "TimeoutStopUSec"
        slice_name = "oct-test.slice" if driver == "systemd" else "user.slice"
        expect(
            container.show(*names),
            {
                "MemoryMax": str(64 * MIB),
                "TasksMax": "50",
                "CPUQuotaPerSecUSec": "510ms",
                "Delegate": "yes",
                "Slice": slice_name,
                "TimeoutStopUSec": "7s",
            },
        )


@case("systemd", "rootless")
@case("systemd", layouts=("v1", "hybrid"), only="ocirt")
def a_sub_cgroup_of_the_scope_is_the_group_of_the_container(runtime, driver):
    v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    key, memory = ("", "") if v2 else ("name=systemd", "memory")
    spec = config(rootless=driver == "rootless", **LIMITS)
    if memory:
        spec["linux"]["resources"]["memory"] = {"limit": 64 * MIB}
    spec["annotations"] = {"run.oci.systemd.subgroup": "payload"}
    spec["linux"]["namespaces"].remove({"type": "cgroup"})
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    with runtime.started(spec, **where(driver)) as container:
        scope = expected_group(driver, container)
        for hierarchy in (key, memory):
            expect(cgroup_of(container.pid, hierarchy), f"{scope}/payload", f"the group in {hierarchy!r}")
        lines = set(container.exec("cat", "/proc/self/cgroup").splitlines())
        expect(lines, set(read(f"/proc/{container.pid}/cgroup").splitlines()), "what exec reads")
        file = "memory.limit_in_bytes" if memory else "memory.max"
        group = f"/sys/fs/cgroup/{memory}{scope}/payload"
        expect(read(f"{group}/{file}"), str(64 * MIB), file)
        if runtime.name == "ocirt":
            words = ["--memory", "96M", *([] if memory else ["--memory-swap", "96M"])]
            runtime.call("update", *words, container.name, **container.how)
            expect(read(f"{group}/{file}"), str(96 * MIB), f"{file} after the update")
            runtime.call("pause", container.name, **container.how)
            frozen = read(f"{group}/cgroup.freeze") if not memory else cgroup_of(container.pid, "freezer")
            expect(frozen, f"{scope}/payload" if memory else "1", "what is frozen")
            runtime.call("resume", container.name, **container.how)
            container.unit = os.path.basename(scope)
            if not memory:
                expect(container.show("MemoryMax"), {"MemoryMax": str(96 * MIB)}, "what systemd knows")
    left = [path for path, _, _ in os.walk("/sys/fs/cgroup") if container.name in path]
    expect(left, [], "what is left")


@case(layouts=("v2", "v1", "hybrid"), only="ocirt")
def a_container_is_made_by_one_call_to_systemd(runtime):
    """By the bus, where it can be seen."""
    os.rename("/run/systemd/private", "/run/systemd/private.away")
    words = ["busctl", "monitor", "--match=type=method_call,destination=org.freedesktop.systemd1"]
    with open(f"{WORK}/calls", "w+") as told:
        monitor = subprocess.Popen(words, stdout=told, stderr=subprocess.DEVNULL)
        try:
            time.sleep(2)
            with runtime.started(config(pids={"limit": 9}), **where("systemd")) as container:
                seen = lambda: read(told.name).count("Member=")  # noqa: E731
                wait_until(lambda: seen() > 0, "a call is seen")
                time.sleep(1)
                expect(read(told.name).split("Member=")[1].split()[0], "StartTransientUnit", "the call")
                expect(seen(), 1, "the number of calls")
            expect(os.path.exists(f"/sys/fs/cgroup{container.cgroup}"), False, "the group is there")
            time.sleep(1)
            calls = [part.split()[0] for part in read(told.name).split("Member=")[1:]]
            expect(calls, ["StartTransientUnit", "StopUnit"], "the calls of its whole life")
        finally:
            monitor.kill()
            monitor.wait()
            os.rename("/run/systemd/private.away", "/run/systemd/private")


@case(layouts=("v2", "v1", "hybrid"), only="ocirt")
def a_mount_may_need_a_device_that_the_rules_deny(runtime):
    """The disk of the guest, read-only: its rule comes after the mount."""
    spec = shell("ls /mnt/usr && (: < /dev/disk) || echo refused")
    spec["linux"]["devices"] = [{"path": "/dev/disk", "type": "b", "major": 254, "minor": 0}]
    root = next(line.split() for line in read("/proc/self/mounts").splitlines() if line.split()[1] == "/")
    mount = {"destination": "/mnt", "type": root[2], "source": root[0], "options": ["ro"]}
    spec["mounts"].append(mount)
    os.makedirs(f"{ROOTFS}/mnt", exist_ok=True)
    status, output = runtime.run(spec, **where("systemd"))
    expect(status, 0, f"the status ({output})")
    expect_in("bin", output)
    expect_in("refused", output)


@case(only="ocirt")
def systemd_knows_the_device_rules(runtime):
    with runtime.started(config(), **where("systemd")) as container:
        found = container.show("DevicePolicy", "DeviceAllow")
        expect(found["DevicePolicy"], "strict", "DevicePolicy")
        expect_in("char-136 rwm", found["DeviceAllow"])


@case("systemd", "rootless")
def a_reload_of_systemd_changes_nothing(runtime, driver):
    script = f"mknod /tmp/d {KMSG}; sleep 1000"
    spec = shell(script, rootless=driver == "rootless", **LIMITS)
    with runtime.started(spec, **where(driver)) as container:
        files = "memory.max", "pids.max", "cpuset.cpus"
        before = [container.read(file) for file in files]
        if driver == "rootless":
            words = ["runuser", "-u", USER, "--", "env", *USER_ENV, "systemctl", "--user"]
        else:
            words = ["systemctl"]
        subprocess.run([*words, "daemon-reload"], check=True)
        expect([container.read(file) for file in files], before, "the limits")
        if driver == "systemd":
            _, output = runtime.call("exec", container.name, "sh", "-c", ": < /tmp/d", check=False)
            expect_in("Operation not permitted", output)


@case("systemd", "rootless")
def no_unit_is_left_of_a_container_that_was_killed_for_memory(runtime, driver):
    spec = config("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", rootless=driver == "rootless")
    spec["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    runtime.run(spec, **where(driver))
    words = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "oct-octest*.scope"]
    if driver == "rootless":
        words = ["runuser", "-u", USER, "--", "env", *USER_ENV, words[0], "--user", *words[1:]]
    expect(subprocess.check_output(words, text=True), "", "the list of units")


@case(only="ocirt")
def without_a_path_the_scope_is_named_after_the_container(runtime):
    with runtime.started(config(), systemd=True) as container:
        expect(container.cgroup, f"/system.slice/ocirt-{container.name}.scope", "the group")


@case(only="ocirt")
def a_failed_start_leaves_no_scope(runtime):
    spec = config("nosuch")
    status, output = runtime.run(spec, **where("systemd"))
    expect(status, 1, "the status")
    expect_in("executable file not found in $PATH", output)
    expect(glob.glob("/sys/fs/cgroup/oct.slice/oct-test.slice/*.scope"), [], "scopes")


@case(only="ocirt")
def the_bus_is_used_where_the_socket_of_systemd_is_not(runtime):
    os.rename("/run/systemd/private", "/run/systemd/private.away")
    try:
        with runtime.started(config(pids={"limit": 9}), **where("systemd")) as container:
            expect(container.read("pids.max"), "9", "pids.max")
            group = f"/sys/fs/cgroup{container.cgroup}"
        expect(os.path.exists(group), False, "the group is there after delete")
    finally:
        os.rename("/run/systemd/private.away", "/run/systemd/private")


# Rootless without systemd


@case()
def rootless_runs_without_a_group_where_none_is_delegated(runtime):
    status, output = runtime.run(shell("echo uid $(id -u)", rootless=True), user=True)
    expect((status, output.strip()), (0, "uid 0"))


@case(only="ocirt")
def rootless_limits_without_delegation_are_refused_by_name(runtime):
    status, output = runtime.run(config("true", rootless=True, pids={"limit": 9}), user=True)
    expect(status, 1, f"the status ({output})")
    expect_in("linux.resources.pids.limit", output)


@case()
def rootless_limits_hold_below_a_delegated_group(runtime):
    """cgroupfs below a unit of the user's systemd that is delegated to the runtime."""
    spec = shell("cat /sys/fs/cgroup/pids.max", rootless=True, pids={"limit": 9})
    name, directory = runtime.bundle(spec)
    call = runtime.words("run", "--bundle", directory, name, user=True)
    inner = call[call.index("-i") + 1 :]
    scope = ["systemd-run", "--user", "--quiet", "--pipe", "--wait", "--property=Delegate=yes"]
    # The runtime must not stay in the group whose controllers it hands on.
    script = """
        group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
        mkdir $group/own
        echo 0 > $group/own/cgroup.procs
        exec "$@"
    """.replace("$", "$$")  # systemd-run expands variables itself
    words = ["runuser", "-u", USER, "--", "env", *USER_ENV, *scope, "sh", "-c", script, "sh", "env", *inner]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    expect((done.returncode, done.stdout.strip()), (0, "9"))


# AppArmor


PROFILE = """
profile octest flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  mount,
  umount,
  signal,
  deny /tmp/forbidden w,
}
"""


@case()
def the_apparmor_profile_is_in_force(runtime):
    with open(f"{WORK}/profile", "w") as file:
        file.write(PROFILE)
    subprocess.run(["apparmor_parser", "-Kr", f"{WORK}/profile"], check=True)
    spec = shell(
        "cat /proc/self/attr/current; touch /tmp/allowed && echo yes; touch /tmp/forbidden || echo no"
    )
    spec["process"]["apparmorProfile"] = "octest"
    _, output = runtime.run(spec)
    expect_in("octest (enforce)", output)
    expect_in("yes", output)
    expect_in("no\n", output)


@case(only="ocirt")
def an_unknown_apparmor_profile_is_an_error_that_names_the_field(runtime):
    spec = config("true")
    spec["process"]["apparmorProfile"] = "nosuch"
    status, output = runtime.run(spec)
    expect(status, 1, "the status")
    expect_in("process.apparmorProfile", output)


# An engine


@case("systemd", "rootless", only="ocirt")
def podman_gives_its_containers_a_scope_with_limits(runtime, driver):
    archive = f"{WORK}/image.tar"
    subprocess.run(["tar", "-C", ROOTFS, "-cf", archive, "."], check=True)
    user = ["runuser", "-u", USER, "--", "env", "-i", *USER_ENV] if driver == "rootless" else []

    def podman(*words):
        call = [*user, "podman", "--runtime", runtime.path, "--cgroup-manager", "systemd", *words]
        done = subprocess.run(call, cwd="/tmp", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Failed(f"podman {words[0]}: status {done.returncode}: {done.stdout.strip()}")
        return done.stdout.strip()

    podman("import", "-q", archive, "image")
    limits = ["--network=none", "--memory=50m", "--pids-limit=77"]
    podman("run", "-d", "--name=octest", *limits, "image", "sleep", "1000")
    try:
        details = podman("inspect", "--format={{.State.Pid}} {{.OCIRuntime}} {{.Id}}", "octest").split()
        expect(details[1], runtime.path, "the runtime")
        slice_name = f"{USER_MANAGER}/user.slice" if user else "/machine.slice"
        group = f"{slice_name}/libpod-{details[2]}.scope"
        expect(cgroup_of(details[0]), group, "the group")
        script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /proc/self/cgroup"
        expect(podman("exec", "octest", "sh", "-c", script), f"{50 * MIB}\n77\n0::/", "what exec sees")
    finally:
        podman("rm", "-f", "-t", "0", "octest")
    expect(os.path.exists(f"/sys/fs/cgroup{group}"), False, "the group is there after rm")


# v1 and cgroup2 side by side


@case("cgroupfs", "systemd", layouts=("hybrid",))
def limits_are_in_force_on_hybrid(runtime, driver):
    limits = {key: dict(value) for key, value in LIMITS.items()}
    del limits["memory"]["swap"]
    place = where(driver)
    if driver == "systemd":
        place["path"] = "oct-test.slice:oct:@"
    with runtime.started(config(**limits), **place) as container:
        pid = container.pid
        expected = expected_group(driver, container)
        for key in ("memory", "pids", "devices", "freezer", "name=systemd", "cpuset", "cpu,cpuacct"):
            expect(cgroup_of(pid, key), expected, f"the group of {key}")
        root = "/sys/fs/cgroup"
        expect(read(f"{root}/memory{expected}/memory.limit_in_bytes"), str(64 * MIB), "memory")
        expect(read(f"{root}/pids{expected}/pids.max"), "50", "pids.max")
        expect(read(f"{root}/cpu,cpuacct{expected}/cpu.cfs_quota_us"), "25500", "cpu.cfs_quota_us")
        expect(read(f"{root}/cpuset{expected}/cpuset.cpus"), "0", "cpuset.cpus")
    left = [path for path in glob.glob(f"{root}/*{expected}") if os.path.exists(path)]
    expect(left, [], "what is left")


@case("cgroupfs", "systemd", layouts=("hybrid",))
def a_device_that_is_not_allowed_cannot_be_opened_on_hybrid(runtime, driver):
    script = f"mknod /tmp/d {KMSG}; sleep 1000"
    with runtime.started(shell(script), **where(driver)) as container:
        wait_until(lambda: os.path.exists(f"/proc/{container.pid}/root/tmp/d"), "the node is made")
        if driver == "systemd" and runtime.name == "ocirt":
            subprocess.run(["systemctl", "daemon-reload"], check=True)
        _, output = runtime.call("exec", container.name, "sh", "-c", ": < /tmp/d", check=False)
        expect_in("Operation not permitted", output)


@case("cgroupfs", "systemd", layouts=("hybrid",))
def exec_is_in_the_groups_of_the_container_on_hybrid(runtime, driver):
    spec = config()
    spec["linux"]["namespaces"].remove({"type": "cgroup"})
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    with runtime.started(spec, **where(driver)) as container:
        lines = set(container.exec("cat", "/proc/self/cgroup").splitlines())
        expect(lines, set(read(f"/proc/{container.pid}/cgroup").splitlines()), "what exec reads")


# The driver


def main(path, layout, names):
    make_rootfs()
    os.chmod(WORK, 0o755)
    runtime = Runtime(path)
    failed = 0
    for name, function, arguments, layouts, only in CASES:
        if layout not in layouts or (only and only != runtime.name) or (names and name not in names):
            continue
        started = time.monotonic()
        try:
            function(runtime, **arguments)
        except Failed as error:
            line = f"FAIL {name}: {str(error)!r}"
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            line = f"FAIL {name}: {type(error).__name__} in line {frame.lineno}: {str(error)!r}"
        else:
            line = f"ok {name}"
        failed += line.startswith("FAIL")
        print(f"{line} ({time.monotonic() - started:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    # By its name, so that the modules with more cases add them to the same list.
    import guest_cases
    import guest_controllers  # noqa: F401
    import guest_effects  # noqa: F401

    sys.exit(guest_cases.main(sys.argv[1], sys.argv[2], sys.argv[3:]))
