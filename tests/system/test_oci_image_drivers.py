"""The ways in which layers are kept and roots stand on them, each where it works."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from oci_image import drivers
from oci_image.removal import remove_tree
from tests.lib.filesystems import mounted
from tests.lib.images import make_image, member, tar_of, unpack
from tests.lib.runtime import Runtime
from tests.lib.trees import describe, differences
from tests.system.test_oci_image_bundle import BASE, LAYERS
from tests.system.test_oci_image_cli import PROGRAM, Command

pytestmark = pytest.mark.root
DIR, LINK = tarfile.DIRTYPE, tarfile.SYMTYPE
DRIVERS = ["overlay", "fuse-overlayfs", "btrfs", "vfs"]
RICH = tar_of(
    (member("suid", mode=0o4755, uid=33, gid=33), "s"),
    (member("note", pax_headers={"SCHILY.xattr.user.note": "v"}), "n"),
    member("fifo", tarfile.FIFOTYPE, mode=0o611),
    member("null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
    member("odd", LINK, linkname="no/where", uid=7),
    member("deep/er", DIR, mode=0o1777, mtime=1_234_567_890),
)


class Place:
    """A directory in which a driver works, a store, and an image "n" of all kinds of layers."""

    def __init__(self, path: Path, driver: str) -> None:
        self.path = path
        self.driver = driver
        self.oci = Command(path / "root")
        self.image = f"oci:{path}/l:n"

    def bundle(self, name: str, *words: object, image: str = "") -> Path:
        where = image or self.image
        self.oci("bundle", "--driver", self.driver, where, self.path / name, *(words or ("--", "/bin/sh")))
        return self.path / name

    def layers(self) -> list[str]:
        return self._listed(self.driver)

    def registered(self) -> list[str]:
        return self._listed("bundles")

    def _listed(self, name: str) -> list[str]:
        path = self.path / "root/snapshots" / name
        return sorted(os.listdir(path)) if path.exists() else []


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=DRIVERS)
def place(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> Place:
    stack.callback(unmount_below, tmp_path)
    path = stack.enter_context(mounted("btrfs", tmp_path)) if request.param == "btrfs" else tmp_path
    stack.callback(unmount_below, path)
    make_image(path / "l", "n", *LAYERS, RICH)
    return Place(path, request.param)


def unmount_below(path: Path) -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = (
            line.split()[4].encode().decode("unicode_escape").encode("latin-1").decode()
        )  # \\040 is a blank
        if point.startswith(f"{path}/") and point != f"{path}/btrfs":
            subprocess.run(["umount", point], check=True)


def servers() -> set[int]:
    """Processes that serve an overlay, those that have ended left out."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "(fuse-overlayfs)" in text and ") Z " not in text:
            found.add(int(path.parent.name))
    return found


def ended(pids: set[int]) -> bool:
    deadline = time.monotonic() + 20
    while pids & servers():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


IMPLICIT = {"etc", "data", "usr", "deep"}  # no layer has an entry: their time is that of unpacking


def tree_of(root: Path, *without: str) -> dict[str, Any]:
    return {path: entry for path, entry in describe(root, without).items() if path not in IMPLICIT}


def test_every_driver_shows_what_the_image_has(place: Place) -> None:
    """Parents that are links in lower layers, hardlinks to lower files, whiteouts, replacements, devices."""
    unpack(place.path / "l", "n", place.path / "plain")
    made = place.bundle("b")
    # Names of a file that lie in several layers are one inode in a whole tree alone.
    without = ["same as"] if place.driver in ("overlay", "fuse-overlayfs") else []
    assert differences(tree_of(place.path / "plain", *without), tree_of(made / "rootfs", *without)) == []
    place.oci("unbundle", made)
    assert not made.exists()
    place.oci("gc")
    assert place.layers() == []


