"""doctor on hosts made of files: what is missing is told with what needs it and what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocirt import doctor
from ocirt.cli.doctor import text
from ocirt.doctor import BROKEN, MISSING, OK, Finding, Host, examine

V2_MOUNT = "30 20 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
RESCTRL_MOUNT = "34 20 0:34 / /sys/fs/resctrl rw - resctrl resctrl rw\n"
ROOT_MOUNT = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
V1_MOUNTS = (
    "31 20 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 20 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 20 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
)
PROC_CGROUPS = (
    "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
    "memory\t4\t1\t1\npids\t0\t1\t1\nrdma\t0\t1\t0\nblkio\t0\t1\t1\n"
)
FILES = {
    "/proc/self/mountinfo": ROOT_MOUNT + V2_MOUNT + RESCTRL_MOUNT,
    "/proc/cgroups": PROC_CGROUPS,
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "/sys/fs/cgroup/system.slice/memory.max": "max\n",
    "/sys/fs/cgroup/system.slice/memory.swap.max": "max\n",
    "/proc/pressure/memory": "some avg10=0.00\n",
    "/proc/key-users": "    0:     3 2/2 1/200 5/25000\n",
    "/proc/filesystems": "nodev\tsysfs\n\text4\nnodev\toverlay\nnodev\tresctrl\n",
    "/sys/fs/resctrl/info/L3/cbm_mask": "fffff\n",
    "/sys/fs/resctrl/info/MB/bandwidth_gran": "10\n",
    "/sys/fs/resctrl/info/last_cmd_status": "ok\n",
    "/proc/sys/kernel/seccomp/actions_avail": "kill_process errno allow\n",
    "/sys/kernel/security/lsm": "lockdown,apparmor,landlock,selinux\n",
    "/run/systemd/private": "",
    "/dev/fuse": "",
    **{f"/proc/self/ns/{name}": "" for name in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")},
}


class Built(Host):
    """A host below a temporary directory; forbidden and unmapped are what it refuses."""

    def __init__(self, root: Path, **changes: str | None) -> None:
        super().__init__(str(root))
        self.euid = 0
        self.release = "6.18.1-generic"
        self.forbidden: dict[str, str] = {}
        self.unmapped: dict[str, str] = {}
        self.programs = ["criu", "newuidmap", "newgidmap", "fuse-overlayfs", "slirp4netns", "apparmor_parser"]
        self.answer = (0, "Looks good.\n")
        self.ran: list[tuple[str, ...]] = []
        for name, content in {**FILES, **changes}.items():
            if content is not None:
                file = root / name.lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)

    def which(self, program: str) -> str:
        return f"/usr/bin/{program}" if program in self.programs else ""

    def run(self, *words: str) -> tuple[int, str]:
        self.ran.append(words)
        return self.answer

    def can_unshare(self, flag: str) -> str:
        return self.forbidden.get(flag, "")

    def can_map_ids(self, path: str) -> str:
        return self.unmapped.get(path, "")


def told(host: Host) -> dict[str, Finding]:
    return {each.name: each for each in examine(host)}


def wanting(host: Host) -> dict[str, tuple[str, str, str]]:
    """State, what was found and what mends it, of all that is not well."""
    return {each.name: (each.state, each.found, each.mend) for each in examine(host) if each.state != OK}


def test_on_a_host_with_everything_nothing_is_missing(tmp_path):
    host = Built(tmp_path)
    assert wanting(host) == {}
    assert told(host)["layout"].found == "v2"
    assert "\nnothing is missing\n" in text(examine(host))


def test_an_old_kernel_runs_nothing(tmp_path):
    host = Built(tmp_path)
    host.release = "5.13.19-2"
    assert wanting(host)["version"] == (BROKEN, "5.13.19-2", "boot a newer kernel")
    host.release = "5.14.0-427.el9"
    assert wanting(host) == {"exit status": (MISSING, "only the parent learns the status", "")}


def test_v1_controllers_that_are_not_mounted_come_with_the_mount_command(tmp_path):
    host = Built(tmp_path, **{"/proc/self/mountinfo": ROOT_MOUNT + V1_MOUNTS})
    (tmp_path / "sys/fs/cgroup/memory").mkdir()
    seen = wanting(host)
    assert seen["pids"] == (
        MISSING,
        "not mounted",
        "mkdir /sys/fs/cgroup/pids && mount -t cgroup -o pids pids /sys/fs/cgroup/pids",
    )
    assert seen["rdma"] == (MISSING, "switched off", "boot without cgroup_disable=rdma")
    assert seen["net_cls"] == (MISSING, "not in this kernel", "")
    assert seen["swap"] == (MISSING, "not counted", "boot with swapaccount=1")
    assert "memory" not in seen
    assert "cpuacct" not in seen
    assert told(host)["layout"].found == "v1"
    assert told(host)["pids"].needed == "linux.resources.pids"


def test_hybrid_finds_controllers_in_cgroup2(tmp_path):
    mounts = V1_MOUNTS + V2_MOUNT.replace("/sys/fs/cgroup rw", "/sys/fs/cgroup/unified rw")
    changes = {"/proc/self/mountinfo": mounts, "/sys/fs/cgroup/unified/cgroup.controllers": "hugetlb\n"}
    host = Built(tmp_path, **changes)
    seen = told(host)
    assert seen["layout"].found == "hybrid"
    assert (seen["hugetlb"].state, seen["hugetlb"].found) == (OK, "/sys/fs/cgroup/unified (cgroup2)")


@pytest.mark.parametrize(
    ("enabled", "found", "mend"),
    [
        ("io blkio\t3\t1\t1", "in a v1 hierarchy", "boot with systemd.unified_cgroup_hierarchy=1"),
        ("io blkio\t0\t1\t0", "switched off", "boot without cgroup_disable=io"),
        ("io", "not in this kernel", ""),
    ],
)
def test_v2_says_why_a_controller_is_not_there(tmp_path, enabled, found, mend):
    rows = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" + enabled.partition(" ")[2] + "\n"
    changes = {"/sys/fs/cgroup/cgroup.controllers": "cpu cpuset memory pids", "/proc/cgroups": rows}
    assert wanting(Built(tmp_path, **changes))["io"] == (MISSING, found, mend)


def test_without_any_cgroup_file_system_no_limit_holds(tmp_path):
    host = Built(tmp_path, **{"/proc/self/mountinfo": ROOT_MOUNT})
    assert wanting(host)["layout"][0] == BROKEN


def test_a_user_learns_what_is_delegated_and_how_to_get_the_rest(tmp_path):
    group = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"
    host = Built(tmp_path, **{group: "memory pids\n"})
    state, found, mend = wanting(host)["delegation to 1000"]
    assert (state, found) == (MISSING, "memory pids; not cpu cpuset io")
    assert mend.startswith("mkdir -p /etc/systemd/system/user@.service.d && ")
    assert mend.endswith("systemctl daemon-reload")
    host.euid = 1001
    assert wanting(host)["delegation to 1001"] == (
        MISSING,
        "no systemd of this user",
        "loginctl enable-linger 1001",
    )


@pytest.mark.parametrize(
    ("setting", "value", "found", "mend"),
    [
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user.max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=28633",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/user/max_user_namespaces", "99", "Operation not permitted", ""),
    ],
)
def test_user_namespaces_that_are_forbidden_come_with_the_setting(tmp_path, setting, value, found, mend):
    host = Built(tmp_path, **{setting: value})
    host.forbidden["CLONE_NEWUSER"] = "Operation not permitted"
    assert wanting(host) == {"user": (MISSING, found, mend)}


def test_a_namespace_that_the_kernel_does_not_have(tmp_path):
    assert wanting(Built(tmp_path, **{"/proc/self/ns/time": None}))["time"][:2] == (
        MISSING,
        "not in this kernel",
    )
    assert wanting(Built(tmp_path / "b", **{"/proc/self/ns/mnt": None}))["mount"][0] == BROKEN


def test_a_user_without_subordinate_ids_gets_the_command(tmp_path):
    host = Built(tmp_path, **{"/etc/subgid": "4242:5000:10\n"})
    host.euid = 4242
    host.programs.remove("newgidmap")
    seen = wanting(host)
    assert seen["subuid"] == (MISSING, "none", "usermod --add-subuids 100000-165535 4242")
    assert "subgid" not in seen
    assert seen["newgidmap"] == (MISSING, "not installed", "apt-get install uidmap")


@pytest.mark.parametrize(
    ("changes", "name", "mend"),
    [
        (
            {"/sys/kernel/security/lsm": "lockdown,landlock,selinux"},
            "apparmor",
            "boot with lsm=lockdown,landlock,selinux,apparmor",
        ),
        ({"/sys/kernel/security/lsm": None}, "modules", "mount -t securityfs none /sys/kernel/security"),
        ({"/proc/sys/kernel/seccomp/actions_avail": None}, "seccomp", ""),
        ({"/proc/filesystems": "\text4\n"}, "overlay", "modprobe overlay"),
        (
            {"/proc/self/mountinfo": ROOT_MOUNT + V2_MOUNT},
            "resctrl",
            "mount -t resctrl resctrl /sys/fs/resctrl",
        ),
        ({"/dev/fuse": None}, "/dev/fuse", "modprobe fuse"),
        ({"/proc/pressure/memory": None}, "pressure (PSI)", "boot with psi=1"),
        ({"/run/systemd/private": None}, "systemd", ""),
        (
            {"/proc/key-users": "    0: 3 2/2 24000/25000 5/9"},
            "keys",
            "sysctl -w kernel.keys.root_maxkeys=1000000",
        ),
    ],
)
def test_what_is_missing_comes_with_what_mends_it(tmp_path, changes, name, mend):
    seen = wanting(Built(tmp_path, **changes))
    assert seen[name][0] == MISSING
    assert seen[name][2] == mend
    assert len(seen) == 1


def test_file_systems_that_cannot_have_other_ids_are_named(tmp_path):
    mounts = FILES["/proc/self/mountinfo"] + "40 20 0:40 / /data rw - nfs server:/x rw\n"
    host = Built(tmp_path, **{"/proc/self/mountinfo": mounts})
    host.unmapped["/data"] = "Invalid argument"
    assert wanting(host) == {"idmap nfs": (MISSING, "nfs at /data: Invalid argument", "")}


def test_criu_is_asked_whether_it_works(tmp_path):
    host = Built(tmp_path)
    assert told(host)["criu"].found == "/usr/bin/criu: `criu check` succeeds"
    assert host.ran == [("/usr/bin/criu", "check")]
    lines = (
        "Warn  (criu/kerndat.c:1): no such thing",
        "Error (criu/cr-check.c:99): Kernel doesn't support PTRACE_O_SUSPEND_SECCOMP",
        "Error (criu/cr-check.c:7): Dirty tracking is OFF",
    )
    host.answer = (1, "\n".join(lines))
    why = "Kernel doesn't support PTRACE_O_SUSPEND_SECCOMP; Dirty tracking is OFF"
    assert wanting(host) == {"criu": (MISSING, f"/usr/bin/criu: `criu check`: {why}", "")}
    host.programs.remove("criu")
    assert wanting(host)["criu"] == (MISSING, "not installed", "apt-get install criu")


def test_a_criu_that_is_for_root_only_is_not_called_broken(tmp_path):
    """Debian 12's, 3.17.1, in its own words."""
    host = Built(tmp_path)
    host.euid = 1000
    host.answer = (1, "/usr/bin/criu: unrecognized option '--unprivileged'\n\nUsage:\n  criu check\n")
    criu = told(host)["criu"]
    assert ("/usr/bin/criu", "check", "--unprivileged") in host.ran
    assert (criu.state, criu.needed) == (MISSING, "checkpoint and restore without root")
    assert criu.found == (
        "/usr/bin/criu: does not know --unprivileged (criu 3.18): it is for root only, who can check it"
    )
    host.answer = (0, "Looks good.\n")
    assert told(host)["criu"].state == OK


