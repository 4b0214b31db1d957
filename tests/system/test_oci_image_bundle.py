"""Images become bundles, bundles run: overlay, vfs and copies, beside each other."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_image import bundle, overlay
from oci_image.conversion import Overrides
from oci_image.copytree import copy_tree
from oci_image.errors import ImageError
from oci_image.snapshots import Snapshots, chain_ids
from oci_image.transports import Location, open_source
from tests.lib.images import digest, make_image, member, tar_of, unpack
from tests.lib.runtime import Runtime
from tests.lib.trees import describe, differences
from tests.security.conftest import describe as describe_host
from tests.security.conftest import way_out
from tests.system.test_oci_image_cli import PROGRAM, Command

pytestmark = pytest.mark.root
DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
APPLETS = "sh id cat ls touch env"
BASE = tar_of(
    member("./", DIR, mode=0o751, mtime=1_600_000_000),
    member("bin", DIR),
    (member("bin/busybox", mode=0o755), Path("/bin/busybox").read_bytes()),
    *[member(f"bin/{name}", LINK, linkname="busybox") for name in APPLETS.split()],
    ("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nwww:x:33:\n"),
    (member("data/seed", uid=33), b"seeded"),
)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory in which bundles are made; what is left of them is unmounted."""
    yield tmp_path
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(tmp_path) in (point := line.split()[4]):
            subprocess.run(["umount", point], check=True)


@pytest.fixture
def oci(work: Path) -> Command:
    return Command(work / "root")


class Maker:
    """Bundles of images in a layout, made in-process."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def __call__(self, name: str, target: str, driver: str = "overlay", **overrides: Any) -> Path:
        source = open_source(Location("oci", f"{self.work}/l"))
        snapshots = None if driver == "copy" else Snapshots(f"{self.work}/s", driver)
        try:
            options = Overrides(**{"args": ["/bin/sh"], **overrides})
            bundle.make(source, source.find(name), f"{self.work}/{target}", options, snapshots=snapshots)
        finally:
            if snapshots:
                snapshots.close()
            source.close()
        return self.work / target

    def snapshots(self, driver: str = "overlay") -> list[str]:
        return sorted(os.listdir(self.work / "s" / driver))


@pytest.fixture
def make(work: Path) -> Maker:
    return Maker(work)


LAYERS = [
    BASE,
    tar_of(
        member("usr/bin", DIR),
        member("lib", LINK, linkname="usr/lib"),
        member("usr/lib", DIR, mode=0o700, mtime=5),
        ("usr/lib/a", "a"),
        ("usr/lib/b", "b"),
        member("gone", DIR),
        ("gone/x", ""),
        member("full", DIR, mtime=7),
        ("full/one", "1"),
        ("full/two", "2"),
    ),
    tar_of(
        ("lib/c", "through the link"),
        member("hard", HARD, linkname="usr/lib/a"),
        (".wh.gone", ""),
        ("full/.wh..wh..opq", ""),
        ("full/three", "3"),
        ("usr/lib/.wh.b", ""),
        member("bin/busybox2", HARD, linkname="bin/busybox"),
    ),
    tar_of(
        ("full", "a file now"),
        member("usr/bin", LINK, linkname="../bin"),
        member("hard2", HARD, linkname="hard"),
    ),
]


@pytest.mark.parametrize("driver", ["overlay", "vfs", "copy"])
def test_all_drivers_show_the_same_tree(work: Path, make: Maker, driver: str) -> None:
    """Parents that are links in lower layers, hardlinks to lower files, whiteouts, replacements."""
    make_image(work / "l", "n", *LAYERS)
    unpack(work / "l", "n", work / "plain")
    made = make("n", "b", driver)
    implicit = {"etc", "data", "usr"}  # no layer has an entry: their time is that of unpacking
    plain, seen = (
        {path: entry for path, entry in describe(root).items() if path not in implicit}
        for root in (work / "plain", made / "rootfs")
    )
    if driver == "overlay":  # a file of a lower layer and its new name in an upper one
        for tree in (plain, seen):
            for path in ("hard", "hard2", "usr/lib/a", "bin/busybox", "bin/busybox2"):
                del tree[path]["same as"]
    assert differences(plain, seen) == []
    bundle.remove(str(made))
    assert not made.exists()


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


@pytest.mark.parametrize("way", ["fsopen", "mount"])
def test_many_layers_make_one_root(
    work: Path, make: Maker, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ways before and since Linux 6.5 alike; more layers than 255 bytes of options would name."""
    if way == "mount":

        def fails(*_: object) -> int:
            raise OSError(22, "as before Linux 6.5")

        monkeypatch.setattr(overlay, "_by_fsopen", fails)
    make_image(work / "l", "n", *(tar_of((f"f{i}", str(i)), ("same", str(i))) for i in range(40)))
    made = make("n", "b")
    assert (made / "rootfs/same").read_text() == "39"
    assert (made / "rootfs/f0").read_text() == "0"
    assert len(make.snapshots()) == 40
    bundle.remove(str(made))


