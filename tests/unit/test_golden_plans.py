"""The plan of every recorded config.json, and of small ones for what engines seldom ask.

tests/golden/NAME.txt holds what `ocirt plan` prints; where BASES names a neighbour, only how the
plan differs from the neighbour's. After a change that is meant:

    OCIRT_GOLDEN=write pytest tests/unit/test_golden_plans.py

and read the difference before it is committed.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocirt import describe
from ocirt.build import build_exec, compile_create
from ocirt.cgroups.v2 import V2Manager
from ocirt.errors import OcirtError
from ocirt.options import CreateOptions, ExecOptions
from ocirt.spec import _compiled, check, load
from ocirt.spec.example import rootless_example
from tests.lib.compiled import V1, V2, FixedHost, pretend

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "tests/data/configs"
GOLDEN = ROOT / "tests/golden"
RECORDED = sorted(path.stem for path in CONFIGS.glob("*.json"))
# prefix of a name to the recording that its plan is compared with
BASES = ("podman-rootless", "podman", "docker", "ctr", "buildah-run")
ROOTLESS = {"in_userns": True}  # as rootless podman calls it: root of a user namespace
USER = {"euid": 1000}


@pytest.fixture(autouse=True)
def a_machine_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is cut short."""
    monkeypatch.setattr(describe, "LONGEST", 1 << 20)
    monkeypatch.delitem(describe.SHOWN, ("execve", "env"))
    pretend(monkeypatch)


def plan(spec: dict[str, Any], options: CreateOptions | None = None, **facts: Any) -> str:
    options = options or CreateOptions()
    if (spec.get("process") or {}).get("terminal"):
        options.console_socket = "/run/console.sock"
    ctx = compile_create(spec, "/bundle", "c1", options, FixedHost(**facts))
    text = describe.text(ctx)
    return text + "".join(f"warning: {warning}\n" for warning in ctx.warnings)


def recorded(name: str, facts: dict[str, Any]) -> str:
    spec = load.parse((CONFIGS / f"{name}.json").read_bytes())
    options = CreateOptions(cgroup_manager="disabled" if "cgroups-disabled" in name else "cgroupfs")
    return plan(spec, options, **facts)


def facts_for(name: str) -> dict[str, Any]:
    """Of the host: docker's on v1, like the one limit that v2 does not have, the others on v2."""
    if "podman-rootless" in name:
        return ROOTLESS
    return V1 if name.startswith("docker") or name == "podman-memory-swap" else V2


def base_of(name: str) -> str:
    """Name of the neighbour that name is compared with; "" if it stands alone."""
    prefix = next((prefix for prefix in BASES if name.startswith(prefix)), "")
    base = prefix if prefix in RECORDED else f"{prefix}-plain"
    return base if prefix and base != name else ""


