"""Cases of controllers by what they do to a container: see guest_cases.py, which runs them."""

import contextlib
import itertools
import os
import signal
import subprocess
import time

from guest_cases import (
    MIB,
    Failed,
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
from guest_controllers import COUNT, DISK, ROOT, count, state, v1

PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
NET = "net_cls,net_prio"
CLASS = 0x100001
RDMA = itertools.count()
CALL = "wget -q -O - http://127.0.0.1:9/"  # nobody listens: what counts is the packet


def do(*words):
    """Output of a program that must succeed."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise Failed(f"{' '.join(words)}: status {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def on_the_host_network(spec):
    spec["linux"]["namespaces"].remove({"type": "network"})
    del spec["mounts"][4:]  # sysfs needs a network namespace of its own
    return spec


def with_python(spec, script):
    """The guest's Python in a container: busybox maps no huge pages."""
    for name in ("usr", "lib", "lib64"):
        mount = {"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": ["rbind", "ro"]}
        spec["mounts"].append(mount)
    spec["process"]["args"] = ["/usr/bin/python3", "-IS", "-c", script]
    return spec


# Network, v1


@contextlib.contextmanager
def packets_of_the_class():
    """A function that counts packets with CLASS, which net_cls puts on those of its processes."""
    rule = ["OUTPUT", "-m", "cgroup", "--cgroup", hex(CLASS)]
    do("iptables", "-A", *rule)

    def count():
        line = next(line for line in do("iptables", "-nvxL", "OUTPUT").splitlines() if "cgroup" in line)
        return int(line.split()[0])

    try:
        yield count
    finally:
        do("iptables", "-D", *rule)


@case("cgroupfs", "systemd", layouts=("v1", "hybrid"))
def the_firewall_knows_packets_of_a_container_by_its_class(runtime, driver):
    with packets_of_the_class() as count:
        subprocess.run(["busybox", *CALL.split()], stderr=subprocess.DEVNULL)
        expect(count(), 0, "packets of the class from outside")
        runtime.run(on_the_host_network(shell(CALL, network={"classID": CLASS})), **where(driver))
        expect(count() > 0, True, "packets of the class are counted")


@contextlib.contextmanager
def bands():
    """A function that counts the packets in the first band of the loopback, for the priorities 6 and 7."""
    do("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "prio")

    def count():
        lines = do("tc", "-s", "class", "show", "dev", "lo").splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("class prio 1:1 "))
        return int(lines[at + 1].split()[3])

    try:
        yield count
    finally:
        do("tc", "qdisc", "del", "dev", "lo", "root")


@case("cgroupfs", "systemd", layouts=("v1", "hybrid"))
def packets_of_a_container_have_the_priority_of_their_interface(runtime, driver):
    with bands() as count:
        subprocess.run(["busybox", *CALL.split()], stderr=subprocess.DEVNULL)
        expect(count(), 0, "packets with the priority from outside")
        network = {"priorities": [{"name": "lo", "priority": 6}]}
        runtime.run(on_the_host_network(shell(CALL, network=network)), **where(driver))
        expect(count() > 0, True, "packets with the priority are counted")


# Huge pages


@contextlib.contextmanager
def huge_pages(number):
    before = read(PAGES)
    with open(PAGES, "w") as file:
        file.write(str(number))
    try:
        expect(read(PAGES), str(number), "huge pages of the guest")
        yield
    finally:
        with open(PAGES, "w") as file:
            file.write(before)


MAP = """
import mmap
HUGETLB, NORESERVE = 0x40000, 0x4000
def fill(pages, more=0):
    area = mmap.mmap(-1, pages << 21, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | HUGETLB | more)
    for page in range(pages):
        area[page << 21] = 1
        print(pages, 'has', page + 1, flush=True)
    area.close()
fill(2)
try:
    fill(3)
except OSError as error:
    print('three:', error.strerror, flush=True)
fill(3, NORESERVE)
"""


@case("cgroupfs", "systemd")
@case("cgroupfs", layouts=("v1", "hybrid"))
def more_huge_pages_than_the_limit_are_not_to_be_had(runtime, driver):
    """Not to be reserved (ENOMEM), and where nothing is reserved, not to be touched (SIGBUS)."""
    limits = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}
    with huge_pages(8):
        status, output = runtime.run(with_python(config(**limits), MAP), **where(driver))
    if runtime.name == "ocirt":  # the others have no limit for reservations, or no such file at this age
        expect_in("three: Cannot allocate memory", output)
    expect_in("2 has 2\n", output)
    expect(status, 128 + 7, f"the status ({output.strip()})")


# Block devices


@contextlib.contextmanager
def bfq():
    """The disk of the guest under the scheduler that knows weights."""
    do("modprobe", "bfq")
    file = "/sys/block/vda/queue/scheduler"
    before = read(file).partition("[")[2].partition("]")[0]
    try:
        with open(file, "w") as scheduler:
            scheduler.write("bfq")
        yield
    finally:
        with open(file, "w") as scheduler:
            scheduler.write(before)
        do("rmmod", "bfq")