def test_bundles_share_layers_and_keep_their_changes_apart(work: Path, make: Maker) -> None:
    make_image(work / "l", "one", BASE, tar_of(("x", "1")))
    make_image(work / "l", "two", BASE, tar_of(("x", "2")))
    first, second, third = make("one", "1"), make("one", "2"), make("two", "3")
    assert len(make.snapshots()) == 3
    (first / "rootfs/new").write_text("of the first")
    (first / "rootfs/etc/passwd").write_text("changed")
    assert not (second / "rootfs/new").exists()
    assert "web" in (second / "rootfs/etc/passwd").read_text()
    assert sorted(os.listdir(first / "upper")) == ["etc", "new"]
    assert (third / "rootfs/x").read_text() == "2"
    assert stat.S_IMODE((first / "rootfs").stat().st_mode) == 0o751
    for made in (first, second, third):
        bundle.remove(str(made))
    assert mounts_below(work) == []


def test_gc_keeps_layers_that_images_or_bundles_need(work: Path, oci: Command) -> None:
    (work / "base.tar").write_bytes(BASE)
    oci("import", work / "base.tar", "app", "--cmd", '["/bin/id"]')
    oci("bundle", "app", work / "b")
    oci("bundle", "app", work / "gone")
    oci("rm", "app")
    assert oci.json("gc")["snapshots"] == 0
    subprocess.run(["umount", work / "gone/rootfs"], check=True)
    subprocess.run(["rm", "-r", work / "gone"], check=True)
    assert (work / "b/rootfs/bin/busybox").exists()
    (work / "root/snapshots/overlay/.left-by-the-dead").mkdir()
    oci("unbundle", work / "b")
    assert oci.json("gc")["snapshots"] == 1
    assert os.listdir(work / "root/snapshots/overlay") == []
    assert os.listdir(work / "root/snapshots/bundles") == []


@pytest.mark.parametrize("how", [[], ["--driver", "vfs"], ["--copy"]], ids=["overlay", "vfs", "copy"])
def test_ocirt_runs_a_bundle(work: Path, oci: Command, runtime: Runtime, how: list[str]) -> None:
    (work / "base.tar").write_bytes(BASE)
    script = "id; cat /data/seed; touch /data/new; env; touch /root-is-writable && echo yes"
    words = ["--user", "web", "--env", "A=b", "--workdir", "/data", "--entrypoint", '["/bin/sh", "-c"]']
    oci("import", work / "base.tar", "app", *words, "--cmd", json.dumps([script]))
    oci("bundle", "app", work / "b", *how)
    done = runtime("run", "--bundle", work / "b", runtime.new_id())
    assert done.returncode == 1  # web may write neither
    assert "uid=33(web) gid=33(www)" in done.stdout
    assert "A=b\n" in done.stdout
    oci("unbundle", work / "b")
    oci("bundle", "app", work / "b", *how, "--user", "0", "--", script)
    done = runtime("run", "--bundle", work / "b", runtime.new_id())
    assert done.stdout.splitlines()[:1] == ["uid=0(root) gid=0(root)"]
    assert done.stdout.endswith("yes\n")
    oci("unbundle", work / "b")