def test_ocirt_runs_a_bundle_of_every_driver_and_bundles_keep_apart(place: Place, runtime: Runtime) -> None:
    first = place.bundle("1", "--", "/bin/sh", "-c", "cat /data/seed; echo new > /new; touch /full")
    second = place.bundle("2", "--", "/bin/sh", "-c", "ls /new")
    assert len(place.layers()) == 5
    done = runtime("run", "--bundle", first, runtime.new_id())
    assert (done.returncode, done.stdout) == (0, "seeded")
    assert (first / "rootfs/new").read_text() == "new\n"
    assert runtime("run", "--bundle", second, runtime.new_id()).returncode != 0
    assert not (second / "rootfs/new").exists()
    place.oci("unbundle", first, second)


def test_a_bundle_that_fails_leaves_nothing(place: Place) -> None:
    before = servers()
    told = place.oci.fails(
        "bundle", "--driver", place.driver, place.image, place.path / "b", "--user", "no", "--", "/bin/sh"
    )
    assert "has no user 'no'" in told
    assert not (place.path / "b").exists()
    assert [name for name in os.listdir(place.path) if name.startswith(".b")] == []
    assert place.registered() == []
    assert ended(servers() - before)


def test_bundles_made_at_once_share_layers_made_once(place: Place) -> None:
    words = [*map(str, place.oci.words), "bundle", "--driver", place.driver, place.image]
    made = [place.path / f"b{i}" for i in range(4)]
    running = [subprocess.Popen([*words, str(target), "--", "/bin/sh"]) for target in made]
    assert [one.wait(120) for one in running] == [0] * 4
    assert len(place.layers()) == 5
    for target in made:
        assert (target / "rootfs/full").read_text() == "a file now"
    place.oci("unbundle", *made)


KILLS = ("symlinkat", "mkdirat", "linkat", "renameat", "rename", "move_mount", "fchmod", "unlinkat", "ioctl")


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_after_a_kill_at_any_step_gc_leaves_a_store_that_works(place: Place, count: int) -> None:
    before = servers()
    words = [*place.oci.words, "bundle", "--driver", place.driver, place.image, place.path / "b"]
    for call in KILLS:
        inject = f"inject={call}:signal=SIGKILL:when={count}"
        trace = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
        subprocess.run([*map(str, [*trace, *words, "--", "/bin/sh"])], capture_output=True, timeout=60)
        if (place.path / "b").exists():  # whole, even if nothing is mounted
            place.oci("mount", place.path / "b")
            assert (place.path / "b/rootfs/full").read_text() == "a file now", call
            place.oci("unbundle", place.path / "b")
        place.oci("gc")
        assert place.layers() == [], call
        assert place.registered() == [], call
        assert [name for name in os.listdir(place.path) if name.startswith(".b.")] == [], call
    made = place.bundle("b")
    place.oci("unbundle", made)
    for directory in (place.path, place.path / "root/snapshots"):
        assert [name for name in os.listdir(directory) if name.startswith(".")] == []
    assert str(place.path) + "/" not in Path("/proc/self/mountinfo").read_text()
    assert ended(servers() - before)


def test_after_a_kill_while_a_bundle_is_removed_gc_removes_the_rest(place: Place) -> None:
    for call, count in (("unlinkat", 1), ("unlinkat", 9), ("rmdir", 1), ("unlink", 1), ("rename", 2)):
        made = place.bundle("b")
        inject = f"inject={call}:signal=SIGKILL:when={count}"
        trace = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
        subprocess.run([*map(str, [*trace, *place.oci.words, "unbundle", made])], capture_output=True)
        if made.exists():
            place.oci("unbundle", made)
        place.oci("gc")
        assert place.layers() == [], (call, count)
        assert place.registered() == []
        assert [name for name in os.listdir(place.path) if name.startswith(".b.")] == []


def test_gc_beside_bundles_that_are_made_takes_nothing_from_them(place: Place) -> None:
    words = [*map(str, place.oci.words), "bundle", "--driver", place.driver, place.image]
    for i in range(3):
        running = subprocess.Popen([*words, str(place.path / f"b{i}"), "--", "/bin/sh"])
        while running.poll() is None:
            place.oci("gc")
        assert running.returncode == 0
        place.oci("gc")
        assert (place.path / f"b{i}/rootfs/bin/busybox").exists()
    place.oci("unbundle", *(place.path / f"b{i}" for i in range(3)))


