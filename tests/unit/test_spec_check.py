"""What check refuses, in which words, and what it lets pass."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from ocirt.errors import SpecError
from ocirt.spec.check import check, check_process, check_shape
from ocirt.spec.example import example, rootless_example
from ocirt.spec.rules import PROCESS_RULES, RULES, sysctl_path
from ocirt.spec.unusual import unknown_members

DATA = Path(__file__).parents[1] / "data"
CONFIGS = sorted((DATA / "configs").glob("*.json"))
PROCESSES = sorted((DATA / "process").glob("*.json"))
# crun makes up the id maps that its own example leaves out; runc refuses such a document.
REFUSED_CONFIGS = {"crun-spec-rootless.json": "linux.uidMappings: is required for a new user namespace"}
ABSENT = object()
OWN_NET, OWN_MNT = "/proc/self/ns/net", "/proc/self/ns/mnt"


def spec_with(*changes):
    """The example, changed: (path, value) with path in config.json's words, "mounts.0.type"."""
    spec = example()
    for path, value in changes:
        parent = spec
        *above, last = path.split(".")
        for name in above:
            parent = parent[int(name)] if isinstance(parent, list) else parent.setdefault(name, {})
        if value is ABSENT:
            del parent[last]
        elif isinstance(parent, list):
            parent[int(last)] = value
        else:
            parent[last] = value
    return spec


def namespaces(*kinds, **paths):
    entries = [{"type": kind} for kind in kinds]
    return ("linux.namespaces", entries + [{"type": kind, "path": path} for kind, path in paths.items()])


