"""Bind mounts of a container with a user namespace stay the container's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime
from tests.system.test_isolation import MAPS, give_away

pytestmark = pytest.mark.root

# Runs the rest of its words in a mount namespace where VOLUME is a shared mount; then tells what
# is mounted below it there.
SHARED = (
    'mount -t tmpfs -o nosuid,nodev,noexec volume "$1" && mount --make-shared "$1" && '
    'mkdir "$1/x" && volume=$1 && shift && "$@" && '
    'echo && echo mounts && grep -c " $volume/x " /proc/self/mountinfo; true'
)


def run_with_shared_volume(runtime: Runtime, bundle: Bundle) -> tuple[Probe, str]:
    volume = bundle.path / "volume"
    volume.mkdir()
    bundle.namespaces("user", "pid", "mount", "ipc", "uts", "network")
    bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/sys")]
    bundle.spec["mounts"] += [
        {"destination": "/vol", "type": "bind", "source": str(volume), "options": ["rbind"]},
        {"destination": "/vol/x", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
    ]
    every = [*bundle.process["capabilities"]["bounding"], "CAP_SYS_ADMIN"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
    give_away(bundle)
    bundle.write()
    words = runtime.command("run", "--bundle", bundle.path, runtime.new_id())
    script = ["sh", "-c", SHARED, "sh", str(volume), *words]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "shared", *script],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    inside, _, outside = done.stdout.partition("\n\nmounts\n")
    assert outside, done.stderr
    return Probe(inside), outside.strip()


def test_a_mount_below_a_shared_volume_does_not_reach_the_host(runtime: Runtime, bundle: Bundle) -> None:
    seen, on_host = run_with_shared_volume(runtime, bundle)
    assert on_host == "0"
    assert "shared:" not in seen["mountinfo"]
    assert seen.mounts()["/vol/x"][1] == "tmpfs"


def test_the_flags_of_a_volume_cannot_be_lifted_inside(runtime: Runtime, bundle: Bundle) -> None:
    remount = "busybox mount -o remount,bind,rw,suid,dev,exec /vol"
    bundle.sh(f"/bin/probe; {remount}; /bin/probe read /proc/self/mountinfo")
    (bundle.rootfs / "bin/mount").unlink()
    seen, _ = run_with_shared_volume(runtime, bundle)
    line = next(line for line in seen["/proc/self/mountinfo"].splitlines() if " /vol " in line)
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))


def test_a_source_that_the_containers_root_cannot_reach_is_mounted(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.path / "closed/deep").mkdir(parents=True)
    (bundle.path / "closed").chmod(0o700)
    (bundle.path / "closed/deep/file").write_text("text")
    bundle.spec["mounts"].append(
        {
            "destination": "/data",
            "type": "bind",
            "source": str(bundle.path / "closed/deep"),
            "options": ["bind"],
        }
    )
    bundle.args("/bin/probe", "read", "/data/file")
    before = len(os.listdir("/proc/self/fd"))
    bundle.namespaces("user", "pid", "mount", "ipc", "uts", "network")
    bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/sys")]
    give_away(bundle)
    done = runtime.run(bundle)
    assert done.returncode == 0, done.stderr
    assert Probe(done.stdout)["/data/file"] == "text"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_source_is_named_with_its_field(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespaces("user", "pid", "mount", "ipc", "uts", "network")
    bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
    bundle.spec["mounts"] = [
        {"destination": "/data", "type": "bind", "source": "/nosuch", "options": ["bind"]}
    ]
    give_away(bundle)
    done = runtime.run(bundle)
    assert (done.returncode, done.stderr) == (
        1,
        "mounts[0] (/nosuch on /data): open_tree: No such file or directory\n",
    )


def test_a_created_container_holds_only_its_sockets(runtime: Runtime, bundle: Bundle) -> None:
    container_id = runtime.create(bundle)
    pid = runtime.state(container_id)["pid"]
    links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2}
    assert all(link.startswith("socket:") for link in links), links
    assert len(links) <= 2


@pytest.mark.parametrize("signal", ["TERM", "INT", "HUP", "QUIT"])
def test_a_created_container_ends_by_signals_that_end_programs(
    runtime: Runtime, bundle: Bundle, signal: str
) -> None:
    container_id = runtime.create(bundle)
    runtime("kill", container_id, signal, check=True)
    runtime.wait_for_status(container_id, "stopped")


def test_a_started_program_has_the_signals_at_their_defaults(runtime: Runtime, bundle: Bundle) -> None:
    container_id = runtime.start_bundle(bundle)
    runtime.wait_for_status(container_id, "stopped")
    status = Probe((Path(bundle.path) / "stdout").read_text())
    assert int(status.status("SigCgt"), 16) == 0
    assert int(status.status("SigIgn"), 16) == 0


def test_a_user_namespace_may_have_hundreds_of_volumes(runtime: Runtime, bundle: Bundle) -> None:
    """Each is an fd that the init gets with the plan; one message takes no more than 253."""
    bundle.namespaces("user", "pid", "mount", "ipc", "uts", "network")
    bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/sys")]
    volumes = bundle.path / "volumes"
    for number in range(300):
        (volumes / str(number)).mkdir(parents=True)
        (volumes / str(number) / "name").write_text(f"{number}\n")
        source = str(volumes / str(number))
        bundle.spec["mounts"].append(
            {"destination": f"/vol/{number}", "type": "bind", "source": source, "options": ["bind"]}
        )
    give_away(bundle)
    bundle.sh("cat /vol/0/name /vol/299/name; ls /vol | wc -l").write()
    done = runtime("run", "--bundle", bundle.path, runtime.new_id(), check=True)
    assert done.stdout.split() == ["0", "299", "300"]
