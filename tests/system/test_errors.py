"""What fails says field, call and reason on one line, exits with 1 and leaves nothing."""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import BUSYBOX, Bundle
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

Change = Callable[[dict[str, Any]], None]


def mount(destination: str, kind: str, source: str, *options: str) -> Change:
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    return lambda spec: spec.update(mounts=[*spec["mounts"][:1], entry])


def put(path: str, value: Any) -> Change:
    def change(spec: dict[str, Any]) -> None:
        *above, last = path.split(".")
        for name in above:
            spec = spec.setdefault(name, {})
        spec[last] = value

    return change


def rlimit(soft: int, hard: int, kind: str = "RLIMIT_NOFILE") -> Change:
    return put("process.rlimits", [{"type": kind, "soft": soft, "hard": hard}])


CASES: dict[str, tuple[Change, str]] = {
    "root missing": (
        put("root.path", "/no/such/root"),
        r"root.path \(/no/such/root\): open_tree: No such file or directory",
    ),
    "root is a file": (
        put("root.path", "/etc/passwd"),
        r"root.path \(/etc/passwd\): open: Not a directory",
    ),
    "bind source missing": (
        mount("/x", "bind", "/no/such", "bind"),
        r"mounts\[1\] \(/no/such on /x\): open_tree: No such file or directory",
    ),
    "bind of a file on a directory": (
        mount("/tmp", "bind", "/etc/passwd", "bind"),
        r"mounts\[1\] \(/etc/passwd on /tmp\): \w+: Is a directory",
    ),
    "mount below a file": (
        mount("/etc/passwd/x", "tmpfs", "tmpfs"),
        r"mounts\[1\] \(tmpfs on /etc/passwd/x\): openat2: Not a directory",
    ),
    "file system unknown": (
        mount("/x", "nosuchfs", "nosuchfs"),
        r"mounts\[1\] \(nosuchfs on /x\): fsopen: No such device",
    ),
    "mount option's value, with what the kernel says of it": (
        mount("/x", "tmpfs", "tmpfs", "size=lots"),
        r"mounts\[1\] \(tmpfs on /x: size=lots: tmpfs: Bad value for 'size'\): fsconfig: Invalid argument",
    ),
    "mount option unknown, with what the kernel says of it": (
        mount("/x", "tmpfs", "tmpfs", "nosuch=1"),
        r"mounts\[1\] \(tmpfs on /x: nosuch=1: tmpfs: Unknown parameter 'nosuch'\): fsconfig: Invalid .*",
    ),
    "overlay's layer missing": (
        mount("/x", "overlay", "overlay", "lowerdir=/no/such:/tmp"),
        r"mounts\[1\] \(overlay on /x.*\): \w+: No such file or directory",
    ),
    "sysctl missing": (
        put("linux.sysctl", {"net.ipv4.no_such": "1"}),
        r"linux\.sysctl\[net\.ipv4\.no_such\]: openat: No such file or directory",
    ),
    "sysctl's value": (
        put("linux.sysctl", {"net.ipv4.ip_forward": "many"}),
        r"linux\.sysctl\[net\.ipv4\.ip_forward\]: write: Invalid argument",
    ),
    "sysctl of the host": (
        put("linux.sysctl", {"vm.swappiness": "1"}),
        r"linux\.sysctl\[vm\.swappiness\]: is not namespaced: it would change the host .*",
    ),
    "hostname too long": (put("hostname", "x" * 65), r"hostname: is longer than 64 bytes \(.*\)"),
    "domainname too long": (put("domainname", "x" * 65), r"domainname: is longer than 64 bytes \(.*\)"),
    "namespace's path missing": (
        put("linux.namespaces", [{"type": "mount"}, {"type": "uts", "path": "/no/such"}]),
        r"linux\.namespaces\[1\]\.path \(/no/such\): open: No such file or directory",
    ),
    "namespace of another type": (
        put("linux.namespaces", [{"type": "mount"}, {"type": "uts", "path": "/proc/self/ns/net"}]),
        r"linux\.namespaces\[1\]\.path.*/proc/self/ns/net.*",
    ),
    "namespace type unknown": (
        put("linux.namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": "nosuch"}]),
        r"config\.json: /linux/namespaces/2/type: 'nosuch' is not one of .*",
    ),
    "memory limit too low to start in": (
        put("linux.resources.memory", {"limit": 4096}),
        r"linux\.resources\.memory\.limit: 4096 bytes are too few to start in: out of memory",
    ),
    "pids limit too high": (
        put("linux.resources.pids", {"limit": 10**12}),
        r"linux\.resources\.pids\.limit: write '1000000000000' to /\S+/pids\.max: Invalid argument",
    ),
    "huge page size unknown": (
        put("linux.resources.hugepageLimits", [{"pageSize": "3MB", "limit": 1 << 21}]),
        r"linux\.resources\.hugepageLimits.*3MB.*: not supported: .*",
    ),
    "cgroup path leaves its place": (
        put("linux.cgroupsPath", "/../x"),
        r"linux\.cgroupsPath: '/\.\./x' leaves its place by '\.\.' \(.*\)",
    ),
    "cwd is a file": (
        put("process.cwd", "/etc/passwd"),
        r"process\.cwd \(/etc/passwd\): \w+: Not a directory",
    ),
    "cwd relative": (put("process.cwd", "tmp"), r"process\.cwd: 'tmp' is not an absolute path \(.*\)"),
    "rlimit refused": (
        rlimit(1 << 40, 1 << 40),
        r"process\.rlimits\[0\] \(RLIMIT_NOFILE 1099511627776:1099511627776\): prlimit(64)?: .*not permitted",
    ),
    "rlimit's soft above its hard": (
        rlimit(10, 5),
        r"process\.rlimits\[0\]: RLIMIT_NOFILE: soft 10 is above hard 5 \(.*\)",
    ),
    "rlimit unknown": (
        rlimit(1, 1, "RLIMIT_NOSUCH"),
        r"config\.json: /process/rlimits/0/type: 'RLIMIT_NOSUCH' is not one of .*",
    ),
    "seccomp's action": (
        put("linux.seccomp", {"defaultAction": "SCMP_ACT_NOSUCH"}),
        r"config\.json: /linux/seccomp/defaultAction: 'SCMP_ACT_NOSUCH' is not one of .*",
    ),
    "seccomp's argument": (
        put(
            "linux.seccomp",
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["read"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}],
                    }
                ],
            },
        ),
        r"config\.json: /linux/seccomp/syscalls/0/args/0/index: 9 is greater than the maximum of 5",
    ),
    "device's type": (
        put("linux.devices", [{"path": "/dev/x", "type": "q", "major": 1, "minor": 3}]),
        r"config\.json: /linux/devices/0/type: 'q' is not one of .*",
    ),
    "device below a file": (
        put("linux.devices", [{"path": "/etc/passwd/x", "type": "c", "major": 1, "minor": 3}]),
        r"linux\.devices\[0\] \(/etc/passwd/x\): \w+: Not a directory",
    ),
    "LSM that is not there": (
        put("process.selinuxLabel", "nosuch"),
        r"process\.selinuxLabel: not supported: .*",
    ),
    "wrong type": (put("process.cwd", 7), r"config\.json: /process/cwd: 7 is not of type 'string'"),
    "arguments missing": (put("process.args", []), r"process\.args: must not be empty \(.*\)"),
    "version": (put("ociVersion", "9.0.0"), r"ociVersion: '9\.0\.0' is not a version 1\.x \(.*\)"),
    "not built yet": (put("linux.netDevices", {"e0": {}}), r"linux\.netDevices: not supported: .*"),
    "no resctrl": (
        put("linux.intelRdt", {"closID": "x"}),
        r"linux\.intelRdt: not supported: a mounted resctrl file system .*",
    ),
}  # fmt: skip


