"""Attacks on the runtime's own processes and files from inside a container."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ocirt
from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime
from tests.security.conftest import race

pytestmark = pytest.mark.root

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
EVERYTHING = ("pid", "mount", "network", "ipc", "uts", "cgroup")
EXECS = 12


def output(bundle: Bundle) -> Probe:
    return Probe((bundle.path / "stdout").read_text())


def for_the_maps(bundle: Bundle) -> None:
    """Let the container's root into the bundle and give the rootfs to it."""
    for parent in (bundle.path, *bundle.path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    for directory in (bundle.rootfs, bundle.rootfs / "dev"):
        os.chown(directory, 100000, 100000)
    bundle.namespaces("user", *EVERYTHING)
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = MAPS


def test_the_attack_on_a_process_that_is_not_protected_succeeds(runtime: Runtime, armed: Bundle) -> None:
    """A control: what follows would notice."""
    (armed.rootfs / "bin/runc-init").write_bytes((armed.rootfs / "bin/attacker").read_bytes())
    (armed.rootfs / "bin/runc-init").chmod(0o755)
    for name in "ab":
        (armed.rootfs / name).touch()  # without them the victim would end before it was seen
    armed.sh("/bin/runc-init swap /a /b & exec attacker watch")
    runtime.start_bundle(armed)
    deadline = time.monotonic() + 10
    while "ptrace" not in output(armed).all("won"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert {"mem", "environ", "exe", "fd/1", "process_vm_readv"} <= set(output(armed).all("won"))


@pytest.mark.parametrize("user", ["0", "1000"])
def test_cve_2016_9962_what_enters_a_container_is_out_of_reach_of_its_pid_1(
    runtime: Runtime, armed: Bundle, user: str
) -> None:
    armed.rootfs.chmod(0o755)
    armed.process["user"] = {"uid": int(user), "gid": int(user)}
    container = runtime.start_bundle(armed.args("/bin/attacker", "watch"))
    for _ in race(EXECS, lambda: output(armed).all("seen")):
        runtime("exec", "--user", user, container, "/bin/true", check=True)
    seen = output(armed)
    assert seen.all("seen"), "no process was caught: the attack did not take place"
    assert seen.all("won") == []


def test_cve_2016_9962_nor_with_all_capabilities_in_a_user_namespace(runtime: Runtime, armed: Bundle) -> None:
    for_the_maps(armed)
    every = [
        *armed.process["capabilities"]["bounding"],
        "CAP_SYS_PTRACE",
        "CAP_SYS_ADMIN",
        "CAP_DAC_OVERRIDE",
    ]
    armed.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
    container = runtime.start_bundle(armed.args("/bin/attacker", "watch"))
    for _ in race(EXECS, lambda: output(armed).all("seen")):
        runtime("exec", "--user", "0", container, "/bin/true", check=True)
    seen = output(armed)
    assert seen.all("seen"), "no process was caught: the attack did not take place"
    assert seen.all("won") == []


def installed_files(runtime: Runtime) -> dict[str, str]:
    """Hashes of what an attack through /proc/self/exe would overwrite."""
    program = runtime.path.resolve()
    places = {program, Path(sys.executable).resolve()}
    package = [Path(ocirt.__path__[0]), *program.parents[1].glob("lib/python3*/site-packages/ocirt")]
    for directory in package:
        places.update(
            path for path in directory.iterdir() if path.suffix == ".so" or path.name == "ocirt-init"
        )
    assert len(places) >= 4
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in places}


def test_cve_2019_5736_the_entrypoint_is_proc_self_exe(runtime: Runtime, armed: Bundle) -> None:
    before = installed_files(runtime)
    (armed.rootfs / "entry").write_text("#!/proc/self/exe\n")
    (armed.rootfs / "entry").chmod(0o755)
    for entry in ("/proc/self/exe", "/entry"):
        done = runtime.run(armed.args(entry, "--version"))
        assert done.returncode != 0
        assert done.stdout == ""
    assert installed_files(runtime) == before


@pytest.mark.parametrize("entry", ["/proc/self/exe", "/entry"])
def test_cve_2019_5736_the_executable_of_an_exec_is_written_to(
    runtime: Runtime, armed: Bundle, entry: str
) -> None:
    before = installed_files(runtime)
    (armed.rootfs / "entry").write_text("#!/proc/self/exe\n")
    (armed.rootfs / "entry").chmod(0o755)
    container = runtime.start_bundle(armed.args("/bin/attacker", "overwrite"))
    for _ in range(EXECS):
        runtime("exec", container, entry)
    seen = output(armed)
    assert seen.all("won") == []
    assert installed_files(runtime) == before


def without_executable_memfds(runtime: Runtime, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a pid namespace with vm.memfd_noexec=2 (the sysctl belongs to it)."""
    script = 'echo 2 > /proc/sys/vm/memfd_noexec && exec "$@"'
    return subprocess.run(
        ["unshare", "-pf", "--mount-proc", "sh", "-c", script, "sh", *runtime.command(*words)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("entry", ["/bin/probe", "/proc/self/exe", "/entry"])
def test_cve_2019_5736_where_memfds_may_not_be_executable(
    runtime: Runtime, armed: Bundle, entry: str
) -> None:
    before = installed_files(runtime)
    (armed.rootfs / "entry").write_text("#!/proc/self/exe\n")
    (armed.rootfs / "entry").chmod(0o755)
    armed.args(entry).write()
    done = without_executable_memfds(runtime, "run", "--bundle", armed.path, runtime.new_id())
    if entry == "/bin/probe":
        assert done.returncode == 0, done.stderr
        points = Probe(done.stdout).mounts()
        assert not [point for point in points if str(Path(ocirt.__path__[0])) in point]
    else:
        assert done.returncode != 0
        assert "set up" not in done.stderr
    assert installed_files(runtime) == before


@pytest.mark.parametrize("program", ["/bin/probe", "/nosuch"])
def test_a_profile_that_refuses_even_to_exit_leaves_nothing_that_spins(
    runtime: Runtime, bundle: Bundle, program: str
) -> None:
    """execve(2), write(2) and exit_group(2) all fail: the init must still end."""
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
    done = runtime.run(bundle.args(program), timeout=10)
    assert done.returncode != 0
    assert done.stdout == ""
    assert not (runtime.root / runtime.ids[-1]).exists()