def test_a_program_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    assert Host(str(tmp_path)).run("/bin/sleep", "60") == (-1, "did not end within 0.2 s")
    assert Host(str(tmp_path)).run("/bin/sh", "-c", "pwd; exit 3") == (3, "/\n")
    assert Host(str(tmp_path)).run("/nonexistent") == (-1, "No such file or directory")


def test_on_v1_misc_is_a_controller_like_the_others(tmp_path):
    host = Built(tmp_path, **{"/proc/self/mountinfo": ROOT_MOUNT + V1_MOUNTS})
    finding = told(host)["misc"]
    assert (finding.state, finding.found) == (MISSING, "not in this kernel")
    assert finding.needed == "misc.current of one container"


def test_the_table_ends_with_needs_and_commands():
    findings = [Finding("tools", "criu", MISSING, "not installed", "checkpoint", "apt-get install criu")]
    assert text(findings) == (
        "AREA    WHAT   STATE     FOUND\n"
        "tools   criu   missing   not installed\n"
        "\n"
        "criu: not installed; needed for checkpoint\n"
        "    apt-get install criu\n"
    )


def test_what_is_tried_in_a_child_changes_nothing_here():
    import os

    def leave() -> None:
        os.chdir("/")
        raise OSError(1, "no")

    before = os.getcwd()
    assert doctor.tried(leave) == "no"
    assert doctor.tried(lambda: os.chdir("/")) == ""
    assert os.getcwd() == before