def refusal(spec):
    with pytest.raises(SpecError) as caught:
        check(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(container, host, size):
    return {"containerID": container, "hostID": host, "size": size}


ALL = ("pid", "network", "ipc", "uts", "mount")
USER = namespaces(*ALL, "user")
MAPS = (("linux.uidMappings", [ids(0, 1000, 10)]), ("linux.gidMappings", [ids(0, 1000, 10)]))
TIME = namespaces(*ALL, "time")
NO_MOUNTS = [("mounts", []), ("linux.maskedPaths", []), ("linux.readonlyPaths", [])]
SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"}]}

ACCEPTED = {
    "example": [],
    "older version": [("ociVersion", "1.0.2-dev")],
    "release candidate": [("ociVersion", "1.0.0-rc5")],
    "younger version": [("ociVersion", "1.14.0+vendor.1")],
    "what engines write": [("ociVersion", "1.2.0")],
    "pre-release with all that SemVer allows": [("ociVersion", "1.0.0-alpha.0.x-y.7+001.a-b")],
    "nulls are absent": [
        ("hostname", None),
        ("hooks", None),
        ("process.rlimits", None),
        ("process.user.umask", None),
        ("linux.resources.memory", {"limit": None, "swap": -1}),
        ("linux.seccomp", None),
        ("annotations", None),
    ],
    "unknown members": [("future", {"x": [1.5]}), ("linux.future", None), ("process.user.nick", 7)],
    "other platforms": [("windows", {"layerFolders": None}), ("vm", {}), ("zos", {}), ("solaris", {})],
    "no user": [("process.user", ABSENT)],
    "largest id": [("process.user", {"uid": 2**32 - 2, "gid": 2**32 - 2, "additionalGids": [2**32 - 2]})],
    "no limit": [("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1}])],
    "unknown capability": [("process.capabilities.bounding", ["CAP_FUTURE"])],
    "empty value in env": [("process.env", ["A=", "B==", "A=again"])],
    "relative destination": [("mounts.0.destination", "proc")],
    "relative masked path": [("linux.maskedPaths", ["proc/kcore"])],
    "no section linux": [("linux", ABSENT), ("hostname", ABSENT), ("mounts", ABSENT)],
    "the root remounted": [("mounts", [{"destination": "/", "options": ["remount", "ro"]}])],
    "new user namespace": [USER, *MAPS],
    "joined user namespace": [namespaces(*ALL, user="/proc/1/ns/user")],
    "joined user namespace and its maps": [namespaces(*ALL, user="/proc/1/ns/user"), *MAPS],
    "whole id range": [USER, MAPS[0], ("linux.gidMappings", [ids(0, 0, 2**32 - 1)])],
    "time": [TIME, ("linux.timeOffsets", {"monotonic": {"secs": -5, "nanosecs": 0}, "boottime": {}})],
    "no offsets, no time namespace": [("linux.timeOffsets", {})],
    "sysctls of its own namespaces": [
        (
            "linux.sysctl",
            {
                "net.ipv4.ip_forward": "1",
                "net/ipv4/conf/eth0.7/forwarding": "1",
                "kernel.shmmax": "1",
                "kernel/msgmax": "1",
                "fs.mqueue.msg_max": "1",
                "kernel.domainname": "x",
            },
        )
    ],
    "ucounts": [USER, *MAPS, ("linux.sysctl", {"user.max_user_namespaces": "1"})],
    "sysctl of a namespace that cannot be asked": [
        namespaces("ipc", "uts", "mount", network="/nowhere/net"),
        ("linux.sysctl", {"net.ipv4.ip_forward": "1"}),
    ],
    "fifo": [("linux.devices", [{"path": "/dev/pipe", "type": "p"}])],
    "notify": [("linux.seccomp", {**SECCOMP, "listenerPath": "/run/agent"})],
    "default control group": [("linux.intelRdt", {"closID": "/"})],
    "network device": [
        ("linux.netDevices", {"eth0": {}, "eth1": {"name": "net%d"}, "eth2": {"name": "net%d"}})
    ],
    "device rule for all types": [("linux.resources.devices", [{"allow": True, "type": "", "access": "rm"}])],
    "burst without quota": [("linux.resources.cpu", {"quota": -1, "burst": 5})],
    "numa policy": [("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "0"})],
    "hook": [("hooks", {"prestart": [{"path": "/bin/true", "timeout": None}]})],
}

REFUSED = {
    "no version": ([("ociVersion", ABSENT)], "config.json: /: 'ociVersion' is a required property"),
    "null version": ([("ociVersion", None)], "config.json: /: 'ociVersion' is a required property"),
    "wrong type": (
        [("process.user.uid", "abc")],
        "config.json: /process/user/uid: 'abc' is not of type 'integer'",
    ),
    "float": ([("process.user.uid", 0.0)], "config.json: /process/user/uid: 0.0 is not of type 'integer'"),
    "bool for a number": (
        [("process.user.gid", True)],
        "config.json: /process/user/gid: True is not of type 'integer'",
    ),
    "too large": (
        [("process.user.uid", 2**32)],
        "config.json: /process/user/uid: 4294967296 is greater than the maximum of 4294967295",
    ),
    "negative": (
        [("process.user.uid", -1)],
        "config.json: /process/user/uid: -1 is less than the minimum of 0",
    ),
    "null in a list": (
        [("process.args", ["a", None])],
        "config.json: /process/args/1: None is not of type 'string'",
    ),
    "null in a map": (
        [("annotations", {"a/b~": None})],
        "config.json: /annotations/a~1b~0: None is not of type 'string'",
    ),
    "half a character": ([("root.path", "\udcff")], "/root/path: '\\udcff' does not match"),
    "NUL": ([("root.path", "a\0b")], "/root/path: 'a\\x00b' does not match"),
    "unknown namespace": (
        [namespaces("net")],
        "config.json: /linux/namespaces/0/type: 'net' is not one of ['pid', ",
    ),
    "several": (
        [("hostname", 1), ("mounts.1.options", "ro"), ("process.oomScoreAdj", 1001)],
        (
            "config.json: /process/oomScoreAdj: 1001 is greater than the maximum of 1000; "
            "/hostname: 1 is not of type 'string'; /mounts/1/options: 'ro' is not of type 'array'"
        ),
    ),
    # runc and crun take it. config.md, Valid values: "Runtimes that are reading or processing this
    # configuration file MUST generate an error when invalid or unsupported values are encountered";
    # Specification version: it "MUST be in SemVer v2.0.0 format", which has three numbers.
    "two numbers": (
        [("ociVersion", "1.0")],
        "ociVersion: '1.0' is not a semantic version: three numbers, as in 1.2.0 (config.md, Spec",
    ),
    "no version at all": ([("ociVersion", "latest")], "ociVersion: 'latest' is not a semantic version"),
    "empty version": ([("ociVersion", "")], "ociVersion: '' is not a semantic version"),
    "version with a v": ([("ociVersion", "v1.2.0")], "ociVersion: 'v1.2.0' is not a semantic version"),
    "version with a leading zero": ([("ociVersion", "1.02.0")], "'1.02.0' is not a semantic version"),
    "empty pre-release": ([("ociVersion", "1.2.0-")], "ociVersion: '1.2.0-' is not a semantic version"),
    "empty part of a pre-release": ([("ociVersion", "1.2.0-rc..1")], "'1.2.0-rc..1' is not a semantic"),
    "pre-release with a leading zero": ([("ociVersion", "1.2.0-rc.01")], "'1.2.0-rc.01' is not a semantic"),
    "version in other digits": ([("ociVersion", "1.2.\u0663")], "is not a semantic version"),
    "empty build": ([("ociVersion", "1.2.0+")], "ociVersion: '1.2.0+' is not a semantic version"),
    "version with a blank": ([("ociVersion", "1.2.0-a b")], "'1.2.0-a b' is not a semantic version"),
    "not this version": ([("ociVersion", "2.0.0")], "ociVersion: '2.0.0' is not a version 1.x"),
    "no root": ([("root", ABSENT)], "root.path: is required (config.md, Root)"),
    "empty root": ([("root.path", "")], "root.path: is required (config.md, Root)"),
    "no process": ([("process", ABSENT)], "process: is required (config.md, Process)"),
    "no args": ([("process.args", [])], "process.args: must not be empty"),
    "null args": ([("process.args", None)], "process.args: must not be empty"),
    "relative cwd": ([("process.cwd", "tmp")], "process.cwd: 'tmp' is not an absolute path"),
    "no cwd": ([("process.cwd", ABSENT)], "config.json: /process: 'cwd' is a required property"),
    "env without =": ([("process.env", ["A=1", "B"])], "process.env[1]: 'B' is not NAME=VALUE"),
    "env without name": ([("process.env", ["=1"])], "process.env[0]: '=1' is not NAME=VALUE"),
    "uid -1": ([("process.user.uid", 2**32 - 1)], "process.user.uid: 4294967295 is not an id"),
    "gid -1": ([("process.user.gid", 2**32 - 1)], "process.user.gid: 4294967295 is not an id"),
    "group -1": (
        [("process.user.additionalGids", [0, 2**32 - 1])],
        "process.user.additionalGids[1]: 4294967295 is not an id",
    ),
    "rlimit twice": (
        [("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2)],
        "process.rlimits[1]: RLIMIT_CORE occurs twice",
    ),
    "soft above hard": (
        [("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}])],
        "process.rlimits[0]: RLIMIT_CORE: soft 2 is above hard 1",
    ),
    "rlimit unknown": (
        [("process.rlimits", [{"type": "RLIMIT_X", "soft": 2, "hard": 1}])],
        "/process/rlimits/0/type: 'RLIMIT_X' is not one of",
    ),
    "priority of a fair scheduler": (
        [("process.scheduler", {"policy": "SCHED_OTHER", "priority": 3})],
        "process.scheduler.priority: is for SCHED_FIFO and SCHED_RR, not for SCHED_OTHER",
    ),
    "runtime of a fair scheduler": (
        [("process.scheduler", {"policy": "SCHED_RR", "priority": 3, "runtime": 5})],
        "process.scheduler.runtime: is for SCHED_DEADLINE, not for SCHED_RR",
    ),
    "namespace twice": ([namespaces(*ALL, "pid")], "linux.namespaces[5]: type 'pid' occurs twice"),
    "relative namespace": (
        [namespaces("uts", "mount", network="ns/net")],
        "linux.namespaces[2].path: 'ns/net' is not an absolute path",
    ),
    "maps without user namespace": (
        [MAPS[0]],
        "linux.uidMappings: needs a user namespace in linux.namespaces",
    ),
    "user namespace without maps": (
        [USER],
        (
            "config.json: linux.uidMappings: is required for a new user namespace; "
            "linux.gidMappings: is required for a new user namespace"
        ),
    ),
    "user namespace with one map": (
        [USER, MAPS[0]],
        "linux.gidMappings: is required for a new user namespace",
    ),
    "overlap inside": (
        [USER, MAPS[0], ("linux.gidMappings", [ids(0, 0, 5), ids(4, 10, 5)])],
        "linux.gidMappings[1].containerID: overlaps with entry 0",
    ),
    "overlap outside": (
        [USER, MAPS[0], ("linux.gidMappings", [ids(0, 10, 5), ids(5, 6, 5)])],
        "linux.gidMappings[0].hostID: overlaps with entry 1",
    ),
    "map beyond the last id": (
        [USER, MAPS[0], ("linux.gidMappings", [ids(0, 2**32 - 2, 2)])],
        "linux.gidMappings[0].hostID: the range ends beyond the last id, 4294967294",
    ),
    "empty map entry": (
        [USER, MAPS[0], ("linux.gidMappings", [ids(0, 0, 0)])],
        "linux.gidMappings[0].size: must not be 0",
    ),
    "too many map entries": (
        [USER, MAPS[0], ("linux.gidMappings", [ids(i, i, 1) for i in range(341)])],
        "linux.gidMappings: has 341 entries, the kernel takes 340",
    ),
    "mount map without its pair": (
        [("mounts.0.uidMappings", [ids(0, 0, 1)])],
        "mounts[0].gidMappings: is required when the other mapping is given",
    ),
    "idmap without any map": (
        [("mounts.3.options", ["ridmap"])],
        "mounts[3].options: ridmap needs mappings or a user",
    ),
    "empty destination": ([("mounts.2.destination", "")], "mounts[2].destination: must not be empty"),
    "a mount on the root": (
        [("mounts.2.destination", "/./")],
        "mounts[2].destination: is the root itself: it would be hidden, not seen",
    ),
    "mounts on the host": (
        [("linux", ABSENT), ("hostname", ABSENT)],
        "mounts: needs a mount namespace in linux.namespaces: they would appear on the host",
    ),
    "offsets without namespace": (
        [("linux.timeOffsets", {"monotonic": {"secs": 1}})],
        "linux.timeOffsets: needs a time namespace in linux.namespaces",
    ),
    "offsets of a joined namespace": (
        [namespaces(*ALL, time="/proc/1/ns/time"), ("linux.timeOffsets", {"monotonic": {"secs": 1}})],
        "linux.timeOffsets: cannot be set for a time namespace that is joined",
    ),
    "other clock": (
        [TIME, ("linux.timeOffsets", {"realtime": {}})],
        "linux.timeOffsets.realtime: only the clocks",
    ),
    "a second has no more": (
        [TIME, ("linux.timeOffsets", {"monotonic": {"nanosecs": 10**9}})],
        "/linux/timeOffsets/monotonic/nanosecs: 1000000000 is greater than",
    ),
    "hostname of the host": (
        [namespaces("pid", "mount")],
        "hostname: needs a uts namespace in linux.namespaces: it would change the host's",
    ),
    "domainname of the host": (
        [namespaces("pid", "mount"), ("hostname", ABSENT), ("domainname", "x")],
        "domainname: needs a uts namespace in linux.namespaces: it would change the host's",
    ),
    "long hostname": ([("hostname", "ä" * 33)], "hostname: is longer than 64 bytes"),
    "sysctl of the host": (
        [("linux.sysctl", {"kernel.panic": "1"})],
        "linux.sysctl[kernel.panic]: is not namespaced: it would change the host",
    ),
    "sysctl of the host's network": (
        [namespaces("uts", "mount"), ("linux.sysctl", {"net/core/somaxconn": "1"})],
        "linux.sysctl[net/core/somaxconn]: needs a network namespace that is not the host's",
    ),
    "sysctl of the host's network by path": (
        [namespaces("uts", "mount", network=OWN_NET), ("linux.sysctl", {"net.core.somaxconn": "1"})],
        "linux.sysctl[net.core.somaxconn]: needs a network namespace that is not the host's",
    ),
    "sysctl of the host's ipc": (
        [namespaces("uts", "mount"), ("linux.sysctl", {"fs.mqueue.msg_max": "1"})],
        "linux.sysctl[fs.mqueue.msg_max]: needs an ipc namespace that is not the host's",
    ),
    "sysctl of the host's ucounts": (
        [("linux.sysctl", {"user.max_user_namespaces": "1"})],
        "linux.sysctl[user.max_user_namespaces]: needs a user namespace that is not the host's",
    ),
    "sysctl hostname": (
        [("linux.sysctl", {"kernel.hostname": "x"})],
        "linux.sysctl[kernel.hostname]: is set by the field hostname",
    ),
    "sysctl that leaves net": (
        [("linux.sysctl", {"net/../kernel/panic": "1"})],
        "linux.sysctl[net/../kernel/panic]: is not the name of a sysctl",
    ),
    "sysctl that leaves net by swapped separators": (
        [("linux.sysctl", {"net.//.kernel.panic": "1"})],
        "linux.sysctl[net.//.kernel.panic]: is not the name of a sysctl",
    ),
    "masked paths of the host": (
        [namespaces("uts"), ("linux.readonlyPaths", [])],
        "linux.maskedPaths: needs a mount namespace in linux.namespaces",
    ),
    "the runtime's own mount namespace by path": (
        [namespaces("uts", mount=OWN_MNT), *NO_MOUNTS],
        (
            f"linux.namespaces[1].path: {OWN_MNT} is the mount namespace of the runtime: "
            "its root would become the container's"
        ),
    ),
    "devices of the host": (
        [namespaces("uts"), *NO_MOUNTS, ("linux.devices", [{"path": "/dev/pipe", "type": "p"}])],
        "linux.devices: needs a mount namespace in linux.namespaces",
    ),
    "propagation of the host": (
        [namespaces("uts"), *NO_MOUNTS, ("linux.rootfsPropagation", "rslave")],
        "linux.rootfsPropagation: needs a mount namespace in linux.namespaces",
    ),
    "the root masked": (
        [("linux.maskedPaths", ["/a", "/./"])],
        "linux.maskedPaths[1]: is the root itself, which cannot be hidden",
    ),
    "empty masked path": ([("linux.maskedPaths", ["/a", ""])], "linux.maskedPaths[1]: must not be empty"),
    "device without number": (
        [("linux.devices", [{"path": "/dev/x", "type": "c", "major": 1, "minor": None}])],
        "linux.devices[0].minor: is required unless type is p",
    ),
    "device rule without access": (
        [("linux.resources.devices", [{"allow": False}])],
        "linux.resources.devices[0].access: must not be empty",
    ),
    "device rule with other access": (
        [("linux.resources.devices", [{"allow": False, "access": "rx"}])],
        "/linux/resources/devices/0/access: 'rx' does not match",
    ),
    "burst above quota": (
        [("linux.resources.cpu", {"quota": 4, "burst": 5})],
        "linux.resources.cpu.burst: 5 is above the quota 4",
    ),
    "weight of nothing": (
        [("linux.resources.blockIO", {"weightDevice": [{"major": 8, "minor": 0}]})],
        "linux.resources.blockIO.weightDevice[0]: needs weight or leafWeight",
    ),
    "rdma without limit": (
        [("linux.resources.rdma", {"mlx": {}})],
        "linux.resources.rdma.mlx: needs hcaHandles or",
    ),
    "cgroup by ..": (
        [("linux.cgroupsPath", "/a/../../b")],
        "linux.cgroupsPath: '/a/../../b' leaves its place by '..'",
    ),
    "device of the host's network": (
        [namespaces("uts", "mount"), ("linux.netDevices", {"eth0": {}})],
        "linux.netDevices: needs a network namespace that is not the host's",
    ),
    "device name": (
        [("linux.netDevices", {"eth0": {"name": "a/b"}})],
        "linux.netDevices.eth0: 'a/b' is not the name",
    ),
    "long device name": ([("linux.netDevices", {"e" * 16: {}})], "is not the name of a network device"),
    "device name twice": (
        [("linux.netDevices", {"eth0": {}, "eth1": {"name": "eth0"}})],
        "linux.netDevices.eth1: the name 'eth0' occurs twice",
    ),
    "notify without listener": (
        [("linux.seccomp", SECCOMP)],
        "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath",
    ),
    "notify by default": (
        [("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"})],
        "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would stop the runtime itself",
    ),
    "seventh argument": (
        [
            (
                "linux.seccomp",
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [
                        {
                            "names": ["a"],
                            "action": "SCMP_ACT_ERRNO",
                            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}],
                        }
                    ],
                },
            )
        ],
        "/linux/seccomp/syscalls/0/args/0/index: 6 is greater than the maximum of 5",
    ),
    "control group path": (
        [("linux.intelRdt", {"closID": "a/b"})],
        "linux.intelRdt.closID: 'a/b' is not the name",
    ),
    "schema of two lines": (
        [("linux.intelRdt", {"schemata": ["L3:0=f\nMB:0=1"]})],
        "schemata[0]: contains a newline",
    ),
    "bandwidth schema": ([("linux.intelRdt", {"memBwSchema": "L3:0=f"})], "memBwSchema: must start with MB:"),
    "policy without nodes": (
        [("linux.memoryPolicy", {"mode": "MPOL_BIND"})],
        "linux.memoryPolicy.nodes: MPOL_BIND needs at least one node",
    ),
    "policy with nodes": (
        [("linux.memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"})],
        "linux.memoryPolicy.nodes: MPOL_LOCAL takes no nodes",
    ),
    "propagation": (
        [("linux.rootfsPropagation", "slavery")],
        "/linux/rootfsPropagation: 'slavery' is not one of",
    ),
    "relative hook": (
        [("hooks", {"poststop": [{"path": "/a"}, {"path": "b"}]})],
        "hooks.poststop[1].path: 'b' is not an absolute path",
    ),
    "hook without time": (
        [("hooks", {"createRuntime": [{"path": "/a", "timeout": 0}]})],
        "hooks.createRuntime[0].timeout: 0 is not greater than zero",
    ),
}


@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_is_accepted(changes):
    spec = spec_with(*changes)
    before = copy.deepcopy(spec)
    check(spec)
    assert spec == before


@pytest.mark.parametrize(("changes", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(changes, says):
    assert says in refusal(spec_with(*changes))


def test_rootless_example_is_accepted():
    check(rootless_example(1000, 1000, cgroup_namespace=True))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_of_a_real_engine_is_accepted(path):
    spec = json.loads(path.read_text())
    if path.name in REFUSED_CONFIGS:
        assert REFUSED_CONFIGS[path.name] in refusal(spec)
    else:
        check(spec)
        assert list(unknown_members(spec)) == []


@pytest.mark.parametrize("path", PROCESSES, ids=lambda path: path.name)
def test_process_of_a_real_engine_is_accepted(path):
    process = json.loads(path.read_text())
    check_process(process)
    assert list(unknown_members(process, "process")) == []


def test_every_rule_refuses_something_here():
    """A rule that no case above sets off would be untested."""
    told = set()
    for changes, _ in REFUSED.values():
        spec = spec_with(*changes)
        for name, function, _ in RULES + PROCESS_RULES:
            try:
                if any(
                    function(spec if (name, function) in [rule[:2] for rule in RULES] else spec["process"])
                ):
                    told.add(name)
            except (KeyError, TypeError, AttributeError):
                pass  # the schema refused it first
    assert told == {name for name, *_ in RULES + PROCESS_RULES}


def test_process_alone_is_checked():
    process = example()["process"]
    check_process(process)
    with pytest.raises(SpecError, match=r"^process\.args: must not be empty"):
        check_process({**process, "args": []})
    with pytest.raises(SpecError, match=r"^process\.json: /user/uid: 'x' is not of type 'integer'$"):
        check_process({**process, "user": {"uid": "x"}})


def test_resources_alone_are_checked():
    check_shape({"memory": {"limit": -1}}, "resources", "resources.json")
    with pytest.raises(SpecError, match=r"^stdin: /memory/limit: 'x' is not of type 'integer'$"):
        check_shape({"memory": {"limit": "x"}}, "resources", "stdin")


def test_a_thousand_errors_make_a_line_of_twenty():
    text = refusal(spec_with(("process.args", [1] * 1000)))
    assert text.count("is not of type") == 20
    assert text.endswith("; and 980 more")


def test_an_error_shows_an_excerpt_of_a_large_value():
    assert len(refusal(spec_with(("process.args", "x" * 100_000)))) < 500


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/7.forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("net/ipv4/conf/eth0.7/forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("kernel", "kernel"),
        ("", ""),
        ("/net/core", ""),
        ("net..core", ""),
        ("net./.core", ""),
        ("net.//.core", ""),
        ("net/../kernel", ""),
        ("..", ""),
    ],
)
def test_sysctl_name_in_both_spellings(key, path):
    assert sysctl_path(key) == path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            [("annotations", {"a\n\x1b[31m": 1})],
            "config.json: /annotations/a\\n\\x1b[31m: 1 is not of type 'string'",
        ),
        ([("linux.sysctl", {"a\nb": "1"})], "linux.sysctl[a\\nb]: is not namespaced"),
        ([("linux.sysctl", {"a\nb": "1", "c": "1"})], "config.json: linux.sysctl[a\\nb]: is not namespaced"),
        ([("hostname", "\ud800")], "config.json: /hostname: '\\ud800' does not match"),
    ],
)
def test_an_error_is_one_printable_line(changes, says):
    text = refusal(spec_with(*changes))
    assert text.isprintable()
    assert text.startswith(says)


def test_the_hosts_own_namespace_by_path_is_still_the_hosts() -> None:
    spec = example()
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts", "path": "/proc/self/ns/uts"}]
    with pytest.raises(SpecError, match=r"^hostname: needs a uts namespace"):
        check(spec)
