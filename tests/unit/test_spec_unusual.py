"""Remarks of `validate` and `plan` about documents that are allowed; and the example documents."""

from __future__ import annotations

import pytest

from ocirt.errors import SpecError
from ocirt.spec.check import check, warnings
from ocirt.spec.example import example, rootless_example
from ocirt.spec.unusual import unknown_members


def remarks(change):
    spec = example()
    change(spec)
    check(spec)
    return [f"{field}: {remark}" for field, remark in warnings(spec)]


def members(spec, path, value):
    *above, last = path.split(".")
    for name in above:
        spec = spec[int(name)] if isinstance(spec, list) else spec.setdefault(name, {})
    spec[int(last) if isinstance(spec, list) else last] = value


def set_to(path, value):
    return lambda spec: members(spec, path, value)


SECCOMP = {"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize("spec", [example(), rootless_example(1000, 1000)], ids=["example", "rootless"])
def test_example_gives_no_remark(spec):
    assert warnings(spec) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("hostName", "x", "hostName: is unknown and ignored; is hostname meant?"),
        ("process.user.UID", 5, "process.user.UID: is unknown and ignored; is uid meant?"),
        (
            "linux.resources.memory",
            {"limt": 5},
            "linux.resources.memory.limt: is unknown and ignored; is limit meant?",
        ),
        ("linux.future", {}, "linux.future: is unknown and ignored"),
        ("mounts.0.option", [], "mounts[0].option: is unknown and ignored; is options meant?"),
        ("hooks", {"prestart": [{"path": "/a"}]}, "hooks.prestart: is deprecated"),
        ("hooks", {"preStart": []}, "hooks.preStart: is unknown and ignored; is prestart meant?"),
        ("windows", {"anything": 1}, "windows: is for another platform and ignored"),
        ("linux.resources.memory", {"kernel": 5}, "linux.resources.memory.kernel: is deprecated"),
        (
            "linux.resources.memory",
            {"limit": 5, "reservation": 6},
            "memory.reservation: 6 is above the limit 5",
        ),
        ("linux.resources.memory", {"disableOOMKiller": True}, "memory.disableOOMKiller: without a limit"),
        ("linux.intelRdt", {"enableCMT": True}, "linux.intelRdt.enableCMT: has no effect"),
        ("process.env", ["A=1", "B=", "A=2"], "process.env[2]: A occurs twice; the value of env[0] is lost"),
        (
            "process.capabilities.ambient",
            ["CAP_KILL"],
            "process.capabilities.ambient: not in inheritable, not granted: CAP_KILL",
        ),
        ("process.commandLine", "x", "process.commandLine: is for Windows"),
        ("process.execCPUAffinity", {"initial": "0"}, "process.execCPUAffinity: does not apply"),
        ("mounts.0.destination", "proc", "mounts[0].destination: 'proc' is relative (deprecated)"),
        (
            "mounts.1.options",
            ["ro", "nosuid", "rw"],
            "mounts[1].options: ro and rw contradict each other; rw wins",
        ),
        ("mounts.1.options", ["rw", "ro"], "mounts[1].options: ro and rw contradict each other; ro wins"),
        (
            "mounts.1.options",
            ["shared", "rslave"],
            "mounts[1].options: shared, rslave contradict each other; rslave wins",
        ),
        ("mounts.4.destination", "/dev/", "mounts[4]: covers mounts[1] (/dev)"),
        ("mounts.5.destination", "/dev//.", "mounts[5]: covers mounts[1] (/dev)"),
        ("mounts.5.type", "bind", "mounts[5].type: bind as a type does not make a bind mount"),
        ("annotations", {"": "x"}, "annotations: a key is empty"),
        ("linux.maskedPaths", ["proc/kcore"], "linux.maskedPaths[0]: 'proc/kcore' is relative"),
        ("linux.maskedPaths", ["/proc/bus"], "linux.readonlyPaths[0]: /proc/bus is masked anyway"),
        (
            "linux.devices",
            [{"path": "dev/x", "type": "p"}],
            "linux.devices[0].path: 'dev/x' is relative",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [SECCOMP]},
            "linux.seccomp.syscalls[0]: SCMP_ACT_ERRNO is the default action anyway",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1},
            "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns no errno",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"},
            "linux.seccomp.listenerPath: has no effect without SCMP_ACT_NOTIFY",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]},
            "linux.seccomp.syscalls[0].names: is empty",
        ),
    ],
)
def test_remark(path, value, says):
    assert any(says in remark for remark in remarks(set_to(path, value))), remarks(set_to(path, value))