def test_volumes_are_directories_of_the_bundle_with_what_the_image_has(
    work: Path, make: Maker, runtime: Runtime
) -> None:
    make_image(work / "l", "n", BASE, config={"Volumes": {"/data": {}, "empty/one": {}}})
    made = make("n", "b", args=["/bin/sh", "-c", "cat /data/seed; touch /data/new /empty/one/file"])
    done = runtime("run", "--bundle", made, runtime.new_id())
    assert (done.returncode, done.stdout) == (0, "seeded")
    assert sorted(os.listdir(made / "volumes/0")) == ["new", "seed"]
    assert os.listdir(made / "volumes/1") == ["file"]
    assert (made / "volumes/0/seed").stat().st_uid == 33
    assert os.listdir(made / "rootfs/data") == ["seed"]
    bundle.remove(str(made))


def test_a_second_bundle_of_an_unpacked_image_is_fast(work: Path, make: Maker) -> None:
    make_image(work / "l", "n", *LAYERS)
    bundle.remove(str(make("n", "b")))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        made = make("n", "b")
        times.append(time.perf_counter() - begin)
        bundle.remove(str(made))
    assert min(times) < 0.03


@pytest.mark.parametrize("driver", ["overlay", "vfs", "copy"])
def test_a_bundle_that_fails_leaves_nothing(work: Path, make: Maker, driver: str) -> None:
    make_image(work / "l", "n", BASE, config={"User": "nobody"})
    with pytest.raises(ImageError, match="has no user 'nobody'"):
        make("n", "b", driver)
    assert sorted(set(os.listdir(work)) - {"s"}) == ["l"]
    if driver != "copy":
        assert os.listdir(work / "s/bundles") == []
        assert make.snapshots(driver) == [chain_ids([digest(BASE)])[0]]
    assert mounts_below(work) == []


def test_a_layer_that_fails_leaves_no_snapshot(work: Path, make: Maker) -> None:
    make_image(work / "l", "n", BASE, tar_of(("a", ""), ("a/b", "")))
    with pytest.raises(ImageError, match="is not a directory"):
        make("n", "b")
    assert make.snapshots() == [chain_ids([digest(BASE)])[0]]
    assert os.listdir(work / "s/overlay" / make.snapshots()[0]) == ["fs"]


def test_kill_9_while_a_bundle_is_made_leaves_no_mount(work: Path, oci: Command) -> None:
    make_image(work / "l", "n", *LAYERS)
    for call in ("symlinkat", "mkdirat", "linkat", "renameat", "move_mount"):
        for count in (1, 3):
            inject = f"inject={call}:signal=SIGKILL:when={count}"
            trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
            words = [*trace, *oci.words, "bundle", f"oci:{work}/l:n", work / "b", "--", "/bin/sh"]
            done = subprocess.run([str(word) for word in words], capture_output=True, timeout=60)
            mounted = [
                line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(work) in line
            ]
            if done.returncode == 0 or call == "move_mount":
                if (work / "b").exists():
                    oci("unbundle", work / "b")
            else:
                assert mounted == []
                assert not (work / "b").exists()
    oci("bundle", f"oci:{work}/l:n", work / "b", "--", "/bin/sh")
    oci("unbundle", work / "b")
    oci("gc")
    assert os.listdir(work / "root/snapshots/overlay") == []


def test_only_bundles_of_ours_are_removed(work: Path, oci: Command) -> None:
    (work / "mine").mkdir()
    (work / "mine/file").touch()
    assert "is not a bundle that oci-image made" in oci.fails("unbundle", work / "mine")
    assert (work / "mine/file").exists()