def difference(before: str, after: str) -> str:
    """Only what differs, with the line before and after it, so that the order is told as well."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm=""))[2:]
    return "".join(("@@" if line.startswith("@@") else line.rstrip()) + "\n" for line in lines)


def compare(name: str, text: str) -> None:
    assert str(ROOT) not in text
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("OCIRT_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", RECORDED)
def test_the_plan_of_a_recorded_config_is_the_one_that_was_read(name: str) -> None:
    base = base_of(name)
    facts = facts_for(name)
    text = recorded(name, facts)
    compare(name, f"compared with {base}\n{difference(recorded(base, facts), text)}" if base else text)


def small(**linux: Any) -> dict[str, Any]:
    """A short document: true in a mount and a pid namespace, without mounts and limits."""
    kinds = linux.pop("kinds", ("pid", "mount"))
    linux["namespaces"] = [{"type": kind} for kind in kinds] + linux.pop("join", [])
    process = {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin", "HOME=/root"]}
    return {"ociVersion": "1.2.0", "process": process, "root": {"path": "rootfs"}, "linux": linux}


def with_mounts(*mounts: dict[str, Any], **linux: Any) -> dict[str, Any]:
    return {**small(**linux), "mounts": list(mounts)}


ONE_TO_ONE = [{"containerID": 0, "hostID": 100000, "size": 65536}]
OWN = [{"containerID": 0, "hostID": 1000, "size": 1}]
MAPS = {"uidMappings": ONE_TO_ONE, "gidMappings": ONE_TO_ONE}
CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
CGROUP["options"] = ["nosuid", "noexec", "nodev", "relatime", "ro"]  # type: ignore[assignment]
HOOK = {"path": "/bin/hook", "args": ["hook", "a"], "env": ["A=1"], "timeout": 5}


def hooks() -> dict[str, Any]:
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    return {**small(), "hooks": {kind: [HOOK, {"path": f"/bin/{kind}"}] for kind in kinds}}


def process(**fields: Any) -> dict[str, Any]:
    spec = small()
    spec["process"].update(fields)
    return spec


def everything_of_a_process() -> dict[str, Any]:
    sets = {name: ["CAP_KILL", "CAP_NET_RAW"] for name in ("bounding", "effective", "permitted")}
    return process(
        user={"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o77},
        cwd="/home/user",
        env=["PATH=/bin"],
        capabilities={**sets, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
        noNewPrivileges=True,
        oomScoreAdj=-500,
        scheduler={"policy": "SCHED_BATCH", "nice": 5},
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 4},
        apparmorProfile="docker-default",
        selinuxLabel="system_u:system_r:container_t:s0",
    )


SMALL: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: (document, facts of the host, options)
    "small": (small(), {}, {}),
    "no-namespaces": (small(kinds=()), {}, {}),
    "no-mount-namespace": (small(kinds=("pid", "uts")), {}, {}),
    "all-namespaces": (
        small(kinds=("pid", "mount", "network", "ipc", "uts", "cgroup", "time", "user"), **MAPS),
        {},
        {},
    ),
    "user-namespace-bind": (
        with_mounts(
            {"destination": "/data", "source": "/srv/data", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            kinds=("pid", "mount", "user"),
            **MAPS,
        ),
        {},
        {},
    ),
    "user-namespace-of-a-user": (
        with_mounts(
            {"destination": "/data", "type": "bind", "source": "data", "options": ["bind"]},
            kinds=("pid", "mount", "user"),
            uidMappings=OWN,
            gidMappings=OWN,
        ),
        USER,
        {},
    ),
    "time-offsets": (
        small(
            kinds=("pid", "mount", "time"),
            timeOffsets={"boottime": {"secs": 86400, "nanosecs": 1}, "monotonic": {"secs": -5}},
        ),
        {},
        {},
    ),
    "time-offsets-user-namespace": (
        small(kinds=("mount", "time", "user"), timeOffsets={"monotonic": {"secs": 7}}, **MAPS),
        {},
        {},
    ),
    "joined-namespaces": (
        small(
            kinds=("mount",),
            join=[
                {"type": kind, "path": f"/run/ns/{kind}"}
                for kind in ("pid", "network", "ipc", "uts", "cgroup")
            ],
        ),
        {},
        {},
    ),
    "joined-user-namespace": (
        small(
            kinds=("mount", "pid"),
            join=[{"type": kind, "path": f"/run/ns/{kind}"} for kind in ("network", "user")],
        ),
        {},
        {},
    ),
    "new-user-and-joined-network": (
        small(
            kinds=("mount", "pid", "time", "user"),
            join=[{"type": "network", "path": "/run/ns/network"}],
            **MAPS,
        ),
        {},
        {},
    ),
    "joined-mount-namespace": (
        small(kinds=("pid",), join=[{"type": "mount", "path": "/run/ns/mnt"}]),
        {},
        {},
    ),
    "propagation-shared": (small(rootfsPropagation="shared"), {}, {}),
    "propagation-rslave": (small(rootfsPropagation="rslave"), {}, {}),
    "propagation-private": (small(rootfsPropagation="private"), {}, {}),
    "propagation-runbindable": (small(rootfsPropagation="runbindable", readonlyPaths=["/opt"]), {}, {}),
    "no-pivot": (small(), {}, {"no_pivot": True}),
    "no-new-keyring": (small(), {}, {"no_new_keyring": True}),
    "tmpfs": (
        with_mounts(
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "options": ["mode=1777", "size=64m", "noatime"]},
        ),
        {},
        {},
    ),
    "bind-options": (
        with_mounts(
            {"destination": "/a", "source": "/a", "options": ["bind", "ro", "nosuid", "rw"]},
            {"destination": "/b", "source": "/b", "options": ["rbind", "rro", "rnosuid", "rshared"]},
            {"destination": "/c", "source": "/c", "options": ["bind", "noatime", "private"]},
            {"destination": "/d", "type": "bind", "source": "d"},
            {"destination": "rel", "type": "none", "source": "/e", "options": ["bind"]},
            {"destination": "/a", "type": "none", "options": ["remount", "ro", "rnodev", "rprivate"]},
            {"destination": "/f", "source": "/f", "options": ["bind", "nosuid", "relatime"]},
        ),
        {},
        {},
    ),
    "overlay": (
        with_mounts(
            {
                "destination": "/merged",
                "type": "overlay",
                "source": "overlay",
                "options": ["lowerdir=" + ":".join(f"/layers/{i:064}" for i in range(8)), "private"],
            }
        ),
        {},
        {},
    ),
    "cgroup-mount-v1": (with_mounts(CGROUP), V1, {}),
    "cgroup-mount-v1-namespace": (with_mounts(CGROUP, kinds=("mount", "cgroup")), V1, {}),
    "cgroup-mount-v2": (with_mounts(CGROUP), V2, {}),
    "cgroup-mount-v2-namespace": (with_mounts(CGROUP, kinds=("mount", "cgroup")), V2, {}),
    "cgroup-mount-disabled": (with_mounts(CGROUP), V1, {"cgroup_manager": "disabled"}),
    "systemd": (
        small(
            cgroupsPath="machine.slice:ocirt:c1",
            resources={"memory": {"limit": 67108864}, "pids": {"limit": 100}},
        ),
        V2,
        {"cgroup_manager": "systemd"},
    ),
    "rootless-v2": (
        {**rootless_example(1000, 1000), "mounts": []},
        {
            **USER,
            "own_cgroups": {"": "/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope"},
        },
        {},
    ),
    "resources-v1": (
        small(resources={"memory": {"limit": 67108864, "swap": -1}, "cpu": {"shares": 512, "cpus": "0-1"}}),
        V1,
        {},
    ),
    "resources-v2": (
        small(resources={"memory": {"limit": 67108864, "swap": -1}, "cpu": {"shares": 512, "cpus": "0-1"}}),
        V2,
        {},
    ),
    "hooks": (hooks(), {}, {}),
    "terminal": (process(terminal=True, consoleSize={"height": 24, "width": 80}), {}, {}),
    "terminal-dev-bound": (
        {
            **process(terminal=True),
            "mounts": [{"destination": "/dev/", "source": "/dev", "options": ["rbind"]}],
        },
        {},
        {},
    ),
    "process": (everything_of_a_process(), {}, {}),
    "process-seccomp": (
        {
            **process(user={"uid": 7, "gid": 7}),
            "linux": {
                "namespaces": [{"type": "mount"}],
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []},
            },
        },
        {},
        {},
    ),
    "devices": (
        small(
            devices=[
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5},
                {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "fileMode": 0o640},
                {"path": "/opt/u", "type": "u", "major": 1, "minor": 3},
                {"path": "dev/fifo", "type": "p", "fileMode": 0o600},
            ]
        ),
        {},
        {},
    ),
    "devices-rootless": (
        small(
            devices=[
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
            ]
        ),
        ROOTLESS,
        {},
    ),
    "protected-paths": (
        {
            **small(maskedPaths=["/proc/kcore", "rel"], readonlyPaths=["/proc/sys", "rel"]),
            "root": {"path": "/srv/rootfs", "readonly": True},
        },
        {},
        {},
    ),
    "names-and-sysctl": (
        {
            **small(
                kinds=("mount", "uts", "ipc", "network"),
                sysctl={"net.ipv4.ip_forward": "1", "net.ipv4.conf.eth0/7.forwarding": "1"},
            ),
            "hostname": "h",
            "domainname": "d",
        },
        {},
        {},
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_plan_of_a_small_config_is_the_one_that_was_read(name: str) -> None:
    spec, facts, options = copy.deepcopy(SMALL[name])
    check.check(spec)
    text = plan(spec, CreateOptions(**options), **facts)
    if name != "small":
        before = plan(small(), **facts)
        text = f"compared with small\n{difference(before, text)}"
    compare(f"small/{name}", text)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all members, and of the first elements of lists."""
    members = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for name, member in members:
        yield (*path, name)
        if isinstance(member, (dict, list)):
            yield from places(member, (*path, name))