@case("cgroupfs", "systemd", layouts=("v2", "v1", "hybrid"), only="ocirt")
def weights_of_block_devices_are_those_of_bfq_where_it_is_at_work(runtime, driver):
    block = {"weight": 500, "weightDevice": [{**DISK, "weight": 300}]}
    with bfq(), runtime.started(config(blockIO=block), **where(driver)) as container:

        def weights():
            """Of all, and of the disk."""
            if os.path.exists(f"{ROOT}/cgroup.controllers"):
                return container.read("io.bfq.weight").removeprefix("default ").split("\n")
            files = "blkio.bfq.weight", "blkio.bfq.weight_device"
            return [v1(container, "blkio", file).rpartition("\n")[2] for file in files]

        expect(weights(), ["500", "254:0 300"], "the weights")
        expect_in(" 0 differ", runtime.call("verify", container.name, **container.how))
        runtime.call("update", "--blkio-weight", "700", container.name, **container.how)
        expect(weights(), ["700", "254:0 300"], "the weights after an update")


# RDMA and misc


@contextlib.contextmanager
def rdma_device():
    """A device of RDMA made of a network device."""
    name = f"octest_rxe{next(RDMA)}"  # the name of one that is deleted is taken for a while
    do("modprobe", "rdma_rxe")
    do("ip", "link", "add", "octest0", "type", "dummy")
    try:
        do("ip", "link", "set", "octest0", "up")
        do("rdma", "link", "add", name, "type", "rxe", "netdev", "octest0")
        yield name
    finally:
        subprocess.run(["rdma", "link", "delete", name])
        do("ip", "link", "delete", "octest0")


@case("cgroupfs", "systemd", layouts=("v2", "v1", "hybrid"), only="ocirt")
def limits_of_an_rdma_device_are_in_the_file(runtime, driver):
    """Only there: to take one's handles and delete it afterwards is a bug of this kernel's rxe."""
    with rdma_device() as name:
        spec = config(rdma={name: {"hcaHandles": 2, "hcaObjects": 100}})
        with runtime.started(spec, **where(driver)) as container:
            v2 = os.path.exists(f"{ROOT}/cgroup.controllers")
            limits = container.read("rdma.max") if v2 else v1(container, "rdma", "rdma.max")
            expect_in(f"{name} hca_handle=2 hca_object=100", limits)


@case("cgroupfs", "systemd", only="ocirt")
def a_limit_of_misc_is_refused_by_name_where_the_host_has_nothing_of_it(runtime, driver):
    """Only a processor with SEV or the like has any: this guest cannot show more."""
    expect(read(f"{ROOT}/misc.capacity"), "", "misc.capacity")
    status, output = runtime.run(config("true", unified={"misc.max": "sev 1"}), **where(driver))
    expect(status, 1, "the status")
    expect_in("linux.resources.unified.misc.max: write 'sev 1' to ", output)
    with runtime.started(config(unified={"misc.max": ""}), **where(driver)) as container:
        expect(container.read("misc.max"), "", "misc.max")


# Hierarchies


@case(layouts=("v1", "hybrid", "v2"), only="ocirt")
def a_controller_of_one_hierarchy_cannot_be_mounted_in_a_second(runtime):
    """Rule 2 of docs/cgroups.md. On v1 the same controllers again are the same hierarchy."""
    place = "/run/octest-second"
    os.makedirs(place, exist_ok=True)

    def mount(controllers):
        words = ["mount", "-t", "cgroup", "-o", controllers, "none", place]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    with runtime.started(config(pids={"limit": 33}), path="/octest/@") as container:
        for controllers in (
            ("memory,pids", "memory")
            if os.path.exists(f"{ROOT}/cgroup.controllers")
            else (
                "memory,pids",
                "pids,net_cls",
            )
        ):
            status, output = mount(controllers)
            if status == 0:
                do("umount", place)
            expect(status, 32, f"the status of mounting {controllers} ({output.strip()})")
        if not os.path.exists(f"{ROOT}/cgroup.controllers"):
            expect(mount("pids")[0], 0, "the status of mounting pids again")
            try:
                group = cgroup_of(container.pid, "pids")
                expect(read(f"{place}{group}/pids.max"), "33", "pids.max in the second place")
                expect(read(f"{place}{group}/cgroup.procs"), str(container.pid), "who is in it")
            finally:
                do("umount", place)
    os.rmdir(place)


# systemd that does not answer