@pytest.mark.parametrize("where", ["rootfs", "rootfs/data", "volumes"])
@pytest.mark.parametrize("how", [["--driver", "overlay"], ["--driver", "vfs"], ["--copy"]], ids="-".join)
def test_what_is_mounted_in_a_bundle_is_not_removed_with_it(
    work: Path, oci: Command, how: list[str], where: str
) -> None:
    make_image(work / "l", "app", BASE, config={"Cmd": ["/bin/sh"], "Volumes": {"/v": {}}})
    oci("bundle", f"oci:{work}/l:app", work / "b", *how)
    (work / "mine").mkdir()
    (work / "mine/file").write_text("precious")
    subprocess.run(["mount", "--bind", work / "mine", work / "b" / where], check=True)
    try:
        told = oci.fails("unbundle", work / "b")
        assert f"{work}/b: something is mounted in it, on {work}/b/{where}" in told
        assert (work / "mine/file").exists()
    finally:
        subprocess.run(["umount", work / "b" / where])
    oci("unbundle", work / "b")
    assert (work / "mine/file").read_text() == "precious"
    assert not (work / "b").exists()


def test_a_copied_tree_is_the_same(work: Path) -> None:
    (work / "one").mkdir()
    (work / "two").mkdir()
    make_image(
        work / "l",
        "n",
        *LAYERS,
        tar_of(member("p", tarfile.FIFOTYPE, mode=0o611), member("s", LINK, linkname="x", uid=4)),
    )
    unpack(work / "l", "n", work / "one")
    os.setxattr(work / "one/usr/lib/a", "user.note", b"x")
    with (work / "one/sparse").open("wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(b"x")
    fds = [os.open(work / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("one", "two")]
    copy_tree(*fds)
    for fd in fds:
        os.close(fd)
    assert differences(describe(work / "one"), describe(work / "two")) == []
    assert (work / "two/sparse").stat().st_blocks < 1000


# Security rows that concern bundles


@pytest.mark.parametrize(
    "user", ["2147483648", "4294967296", "4294967295", "18446744073709551616", "-1", "1:", ":1"]
)
def test_a_large_uid_becomes_no_other_user(work: Path, make: Maker, user: str) -> None:
    """CVE-2024-40635, CVE-2026-46680: with such names in passwd, which stand for root."""
    passwd = "".join(
        f"{name}:x:0:0::/:/bin/sh\n" for name in ("2147483648", "4294967296", "4294967295", "-1")
    )
    make_image(work / "l", "n", BASE, tar_of(("etc/passwd", passwd)), config={"User": user})
    if user in ("2147483648", "-1"):  # exact: an id that Linux has; a name that the image has
        made = make("n", "b", "copy")
        uid = json.loads((made / "config.json").read_text())["process"]["user"]["uid"]
        assert uid == (0 if user == "-1" else 2147483648)
    else:
        with pytest.raises(ImageError, match=r"config\.User"):
            make("n", "b", "copy")


@pytest.mark.parametrize("kind", ["huge", "fifo", "device", "directory", "link out", "loop"])
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_passwd_and_group_of_an_image_are_read_with_care(
    work: Path, make: Maker, kind: str, name: str
) -> None:
    """CVE-2026-47262, CVE-2024-9676: neither endless nor blocking nor the host's."""
    path = f"etc/{name}"
    made: dict[str, Any] = {
        "huge": (member(path, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 30)}), b"x"),
        "fifo": member(path, tarfile.FIFOTYPE),
        "device": member(path, tarfile.CHRTYPE, devmajor=1, devminor=5),  # /dev/zero
        "directory": member(path, DIR),
        "link out": member(path, LINK, linkname=f"/../../../etc/{name}"),
        "loop": member(path, LINK, linkname=name),
    }
    make_image(work / "l", "n", BASE, tar_of(made[kind]), config={"User": "web:www"})
    begin = time.monotonic()
    with pytest.raises(ImageError, match=r"config\.User"):
        make("n", "b", "copy")
    assert time.monotonic() - begin < 10


