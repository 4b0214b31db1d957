"""Where containers go, what is refused, and how groups are made, emptied and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ocirt import cgroups
from ocirt.cgroups import apply, v1, v2
from ocirt.cgroups import manager as managers
from ocirt.context import Context
from ocirt.errors import CgroupError, SpecError, Unsupported
from ocirt.host import Host
from ocirt.options import CreateOptions
from ocirt.plan import Plan
from tests.lib.declared import missing


def fake_host(tmp_path: Path, **facts) -> SimpleNamespace:
    return SimpleNamespace(
        v1_hierarchies={
            "memory": f"{tmp_path}/memory",
            "cpu,cpuacct": f"{tmp_path}/cpu,cpuacct",
            "name=systemd": f"{tmp_path}/systemd",
        },
        unified_mount="",
        own_cgroups={"memory": "/own/mem", "cpu,cpuacct": "/", "name=systemd": "/user.slice"},
        euid=1000,
        **facts,
    )


def v2_host(tmp_path: Path, own: str) -> SimpleNamespace:
    return SimpleNamespace(unified_mount=str(tmp_path), own_cgroups={"": own}, euid=1000)


@pytest.mark.parametrize(
    ("path", "memory", "cpu"),
    [
        ("", "memory/own/mem/box", "cpu,cpuacct/box"),
        ("/", "memory/own/mem/box", "cpu,cpuacct/box"),
        ("/a/b", "memory/a/b", "cpu,cpuacct/a/b"),
        ("a/b", "memory/own/mem/a/b", "cpu,cpuacct/a/b"),
        ("system.slice:cri:box", "memory/own/mem/system.slice:cri:box", "cpu,cpuacct/system.slice:cri:box"),
    ],
)
def test_v1_paths_count_from_our_own_group_unless_absolute(tmp_path, path, memory, cpu):
    found = v1.choose(fake_host(tmp_path), path, "box", rootless=False)
    assert found.paths["memory"] == f"{tmp_path}/{memory}"
    assert found.paths["cpu"] == found.paths["cpuacct"] == f"{tmp_path}/{cpu}"
    assert "name=systemd" in found.paths


@pytest.mark.parametrize(
    ("own", "path", "expected"),
    [
        ("/", "", "/box"),
        ("/user.slice/me.scope", "", "/user.slice/box"),
        ("/user.slice/me.scope", "x", "/user.slice/x"),
        ("/user.slice/me.scope", "/x/y", "/x/y"),
    ],
)
def test_v2_paths_count_from_the_parent_of_our_own_group(tmp_path, own, path, expected):
    found = v2.choose(v2_host(tmp_path, own), path, "box", rootless=False)
    assert found.paths == {"": f"{tmp_path}{expected}"}


def test_a_path_that_leaves_its_place_is_refused(tmp_path):
    with pytest.raises(SpecError, match="cgroupsPath"):
        v1.choose(fake_host(tmp_path), "../x", "box", rootless=False)


def test_rootless_v1_leaves_out_what_the_user_may_not_write(tmp_path, monkeypatch):
    monkeypatch.setattr(managers.posix, "access", lambda path, _mode: "cpu" in path)
    found = v1.choose(fake_host(tmp_path), "", "box", rootless=True)
    assert sorted(found.paths) == ["cpu", "cpuacct"]
    with pytest.raises(Unsupported, match=r"memory\.limit.*may not make a group in the memory"):
        found.apply({"memory": {"limit": 1 << 20}})


def test_rootless_v2_without_delegation_goes_without_a_cgroup(tmp_path, monkeypatch):
    monkeypatch.setattr(managers.posix, "access", lambda _path, _mode: False)
    found = v2.choose(v2_host(tmp_path, "/user.slice/me.scope"), "", "box", rootless=True)
    assert found.driver == "none"
    found.create(lambda _undo: None)
    found.destroy()
    found = cgroups.load(found.save())
    with pytest.raises(Unsupported, match=r"pids\.limit.*delegated"):
        found.apply({"pids": {"limit": 5}})


def test_v2_names_the_group_that_does_not_hand_a_controller_on(tmp_path):
    group = tmp_path / "a/b"
    group.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    (tmp_path / "a/cgroup.controllers").write_text("memory pids\n")
    (tmp_path / "a/cgroup.subtree_control").write_text("memory\n")
    (tmp_path / "a/cgroup.procs").write_text("12\n")
    with pytest.raises(Unsupported) as caught:
        v2.V2Manager(str(group), str(tmp_path)).apply({"pids": {"limit": 5}})
    assert str(caught.value) == (
        f"linux.resources.pids.limit: not supported: the pids controller, which {tmp_path}/a "
        "has processes of its own"
    )


def test_v2_hands_controllers_down_from_the_top(tmp_path):
    for directory in (tmp_path, tmp_path / "a"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text("")
    group = tmp_path / "a/b"
    group.mkdir()
    v2.V2Manager(str(group), str(tmp_path)).enable_controllers()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "a/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert not (group / "cgroup.subtree_control").exists()


def test_hybrid_takes_from_cgroup2_what_v1_does_not_have(tmp_path):
    group = tmp_path / "unified/box"
    group.mkdir(parents=True)
    (tmp_path / "unified/cgroup.controllers").write_text("hugetlb\n")
    (tmp_path / "unified/cgroup.subtree_control").write_text("")
    (group / "hugetlb.2MB.max").write_text("")
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids/pids.max").write_text("")
    paths = {"pids": f"{tmp_path}/pids", "": str(group)}
    found = v1.V1Manager(paths, {str(group): f"{tmp_path}/unified"})
    found.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "pids": {"limit": 9}})
    assert (tmp_path / "unified/cgroup.subtree_control").read_text() == "+hugetlb"
    assert (group / "hugetlb.2MB.max").read_text() == "0"
    assert (tmp_path / "pids/pids.max").read_text() == "9"
    with pytest.raises(Unsupported, match="rdma controller"):
        found.apply({"rdma": {"x": {"hcaHandles": 1}}})


# For real


@pytest.fixture
def groups():
    """A manager for groups of this test's own; whatever happens they are gone afterwards."""
    if os.geteuid() != 0:
        missing("needs root")
    host = Host()
    if host.cgroup_layout not in ("v1", "hybrid"):
        missing("needs cgroup v1")
    made = []
    found = v1.choose(host, f"/ocirt-test-{os.getpid()}/box", "box", rootless=False)
    yield found, made
    found.thaw()
    found.kill_all(signal.SIGKILL)
    time.sleep(0.05)
    found.destroy()
    for call in reversed(made):
        call()
    assert not [d for d in found.groups() if os.path.exists(os.path.dirname(d))]