@pytest.mark.parametrize("value", [None, 0, "", [], -1, 2**63 - 1], ids=repr)
@pytest.mark.parametrize("name", ["podman-hooks", "podman-rootless-device"])
def test_what_the_check_lets_pass_is_compiled_or_refused(name: str, value: Any) -> None:
    document = load.parse((CONFIGS / f"{name}.json").read_bytes())
    document["process"].update(
        {"scheduler": {"policy": "SCHED_BATCH"}, "consoleSize": {"height": 1, "width": 1}}
    )
    compiled = 0
    for path in places(document):
        changed = copy.deepcopy(document)
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value
        if not shape_is_valid(changed):
            continue
        try:
            check.check(changed)
            plan(changed, **facts_for(name))
            compiled += 1
        except OcirtError as error:
            str(error)
    assert compiled or value is not None


def shape_is_valid(document: dict[str, Any]) -> bool:
    """As check does it, without finding the words for what is wrong: they take 30 ms."""
    return bool(_compiled.check(document, _compiled.DOCUMENTS["config"]))


class Running:
    """What build_exec asks of a container."""

    id, bundle = "c1", "/bundle"
    saved: dict[str, Any] = {"pid": 4242}

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec

    def manager(self) -> V2Manager:
        return V2Manager("/sys/fs/cgroup/c1", "/sys/fs/cgroup")


EXEC = {
    # name: (kinds of namespaces of the container, process of the exec)
    "exec": (("pid", "mount"), small()["process"]),
    "exec-without-namespaces": ((), small()["process"]),
    "exec-terminal": (("mount", "network"), process(terminal=True)["process"]),
    "exec-process": (
        ("pid", "mount", "user"),
        {
            **everything_of_a_process()["process"],
            "execCPUAffinity": {"initial": "0", "final": "0-1"},
        },
    ),
}


@pytest.mark.parametrize("name", EXEC)
def test_the_plan_of_an_exec_is_the_one_that_was_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocirt.host.Host", FixedHost)
    kinds, document = EXEC[name]
    options = ExecOptions(console_socket="/run/console.sock" if document.get("terminal") else None)
    spec = small(kinds=kinds, **(MAPS if "user" in kinds else {}))
    ctx = build_exec(Running(spec), document, options)  # type: ignore[arg-type]
    compare(f"small/{name}", describe.text(ctx))


def test_no_golden_is_left_without_its_config() -> None:
    known = {*RECORDED, *(f"small/{name}" for name in (*SMALL, *EXEC))}
    assert {str(path.relative_to(GOLDEN)).removesuffix(".txt") for path in GOLDEN.rglob("*.txt")} == known