def test_a_volume_over_a_symlink_does_not_read_the_host(work: Path, make: Maker) -> None:
    """CVE-2022-23648"""
    host = work / "host"
    host.mkdir()
    (host / "secret").write_text("of the host")
    before = describe_host(host)
    links = [member("v", LINK, linkname=str(host)), member("w", LINK, linkname=way_out(host))]
    paths = ("/v", "/w", f"/../../../..{host}", f"/proc/self/root{host}")
    volumes: dict[str, Any] = {path: {} for path in paths}
    make_image(work / "l", "n", BASE, tar_of(*links), config={"Volumes": volumes})
    for driver in ("overlay", "copy"):
        made = make("n", f"b-{driver}", driver)
        assert [os.listdir(made / f"volumes/{i}") for i in range(4)] == [[]] * 4
        bundle.remove(str(made))
    assert describe_host(host) == before


def test_reserved_labels_do_nothing(work: Path, oci: Command) -> None:
    """CVE-2026-53488"""
    reserved = ("org.systemd.property.ExecStart", "run.oci.keep_original_groups", "io.podman.annotations.x")
    labels = {**dict.fromkeys(reserved, "1"), "mine": "kept"}
    make_image(work / "l", "n", BASE, config={"Cmd": ["/bin/sh"], "Labels": labels})
    done = oci("bundle", f"oci:{work}/l:n", work / "b", "--copy")
    annotations = json.loads((work / "b/config.json").read_text())["annotations"]
    assert annotations["mine"] == "kept"
    assert not set(reserved) & set(annotations)
    assert done.stderr.count("is reserved") == 3