@contextlib.contextmanager
def stalled_bus():
    """Nothing but the bus leads to systemd, and the bus is stopped."""
    (daemon,) = do("pgrep", "-x", "-u", "messagebus", "dbus-daemon").split()
    os.rename("/run/systemd/private", "/run/systemd/private.away")
    os.kill(int(daemon), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(int(daemon), signal.SIGCONT)
        os.rename("/run/systemd/private.away", "/run/systemd/private")


@case("systemd", layouts=("v2", "v1", "hybrid"), only="ocirt")
def a_stalled_bus_freezes_nothing_and_keeps_nothing_frozen(runtime, driver):
    with runtime.started(shell(COUNT), **where(driver)) as container:
        wait_until(lambda: count(container), "it counts")
        with stalled_bus():
            runtime.call("pause", container.name, **container.how)
            expect(state(container), "paused", "the status")
            before = count(container)
            runtime.call("resume", container.name, **container.how)
            wait_until(lambda: count(container) != before, "it counts again")
            runtime.call("kill", container.name, "KILL", **container.how)
            wait_until(lambda: state(container) == "stopped", "it is dead")


# Whose group it is


@case("cgroupfs", only="ocirt")
@case("systemd")
def root_of_a_user_namespace_manages_its_group_and_not_its_limits(runtime, driver):
    script = (
        "mkdir /sys/fs/cgroup/inner && echo 1 > /sys/fs/cgroup/inner/cgroup.procs && echo moved;"
        "(echo max > /sys/fs/cgroup/pids.max) || echo refused; touch /tmp/done; sleep 1000"
    )
    spec = shell(script, pids={"limit": 33})
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        spec["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    spec["mounts"][-1]["options"] = ["rw"]
    with runtime.started(spec, **where(driver)) as container:
        wait_until(lambda: os.path.exists(f"/proc/{container.pid}/root/tmp/done"), "it has tried")
        group = f"{ROOT}{container.cgroup}".removesuffix("/inner")
        expect(os.stat(group).st_uid, 100000, "the owner of the group")
        expect(os.stat(f"{group}/pids.max").st_uid, 0, "the owner of pids.max")
        expect(read(f"{group}/pids.max"), "33", "pids.max")
        expect(cgroup_of(container.pid), f"{group.removeprefix(ROOT)}/inner", "where the init is")


@case("cgroupfs", "systemd", layouts=("v2", "v1", "hybrid"), only="ocirt")
def a_limit_of_no_processes_lets_nothing_fork(runtime, driver):
    """As runtime-spec 1.3 has it: 0 is a limit."""
    spec = shell("sleep 1 & echo forked", pids={"limit": 0})
    spec["ociVersion"] = "1.3.0"
    _, output = runtime.run(spec, **where(driver))
    expect_in("fork", output)
    if "forked" in output:
        raise Failed(f"it forks: {output}")


# exec into a container that has changed its groups


INNER = """
mkdir /sys/fs/cgroup/inner &&
echo 1 > /sys/fs/cgroup/inner/cgroup.procs &&
echo +pids > /sys/fs/cgroup/cgroup.subtree_control &&
touch /tmp/done
sleep 1000
"""


@case("cgroupfs", "systemd", "rootless", only="ocirt")
def exec_goes_where_the_init_is_when_the_recorded_group_is_busy(runtime, driver):
    """As a systemd or dockerd in the container makes it: it hands controllers on, so the group may
    have no processes of its own any more.
    """
    spec = shell(INNER, rootless=driver == "rootless")
    spec["mounts"][-1]["options"] = ["rw"]
    with runtime.started(spec, **where(driver)) as container:
        wait_until(lambda: os.path.exists(f"/proc/{container.pid}/root/tmp/done"), "the group is made")
        expect(container.exec("cat", "/proc/self/cgroup").strip(), "0::/inner", "the group of exec")
        pids = runtime.call("ps", "--format", "json", container.name, **container.how)
        expect_in(str(container.pid), pids)
        group = f"{ROOT}{container.cgroup}"
    expect(os.path.exists(group), False, "the group is there after delete")


@case("cgroupfs", only="ocirt")
def exec_goes_where_the_init_is_when_the_recorded_group_is_gone(runtime, driver):
    elsewhere = f"{ROOT}/octest/elsewhere"
    with runtime.started(config(), **where(driver)) as container:
        os.makedirs(elsewhere)
        with open(f"{elsewhere}/cgroup.procs", "w") as file:
            file.write(str(container.pid))
        os.rmdir(f"{ROOT}{container.cgroup}")
        script = "cat /proc/self/cgroup; sleep 2"
        words = runtime.words("exec", container.name, "sh", "-c", script)
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        wait_until(lambda: len(read(f"{elsewhere}/cgroup.procs").split()) >= 2, "exec is there as well")
        process.communicate()
        expect(process.returncode, 0, "the status of exec")
    deadline = time.monotonic() + 5
    while os.path.exists(elsewhere):
        with contextlib.suppress(OSError):
            os.rmdir(elsewhere)
        expect(time.monotonic() < deadline, True, "the other group can be removed")
