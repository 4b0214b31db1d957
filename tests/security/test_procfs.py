"""Attacks on what the runtime writes below /proc, and on the cgroup file systems."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

MSGMAX = "/proc/sys/kernel/msgmax"


def bind(source: Path, destination: str) -> dict[str, object]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind"]}


@pytest.fixture
def fake(bundle: Bundle, sentinel: Path) -> Path:
    """A volume that looks like a procfs, with links to a file of the host in it."""
    volume = bundle.path / "fake"
    for directory in ("sys/kernel", "self/attr/apparmor", "thread-self/attr/apparmor", "1/attr"):
        (volume / directory).mkdir(parents=True)
    for name in ("sys/kernel/msgmax", "self/attr/exec", "self/attr/apparmor/exec", "thread-self/attr/exec"):
        (volume / name).symlink_to(sentinel / "file")
    (volume / "thread-self/attr/apparmor/exec").write_text("")
    return volume


@pytest.mark.parametrize("label", ["", "apparmorProfile", "selinuxLabel"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_cve_2019_16884_only_a_procfs_is_mounted_on_proc(
    runtime: Runtime, bundle: Bundle, fake: Path, label: str, kind: str
) -> None:
    mount = bind(fake, "/proc")
    if kind == "tmpfs":
        mount = {"destination": "/proc/", "type": "tmpfs", "source": "tmpfs"}
    bundle.spec["mounts"].append(mount)
    if label:
        bundle.process[label] = "docker-default"
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (1, "")
    known = "only a proc file system may lie", "not enabled on the host"
    assert any(words in done.stderr for words in known), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["bind", "tmpfs", "overlay"])
@pytest.mark.parametrize("destination", ["/link", "/way/../proc", "/way/back"])
def test_cve_2019_16884_proc_by_another_name(
    runtime: Runtime, bundle: Bundle, fake: Path, kind: str, destination: str
) -> None:
    """A link of the image's, or a detour, leads a volume to /proc: what is there decides."""
    (bundle.rootfs / "link").symlink_to("proc")
    (bundle.rootfs / "way").mkdir()
    (bundle.rootfs / "way/back").symlink_to("/link/.")
    mount: dict[str, object] = {"destination": destination, "type": kind, "source": kind}
    if kind == "bind":
        mount = bind(fake, destination)
    if kind == "overlay":
        mount["options"] = [f"lowerdir={fake}:{bundle.rootfs}/etc"]
    bundle.spec["mounts"].append(mount)
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mounts[7]"), done.stderr
    assert "it is /proc, where only a proc file system may lie" in done.stderr


def test_cve_2019_16884_the_working_directory_may_be_proc(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/proc"
    assert runtime.run(bundle.args("/bin/pwd")).stdout == "/proc\n"


def test_cve_2019_16884_the_hosts_procfs_may_be_bound(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespaces("mount", "network", "ipc", "uts", "cgroup")
    bundle.spec["mounts"][0] = bind(Path("/proc"), "/proc")
    done = runtime.run(bundle)
    assert done.returncode == 0, done.stderr
    assert Probe(done.stdout).mounts()["/proc"][1] == "proc"


@pytest.mark.parametrize("where", ["/proc/sys", "/proc/sys/kernel", MSGMAX])
def test_cve_2025_52881_cve_2025_62596_a_sysctl_is_not_written_to_a_fake_procfs(
    runtime: Runtime, bundle: Bundle, fake: Path, where: str
) -> None:
    """The value reaches the container's IPC namespace, and neither the volume nor the host."""
    before = Path(MSGMAX).read_text()
    source = fake / where.removeprefix("/proc/")
    if where == MSGMAX:
        source.unlink()
        source.write_text("untouched")
    bundle.spec["mounts"].append(bind(source, where))
    bundle.linux["sysctl"] = {"kernel.msgmax": "8193"}
    bundle.linux["readonlyPaths"] = []
    container = runtime.create(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    inside = subprocess.run(["nsenter", "-t", str(pid), "-i", "cat", MSGMAX], capture_output=True, text=True)
    assert inside.stdout == "8193\n"
    assert Path(MSGMAX).read_text() == before
    if where == MSGMAX:
        assert source.read_text() == "untouched"


def test_cve_2025_52881_exec_asks_nothing_of_the_containers_procfs(
    runtime: Runtime, bundle: Bundle, fake: Path
) -> None:
    """The container mounted something else on its /proc before somebody enters it."""
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = ["CAP_SYS_ADMIN", "CAP_KILL"]
    bundle.spec["mounts"].append(bind(fake, "/fake"))
    bundle.sh("mount -o bind /fake /proc && echo ready && exec sleep 60")
    container = runtime.start_bundle(bundle)
    while "ready" not in (bundle.path / "stdout").read_text():
        assert runtime.state(container)["status"] == "running"
    done = runtime(
        "exec", container, "/bin/probe", "read", "/proc/thread-self/attr/apparmor/exec", "open", "/bin"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "/proc/thread-self/attr/apparmor/exec\t\nopen /bin\tok\n"
    done = runtime("exec", "--apparmor", "docker-default", container, "/bin/true")
    assert done.returncode in (0, 255)
    assert (fake / "thread-self/attr/apparmor/exec").read_text() == ""


@pytest.mark.parametrize("options", [["nosuid", "noexec", "nodev"], ["nosuid", "noexec", "nodev", "ro"]])
def test_cve_2023_25809_without_a_cgroup_namespace_the_hosts_groups_stay_out_of_reach(
    runtime: Runtime, bundle: Bundle, options: list[str]
) -> None:
    """Only the container's own group is there, and read-only when that was asked."""
    bundle.namespaces("pid", "mount", "network", "ipc", "uts")
    cgroup = next(mount for mount in bundle.spec["mounts"] if mount["type"] == "cgroup")
    cgroup["options"] = options
    done = runtime.run(
        bundle.sh("cat /proc/self/mountinfo; for d in /sys/fs/cgroup/*; do mkdir $d/new; done")
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    groups = [line for line in lines if line[4].startswith("/sys/fs/cgroup/")]
    assert groups
    for line in groups:
        assert runtime.ids[-1] in line[3], line
        assert ("ro" in line[5].split(",")) == ("ro" in options), line
    if "ro" in options:
        assert done.stderr.count("Read-only file system") >= len(groups)


def test_cve_2023_25809_groups_of_the_host_are_read_only_in_any_case(
    runtime: Runtime, bundle: Bundle, run_command
) -> None:
    """No group of its own (cgroups disabled) and no cgroup namespace: the host's tree, read-only."""
    bundle.namespaces("pid", "mount", "network", "ipc", "uts")
    cgroup = next(mount for mount in bundle.spec["mounts"] if mount["type"] == "cgroup")
    cgroup["options"] = ["nosuid", "noexec", "nodev"]
    bundle.sh("cat /proc/self/mountinfo; for d in /sys/fs/cgroup/*; do mkdir $d/octest-new; done").write()
    words = runtime.command("--cgroup-manager", "disabled", "run", "--bundle", bundle.path, runtime.new_id())
    done = run_command(*words, stdin=subprocess.DEVNULL)
    points = [line.split() for line in done.stdout.splitlines() if " /sys/fs/cgroup/" in line]
    assert points, done.stderr
    assert all("ro" in line[5].split(",") for line in points), done.stdout
    assert not [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith("/octest-new")]