MOUNT = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
NEW_CGROUP, NEW_USER = {"type": "cgroup"}, {"type": "user"}


@pytest.mark.parametrize(
    ("namespaces", "mount", "uid", "owner"),
    [
        ([NEW_CGROUP, NEW_USER], MOUNT, 0, 100000),
        ([NEW_CGROUP, NEW_USER], MOUNT, 7, 100007),
        ([NEW_CGROUP, NEW_USER], MOUNT, 70000, None),  # has no id on the host
        ([NEW_CGROUP, NEW_USER], {**MOUNT, "options": ["ro"]}, 0, None),
        ([NEW_CGROUP, NEW_USER], {**MOUNT, "options": ["nosuid", "rro"]}, 0, None),
        ([NEW_CGROUP, NEW_USER], {**MOUNT, "destination": "/cgroup"}, 0, None),
        ([NEW_USER], MOUNT, 0, None),
        ([NEW_CGROUP], MOUNT, 7, 7),
        ([NEW_CGROUP], MOUNT, os.geteuid(), None),  # is ours already
        ([NEW_CGROUP, {**NEW_USER, "path": "/proc/1/ns/user"}], MOUNT, 0, None),
    ],
)
def test_a_group_that_the_container_may_write_to_is_its_users(namespaces, mount, uid, owner):
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux = {"namespaces": namespaces, "uidMappings": maps}
    spec = {"process": {"user": {"uid": uid, "gid": 0}}, "mounts": [mount], "linux": linux}
    ctx = Context(spec, Plan(), bundle="/b", container_id="c", options=CreateOptions(), host=Host())
    assert apply.owner(ctx) == owner


def test_only_the_files_of_delegation_are_handed_over(tmp_path, monkeypatch):
    (tmp_path / "delegate").write_text("cgroup.procs\ncgroup.threads\nmemory.oom.group\n")
    monkeypatch.setattr(v2, "TO_HAND_OVER", str(tmp_path / "delegate"))
    group = tmp_path / "box"
    group.mkdir()
    for name in ("cgroup.procs", "cgroup.threads", "memory.max"):
        (group / name).touch()
    changed = []
    monkeypatch.setattr(v2.posix, "chown", lambda path, uid, gid: changed.append((path, uid, gid)))
    v2.V2Manager(str(group), str(tmp_path)).hand_over(7)
    names = ["", "/cgroup.procs", "/cgroup.threads", "/memory.oom.group"]
    assert changed == [(f"{group}{name}", 7, -1) for name in names]


