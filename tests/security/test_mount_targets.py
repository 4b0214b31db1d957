"""Attacks on the places that things are mounted on: links, and names that are swapped meanwhile."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime
from tests.security.conftest import Swapping, attempt, race, way_out

pytestmark = pytest.mark.root


def replace(path: Path, goal: str) -> None:
    path.rmdir()
    path.symlink_to(goal)


def bind(source: Path, destination: str, *options: str) -> dict[str, object]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", *options],
    }


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("goal", ["/elsewhere", "elsewhere", "../x", "HOST", "WAY OUT", "/nowhere/at/all"])
def test_cve_2019_19921_cve_2023_28642_cve_2025_54867_proc_and_sys_behind_links(
    runtime: Runtime, bundle: Bundle, sentinel: Path, name: str, goal: str
) -> None:
    (bundle.rootfs / "elsewhere").mkdir()
    known = {"HOST": str(sentinel), "WAY OUT": way_out(sentinel)}
    replace(bundle.rootfs / name, known.get(goal, goal))
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"/{name}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(bundle.rootfs / "elsewhere")) == []


def test_cve_2019_18837_every_mount_target_behind_a_link_stays_in_the_root(
    runtime: Runtime, bundle: Bundle, sentinel: Path
) -> None:
    volume = bundle.path / "volume"
    volume.mkdir()
    (volume / "of-the-volume").touch()
    links = {
        "upwards": way_out(sentinel),
        "absolute": str(sentinel),
        "first": "second",
        "second": str(sentinel),
    }
    for name, goal in links.items():
        (bundle.rootfs / name).symlink_to(goal)
    for name in links:
        for suffix in ("", "/new/deep", "/file"):
            bundle.spec["mounts"].append(bind(volume, f"/{name}{suffix}"))
    bundle.spec["mounts"].append({"destination": "/upwards/tmpfs", "type": "tmpfs", "source": "tmpfs"})
    bundle.spec["mounts"].append(bind(volume / "of-the-volume", "/absolute/made/file"))
    done = runtime.run(bundle.args("/bin/probe", "all", "stat", f"{sentinel}/of-the-volume"))
    assert done.returncode == 0, done.stderr
    points = Probe(done.stdout).mounts()
    assert {str(sentinel), f"{sentinel}/tmpfs", f"{sentinel}/made/file"} <= set(points)
    assert Probe(done.stdout)[f"stat {sentinel}/of-the-volume"].startswith("100")


@pytest.mark.parametrize("path", ["/proc/self/fd/3", "/proc/1/root", "/proc/self/cwd", "/proc/self/exe"])
def test_a_mount_target_behind_a_magic_link_is_refused(
    runtime: Runtime, bundle: Bundle, sentinel: Path, path: str
) -> None:
    bundle.spec["mounts"].append(bind(sentinel, path))
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mounts[")


@pytest.mark.parametrize("kind", ["tmpfs", "directory", "file"])
def test_cve_2021_30465_cve_2024_45310_a_parent_of_the_target_is_swapped(
    runtime: Runtime, bundle: Bundle, sentinel: Path, swapping: Swapping, rounds: int, kind: str
) -> None:
    """The volume is another container's as well, which swaps a directory in it for a link."""
    volume = bundle.path / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "link").symlink_to(way_out(sentinel))
    source = bundle.path / "source"
    if kind == "file":
        source.touch()
    else:
        source.mkdir()
    bundle.spec["mounts"].append(bind(volume, "/volume"))
    targets = [f"/volume/real/{name}" for name in ("a", "b/c", "sub", "d/e/f")]
    for target in targets:
        mount = bind(source, target)
        if kind == "tmpfs":
            mount = {"destination": target, "type": "tmpfs", "source": "tmpfs"}
        bundle.spec["mounts"].append(mount)
    bundle.args("/bin/cat", "/proc/self/mountinfo").write()
    left: set[bool] = set()  # has a mount landed where the link leads to?
    with swapping(volume / "real", volume / "link"):
        for _ in race(rounds, lambda: len(left) == 2):
            done = attempt(runtime, bundle)
            if done.returncode != 0:
                assert done.stderr.startswith("mounts["), done.stderr
                continue
            points = [line.split()[4] for line in done.stdout.splitlines()]
            # All that was mounted is there, below the volume or where the link leads to inside.
            inside = [point for point in points if point.startswith(("/volume/", str(sentinel)))]
            assert len(inside) == len(targets), done.stdout
            left.add(any(point.startswith(str(sentinel)) for point in inside))
    assert left == {False, True}
    assert set(os.listdir(sentinel)) == {"file", "sub", "null"}


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_cve_2019_19921_the_target_itself_is_swapped(
    runtime: Runtime, bundle: Bundle, sentinel: Path, swapping: Swapping, rounds: int, name: str
) -> None:
    """Whoever shares the rootfs exchanges the directory and a link: wherever the file system has
    come to lie, what is masked and read-only in it is."""
    (bundle.rootfs / "link").symlink_to(way_out(sentinel))
    bundle.sh("until cat /proc/self/mountinfo || cat /link/self/mountinfo; do :; done 2>/dev/null").write()
    expected = {"proc": {"/keys", "/timer_list", "/sys"}, "sys": {"/firmware"}}[name]
    kind = {"proc": "proc", "sys": "sysfs"}[name]
    ran: list[str] = []
    with swapping(bundle.rootfs / name, bundle.rootfs / "link"):
        for _ in race(rounds, lambda: ran):
            done = attempt(runtime, bundle)
            if done.returncode != 0:
                assert done.stderr.startswith(("mounts[", "linux.")), done.stderr
                continue
            ran.append(done.stdout)
            words = [line.split() for line in done.stdout.splitlines()]
            assert any(word[4] in (f"/{name}", "/link") and kind in word for word in words)
            points = {word[4].removeprefix("/link").removeprefix(f"/{name}") for word in words}
            assert expected <= points, done.stdout
    assert ran


