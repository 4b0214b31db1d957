"""What a process inside sees of namespaces, mounts, devices, ids and limits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime, end

pytestmark = pytest.mark.root

ALL = ("pid", "mount", "network", "ipc", "uts", "cgroup")
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def probe(runtime: Runtime, bundle: Bundle, *options: object, **keywords: object) -> Probe:
    done = runtime.run(bundle, *options, **keywords)
    assert done.returncode == 0, done.stderr
    return Probe(done.stdout)


def own(name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


def test_new_namespaces_differ_from_the_hosts(any_runtime: Runtime, bundle: Bundle) -> None:
    seen = probe(any_runtime, bundle.namespaces(*ALL)).starting("ns.")
    for name in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        assert seen[name] != own(name), name
    assert seen["user"] == own("user")


def test_the_first_process_has_pid_1_and_a_session(any_runtime: Runtime, bundle: Bundle) -> None:
    seen = probe(any_runtime, bundle)
    assert (seen["pid"], seen["ppid"], seen["sid"]) == ("1", "0", "1")


def test_only_the_three_standard_fds_are_open(any_runtime: Runtime, bundle: Bundle) -> None:
    read_fd, write_fd = os.pipe()
    try:
        seen = probe(any_runtime, bundle, pass_fds=[write_fd], stdin=subprocess.DEVNULL)
    finally:
        os.close(read_fd)
        os.close(write_fd)
    assert set(seen.starting("fd.")) == {"0", "1", "2"}


def test_preserved_fds_and_only_those_are_passed(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    try:
        done = subprocess.run(
            [
                "bash",
                "-c",
                f'exec 3<&{fds[0]} 4<&{fds[1]} 5<&{fds[0]}; exec "$@"',
                "sh",
                *runtime.command("run", "--preserve-fds", 2, "--bundle", bundle.path, runtime.new_id()),
            ],
            pass_fds=fds,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    finally:
        for fd in fds:
            os.close(fd)
    assert done.returncode == 0, done.stderr
    assert set(Probe(done.stdout).starting("fd.")) == {"0", "1", "2", "3", "4"}


def test_a_preserved_fd_that_is_not_open_is_refused_by_name(runtime: Runtime, bundle: Bundle) -> None:
    done = runtime.run(bundle, "--preserve-fds", 5)
    assert done.returncode == 1
    assert "--preserve-fds" in done.stderr
    assert done.stdout == ""


def test_user_pid_time_namespaces_and_a_network_by_path_in_one_container(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """Issue 2, seen (a)."""
    network = subprocess.Popen(["unshare", "-n", "sleep", "60"])
    try:
        while os.readlink(f"/proc/{network.pid}/ns/net") == own("net"):
            pass
        bundle.namespaces("user", "pid", "mount", "ipc", "uts", "cgroup", "time")
        bundle.linux["namespaces"].append({"type": "network", "path": f"/proc/{network.pid}/ns/net"})
        bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
        bundle.linux["timeOffsets"] = {
            "monotonic": {"secs": 86400},
            "boottime": {"secs": 3600, "nanosecs": 5},
        }
        bundle.spec["mounts"] = [
            m for m in bundle.spec["mounts"] if m["destination"] not in ("/sys", "/sys/fs/cgroup")
        ]
        give_away(bundle)
        bundle.args("/bin/sleep", "60")
        container_id = runtime.start_bundle(bundle)
        done = runtime("exec", container_id, "/bin/probe")
        wanted = os.readlink(f"/proc/{network.pid}/ns/net")
    finally:
        end(network)
    assert done.returncode == 0, done.stderr
    seen = Probe(done.stdout)
    pid = runtime.state(container_id)["pid"]
    for name, link in seen.starting("ns.").items():
        if not name.endswith("_for_children"):
            assert link == os.readlink(f"/proc/{pid}/ns/{name}"), name
    assert seen.starting("ns.")["net"] == wanted
    assert seen["uid"] == "0"
    assert seen["uid_map"].split() == ["0", "100000", "65536"]
    assert seen["timens_offsets"].split() == ["monotonic", "86400", "0", "boottime", "3600", "5"]
    assert seen.caps("CapEff") != 0


def give_away(bundle: Bundle) -> None:
    """A rootfs that the container's root owns, reachable for it."""
    subprocess.run(["chown", "-R", "-h", "100000:100000", bundle.rootfs], check=True)
    path = bundle.path
    while path != Path("/"):
        path.chmod(path.stat().st_mode | 0o011)
        path = path.parent