def join(found: v1.V1Manager, command: str = "sleep 60") -> subprocess.Popen:
    """A process that joins as the init does: by writing 0 to the tasks files."""
    files = " ".join(name for name, _ in found.join_fds())
    script = f"for f in {files}; do echo 0 > $f || exit 9; done; echo in; exec {command}"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "in\n"
    return child


@pytest.mark.root
def test_v1_groups_are_made_limited_joined_and_removed(groups):
    found, made = groups
    found.create(made.append)
    asked = {
        "memory": {"limit": 64 << 20, "swap": 80 << 20, "reservation": 1 << 20, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 1000},
        "pids": {"limit": 7},
    }
    found.apply(asked)
    for field, file, value in found.describe(asked):
        assert Path(file).read_text().strip() == value, field
    found.apply_devices([{"allow": False, "access": "rwm"}])
    allowed = Path(found.paths["devices"], "devices.list").read_text().splitlines()
    assert "c 1:3 rwm" in allowed
    assert "a *:* rwm" not in allowed
    child = join(found)
    try:
        assert found.pids() == [child.pid]
        own = Path(f"/proc/{child.pid}/cgroup").read_text()
        for line in own.splitlines():
            if line.split(":")[1]:
                assert line.endswith("/box"), line
        cgroups.load(found.save()).kill_all(signal.SIGKILL)
        assert child.wait(5) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    cgroups.load(found.save()).destroy()
    assert not [directory for directory in found.groups() if os.path.exists(directory)]


@pytest.mark.root
def test_limits_can_be_raised_and_lowered_in_any_order(groups):
    found, made = groups
    found.create(made.append)
    for limit, swap in ((64 << 20, 64 << 20), (128 << 20, 160 << 20), (32 << 20, 32 << 20)):
        asked = {"memory": {"limit": limit, "swap": swap}}
        found.apply(asked)
        assert [Path(file).read_text().strip() for _, file, _ in found.describe(asked)] == [
            str(limit),
            str(swap),
        ]
    for quota, period in ((100000, 100000), (1000, 1000), (500000, 1000000)):
        asked = {"cpu": {"quota": quota, "period": period}}
        found.apply(asked)
        assert [Path(file).read_text().strip() for _, file, _ in found.describe(asked)] == [
            str(period),
            str(quota),
        ]


@pytest.mark.root
def test_an_empty_cpuset_takes_over_its_parents_cpus(groups):
    found, made = groups
    found.create(made.append)
    found.apply({"cpu": {"cpus": "0"}})
    directory = Path(found.paths["cpuset"])
    assert (directory / "cpuset.cpus").read_text() == "0\n"
    top = directory.parent.parent
    assert (directory.parent / "cpuset.cpus").read_text() == (top / "cpuset.cpus").read_text()
    assert (directory / "cpuset.mems").read_text() == (top / "cpuset.mems").read_text() != "\n"


@pytest.mark.root
def test_a_group_with_processes_is_refused_with_runcs_words(groups):
    found, made = groups
    found.create(made.append)
    found.apply({})
    child = join(found)
    try:
        with pytest.raises(CgroupError, match=r"container's cgroup is not empty: 1 process\(es\) found"):
            found.create(made.append)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.root
def test_a_frozen_group_is_refused_with_runcs_words(groups):
    found, made = groups
    found.create(made.append)
    assert found.freeze()
    with pytest.raises(CgroupError, match="container's cgroup unexpectedly frozen"):
        found.create(made.append)
    found.thaw()
    found.create(made.append)


@pytest.mark.root
def test_a_group_below_a_frozen_one_is_refused(groups):
    found, made = groups
    found.create(made.append)
    state = Path(found.paths["freezer"]).parent / "freezer.state"
    state.write_text("FROZEN")
    try:
        with pytest.raises(CgroupError, match="unexpectedly frozen"):
            found.create(made.append)
    finally:
        state.write_text("THAWED")


@pytest.mark.root
def test_groups_that_the_container_made_go_with_it(groups):
    found, made = groups
    found.create(made.append)
    for directory in found.groups():
        Path(directory, "inner/most").mkdir(parents=True)
    found.destroy()
    assert not [directory for directory in found.groups() if os.path.exists(directory)]