def test_cve_2021_30465_a_source_in_a_volume_is_swapped(
    runtime: Runtime, bundle: Bundle, sentinel: Path, swapping: Swapping, rounds: int
) -> None:
    """The rootfs's own path is the engine's and is not swapped; a target that changes between a
    file and a directory gives a clear error or the mount, never something half made."""
    volume = bundle.path / "volume"
    (volume / "one").mkdir(parents=True)
    (volume / "two").touch()
    bundle.spec["mounts"] += [bind(volume, "/volume"), bind(sentinel, "/volume/one", "ro")]
    bundle.args("/bin/cat", "/proc/self/mountinfo").write()
    with swapping(volume / "one", volume / "two"):
        for _ in range(rounds):
            done = attempt(runtime, bundle)
            if done.returncode == 0:
                found = [line.split() for line in done.stdout.splitlines() if " /volume/" in line]
                assert len(found) == 1, done.stdout
                assert "ro" in found[0][5].split(",")
            else:
                assert done.stderr.startswith("mounts["), done.stderr


def test_cve_2023_27561_two_containers_share_a_volume(
    runtime: Runtime, armed: Bundle, sentinel: Path, rootfs_template: Path, rounds: int
) -> None:
    """As published: the first container swaps what the second one has on the way to its mounts."""
    volume = armed.path / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "link").symlink_to("/proc")
    armed.spec["mounts"].append(bind(volume, "/volume"))
    runtime.start_bundle(armed.args("/bin/attacker", "swap", "/volume/real", "/volume/link"))
    victim = Bundle.make(armed.path / "victim", rootfs_template)
    victim.spec["mounts"].append(bind(volume, "/volume"))
    victim.spec["mounts"].append({"destination": "/volume/real", "type": "tmpfs", "source": "tmpfs"})
    victim.args("/bin/probe").write()
    for _ in range(rounds):
        done = attempt(runtime, victim)
        if done.returncode == 0:
            # Inside it may lie on /proc, where the link leads; then there is no mountinfo. A mount
            # goes along when its directory is renamed.
            seen = Probe(done.stdout)
            hidden = seen["mountinfo"].startswith("error")
            assert hidden or {"/volume/real", "/volume/link"} & set(seen.mounts()), done.stdout
        else:
            assert done.stderr.startswith(("mounts[", "linux.")), done.stderr


def test_a_mount_does_not_reach_the_host(runtime: Runtime, bundle: Bundle, sentinel: Path) -> None:
    """Nothing of what is mounted for a container shows up in the runtime's mount namespace."""
    before = Path("/proc/self/mountinfo").read_text()
    bundle.spec["mounts"].append({"destination": str(sentinel), "type": "tmpfs", "source": "tmpfs"})
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    assert points <= {line.split()[4] for line in before.splitlines()}
    looked = subprocess.run(["ls", sentinel], capture_output=True, text=True, check=True)
    assert looked.stdout.split() == ["file", "null", "sub"]
    runtime("exec", container, "/bin/touch", f"{sentinel}/inside", check=True)
