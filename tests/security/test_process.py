"""Attacks on the process that enters a container: ids, capabilities, working directory, fds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
CAPABILITY_SETS = ("bounding", "effective", "permitted")
AF_ALG = 38


@pytest.fixture
def running(runtime: Runtime, bundle: Bundle) -> str:
    """A container that sleeps as user 1000."""
    bundle.rootfs.chmod(0o755)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    return runtime.start_bundle(bundle.args("/bin/sleep", "60"))


@pytest.mark.parametrize(
    "text", ["1:", ":1", "-1", "4294967296", "4294967295", "1abc", "", "1:-1", "0x0", "1:0:0"]
)
def test_cve_2026_30892_exec_user_that_is_not_exact_is_refused(
    runtime: Runtime, running: str, text: str
) -> None:
    done = runtime("exec", f"--user={text}", running, "/bin/probe")
    assert done.returncode == 255
    assert done.stdout == ""
    assert "UID:GID" in done.stderr


@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [("0", "0", None), ("7", "7", None), ("7:8", "7", "8"), ("4294967294:4294967294",) + ("4294967294",) * 2],
)
def test_cve_2026_30892_exec_user_that_is_exact_is_taken(
    runtime: Runtime, running: str, text: str, uid: str, gid: str | None
) -> None:
    done = runtime("exec", "--user", text, running, "/bin/probe")
    assert done.returncode == 0, done.stderr
    probe = Probe(done.stdout)
    assert probe.status("Uid").split() == [uid] * 4
    assert gid is None or probe.status("Gid").split() == [gid] * 4


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("command", ["run", "exec", "exec --cap"])
def test_cve_2022_29162_inheritable_capabilities_are_empty(
    runtime: Runtime, bundle: Bundle, command: str, uid: int
) -> None:
    bundle.rootfs.chmod(0o755)
    bundle.process["user"] = {"uid": uid, "gid": uid}
    bundle.process["capabilities"] = {name: ["CAP_KILL", "CAP_CHOWN"] for name in CAPABILITY_SETS}
    if command == "run":
        done = runtime.run(bundle)
    else:
        container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
        more = ["--cap", "CAP_NET_RAW"] if "--cap" in command else []
        done = runtime("exec", *more, container, "/bin/probe")
    assert done.returncode == 0, done.stderr
    probe = Probe(done.stdout)
    assert probe.caps("CapInh") == 0
    assert probe.caps("CapAmb") == 0 or "--cap" in command
    # The bounding set is what can ever be reached.
    assert probe.caps("CapPrm") & ~probe.caps("CapBnd") == 0
    assert probe.caps("CapBnd") & 1 << 21 == 0


def test_cve_2024_21626_a_leaked_fd_as_cwd_is_refused_by_run(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh("pwd; ls ../../../..")
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for number in range(3, 65):
            bundle.process["cwd"] = f"/proc/self/fd/{number}"
            done = runtime.run(bundle, pass_fds=[host])
            assert (done.returncode, done.stdout) == (1, ""), (number, done.stderr)
            assert "process.cwd" in done.stderr
    finally:
        os.close(host)


def test_cve_2024_21626_a_leaked_fd_as_cwd_is_refused_by_exec(runtime: Runtime, running: str) -> None:
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    paths = [f"/proc/self/fd/{n}" for n in range(3, 65)] + [f"/proc/thread-self/fd/{n}" for n in range(3, 9)]
    try:
        for path in paths:
            done = runtime("exec", "--user", "0", "--cwd", path, running, "/bin/pwd", pass_fds=[host])
            assert (done.returncode, done.stdout) == (255, ""), (path, done.stderr)
            assert "process.cwd" in done.stderr
    finally:
        os.close(host)


def test_cve_2024_21626_nothing_but_stdio_reaches_the_program(runtime: Runtime, running: str) -> None:
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        done = runtime("exec", running, "/bin/probe", pass_fds=[host])
    finally:
        os.close(host)
    assert set(Probe(done.stdout).starting("fd.")) == {"0", "1", "2"}


@pytest.mark.parametrize("owner", [{}, {"uid": 1000, "gid": 1000}])
@pytest.mark.parametrize("userns", [False, True])
def test_cve_2026_55686_a_cwd_behind_a_link_stays_in_the_root(
    runtime: Runtime, bundle: Bundle, tmp_path: Path, owner: dict[str, int], userns: bool
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    bundle.rootfs.chmod(0o755)
    before = victim.stat()
    (bundle.rootfs / "absolute").symlink_to(victim)
    (bundle.rootfs / "upwards").symlink_to("../" * 20 + str(victim).lstrip("/"))
    bundle.process["user"] = owner
    if userns:
        bundle.namespaces("pid", "mount", "user", "ipc", "uts", "network")
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = MAPS
        os.chmod(tmp_path, 0o755)
        for parent in (*tmp_path.parents[:2],):
            parent.chmod(parent.stat().st_mode | 0o011)
        for directory in (bundle.rootfs, bundle.rootfs / "dev"):
            os.chown(directory, 100000, 100000)
    for cwd in ("/absolute/new", "/upwards/new", "/absolute", "/upwards"):
        bundle.process["cwd"] = cwd
        done = runtime.run(bundle.sh("pwd -P; touch here"))
        assert done.returncode in (0, 1), done.stderr
        assert list(victim.iterdir()) == []
    after = victim.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_cve_2026_31431_a_profile_that_refuses_af_alg_holds(runtime: Runtime, bundle: Bundle) -> None:
    condition = {"index": 0, "op": "SCMP_CMP_EQ", "value": AF_ALG}
    refuse = {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [condition]}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refuse]}
    done = runtime.run(bundle.args("/bin/probe", "socket", str(AF_ALG), "socket", "2"))
    assert done.stdout.splitlines() == [f"socket {AF_ALG}\tOperation not permitted", "socket 2\tok"]
