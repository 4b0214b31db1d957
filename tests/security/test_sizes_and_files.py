"""Attacks by size, by special files where the runtime reads, and the modes of what it makes."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle, Probe
from tests.lib.runtime import Runtime
from tests.security.conftest import way_out

pytestmark = pytest.mark.root

LONG = 70_000  # more than fits into 16 bits


def set_long(bundle: Bundle, what: str) -> None:
    """Put something of more than 64 KiB into the config."""
    spec: dict[str, Any] = bundle.spec
    volume = bundle.path / "volume"
    volume.mkdir()
    if what == "mappings":
        bundle.linux["namespaces"].append({"type": "user"})
        maps = [{"containerID": i, "hostID": 100000 + i, "size": 1} for i in range(5000)]
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = maps
    elif what == "namespace path":
        bundle.linux["namespaces"].append({"type": "user", "path": "/proc/" + "x" * LONG})
    elif what == "destination":
        spec["mounts"].append({"destination": "/d/" + "x" * LONG, "type": "tmpfs", "source": "tmpfs"})
    elif what == "deep destination":
        spec["mounts"].append({"destination": ("/" + "d" * 200) * 350, "type": "tmpfs", "source": "tmpfs"})
    elif what == "source":
        spec["mounts"].append({"destination": "/d", "source": "/" + "x" * LONG, "options": ["rbind"]})
    elif what == "mount data":
        spec["mounts"].append(
            {"destination": "/d", "type": "tmpfs", "source": "tmpfs", "options": ["x" * LONG]}
        )
    elif what == "hostname":
        spec["hostname"] = "x" * LONG
    elif what == "cwd":
        bundle.process["cwd"] = "/" + "x" * LONG
    elif what == "program":
        bundle.args("/" + "x" * LONG)
    elif what == "argument":
        bundle.args("/bin/echo", *["x" * LONG] * 60)
    elif what == "sysctl":
        bundle.linux["sysctl"] = {"net." + "x" * LONG: "1"}
    elif what == "cgroup":
        bundle.linux["cgroupsPath"] = "/" + "x" * LONG
    elif what == "root":
        spec["root"]["path"] = "x" * LONG
    elif what == "annotations":
        spec["annotations"] = {"long": "x" * LONG}
    elif what == "masks":
        bundle.linux["maskedPaths"] = [f"/nosuch/{i:060}" for i in range(2000)]
    elif what == "environment":
        bundle.process["env"].append("LONG=" + "x" * LONG)


@pytest.mark.parametrize("what", ["annotations", "masks", "environment"])
def test_cve_2021_43784_more_than_64_kib_works(runtime: Runtime, bundle: Bundle, what: str) -> None:
    set_long(bundle, what)
    done = runtime.run(bundle)
    assert done.returncode == 0, done.stderr
    if what == "environment":
        assert "LONG=" + "x" * LONG in Probe(done.stdout).all("env")


@pytest.mark.parametrize(
    "what",
    ["mappings", "namespace path", "destination", "deep destination", "source", "mount data", "hostname",
     "cwd", "program", "argument", "sysctl", "cgroup", "root"],
)  # fmt: skip
def test_cve_2021_43784_more_than_64_kib_is_refused_by_name(
    runtime: Runtime, bundle: Bundle, what: str
) -> None:
    set_long(bundle, what)
    done = runtime.run(bundle)
    assert done.returncode == 1
    assert done.stdout == ""
    field = {"mappings": "linux.uidMappings", "cgroup": "cgroup", "root": "root.path"}.get(what, "")
    assert field in done.stderr
    assert "internal error" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (runtime.root / runtime.ids[-1]).exists()


KINDS = ("sparse", "fifo", "device", "link", "magic link", "directory", "long lines", "etc")


@pytest.fixture(params=KINDS)
def strange_passwd(request: pytest.FixtureRequest, bundle: Bundle, sentinel: Path) -> Bundle:
    """The rootfs's passwd and group are something else; HOME has to be looked up."""
    line = "root:x:0:0:root:/of-the-host:/bin/sh\n"
    bundle.process["env"] = ["PATH=/bin"]
    for name in ("passwd", "group"):
        path = bundle.rootfs / "etc" / name
        path.unlink()
        if request.param == "sparse":
            path.touch()
            os.truncate(path, 1 << 30)
        elif request.param == "fifo":
            os.mkfifo(path)
        elif request.param == "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        elif request.param == "link":
            (bundle.path / "passwd").write_text(line)
            path.symlink_to(way_out(bundle.path / "passwd"))
        elif request.param == "magic link":
            path.symlink_to("/proc/self/fd/0")
        elif request.param == "directory":
            path.mkdir()
        elif request.param == "long lines":
            path.write_bytes(b"root:x:0:0:" + b"x" * 900_000 + b":/" + b"h" * 90_000 + b":/bin/sh\n")
    if request.param == "etc":
        (bundle.path / "etc").mkdir()
        (bundle.path / "etc/passwd").write_text(line)
        (bundle.rootfs / "etc").rmdir()
        (bundle.rootfs / "etc").symlink_to(way_out(bundle.path / "etc"))
    return bundle


