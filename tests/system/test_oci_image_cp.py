"""cp: files between the host, images and bundles, by docker's rules, and never out of their root."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.images import make_image, member, tar_of
from tests.lib.runtime import Runtime
from tests.lib.trees import describe, differences
from tests.security.conftest import describe as describe_host
from tests.security.conftest import way_out
from tests.system.test_oci_image_bundle import BASE
from tests.system.test_oci_image_cli import Command
from tests.system.test_oci_image_drivers import unmount_below

pytestmark = pytest.mark.root
DIR, LINK = tarfile.DIRTYPE, tarfile.SYMTYPE
SECOND = tar_of(
    member("full", DIR, mode=0o750),
    (member("full/one", uid=33, mtime=1_600_000_000), "1"),
    ("full/two", "2"),
    member("usr/lib", DIR),
    member("lib", LINK, linkname="usr/lib"),
    member("to-one", LINK, linkname="/full/one"),
    member("to-full", LINK, linkname="full"),
    member("empty", DIR),
)


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Command]:
    oci = Command(tmp_path / "root")
    make_image(tmp_path / "l", "base", BASE, SECOND, config={"Cmd": ["/bin/sh"]})
    oci("copy", f"oci:{tmp_path}/l:base", "base")
    yield oci
    unmount_below(tmp_path)


@pytest.fixture(params=["image", "overlay", "vfs", "fuse-overlayfs", "copy"])
def end(request: pytest.FixtureRequest, oci: Command, tmp_path: Path) -> str:
    """What stands before :/PATH, for an image and for bundles of every kind."""
    if request.param == "image":
        return "base"
    how = ["--copy"] if request.param == "copy" else ["--driver", request.param]
    oci("bundle", "base", tmp_path / "b", *how)
    return f"bundle:{tmp_path}/b"


def tree_of(oci: Command, end: str, tmp_path: Path) -> Path:
    """The root of an end, to be looked at."""
    if end != "base":
        return tmp_path / "b/rootfs"
    subprocess.run(["rm", "-rf", tmp_path / "seen"], check=True)
    oci("unpack", "base", tmp_path / "seen")
    return tmp_path / "seen"


def test_files_come_out_of_images_and_bundles(oci: Command, end: str, tmp_path: Path) -> None:
    target = tmp_path / "to"
    target.mkdir()
    for source, to in (
        ("/data/seed", target),
        ("/data/seed", target / "renamed"),
        ("/full", target),
        ("/full", target / "new-name"),
        ("/full/.", target / "new-name"),
        ("/bin/sh", target),
        ("/to-one", target),
        ("/to-full/", target / "followed"),
        ("/", target / "all"),
    ):
        oci("cp", f"{end}:{source}", to)
    oci("cp", "-L", f"{end}:/to-one", target / "linked")
    oci("cp", "-a", f"{end}:/data/seed", target / "kept")
    assert sorted(os.listdir(target)) == sorted(
        ["all", "followed", "full", "kept", "linked", "new-name", "renamed", "seed", "sh", "to-one"]
    )
    tree = describe(target)
    assert (target / "seed").read_text() == (target / "renamed").read_text() == "seeded"
    assert tree["seed"]["owner"] == tree["full/one"]["owner"] == (0, 0)
    assert tree["full/one"]["mtime"] == 1_600_000_000 * 10**9
    assert tree["kept"]["owner"] == (33, 0)
    assert (tree["sh"]["link"], tree["to-one"]["link"]) == ("busybox", "/full/one")
    assert (target / "linked").read_text() == "1"
    assert tree["full"]["mode"] == 0o750
    for name in ("full", "new-name", "followed"):
        assert sorted(os.listdir(target / name)) == ["one", "two"]
    assert (target / "all/bin/busybox").stat().st_size == Path("/bin/busybox").stat().st_size
    for source, names in (("/full", ["full", "full/one", "full/two"]), ("/full/.", ["one", "two"])):
        stream = oci("cp", f"{end}:{source}", "-", text=False).stdout
        with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
            assert sorted(tar.getnames()) == names
            if source == "/full":
                assert tar.getmember("full/one").uid == 33


def test_a_link_that_is_followed_gives_the_copy_its_name(oci: Command, end: str, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    oci("cp", "-L", f"{end}:/to-one", tmp_path / "to")
    oci("cp", f"{end}:/to-full/", tmp_path / "to")
    assert (tmp_path / "to/to-one").read_text() == "1"
    assert sorted(os.listdir(tmp_path / "to/to-full")) == ["one", "two"]
    assert sorted(os.listdir(tmp_path / "to")) == ["to-full", "to-one"]


def test_files_go_into_images_and_bundles(oci: Command, end: str, tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "dir/sub").mkdir(parents=True)
    (host / "dir/sub/deep").write_text("d")
    os.link(host / "dir/sub/deep", host / "dir/hard")
    (host / "dir/link").symlink_to("/etc/passwd")
    (host / "file").write_text("f")
    os.setxattr(host / "file", "user.note", b"v")
    os.chown(host / "file", 7, 8)
    for source, to in (
        (host / "file", "/new"),
        (host / "file", "/empty"),
        (host / "file", "/empty/"),
        (host / "file", "/lib"),  # a link to usr/lib: the directory it leads to
        (host / "file", "/to-one"),  # a link to a file: that file is replaced
        (host / "dir", "/empty"),
        (host / "dir", "/made"),
        (f"{host}/dir/.", "/full"),
        (host / "dir/link", "/copied-link"),
    ):
        oci("cp", source, f"{end}:{to}")
    oci("cp", "--archive", host / "file", f"{end}:/owned")
    oci("cp", "-L", host / "dir/link", f"{end}:/passwd")
    stream = tar_of(member("t", DIR), (member("t/x", uid=5), "x"))
    oci("cp", "-", f"{end}:/empty", input=stream, text=False)
    root = tree_of(oci, end, tmp_path)
    tree = describe(root)
    assert (root / "new").read_text() == (root / "empty/file").read_text() == "f"
    assert (root / "usr/lib/file").read_text() == (root / "full/one").read_text() == "f"
    assert (tree["lib"]["link"], tree["to-one"]["link"]) == ("usr/lib", "/full/one")
    assert tree["new"]["owner"] == tree["empty/t/x"]["owner"] == tree["made/sub"]["owner"] == (0, 0)
    assert tree["owned"]["owner"] == (7, 8)
    assert tree["new"]["xattrs"] == {"user.note": b"v"}
    assert sorted(os.listdir(root / "full")) == ["hard", "link", "one", "sub", "two"]
    assert tree["full"]["mode"] == 0o750  # it was there
    assert tree["made/sub/deep"]["same as"] == tree["made/hard"]["same as"]
    assert tree["copied-link"]["link"] == "/etc/passwd"
    assert (root / "passwd").read_text() == Path("/etc/passwd").read_text()
    assert sorted(os.listdir(root / "empty")) == ["dir", "file", "t"]


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("file", "/nowhere/x", "/nowhere: there is no such file or directory"),
        ("file", "/new/", "new/: there is no such file or directory"),
        ("file", "/etc/passwd/", "etc/passwd/: is not a directory"),
        ("dir", "/etc/passwd", "etc/passwd: is not a directory"),
        ("file/", "/x", "file/: is not a directory"),
        ("nosuch", "/x", "nosuch: there is no such file or directory"),
        ("clash/.", "/", "/bin: is a directory"),
        ("clash2/.", "/", "/etc/passwd: is not a directory"),
        ("hidden/.", "/", ".wh.etc: an image cannot hold a name that begins with .wh."),
    ],
)
def test_what_docker_refuses_is_refused(
    oci: Command, end: str, tmp_path: Path, source: str, target: str, told: str
) -> None:
    for name in ("dir", "clash", "clash2/etc/passwd", "hidden"):
        (tmp_path / "from" / name).mkdir(parents=True)
    for name in ("file", "clash/bin", "hidden/.wh.etc"):
        (tmp_path / "from" / name).write_text("x")
    before = describe(tree_of(oci, end, tmp_path), ["mtime"])
    assert oci.fails("cp", f"{tmp_path}/from/{source}", f"{end}:{target}").endswith(told)
    assert differences(before, describe(tree_of(oci, end, tmp_path), ["mtime"])) == []
    assert oci("fsck").stdout == "nothing is wrong\n"


def test_files_go_from_one_container_to_another(oci: Command, tmp_path: Path, runtime: Runtime) -> None:
    """And a container that is running sees them."""
    oci("bundle", "base", tmp_path / "b", "--", "/bin/sh", "-c", "echo made > /full/here")
    assert runtime("run", "--bundle", tmp_path / "b", runtime.new_id()).returncode == 0
    oci("cp", f"bundle:{tmp_path}/b:/full/here", "base:/there", "--name", "new")
    assert oci.json("inspect", "new")["config"]["history"][-1]["created_by"].startswith("oci-image cp ")
    assert len(oci.json("inspect", "base")["manifest"]["layers"]) == 2
    wait = "until test -e /go; do :; done; cat /go"
    oci("bundle", "new", tmp_path / "c", "--", "/bin/sh", "-c", f"cat /there; {wait}")
    config = json.loads((tmp_path / "c/config.json").read_text())
    assert config["process"]["args"][-1].startswith("cat /there")
    (tmp_path / "go").write_text("gone")
    words = [runtime.path, "--root", runtime.root, "run", "--bundle", tmp_path / "c", runtime.new_id()]
    running = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    assert running.stdout
    assert running.stdout.readline() == "made\n"
    oci("cp", tmp_path / "go", f"bundle:{tmp_path}/c:/go")
    assert running.communicate(timeout=20)[0] == "gone"
    oci("unbundle", tmp_path / "b", tmp_path / "c")


def test_a_shifted_bundle_gets_files_of_its_root(oci: Command, tmp_path: Path) -> None:
    oci("bundle", "base", tmp_path / "b", "--uid-map", "0:300000:1000")
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 33, 33)
    oci("cp", tmp_path / "file", f"bundle:{tmp_path}/b:/mine")
    oci("cp", "-a", tmp_path / "file", f"bundle:{tmp_path}/b:/web")
    assert (tmp_path / "b/rootfs/mine").stat().st_uid == 300000
    assert (tmp_path / "b/rootfs/web").stat().st_uid == 300033
    oci("cp", "-a", f"bundle:{tmp_path}/b:/web", tmp_path / "back")
    assert (tmp_path / "back").stat().st_uid == 33


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a", "b"), "cp: neither SOURCE nor TARGET is IMAGE:/PATH or bundle:DIR:/PATH"),
        (("base:/etc/passwd", "x", "--name", "n"), "--name: means nothing where TARGET is no image"),
        (("", "base:/x"), "SOURCE: is empty"),
        (("base:/etc/passwd", ""), "TARGET: is empty"),
        (("base:/nosuch", "x"), "nosuch: there is no such file or directory"),
        (("base:/data/seed/below", "x"), "data/seed/below: there is no such file or directory"),
        (("base:/data/seed/", "x"), "data/seed/: is not a directory"),
        (("there", "oci:../l:base:/x"), "--name: is needed: oci:../l:base is no name in the store"),
        (("bundle:nosuch:/x", "y"), "nosuch: No such file or directory"),
        (("base:/full", "there"), "there: is not a directory"),
    ],
)
def test_cp_says_what_is_wrong(oci: Command, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/there").write_text("kept")
    assert oci.fails("cp", *words, cwd=tmp_path / "work").endswith(told)
    assert os.listdir(tmp_path / "work") == ["there"]


def test_a_root_that_is_not_mounted_gets_no_files(oci: Command, tmp_path: Path) -> None:
    oci("bundle", "base", tmp_path / "b")
    oci("unmount", tmp_path / "b")
    told = oci.fails("cp", "/etc/passwd", f"bundle:{tmp_path}/b:/x")
    assert told.endswith("/b: its root is not mounted (oci-image mount does it)")
    assert os.listdir(tmp_path / "b/rootfs") == []


# CVE-2018-15664, CVE-2018-15754, CVE-2019-14271 and their kin: a container that makes links


@pytest.mark.parametrize("link", ["absolute", "relative", "chain", "parent"])
def test_links_of_a_container_lead_nowhere_else(oci: Command, tmp_path: Path, link: str) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("of the host")
    before = describe_host(host)
    oci("bundle", "base", tmp_path / "b", "--copy")
    root = tmp_path / "b/rootfs"
    if link == "chain":
        (root / "one").symlink_to(way_out(host))
        (root / "l").symlink_to("one")
    else:
        (root / "l").symlink_to(
            {"absolute": str(host), "relative": way_out(host), "parent": "../../.."}[link]
        )
    end = f"bundle:{tmp_path}/b"
    for words in (
        (f"{end}:/l/secret", tmp_path / "out"),
        (f"{end}:/l/.", tmp_path / "out"),
        ("/etc/passwd", f"{end}:/l/secret"),
        ("/etc/passwd", f"{end}:/l/../../../../..{host}/secret"),
    ):
        oci("cp", *words, check=False)
    assert not (tmp_path / "out/secret").exists()
    assert not (tmp_path / "out").is_file()
    assert describe_host(host) == before


def test_a_container_that_swaps_a_directory_for_a_link_wins_nothing(oci: Command, tmp_path: Path) -> None:
    """RACE, into and out of a bundle."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("of the host")
    os.chmod(host / "secret", 0o600)
    before = describe_host(host)
    oci("bundle", "base", tmp_path / "b", "--copy")
    root = tmp_path / "b/rootfs"
    (root / "d").mkdir()
    (root / "d/secret").write_text("of the container")
    (root / "l").symlink_to(host)
    (tmp_path / "secret").write_text("new")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "d", root / "t")
            os.rename(root / "l", root / "d")
            os.rename(root / "t", root / "l")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(15):
            oci("cp", tmp_path / "secret", f"bundle:{tmp_path}/b:/d/secret", check=False)
            oci("cp", f"bundle:{tmp_path}/b:/d/secret", tmp_path / "out", check=False)
            if (tmp_path / "out").exists():
                assert (tmp_path / "out").read_text() != "of the host"
    finally:
        stop.set()
        swapper.join()
    assert describe_host(host) == before


def test_special_files_of_a_container_are_copied_as_what_they_are(oci: Command, tmp_path: Path) -> None:
    """Never opened: a FIFO would block, a device do something."""
    oci("bundle", "base", tmp_path / "b", "--copy")
    os.mkfifo(tmp_path / "b/rootfs/fifo")
    os.mknod(tmp_path / "b/rootfs/zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    for name in ("fifo", "zero"):
        oci("cp", f"bundle:{tmp_path}/b:/{name}", tmp_path / name, timeout=20)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert (tmp_path / "zero").stat().st_rdev == os.makedev(1, 5)