@pytest.mark.root
def test_a_group_that_cannot_be_removed_names_who_is_inside(groups, monkeypatch):
    found, made = groups
    monkeypatch.setattr(managers, "REMOVE_WAIT", 0.05)
    found.create(made.append)
    found.apply({})
    child = join(found)
    started = time.monotonic()
    try:
        with pytest.raises(CgroupError, match=rf"rmdir .*pid {child.pid} \(S"):
            found.destroy()
        assert time.monotonic() - started < 2
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.root
def test_a_paused_process_dies_when_all_are_killed(groups):
    found, made = groups
    found.create(made.append)
    found.apply({})
    child = join(found)
    try:
        assert found.freeze()
        found.kill_all(signal.SIGKILL)
        assert child.wait(5) == -signal.SIGKILL
    finally:
        found.thaw()
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.root
def test_a_value_that_the_kernel_refuses_is_told_with_field_file_and_value(groups):
    found, made = groups
    found.create(made.append)
    with pytest.raises(CgroupError) as caught:
        found.apply({"cpu": {"cpus": "4000"}})
    text = str(caught.value)
    assert text.startswith("linux.resources.cpu.cpus: write '4000' to ")
    assert "its parent has" in text


@pytest.mark.root
def test_a_failed_create_leaves_nothing(groups):
    found, made = groups
    found.tops["/sys/fs/cgroup/memory/ocirt-test-missing\0/x"] = "/sys/fs/cgroup/memory"
    with pytest.raises(ValueError, match="null"):
        found.create(made.append)
    for call in reversed(made):
        call()
    made.clear()
    assert not [d for d in found.groups() if os.path.exists(os.path.dirname(d))]


@pytest.fixture
def group2():
    """A group of this test's own in cgroup2."""
    if os.geteuid() != 0 or not Host().unified_mount:
        missing("needs root and cgroup2")
    top = Host().unified_mount
    found = v2.V2Manager(f"{top}/ocirt-test-{os.getpid()}/box", top)
    made = []
    yield found, made
    found.kill_all(signal.SIGKILL)
    time.sleep(0.05)
    found.destroy()
    for call in reversed(made):
        call()


@pytest.mark.root
def test_v2_processes_are_born_inside_frozen_and_killed(group2):
    from ocirt import kernel

    found, made = group2
    found.enable_controllers = lambda: None  # the host's own groups are not ours to change
    found.create(made.append)
    fd = found.cgroup_dir_opener()()
    sleep = os.open("/bin/sleep", os.O_PATH)
    pid, pidfd = kernel.spawn(sleep, [b"sleep", b"60"], [], [], 0, fd)
    try:
        assert found.pids() == [pid]
        with pytest.raises(CgroupError, match="not empty"):
            found.create(made.append)
        assert found.freeze()
        assert found.is_frozen()
        found.kill_all(signal.SIGKILL)
        assert kernel.waitid_pidfd(pidfd) == (pid, 2, 9)
    finally:
        for each in (fd, sleep, pidfd):
            os.close(each)
    found.create(made.append)
    assert found.freeze()
    with pytest.raises(CgroupError, match="unexpectedly frozen"):
        found.create(made.append)
    found.thaw()
    found.destroy()
    assert not os.path.exists(found.path)


# The host's layout


def test_the_layout_is_what_the_mounts_say():
    host = Host()
    kinds = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    named = {"cgroup", "cgroup2"} & kinds
    expected = {"": set(), "v1": {"cgroup"}, "hybrid": {"cgroup", "cgroup2"}, "v2": {"cgroup2"}}
    assert named == expected[host.cgroup_layout] or host.cgroup_layout == "v2"
    for key, place in host.v1_hierarchies.items():
        assert Path(place, "tasks").exists(), key


def test_hierarchies_in_unusual_places_are_found_through_mountinfo(monkeypatch):
    from ocirt import host as module

    text = (
        b"30 20 0:30 /docker/x /cg/memory rw - cgroup cgroup rw,memory\n"
        b"31 20 0:31 / /cg/both rw - cgroup cgroup rw,cpu,cpuacct\n"
        b"32 20 0:32 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        b"33 20 0:33 / /cg/unified rw - cgroup2 cgroup2 rw\n"
    )
    own = {"memory": "/docker/x/y", "cpu,cpuacct": "/", "name=systemd": "/", "": "/u"}
    monkeypatch.setattr(module, "ROOT", "/nowhere")
    monkeypatch.setattr(module.procfs, "cgroup_paths", lambda: own)
    monkeypatch.setattr(module.procfs, "read", lambda _path: text)
    host = Host()
    assert host.cgroup_layout == "hybrid"
    assert host.v1_hierarchies == {
        "memory": "/cg/memory",
        "cpu,cpuacct": "/cg/both",
        "name=systemd": "/cg/systemd",
    }
    assert host.own_cgroups == {"memory": "/y", "cpu,cpuacct": "/", "name=systemd": "/", "": "/u"}
    assert host.unified_mount == "/cg/unified"