def test_console_size_without_terminal_has_no_effect():
    def change(spec):
        spec["process"].update(terminal=False, consoleSize={"height": 1, "width": 1})

    assert remarks(change) == ["process.consoleSize: has no effect without process.terminal"]


def test_a_root_without_a_mount_namespace_cannot_be_read_only():
    def change(spec):
        spec.update(mounts=[], linux={"namespaces": [{"type": "uts"}]})

    assert remarks(change) == ["root.readonly: cannot be done without a mount namespace"]


def test_a_namespace_to_join_that_is_the_runtimes_own():
    def change(spec):
        del spec["hostname"]
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts", "path": "/proc/self/ns/uts"}]

    assert "linux.namespaces: the uts namespace to join is the runtime's own" in remarks(change)


@pytest.mark.parametrize("destination", ["/", "/dev"])
def test_a_remount_covers_nothing(destination):
    def change(spec):
        spec["mounts"].append({"destination": destination, "options": ["remount", "ro"]})

    assert remarks(change) == []


def reach_the_host(spec):
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts", "path": "/proc/self/ns/uts"}]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (set_to("mounts.5.destination", "/"), "mounts[5].destination: is the root itself"),
        (set_to("linux", {"namespaces": [{"type": "uts"}]}), "mounts: needs a mount namespace"),
        (reach_the_host, "hostname: needs a uts namespace"),
    ],
)
def test_what_would_change_the_host_or_hide_the_root_is_no_mere_remark(change, refusal):
    with pytest.raises(SpecError) as caught:
        remarks(change)
    assert str(caught.value).startswith(refusal)


def test_names_given_by_the_user_are_not_unknown():
    spec = example()
    spec["annotations"] = {"any.thing": "x"}
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    spec["linux"]["resources"]["unified"] = {"memory.high": "1"}
    spec["linux"]["netDevices"] = {"eth0": {"nmae": "x"}}
    assert list(unknown_members(spec)) == [
        ("linux.netDevices.eth0.nmae", "is unknown and ignored; is name meant?")
    ]


def test_example_is_the_container_of_runc_spec():
    spec = example()
    assert spec["ociVersion"] == "1.3.0"
    assert spec["hostname"] == "ocirt"
    assert spec["root"] == {"path": "rootfs", "readonly": True}
    process = spec["process"]
    assert (process["terminal"], process["args"], process["cwd"]) == (True, ["sh"], "/")
    assert process["capabilities"] == {
        "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
    }
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    assert [mount["destination"] for mount in spec["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ]
    assert "options" not in spec["mounts"][0]
    assert spec["linux"]["namespaces"] == [
        {"type": "pid"},
        {"type": "network"},
        {"type": "ipc"},
        {"type": "uts"},
        {"type": "mount"},
    ]
    assert example(cgroup_namespace=True)["linux"]["namespaces"][5:] == [{"type": "cgroup"}]


def test_rootless_example_needs_nothing_an_ordinary_user_lacks():
    spec = rootless_example(1000, 1001)
    assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert spec["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 1001, "size": 1}]
    assert [entry["type"] for entry in spec["linux"]["namespaces"]] == ["pid", "ipc", "uts", "mount", "user"]
    assert "resources" not in spec["linux"]
    assert spec["mounts"][2]["options"] == ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    assert spec["mounts"][5] == {
        "destination": "/sys",
        "type": "none",
        "source": "/sys",
        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
    }