# After a restart


def test_a_bundle_is_mounted_again_with_what_the_container_changed(place: Place, runtime: Runtime) -> None:
    made = place.bundle("b", "--", "/bin/sh", "-c", "cat /new")
    (made / "rootfs/new").write_text("kept")
    (made / "rootfs/full").unlink()
    (made / "rootfs").chmod(0o711)
    place.oci("unmount", made)
    if place.driver in ("overlay", "fuse-overlayfs"):
        assert os.listdir(made / "rootfs") == []
        assert place.oci("diff", made).stdout == "D /full\nA /new\n"
    place.oci("unmount", made)
    place.oci("mount", made)
    place.oci("mount", made)
    assert sum(str(made) in line for line in Path("/proc/self/mountinfo").read_text().splitlines()) <= 1
    done = runtime("run", "--bundle", made, runtime.new_id())
    assert (done.returncode, done.stdout) == (0, "kept")
    assert not (made / "rootfs/full").exists()
    assert stat.S_IMODE((made / "rootfs").stat().st_mode) == 0o711
    place.oci("unbundle", made)


def test_a_bundle_whose_layers_are_gone_says_so(tmp_path: Path, stack: ExitStack) -> None:
    stack.callback(unmount_below, tmp_path)
    make_image(tmp_path / "l", "n", BASE)
    place = Place(tmp_path, "overlay")
    made = place.bundle("b")
    place.oci("unmount", made)
    subprocess.run(["rm", "-r", tmp_path / "root/snapshots/overlay"], check=True)
    assert place.oci.fails("mount", made).endswith("/fs: is missing: the bundle's root stands on it")
    place.oci("unbundle", made)


def test_a_root_that_is_used_is_not_unmounted(tmp_path: Path, stack: ExitStack) -> None:
    stack.callback(unmount_below, tmp_path)
    make_image(tmp_path / "l", "n", BASE)
    place = Place(tmp_path, "overlay")
    made = place.bundle("b")
    with (made / "rootfs/etc/passwd").open():
        assert place.oci.fails("unmount", made).endswith("rootfs: Device or resource busy")
        assert place.oci.fails("unbundle", made).endswith("rootfs: Device or resource busy")
    place.oci("unbundle", made)


# Which driver


@pytest.mark.parametrize("name", ["aufs", "zfs", "devicemapper"])
def test_a_driver_that_is_not_built_says_why(tmp_path: Path, name: str) -> None:
    make_image(tmp_path / "l", "n", BASE)
    told = Command(tmp_path / "root").fails("bundle", "--driver", name, f"oci:{tmp_path}/l:n", tmp_path / "b")
    assert f"driver: {name} is not built, because " in told
    assert told.endswith("there is overlay, btrfs, fuse-overlayfs, vfs and auto")


def test_a_driver_that_does_not_work_here_says_why(tmp_path: Path) -> None:
    make_image(tmp_path / "l", "n", BASE)
    oci = Command(tmp_path / "root")
    told = oci.fails("bundle", "--driver", "btrfs", f"oci:{tmp_path}/l:n", tmp_path / "b")
    assert told.endswith(f"driver btrfs: {tmp_path}/root/snapshots does not lie on btrfs")
    told = oci.fails("bundle", "--driver", "nosuch", f"oci:{tmp_path}/l:n", tmp_path / "b")
    assert "driver: 'nosuch' is none; there is overlay" in told
    assert not (tmp_path / "b").exists()


