"""Stores and bundles in bad circumstances: full disks, read-only stores, many layers, odd names, moves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from oci_image import overlay
from tests.lib.filesystems import mounted
from tests.lib.images import make_image, member, tar_of
from tests.lib.runtime import Runtime
from tests.system.test_oci_image_bundle import BASE, mounts_below
from tests.system.test_oci_image_cli import Command
from tests.system.test_oci_image_drivers import Place, ended, servers, unmount_below

pytestmark = pytest.mark.root


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        stack.callback(unmount_below, tmp_path)
        yield stack


def many(count: int) -> list[bytes]:
    """Layers: each has a file of its own, one that the next changes, one that every third removes."""
    removed = [(".wh.some", "")]
    return [
        tar_of((f"f{i}", str(i)), ("same", str(i)), *(removed if i % 3 == 2 else [("some", str(i))]))
        for i in range(count)
    ]


@pytest.mark.parametrize(("driver", "count"), [("overlay", 300), ("fuse-overlayfs", 120), ("vfs", 60)])
def test_images_of_many_layers(tmp_path: Path, stack: ExitStack, driver: str, count: int) -> None:
    make_image(tmp_path / "l", "n", BASE, *many(count), compression="")
    place = Place(tmp_path, driver)
    made = place.bundle("b")
    assert (made / "rootfs/same").read_text() == str(count - 1)
    assert all((made / f"rootfs/f{i}").read_text() == str(i) for i in (0, count // 2, count - 1))
    assert not (made / "rootfs/some").exists()
    place.oci("unmount", made)
    place.oci("mount", made)
    assert (made / "rootfs/f1").read_text() == "1"
    place.oci("unbundle", made)


def test_more_layers_than_a_page_of_names_before_linux_6_5(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise OSError(22, "as before Linux 6.5")

    monkeypatch.setattr(overlay, "_by_fsopen", fails)
    here = os.getcwd()
    trees = []
    for i in range(500):
        tree = tmp_path / f"a-name-that-is-long-enough-to-fill-the-page-{i}"
        tree.mkdir()
        (tree / f"f{i}").write_text(str(i))
        trees.append(str(tree))
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    fd = overlay.mount(trees, str(tmp_path / "upper"), str(tmp_path / "work"))
    assert len(os.listdir(f"/proc/self/fd/{fd}")) == 500
    os.close(fd)
    assert mounts_below(tmp_path) == []
    assert not (tmp_path / "merged").exists()
    assert os.getcwd() == here


def test_more_layers_than_linux_takes_are_told_of(tmp_path: Path, stack: ExitStack) -> None:
    trees = [str(tmp_path)] * 501
    with pytest.raises(overlay.ImageError, match="501 layers are more than the 500 of which Linux makes one"):
        overlay.mount(trees, str(tmp_path), str(tmp_path))


ODD = [
    "a,b",
    "a:b",
    "back\\slash",
    'qu"ote',
    "spa ce",
    "new\nline",
    "üñí",
    "x" * 200,
    "upperdir=x,lowerdir=y:z",
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("driver", ["overlay", "fuse-overlayfs"])
def test_names_of_directories_mean_nothing_else(
    tmp_path: Path, stack: ExitStack, runtime: Runtime, driver: str, name: str
) -> None:
    path = tmp_path / name / name
    path.mkdir(parents=True)
    make_image(tmp_path / "l", "n", BASE, tar_of(("second", "")))
    oci = Command(path / "root")
    script = ["/bin/sh", "-c", "cat /data/seed; echo x > /new"]
    words = ["bundle", "--driver", driver, f"oci:{tmp_path}/l:n", path / "b", "--", *script]
    if driver == "fuse-overlayfs" and ":" in name:
        assert oci.fails(*words).endswith("a colon in this path means something to fuse-overlayfs")
        return
    oci(*words)
    done = runtime("run", "--bundle", path / "b", runtime.new_id())
    assert (done.returncode, done.stdout) == (0, "seeded")
    assert "A /new" in oci("diff", path / "b").stdout.splitlines()
    oci("unmount", path / "b")
    oci("mount", path / "b")
    assert (path / "b/rootfs/new").exists()
    assert oci.json("gc")["snapshots"] == 0
    oci("unbundle", path / "b")
    assert oci.json("gc")["snapshots"] == 2


# Where there is no room, or no right to write


@pytest.mark.parametrize("driver", ["overlay", "vfs", "fuse-overlayfs", "copy"])
def test_a_full_disk_is_told_of_and_left_clean(tmp_path: Path, driver: str) -> None:
    before = servers()
    make_image(tmp_path / "l", "n", BASE, tar_of((member("big"), os.urandom(12 << 20))), compression="")
    make_image(tmp_path / "l", "small", BASE)
    how = ["--copy"] if driver == "copy" else ["--driver", driver]
    with mounted("tmpfs", tmp_path, 10 << 20) as path:
        oci = Command(path / "root")
        told = oci.fails("bundle", *how, f"oci:{tmp_path}/l:n", path / "b", "--", "/bin/sh")
        assert "No space left on device" in told
        assert set(os.listdir(path)) <= {"root"}
        oci("gc")
        for _ in range(2):
            oci("bundle", *how, f"oci:{tmp_path}/l:small", path / "b", "--", "/bin/sh")
            assert oci("fsck").stdout == "nothing is wrong\n"
            oci("unbundle", path / "b")
        oci("gc")
        unmount_below(path)
    assert ended(servers() - before)


def test_a_commit_on_a_full_disk_leaves_the_store_whole(tmp_path: Path, stack: ExitStack) -> None:
    with mounted("tmpfs", tmp_path, 8 << 20) as path:
        (tmp_path / "base.tar").write_bytes(BASE)
        oci = Command(path / "root")
        oci("import", tmp_path / "base.tar", "app", "--cmd", '["/bin/sh"]')
        oci("bundle", "--copy", "app", tmp_path / "b")
        (tmp_path / "b/rootfs/big").write_bytes(os.urandom(12 << 20))
        assert "No space left on device" in oci.fails("commit", tmp_path / "b", "after")
        assert [image["name"] for image in oci.json("images")] == ["docker.io/library/app:latest"]
        assert oci("fsck").stdout == "nothing is wrong\n"
        oci("gc")
        assert os.listdir(path / "root/layout/.oci-image-tmp") == []
        oci("unbundle", tmp_path / "b")


def test_a_store_that_is_read_only_is_read(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "base.tar").write_bytes(BASE)
    oci = Command(tmp_path / "root")
    oci("import", tmp_path / "base.tar", "app", "--cmd", '["/bin/sh"]')
    oci("bundle", "app", tmp_path / "b")
    (tmp_path / "b/rootfs/new").touch()
    subprocess.run(["mount", "--bind", tmp_path / "root", tmp_path / "root"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "root"], check=True)
    for words in (["images"], ["inspect", "app"], ["history", "app"], ["size"], ["verify", "app"], ["fsck"]):
        oci(*words)
    oci("unpack", "app", tmp_path / "out")
    oci("cp", "app:/data/seed", tmp_path / "seed")
    oci("bundle", "--copy", "app", tmp_path / "c")
    assert oci("diff", tmp_path / "b").stdout == "A /new\n"
    assert oci("diff", tmp_path / "c").stdout == ""
    oci("unbundle", tmp_path / "c")
    for words in (
        ["bundle", "app", "d"],
        ["tag", "app", "x"],
        ["commit", "b", "x"],
    ):
        assert oci.fails(*words, cwd=tmp_path).endswith("Read-only file system"), words
    assert not (tmp_path / "d").exists()
    oci("unmount", tmp_path / "b")
    oci("mount", tmp_path / "b")
    assert (tmp_path / "b/rootfs/bin/busybox").exists()
    oci("unbundle", tmp_path / "b")
    subprocess.run(["umount", tmp_path / "root"], check=True)
    assert "is no bundle any more" in oci("fsck", check=False).stdout
    oci("gc")
    assert oci("fsck").stdout == "nothing is wrong\n"


# Bundles that somebody moves or copies


@pytest.mark.parametrize("driver", ["overlay", "fuse-overlayfs"])
def test_gc_leaves_the_layers_of_a_bundle_that_was_moved(
    tmp_path: Path, stack: ExitStack, driver: str
) -> None:
    make_image(tmp_path / "l", "n", BASE)
    place = Place(tmp_path, driver)
    made = place.bundle("b")
    made.rename(tmp_path / "moved")
    place.oci("gc")
    assert (tmp_path / "moved/rootfs/bin/busybox").exists()
    place.oci("mount", tmp_path / "moved")
    place.oci("unmount", tmp_path / "moved")
    place.oci("gc")
    place.oci("mount", tmp_path / "moved")
    assert (tmp_path / "moved/rootfs/bin/busybox").exists()
    place.oci("unbundle", tmp_path / "moved")
    assert place.oci.json("gc")["snapshots"] == 1


def test_a_copy_of_a_bundle_is_one_of_its_own(tmp_path: Path, stack: ExitStack) -> None:
    make_image(tmp_path / "l", "n", BASE)
    place = Place(tmp_path, "overlay")
    made = place.bundle("b")
    (made / "rootfs/new").write_text("of the first")
    place.oci("unmount", made)
    subprocess.run(["cp", "-a", made, tmp_path / "copy"], check=True)
    place.oci("mount", made, tmp_path / "copy")
    (tmp_path / "copy/rootfs/new").write_text("of the copy")
    assert (made / "rootfs/new").read_text() == "of the first"
    place.oci("unbundle", tmp_path / "copy")
    assert place.oci.json("gc")["snapshots"] == 0
    assert (made / "rootfs/bin/busybox").exists()
    place.oci("unbundle", made)
    assert place.oci.json("gc")["snapshots"] == 1


def test_fsck_finds_what_is_wrong_with_layers_and_bundles(tmp_path: Path, stack: ExitStack) -> None:
    make_image(tmp_path / "l", "n", BASE)
    place = Place(tmp_path, "overlay")
    made = [place.bundle(name) for name in ("1", "2")]
    assert place.oci("fsck").stdout == "nothing is wrong\n"
    layers = tmp_path / "root/snapshots/overlay"
    (layers / f".{'a' * 64}.999999999-00000000").mkdir()
    (layers / ("b" * 64)).mkdir()
    place.oci("unmount", *made)
    shutil.rmtree(made[1])
    (layer,) = (path for path in layers.glob("*/fs"))
    shutil.rmtree(layer)
    done = place.oci("fsck", "--json", check=False)
    assert done.returncode == 1
    told = done.stdout
    for reason in (
        "was left by a process that died: gc removes it",
        "holds no layer",
        f"stands on a layer that is missing: {layer}",
        "is no bundle any more, or was left half-made: gc forgets it",
    ):
        assert reason in told
    place.oci("unbundle", made[0])
    place.oci("gc")
    assert place.oci("fsck").stdout == "nothing is wrong\n"


def test_an_interrupted_bundle_is_made_by_the_next_try(tmp_path: Path) -> None:
    """Of a copy no store knows: the directory that a killed maker left goes when the name is used again."""
    make_image(tmp_path / "l", "n", BASE)
    left = tmp_path / ".b.999999999.tmp"
    (left / "rootfs").mkdir(parents=True)
    for other in (f".b.{os.getpid()}.tmp", ".b.x.tmp", ".bb.999999999.tmp", ".b.tmp"):
        (tmp_path / other).mkdir()
    oci = Command(tmp_path / "root")
    oci("bundle", "--copy", f"oci:{tmp_path}/l:n", tmp_path / "b", "--", "/bin/sh")
    assert sorted(name for name in os.listdir(tmp_path) if name.endswith(".tmp")) == sorted(
        [f".b.{os.getpid()}.tmp", ".b.tmp", ".b.x.tmp", ".bb.999999999.tmp"]
    )


def test_gc_keeps_layers_for_bundles_on_a_disk_that_is_not_there(tmp_path: Path, stack: ExitStack) -> None:
    make_image(tmp_path / "l", "n", BASE)
    oci = Command(tmp_path / "root")
    image = f"oci:{tmp_path}/l:n"
    with mounted("ext4", tmp_path, 40 << 20) as disk:
        for made in (disk / "b", disk / "gone/b"):
            made.parent.mkdir(exist_ok=True)
            oci("bundle", image, made, "--", "/bin/sh")
            oci("unmount", made)
        shutil.rmtree(disk / "gone")
        shutil.copy(tmp_path / "ext4.image", tmp_path / "kept.image")
        subprocess.run(["umount", disk], check=True)
        assert oci.json("gc")["snapshots"] == 0
        assert len(os.listdir(tmp_path / "root/snapshots/bundles")) == 2
        assert oci("fsck").stdout == "nothing is wrong\n"
        subprocess.run(["mount", "-o", "loop", tmp_path / "ext4.image", disk], check=True)
        oci("mount", disk / "b")
        assert (disk / "b/rootfs/bin/busybox").exists()
        oci("gc")
        assert len(os.listdir(tmp_path / "root/snapshots/bundles")) == 1
        oci("unbundle", disk / "b")
        assert oci.json("gc")["snapshots"] == 1


@pytest.mark.parametrize(
    "how", [["--driver", "overlay"], ["--driver", "vfs"], ["--copy"]], ids=lambda how: how[-1]
)
def test_a_bundle_is_not_taken_away_from_its_container(
    tmp_path: Path, stack: ExitStack, runtime: Runtime, how: list[str]
) -> None:
    """Its mount namespace has a mount of its own: that of the host is not busy."""
    make_image(tmp_path / "l", "n", BASE)
    oci = Command(tmp_path / "root")
    made = tmp_path / "b"
    oci("bundle", *how, f"oci:{tmp_path}/l:n", made, "--", "/bin/busybox", "sleep", "1000")
    container = runtime.new_id()
    for words in (("create", "--bundle", made, container), ("start", container)):
        subprocess.run(runtime.command(*words), check=True, stdout=subprocess.DEVNULL, timeout=60)
        for verb in ("unbundle", "unmount"):
            told = oci.fails(verb, made)
            assert "/b: is used: the process " in told
            assert told.endswith(" has its root there")
    assert (made / "rootfs/bin/busybox").exists()
    runtime("delete", "--force", container)
    oci("unbundle", made)


def test_two_makers_of_one_bundle_make_one(tmp_path: Path, stack: ExitStack) -> None:
    make_image(tmp_path / "l", "n", BASE, tar_of(("x", "")))
    oci = Command(tmp_path / "root")
    words = [*map(str, oci.words), "bundle", f"oci:{tmp_path}/l:n", str(tmp_path / "b"), "--", "/bin/sh"]
    for _ in range(5):
        running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        told = [one.communicate(timeout=60)[1] for one in running]
        assert sorted(one.returncode for one in running) == [0, 1, 1]
        assert all(text.count("\n") == 1 for text in told if text), told
        assert (tmp_path / "b/rootfs/bin/busybox").exists()
        assert len(mounts_below(tmp_path / "b")) == 1
        oci("unbundle", tmp_path / "b")
        assert [name for name in os.listdir(tmp_path) if name.startswith(".b")] == []
        assert os.listdir(tmp_path / "root/snapshots/bundles") == []