def fails(runtime: Runtime, bundle: Bundle) -> str:
    """The one line of a run that fails and leaves nothing, not even in the rootfs."""
    done = runtime.run(bundle)
    container_id = runtime.ids[-1]
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert runtime("state", container_id).returncode == 1
    assert not (runtime.root / container_id).exists()
    assert cgroups_named(container_id) == []
    return done.stderr.rstrip("\n")


@pytest.mark.parametrize("case", CASES)
def test_an_unfit_field_is_named_with_call_and_reason(runtime: Runtime, bundle: Bundle, case: str) -> None:
    change, wanted = CASES[case]
    change(bundle.args("/bin/true").spec)
    line = fails(runtime, bundle)
    assert re.fullmatch(wanted, line), line


@pytest.mark.parametrize(
    "case",
    ["root missing", "bind source missing", "file system unknown", "hostname too long", "cwd is a file"],
)
def test_what_we_refuse_the_peers_refuse_too(any_runtime: Runtime, bundle: Bundle, case: str) -> None:
    CASES[case][0](bundle.args("/bin/true").spec)
    assert any_runtime.run(bundle).returncode == 1
    assert any_runtime.run(bundle.args("/bin/true")).returncode == 1
    assert cgroups_named(any_runtime.ids[-1]) == []