def test_snapshots_of_btrfs_do_not_leave_their_file_system(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as path:
        make_image(path / "l", "n", BASE)
        oci = Command(path / "root")
        told = oci.fails("bundle", "--driver", "btrfs", f"oci:{path}/l:n", tmp_path / "b")
        assert told.endswith(f"{tmp_path} does not lie on the file system of {path}/root/snapshots")


@pytest.fixture
def refusing(tmp_path: Path, stack: ExitStack) -> Path:
    """A directory that can be no upper directory of an overlay, as it lies on one."""
    for name in ("lower", "upper", "work", "on"):
        (tmp_path / name).mkdir()
    options = ",".join(f"{key}dir={tmp_path}/{key}" for key in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", tmp_path / "on"], check=True)
    stack.callback(subprocess.run, ["umount", "--recursive", tmp_path / "on"], check=True)
    return tmp_path / "on"


def test_auto_takes_what_works_and_says_why_not_the_others(refusing: Path, runtime: Runtime) -> None:
    make_image(refusing / "l", "n", BASE)
    oci = Command(refusing / "root")
    done = oci("bundle", f"oci:{refusing}/l:n", refusing / "b", "--", "/bin/sh", "-c", "cat /data/seed")
    assert "driver fuse-overlayfs: overlay: Invalid argument; btrfs: " in done.stderr
    assert json.loads((refusing / "b/oci-image.json").read_text())["driver"] == "fuse-overlayfs"
    done = runtime("run", "--bundle", refusing / "b", runtime.new_id())
    assert (done.returncode, done.stdout) == (0, "seeded")
    oci("unbundle", refusing / "b")
    assert [name for name in os.listdir(refusing / "root/snapshots") if name.startswith(".")] == []


def test_auto_comes_down_to_copies(refusing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers.fuse_overlay, "PLACES", ())
    driver, reason = drivers.choose("auto", str(refusing), str(refusing))
    assert driver.name == "vfs"
    assert "fuse-overlayfs: fuse-overlayfs is not installed" in reason


def test_an_overlay_whose_server_was_killed_is_mounted_again(tmp_path: Path, stack: ExitStack) -> None:
    stack.callback(unmount_below, tmp_path)
    before = servers()
    make_image(tmp_path / "l", "n", BASE)
    place = Place(tmp_path, "fuse-overlayfs")
    made = place.bundle("b")
    (mine,) = servers() - before
    (made / "rootfs/new").write_text("kept")
    os.kill(mine, signal.SIGKILL)
    assert ended({mine})
    place.oci("unmount", made)
    place.oci("mount", made)
    assert (made / "rootfs/new").read_text() == "kept"
    place.oci("unbundle", made)
    assert ended(servers() - before)


# Sharing


def free(path: Path) -> int:
    subprocess.run(["sync", "-f", path], check=True)
    found = os.statvfs(path)
    return found.f_bfree * found.f_frsize


@pytest.mark.parametrize(
    ("kind", "driver"), [("btrfs", "btrfs"), ("btrfs", "vfs"), ("xfs", "vfs"), ("btrfs", "overlay")]
)
def test_a_second_bundle_takes_no_space_for_its_files(tmp_path: Path, kind: str, driver: str) -> None:
    """Snapshots, reflinks, an overlay: 40 MB are there once, and a change of one is not the other's."""
    big = os.urandom(40 << 20)
    with mounted(kind, tmp_path) as path:
        make_image(path / "l", "n", BASE, tar_of((member("big"), big)), compression="")
        place = Place(path, driver)
        made = place.bundle("1")
        before = free(path)
        other = place.bundle("2")
        assert before - free(path) < 4 << 20
        with (made / "rootfs/big").open("r+b") as file:
            file.write(b"changed")
        assert (other / "rootfs/big").read_bytes() == big
        place.oci("unbundle", made, other)


def test_a_tree_with_subvolumes_in_it_is_removed(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as path:
        top = path / "top"
        for name in ("", "d", "d/sub", "d/sub/e", "d/sub/e/f", "d/sub/e/f/subsub", "d/sub/e/f/subsub/x"):
            if name.endswith("sub"):
                subprocess.run(["btrfs", "-q", "subvolume", "create", top / name], check=True)
            else:
                (top / name).mkdir()
        fd = os.open(path, os.O_RDONLY)
        remove_tree(fd, "top")
        os.close(fd)
        assert os.listdir(path) == []


def test_a_container_s_subvolumes_go_with_its_bundle(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as path:
        make_image(path / "l", "n", BASE)
        place = Place(path, "btrfs")
        made = place.bundle("b")
        for name in ("rootfs/sub", "rootfs/sub/below"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", made / name], check=True)
        place.oci("unbundle", made)
        place.oci("gc")
        listed = subprocess.run(["btrfs", "subvolume", "list", path], capture_output=True, text=True)
        assert listed.stdout == ""


# Ids of user namespaces


MAPS = ["--uid-map", "0:300000:1000", "--gid-map", "0:400000:1000"]


def test_a_user_namespace_sees_the_image_s_owners(place: Place, runtime: Runtime) -> None:
    """Two bundles with different maps, and one without, on the same layers."""
    for parent in (place.path, *place.path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    script = (
        'stat=$(ls -ln /data/seed /suid /bin/busybox); echo "$stat"; id; echo changed > /note; ls -ln /note'
    )
    made = [
        place.bundle("1", *MAPS, "--", "/bin/sh", "-c", script),
        place.bundle("2", "--uid-map", "0:500000:1000", "--", "/bin/sh", "-c", script),
        place.bundle("3", "--", "/bin/sh", "-c", script),
    ]
    assert len(place.layers()) == 5
    for one in made:
        done = runtime("run", "--bundle", one, runtime.new_id())
        assert (done.returncode, done.stderr) == (0, "")
        owners = [line.split()[2:4] for line in done.stdout.splitlines() if line.startswith("-")]
        assert owners == [["0", "0"], ["33", "0"], ["33", "33"], ["0", "0"]]
        assert "uid=0(root) gid=0(root)" in done.stdout
        assert "-rwsr-xr-x" in done.stdout
    assert (made[0] / "rootfs/data/seed").stat().st_uid == 300033
    assert (made[1] / "rootfs/data/seed").stat().st_gid == 500000
    assert (made[2] / "rootfs/data/seed").stat().st_uid == 33
    assert (made[0] / "rootfs").stat().st_uid == 300000
    place.oci("unmount", made[0])
    place.oci("mount", made[0])
    assert (made[0] / "rootfs/data/seed").stat().st_uid == 300033
    place.oci("unbundle", *made)


def test_volumes_belong_to_the_user_namespace_s_root(place: Place, runtime: Runtime) -> None:
    make_image(place.path / "l", "v", BASE, config={"Volumes": {"/data": {}, "/empty": {}}})
    for parent in (place.path, *place.path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    script = "ls -ln /data/seed; echo x > /data/new; echo y > /empty/new; ls -ln /empty/new"
    made = place.bundle("b", *MAPS, "--", "/bin/sh", "-c", script, image=f"oci:{place.path}/l:v")
    done = runtime("run", "--bundle", made, runtime.new_id())
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[2:4] for line in done.stdout.splitlines()] == [["33", "0"], ["0", "0"]]
    assert (made / "volumes/0/seed").stat().st_uid == 300033
    assert (made / "volumes/1/new").stat().st_gid == 400000
    place.oci("unbundle", made)


# Users without root


def as_user(home: Path, script: str, ocirt: Path, user: int, around: str) -> str:
    """stdout of a shell script of a user without root, in a home directory of theirs."""
    os.chown(home, user, user)
    for parent in home.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    text = f"""
        set -e
        cd {home}
        export HOME={home} XDG_RUNTIME_DIR={home}
        oci() {{ {PROGRAM} --root {home}/images "$@"; }}
        run() {{ {ocirt} --root {home}/state run --bundle "$@"; }}
        {script}
    """
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sh", "-c", text]
    words = ["unshare", "--mount", "sh", "-ec", f'{around}; exec "$@"', "sh", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_a_root_comes_back_whose_server_has_ended(tmp_path: Path, stack: ExitStack) -> None:
    stack.callback(unmount_below, tmp_path)
    oci = Command(tmp_path / "root")
    make_image(tmp_path / "l", "n", *LAYERS, config={"Cmd": ["/bin/sh"]})
    made = tmp_path / "b"
    oci("bundle", "--driver", "fuse-overlayfs", f"oci:{tmp_path}/l:n", made)
    (made / "rootfs/new").write_text("kept")
    end_server(made)
    oci("mount", made)
    assert (made / "rootfs/new").read_text() == "kept"
    end_server(made)
    oci("unbundle", made)
    assert not made.exists()


def end_server(bundle: Path) -> None:
    """Kill the program that holds the upper directory of a bundle."""
    upper = str(bundle / "upper")
    (pid,) = [one for one in servers() if upper in map(os.readlink, Path(f"/proc/{one}/fd").iterdir())]
    os.kill(pid, signal.SIGKILL)
    assert ended({pid})


def test_a_user_without_root_shares_layers_by_fuse_overlayfs(
    tmp_path: Path, ocirt: Path, stack: ExitStack
) -> None:
    stack.callback(unmount_below, tmp_path)
    before = servers()
    home = tmp_path / "home"
    home.mkdir()
    make_image(
        home / "l",
        "n",
        *LAYERS,
        config={"Cmd": ["/bin/sh", "-c", "id; cat /data/seed; echo x > /new; rm /full"]},
    )
    told = as_user(
        home,
        """
        oci copy oci:l:n app
        oci bundle --driver fuse-overlayfs app 1
        oci bundle --driver auto app 2
        ls images/snapshots/fuse-overlayfs-rootless | wc -l
        run 1 c
        test -e 2/rootfs/full
        oci diff 1
        oci unmount 1
        oci diff 1
        oci mount 1
        cat 1/rootfs/new
        oci commit 1 after
        oci bundle --driver fuse-overlayfs after 3
        test ! -e 3/rootfs/full && cat 3/rootfs/new
        oci bundle --driver vfs app 4 2>&1 || true
        oci unbundle 1 2 3
        oci rm app after
        oci gc
        ls -A images/snapshots/fuse-overlayfs-rootless images/snapshots/bundles
        """,
        ocirt,
        user=1,  # fusermount3 wants one that passwd knows
        around=f"mknod -m 666 {tmp_path}/fuse c 10 229; mount --bind {tmp_path}/fuse /dev/fuse",
    )
    lines = told.splitlines()
    assert lines[1:3] == ["4", "uid=0(root) gid=0(root)"]
    assert "seeded" in told
    assert told.count("D /full\nA /new\n") == 2
    assert lines.count("x") == 2
    assert "driver vfs: needs root" in told
    assert told.endswith(":\n\nimages/snapshots/fuse-overlayfs-rootless:\n")
    assert ended(servers() - before)


def test_what_subordinate_ids_own_is_compared_and_removed(tmp_path: Path, ocirt: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "subids").write_text("daemon:200000:65536\n")
    owned = tar_of(member("own", DIR, uid=33, mode=0o700), (member("own/file", uid=33), b"x"))
    make_image(home / "l", "n", BASE, owned, config={"Cmd": ["/bin/sh", "-c", "echo y > /own/file"]})
    around = f"mount --bind {tmp_path}/subids /etc/subuid; mount --bind {tmp_path}/subids /etc/subgid"
    told = as_user(
        home,
        """
        oci bundle --subordinate oci:l:n b
        stat -c %u b/rootfs/own
        run b c
        oci diff b
        oci commit b after
        oci unbundle b
        test ! -e b
        oci bundle --subordinate after b
        run b c -- 2>/dev/null || true
        oci unbundle b
        oci unpack --subordinate after tree
        stat -c %u tree/own
        """,
        ocirt,
        user=1,
        around=around,
    )
    assert told.startswith("200032\n")
    assert "C /own\nC /own/file\n" in told
    assert told.splitlines()[-1] == "200032"