def test_a_path_of_another_namespace_type_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespaces("pid", "mount", "uts", network="/proc/self/ns/uts")
    done = runtime.run(bundle)
    assert done.returncode == 1
    assert "linux.namespaces[3].path: /proc/self/ns/uts is not a network namespace" in done.stderr


def test_hostname_and_domainname(any_runtime: Runtime, bundle: Bundle) -> None:
    bundle.spec.update(hostname="one", domainname="two.example")
    seen = probe(any_runtime, bundle)
    assert seen["hostname"] == "one"
    if any_runtime.name != "runc":  # Debian's runc 1.1.5 ignores domainname (config.md, 1.1.0)
        assert seen["domainname"] == "two.example"


def test_mounts_have_their_flags(any_runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("text")
    bundle.spec["mounts"] += [
        {
            "destination": "/data",
            "type": "bind",
            "source": str(tmp_path / "data"),
            "options": ["rbind", "ro"],
        },
        {
            "destination": "/new/file",
            "type": "bind",
            "source": str(tmp_path / "data/file"),
            "options": ["bind"],
        },
        {
            "destination": "/scratch",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "size=64k"],
        },
        {"destination": "/sealed", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
    ]
    bundle.args(
        "/bin/probe",
        "all",
        "read",
        "/new/file",
        "create",
        "/data/x",
        "create",
        "/scratch/x",
        "create",
        "/sealed/x",
    )
    seen = probe(any_runtime, bundle)
    mounts = seen.mounts()
    assert "ro" in mounts["/data"][0]
    assert {"rw", "nosuid", "noexec"} <= mounts["/scratch"][0]
    assert mounts["/scratch"][1] == "tmpfs"
    assert seen["/new/file"] == "text"
    assert seen["create /data/x"] == "Read-only file system"
    assert seen["create /scratch/x"] == "ok"
    assert seen["create /sealed/x"] == "Read-only file system"


def test_nothing_of_the_host_is_mounted_but_what_was_asked(runtime: Runtime, bundle: Bundle) -> None:
    points = set(probe(runtime, bundle).mounts())
    for mount in bundle.spec["mounts"]:
        points.discard(mount["destination"])
    points = {point for point in points if not point.startswith(("/sys/fs/cgroup/", "/proc/"))}
    assert points <= {"/", "/sys/firmware", "/sys/devices/virtual/powercap"}


def test_tmpfs_gets_the_mode_of_the_directory_below_and_copies_it_up(
    runtime: Runtime, bundle: Bundle
) -> None:
    (bundle.rootfs / "var").mkdir(mode=0o755)
    (bundle.rootfs / "var").chmod(0o777)
    os.chown(bundle.rootfs / "var", 5, 6)
    (bundle.rootfs / "var/deep/er").mkdir(parents=True)
    (bundle.rootfs / "var/deep/er/file").write_text("kept")
    (bundle.rootfs / "var/link").symlink_to("deep/er/file")
    bundle.spec["mounts"].append(
        {"destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}
    )
    bundle.args("/bin/probe", "all", "read", "/var/link", "create", "/var/new", "stat", "/var")
    seen = probe(runtime, bundle)
    assert seen.mounts()["/var"][1] == "tmpfs"
    assert seen["/var/link"] == "kept"
    assert seen["create /var/new"] == "ok"
    assert seen["stat /var"].startswith("40777 5 6 ")
    assert not (bundle.rootfs / "var/new").exists()


def test_devices_are_there_with_their_modes(any_runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    words = [
        word
        for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse", "pipe", "ptmx", "fd")
        for word in ("stat", f"/dev/{name}")
    ]
    seen = probe(any_runtime, bundle.args("/bin/probe", *words))
    assert seen["stat /dev/null"].startswith("20666 0 0 1:3")
    assert seen["stat /dev/full"].startswith("20666 0 0 1:7")
    assert seen["stat /dev/tty"].startswith("20666 0 0 5:0")
    assert seen["stat /dev/fuse"].startswith("20640 5 6 10:229")
    assert seen["stat /dev/pipe"].startswith("10600 0 0")
    assert seen["stat /dev/ptmx"].startswith("120777")
    assert seen["stat /dev/fd"].startswith("120777")


def test_masked_paths_read_as_empty_and_readonly_paths_refuse(any_runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "secret").write_text("secret")
    (bundle.rootfs / "hidden").mkdir()
    (bundle.rootfs / "hidden/file").write_text("secret")
    (bundle.rootfs / "fixed").mkdir()
    bundle.linux["maskedPaths"] += ["/secret", "/hidden", "/nosuch"]
    bundle.linux["readonlyPaths"] += ["/fixed", "/nosuch"]
    bundle.args(
        "/bin/probe", "read", "/secret", "stat", "/hidden/file", "create", "/hidden/x", "create", "/fixed/x"
    )
    seen = probe(any_runtime, bundle)
    assert seen["/secret"] == ""
    assert seen["stat /hidden/file"] == "No such file or directory"
    assert seen["create /hidden/x"] == "Read-only file system"
    assert seen["create /fixed/x"] == "Read-only file system"


def test_hundreds_of_masked_paths_share_one_mount(runtime: Runtime, bundle: Bundle) -> None:
    for i in range(300):
        (bundle.rootfs / f"hidden/{i}").mkdir(parents=True)
    bundle.linux["maskedPaths"] = [f"/hidden/{i}" for i in range(300)]
    seen = probe(runtime, bundle)
    devices = {line.split()[2] for line in seen["mountinfo"].splitlines() if " /hidden/" in line}
    assert len(devices) == 1


def test_a_readonly_root_refuses_and_its_mounts_do_not(any_runtime: Runtime, bundle: Bundle) -> None:
    bundle.spec["root"]["readonly"] = True
    seen = probe(any_runtime, bundle.args("/bin/probe", "create", "/x", "create", "/dev/shm/x"))
    assert seen["create /x"] == "Read-only file system"
    assert seen["create /dev/shm/x"] == "ok"


def test_sysctl_of_the_namespace_and_not_of_the_host(any_runtime: Runtime, bundle: Bundle) -> None:
    before = Path("/proc/sys/kernel/msgmax").read_text()
    bundle.linux["sysctl"] = {"kernel.msgmax": "8193", "net.ipv4.ip_forward": "1"}
    bundle.args("/bin/probe", "read", "/proc/sys/kernel/msgmax", "read", "/proc/sys/net/ipv4/ip_forward")
    seen = probe(any_runtime, bundle)
    assert seen["/proc/sys/kernel/msgmax"] == "8193\n"
    assert seen["/proc/sys/net/ipv4/ip_forward"] == "1\n"
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


@pytest.mark.parametrize("propagation", ["rprivate", "rslave", "rshared"])
def test_propagation_of_the_root(runtime: Runtime, bundle: Bundle, propagation: str) -> None:
    """A mount below a shared volume reaches the host only with rshared."""
    volume = bundle.path / "volume"
    volume.mkdir()
    script = 'mount --bind "$1" "$1" && mount --make-shared "$1" && shift && exec "$@"'
    bundle.linux["rootfsPropagation"] = propagation
    bundle.spec["mounts"].append(
        {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", propagation]}
    )
    give = bundle.process["capabilities"]
    for kind in ("bounding", "effective", "permitted"):
        give[kind] = [*give[kind], "CAP_SYS_ADMIN"]
    bundle.sh("mkdir -p /volume/m && mount -t tmpfs tmpfs /volume/m && touch /volume/m/file")
    bundle.write()
    container_id = runtime.new_id()
    look = f'"$@" || exit 9; test -e {volume}/m/file && echo seen || echo hidden'
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "--propagation",
            "shared",
            "sh",
            "-c",
            script,
            "sh",
            str(volume),
            "sh",
            "-c",
            look,
            "sh",
            *runtime.command("run", "--bundle", bundle.path, container_id),
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("seen\n" if propagation == "rshared" else "hidden\n")


def test_without_a_mount_namespace_the_root_is_changed_by_chroot(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespaces("pid", "ipc", "uts")
    bundle.spec["mounts"] = []
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.args("/bin/busybox", "ls", "/bin/probe")
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (0, "/bin/probe\n"), done.stderr


def test_no_pivot_gives_the_same_view(runtime: Runtime, bundle: Bundle) -> None:
    seen = probe(runtime, bundle.args("/bin/probe", "all", "stat", "/bin/probe"), "--no-pivot")
    assert seen["stat /bin/probe"].startswith("100755")
    assert seen.mounts()["/proc"][1] == "proc"


def test_the_same_namespaces_are_joined_by_exec(any_runtime: Runtime, bundle: Bundle) -> None:
    container_id = any_runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    done = any_runtime("exec", container_id, "/bin/probe")
    assert done.returncode == 0, done.stderr
    seen = Probe(done.stdout)
    pid = any_runtime.state(container_id)["pid"]
    for name in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        assert seen.starting("ns.")[name] == os.readlink(f"/proc/{pid}/ns/{name}"), name
    groups = {line.split(":", 2)[1]: line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
    assert {line.split(":", 2)[1] for line in seen["cgroup"].splitlines()} == set(groups)
    assert set(seen.starting("fd.")) == {"0", "1", "2"}