def test_a_user_without_root_bundles_and_runs(work: Path, ocirt: Path) -> None:
    """Everything belongs to the one user, who is root in the container."""
    home = work / "home"
    home.mkdir()
    (home / "base.tar").write_bytes(BASE)
    os.chown(home, 54321, 54321)
    for parent in (work, *work.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    script = f"""
        set -e
        cd {home}
        export HOME={home} XDG_RUNTIME_DIR={home}
        oci() {{ {PROGRAM} --root {home}/images "$@"; }}
        oci import base.tar app --cmd '["/bin/sh", "-c", "id; cat /data/seed"]'
        oci bundle app b 2>told
        {ocirt} --root {home}/state run --bundle b c
        oci bundle app other --user web 2>&1 || true
        oci unbundle b
    """
    words = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "uid=0(root) gid=0(root)" in done.stdout
    assert "seeded" in done.stdout
    assert "user 33 is not mapped in the user namespace: 0" in done.stdout
    assert (home / "told").read_text() == ""
    assert not (home / "b").exists()
    assert not (home / "other").exists()


def test_subordinate_ids_own_what_the_image_says(work: Path, ocirt: Path) -> None:
    """As a user with ranges in subuid and subgid: web's files are web's in the container."""
    home = work / "home"
    home.mkdir()
    (home / "base.tar").write_bytes(BASE)
    (work / "subids").write_text("daemon:200000:65536\n")
    os.chown(home, 1, 1)
    for parent in (work, *work.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    script = f"""
        set -e
        cd {home}
        export HOME={home} XDG_RUNTIME_DIR={home}
        oci() {{ {PROGRAM} --root {home}/images "$@"; }}
        oci import base.tar app --user web --cmd '["/bin/sh", "-c", "id; cat /data/seed; touch /data/seed"]'
        oci bundle --subordinate app b
        stat -c %u b/rootfs/data/seed b/rootfs/bin/busybox
        {ocirt} --root {home}/state run --bundle b c
        oci unbundle b
        oci unpack --subordinate app tree
        stat -c %u tree/data/seed
        oci bundle --subordinate app other --user 70000 2>&1 || true
    """
    words = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups", "sh", "-c", script]
    around = f'mount --bind {work}/subids /etc/subuid; mount --bind {work}/subids /etc/subgid; exec "$@"'
    outer = ["unshare", "--mount", "sh", "-ec", around, "sh", *words]
    done = subprocess.run(outer, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = done.stdout.splitlines()
    assert lines[1:3] == ["200032", "1"]  # web is 33: the 33rd of the range, after root; root is daemon
    assert "uid=33(web) gid=33(www)" in done.stdout
    assert "seeded200032" in done.stdout
    assert "user 70000 is not mapped in the user namespace: 0, 1 to 65536" in done.stdout
    assert not (home / "b").exists()
    assert not (home / "other").exists()


@pytest.mark.parametrize("words", [["bundle"], ["unpack"]])
def test_root_needs_no_subordinate_ids(oci: Command, work: Path, words: list[str]) -> None:
    make_image(work / "l", "n", BASE)
    told = oci.fails(*words, "--subordinate", f"oci:{work}/l:n", work / "b")
    assert told.endswith("is for users without root, who cannot set owners otherwise")


def test_owners_are_shifted_to_a_user_namespace(work: Path, oci: Command, runtime: Runtime) -> None:
    make_image(work / "l", "n", BASE, config={"User": "web"})
    for parent in (work, *work.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    words = ["--uid-map", "0:300000:1000", "--gid-map", "0:400000:1000"]
    oci("bundle", *words, f"oci:{work}/l:n", work / "b", "--", "/bin/sh", "-c", "id; ls -ln /data")
    tree = describe(work / "b/rootfs", ["mtime"])
    assert tree["data/seed"]["owner"] == (300033, 400000)
    assert tree["."]["owner"] == tree["etc"]["owner"] == (300000, 400000)
    done = runtime("run", "--bundle", work / "b", runtime.new_id())
    assert (done.returncode, done.stderr) == (0, "")
    assert "uid=33(web) gid=33(www)" in done.stdout
    assert " 33 " in done.stdout.splitlines()[-1]
    oci("unbundle", work / "b")
    oci("unpack", *words, f"oci:{work}/l:n", work / "out")
    assert differences(tree, describe(work / "out", ["mtime"])) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--uid-map", "0:1"], "0:1: is not CONTAINER:HOST:SIZE, three numbers"),
        (["--uid-map", "0:4294967290:10"], "maps no id or one beyond 4294967294"),
        (["--uid-map", "0:1:0"], "maps no id or one beyond 4294967294"),
        (["--gid-map", "0:1:1"], "--gid-map: means nothing without --uid-map"),
        (["--uid-map", "0:100000:10"], "data/seed: its owner 33:0 is not mapped"),
    ],
)
def test_id_maps_that_do_not_fit_are_refused(oci: Command, work: Path, words: list[str], told: str) -> None:
    make_image(work / "l", "n", BASE)
    assert oci.fails("unpack", *words, f"oci:{work}/l:n", work / "out").endswith(told)
    assert not (work / "out").exists()


def test_the_record_of_another_user_is_not_believed(work: Path, oci: Command) -> None:
    (work / "b").mkdir()
    (work / "b/oci-image.json").write_text('{"driver": "overlay", "id": "a", "snapshots": "/"}')
    os.chown(work / "b/oci-image.json", 54321, 54321)
    assert oci.fails("unbundle", work / "b").endswith("oci-image.json: belongs to the user 54321")
    assert (work / "b").exists()


def test_bundles_made_at_once_share_layers_made_once(work: Path, make: Maker) -> None:
    make_image(work / "l", "n", *LAYERS)

    def work_at(number: int) -> None:
        for i in range(3):
            make("n", f"b{number}-{i}")

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work_at, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(make.snapshots()) == len(LAYERS)
    assert not any(name.startswith(".") for name in make.snapshots())
    for number in range(3):
        for i in range(3):
            assert (work / f"b{number}-{i}/rootfs/full").read_text() == "a file now"
            bundle.remove(f"{work}/b{number}-{i}")