def test_unknown_capabilities_are_a_warning(runtime: Runtime, bundle: Bundle) -> None:
    names = ["CAP_KILL", "CAP_NOSUCH"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    done = runtime.run(bundle.args("/bin/true"))
    assert done.returncode == 0
    assert "CAP_NOSUCH" in done.stderr
    assert "CAP_KILL" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_config_the_file_is_named(runtime: Runtime, bundle: Bundle) -> None:
    done = runtime("run", "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    assert f"{bundle.path}/config.json" in done.stderr
    assert done.stderr.count("\n") == 1
    done = runtime("run", "--bundle", bundle.path / "missing", runtime.new_id())
    assert done.returncode == 1
    assert "missing" in done.stderr
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"ociVersion": 1}', "\x00", '{"a": "\\ud800"', "{" * 5000]
)
def test_what_is_no_config_is_an_error_in_words(runtime: Runtime, bundle: Bundle, text: str) -> None:
    (bundle.path / "config.json").write_text(text)
    done = runtime("run", "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    assert "config.json" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "internal error" not in done.stderr


# Programs that cannot be run. Engines look for these words.


def foreign_elf() -> bytes:
    """An executable for another architecture."""
    data = bytearray(BUSYBOX.read_bytes()[:4096])
    struct.pack_into("<H", data, 18, 62 if platform.machine() == "aarch64" else 183)
    return bytes(data)


MACHINE = platform.machine()
OTHER = "x86_64" if MACHINE == "aarch64" else "aarch64"
LOADER = "/lib/ld-linux-aarch64.so.1" if MACHINE == "aarch64" else "/lib64/ld-linux-x86-64.so.2"
NOT_FOUND = "executable file not found in $PATH"
NO_FILE = "no such file or directory"
DENIED = "permission denied"
FORMAT = "exec format error"

# name, content, what engines look for, what we add
PROGRAMS: dict[str, tuple[str, bytes | None, str, str]] = {
    "missing in PATH": ("nosuch", None, NOT_FOUND, ""),
    "missing": ("/bin/x", None, NO_FILE, ""),
    "a directory": ("/etc", None, DENIED, ""),
    "not executable": ("/etc/passwd", None, DENIED, " (its mode is 0644)"),
    "empty name": ("", None, NOT_FOUND, ""),
    "interpreter missing": (
        "/bin/x",
        b"#!/no/such/sh\n",
        NO_FILE,
        " (its interpreter /no/such/sh does not exist in the rootfs)",
    ),
    "lines end in CR LF": (
        "/bin/x",
        b"#!/bin/sh\r\necho\r\n",
        NO_FILE,
        " (its #! line ends in CR LF: the interpreter would be '/bin/sh' with a carriage return)",
    ),
    "dynamic loader missing": (
        "/bin/x",
        Path("/bin/ls").read_bytes(),
        NO_FILE,
        f" (its dynamic loader {LOADER} does not exist in the rootfs)",
    ),
    "another architecture": (
        "/bin/x",
        foreign_elf(),
        FORMAT,
        f" (it is for {OTHER}, this machine is {MACHINE})",
    ),
    "no shebang": ("/bin/x", b"echo hello\n", FORMAT, " (neither ELF nor a script with a #! line)"),
    "empty file": ("/bin/x", b"", FORMAT, " (it is empty)"),
}


def words(case: str) -> str:
    """The line that we print."""
    name, _, reason, hint = PROGRAMS[case]
    place = f"stat {name}: " if reason == NO_FILE else ""
    return f'exec: "{name}": {place}{reason}{hint}'


def unfit(bundle: Bundle, case: str) -> str:
    name, content, _, _ = PROGRAMS[case]
    if content is not None:
        (bundle.rootfs / "bin/x").write_bytes(content)
        (bundle.rootfs / "bin/x").chmod(0o755)
    return name


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_program_that_cannot_be_run_says_why(runtime: Runtime, bundle: Bundle, case: str) -> None:
    bundle.args(unfit(bundle, case))
    assert fails(runtime, bundle) == words(case)


@pytest.mark.parametrize("case", PROGRAMS)
def test_create_and_start_and_exec_tell_the_same(runtime: Runtime, bundle: Bundle, case: str) -> None:
    """What is missing fails create, what cannot be executed fails start; exec's status is 255."""
    bundle.args(unfit(bundle, case)).write()
    wanted = words(case) + "\n"
    container_id = runtime.new_id()
    call = ("create", "--bundle", bundle.path, container_id)
    with open(bundle.path / "err", "w") as errors:
        created = runtime(*call, capture_output=False, stderr=errors, stdout=errors)
    if created.returncode == 0:
        done = runtime("start", container_id)
        assert (done.returncode, done.stderr) == (1, wanted)
        assert runtime.wait_for_status(container_id, "stopped")["pid"] == 0
        runtime("delete", container_id, check=True)
    else:
        assert (created.returncode, (bundle.path / "err").read_text()) == (1, wanted)
    sleeper = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    done = runtime("exec", sleeper, PROGRAMS[case][0])
    assert (done.returncode, done.stderr) == (255, wanted)
    assert runtime.state(sleeper)["status"] == "running"


@pytest.mark.parametrize("case", PROGRAMS)
def test_the_words_that_engines_look_for_are_runcs(bundle: Bundle, case: str, tmp_path: Path) -> None:
    runc = Runtime(Path("/usr/sbin/runc"), tmp_path / "state")
    done = runc.run(bundle.args(unfit(bundle, case)))
    assert done.returncode == 1
    assert PROGRAMS[case][2] in done.stderr