def test_cve_2026_47262_cve_2024_9676_a_strange_passwd_neither_hangs_nor_exhausts(
    runtime: Runtime, strange_passwd: Bundle
) -> None:
    started = time.monotonic()
    done = runtime.run(strange_passwd)
    assert done.returncode == 0, done.stderr
    assert "HOME=/" in Probe(done.stdout).all("env")
    container = runtime.start_bundle(strange_passwd.args("/bin/sleep", "60"))
    for user in ("0", "1000:1000"):
        done = runtime("exec", "--user", user, container, "/bin/probe")
        assert done.returncode == 0, done.stderr
        assert "HOME=/" in Probe(done.stdout).all("env")
    assert time.monotonic() - started < 10


def test_cve_2020_15257_cve_2024_25621_state_is_the_owners_alone(
    runtime: Runtime, bundle: Bundle, sentinel: Path
) -> None:
    """Whatever the umask and the mode of what was there before."""
    unix_before = Path("/proc/net/unix").read_text()
    runtime.root.mkdir(mode=0o777)
    runtime.root.chmod(0o777)
    old = os.umask(0)
    try:
        container = runtime.create(bundle.args("/bin/sleep", "60"))
    finally:
        os.umask(old)
    directory = runtime.root / container
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = {path.name: path.stat() for path in directory.iterdir()}
    assert {"state.json", "config.json", "start"} <= set(files)
    for name, status in files.items():
        assert stat.S_IMODE(status.st_mode) == 0o600, name
        assert (status.st_uid, status.st_gid) == (0, 0)
    for name in ("ocirt", "ocirt-cache"):
        path = Path("/run", name)
        if path.exists():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
    # No abstract socket: those have no owner (CVE-2020-15257).
    new = set(Path("/proc/net/unix").read_text().split()) - set(unix_before.split())
    assert not [word for word in new if word.startswith("@") and "ocirt" in word]


def test_cve_2024_25621_a_new_state_root_is_the_owners_alone(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    runtime.root = tmp_path / "deep/er/state"
    old = os.umask(0)
    try:
        runtime.create(bundle.args("/bin/sleep", "60"))
    finally:
        os.umask(old)
    for path in (runtime.root, runtime.root.parent, runtime.root.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["state.json", "config.json", "start", "."])
def test_state_that_is_a_link_is_not_followed(
    runtime: Runtime, bundle: Bundle, sentinel: Path, name: str
) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    pid = runtime.state(container)["pid"]
    directory = runtime.root / container
    if name == ".":
        directory.rename(tmp := runtime.root.with_name("moved"))
        directory.symlink_to(sentinel)
    else:
        tmp = directory / name
        kept = tmp.read_bytes() if tmp.exists() else None
        tmp.unlink(missing_ok=True)
        tmp.symlink_to(sentinel / "file")
    done = [runtime(*words) for words in (["state", container], ["delete", "--force", container])]
    assert all("internal error" not in each.stderr for each in done)
    # Put right again, so that the container can be deleted.
    if name == ".":
        directory.unlink()
        tmp.rename(directory)
    elif directory.exists():
        tmp.unlink(missing_ok=True)
        if kept is not None:
            tmp.write_bytes(kept)
    runtime("delete", "--force", container)
    assert not Path(f"/proc/{pid}/ns").exists() or not os.path.exists(f"/proc/{pid}/exe")
