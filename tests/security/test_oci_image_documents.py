"""Hostile manifests, indexes, configs and archives: refused in one line, in little time, nothing left."""

from __future__ import annotations

import copy
import io
import json
import os
import pty
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_image import descriptor
from oci_image.cli import main
from oci_image.store import Store
from tests.lib.images import digest, make_image, member, tar_of
from tests.system.test_oci_image_cli import PROGRAM

LAYER = tar_of(("f", "x"))
DIFF = digest(LAYER)
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Cmd": ["/f"]},
    "rootfs": {"type": "layers", "diff_ids": [DIFF]},
}
LONE = "\\ud800"  # half of a surrogate pair, as JSON may write it


class Called:
    """The command in this process, on a store of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        status = main(["--root", str(self.root), *map(str, words)])
        out, err = self._capsys.readouterr()
        assert "internal error" not in err
        return status, out, err


@pytest.fixture
def oci(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Called:
    return Called(tmp_path / "root", capsys)


def image_of(layout: Path, config: bytes | dict[str, Any], manifest: dict[str, Any] | None = None) -> None:
    """An image "n" with one layer, whose config (and members of the manifest) are the attacker's."""
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    with Store.create(str(layout)) as store, store.importing() as session:
        document = {
            "schemaVersion": 2,
            "config": session.put_bytes(data, descriptor.OCI_CONFIG),
            "layers": [session.put_bytes(LAYER, descriptor.OCI_LAYER)],
            **(manifest or {}),
        }
        top = session.put_bytes(json.dumps(document).encode(), descriptor.OCI_MANIFEST)
        session.set_name("n", top)


def with_(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(CONFIG)
    *parents, last = path.split("/")
    part = document
    for name in parents:
        part = part[name]
    part[last] = value
    return document


LOOKS: tuple[tuple[str, ...], ...] = (
    ("inspect",),
    ("inspect", "--json"),
    ("inspect", "--format", "{{json .config}} {{.Config.Env}} {{.Created}}"),
    ("history",),
    ("verify",),
)
CONFIGS: dict[str, bytes | dict[str, Any]] = {
    "nested a million times": b'{"config":' * 500_000,
    "a number of many digits": json.dumps(CONFIG).encode()[:-1] + b',"x":' + b"9" * 10_000 + b"}",
    "os.features that are no texts": with_("os.features", [1, {}]),
    "os.version that is no text": with_("os.version", {"a": 1}),
    "a variant of many digits": with_("variant", "v" + "9" * 10_000),
    "half a surrogate in a label": json.dumps(with_("config/Labels", {"a": "LONE"}))
    .replace("LONE", LONE)
    .encode(),
    "half a surrogate in a variable": json.dumps(with_("config/Env", ["A=LONE"]))
    .replace("LONE", LONE)
    .encode(),
    "half a surrogate in created": json.dumps(with_("created", "LONE")).replace("LONE", LONE).encode(),
    "a million labels": with_("config/Labels", {f"l{i}": "" for i in range(300_000)}),
    "a command that is a text": with_("config/Cmd", "sh"),
    "history of numbers": with_("history", [1]),
    "volumes that leave the root": with_("config/Volumes", {"/../../x": {}}),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_hostile_config_is_shown_or_refused_in_one_line(
    oci: Called, tmp_path: Path, config: bytes | dict[str, Any]
) -> None:
    image_of(tmp_path / "l", config)
    for verb, *options in LOOKS:
        status, _, err = oci(verb, f"oci:{tmp_path}/l:n", *options)
        assert status == 0 or len(err.splitlines()) == 1
    oci("copy", f"oci:{tmp_path}/l:n", "n")
    for words in (("images",), ("images", "--json"), ("tree",), ("size",)):
        assert oci(*words)[0] == 0
    status, _, err = oci("bundle", "--copy", f"oci:{tmp_path}/l:n", tmp_path / "b")
    assert status == 0 or not (tmp_path / "b").exists()


def nested_index(layout: Path, depth: int, width: int) -> None:
    """Indexes in indexes, each of which lists the same one width times; at the bottom an image."""
    child = make_image(layout, "n", LAYER)
    with Store.create(str(layout)) as store, store.importing() as session:
        for level in range(depth):
            entries = [
                {**descriptor.plain(child), "platform": {"os": "linux", "architecture": f"a{level}"}}  # type: ignore[arg-type]
            ] * width
            index = {"schemaVersion": 2, "mediaType": descriptor.OCI_INDEX, "manifests": entries}
            child = session.put_bytes(descriptor.encode(index), descriptor.OCI_INDEX)  # type: ignore[assignment]
        session.set_name("n", child)  # type: ignore[arg-type]


EVERY: tuple[tuple[str, ...], ...] = (
    ("images",),
    ("size",),
    ("tree",),
    ("verify", "n"),
    ("fsck",),
    ("gc",),
    ("inspect", "n"),
    ("copy", "--all", "n", "other"),
    ("copy", "--all", "n", "dir:{}/d"),
    ("save", "--all", "--format", "oci", "n", "-o", "{}/a.tar"),
    ("unpack", "n", "{}/out"),
)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_an_index_that_lists_one_index_many_times_takes_no_time(
    oci: Called, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """200 to the 7th images, if each were looked at: it ends before the world does."""
    nested_index(oci.root / "layout", 7, 200)
    assert oci(*(word.format(tmp_path) for word in words))[0] in (0, 1)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_indexes_nested_without_end_are_refused(oci: Called, tmp_path: Path, words: tuple[str, ...]) -> None:
    nested_index(oci.root / "layout", 1500, 1)
    status, _, err = oci(*(word.format(tmp_path) for word in words))
    assert status == 0 or len(err) < 500


def test_an_error_does_not_list_thousands_of_platforms(oci: Called, tmp_path: Path) -> None:
    child = make_image(tmp_path / "l", "n", LAYER)
    entries = [{**child, "platform": {"os": "linux", "architecture": f"none{i}"}} for i in range(10_000)]
    with Store.create(f"{tmp_path}/l") as store, store.importing() as session:
        index = {"schemaVersion": 2, "mediaType": descriptor.OCI_INDEX, "manifests": entries}
        session.set_name("n", session.put_bytes(descriptor.encode(index), descriptor.OCI_INDEX))
    status, _, err = oci("unpack", f"oci:{tmp_path}/l:n", tmp_path / "out")
    assert status == 1
    assert len(err) < 1000


# Archives


def archive_of(path: Path, members: dict[str, bytes]) -> None:
    path.write_bytes(tar_of(*((member(name), data) for name, data in members.items())))


def entry(**fields: Any) -> dict[str, Any]:
    return {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"], **fields}


ARCHIVES: dict[str, str] = {
    "half a surrogate as Config": json.dumps([entry(Config="LONE")]),
    "half a surrogate as a layer": json.dumps([entry(Layers=["LONE"])]),
    "half a surrogate as a tag": json.dumps([entry(RepoTags=["LONE"])]),
    "no list": "{}",
    "a tag of a million characters": json.dumps([entry(RepoTags=["a-" * 500_000 + "!"])]),
    "a tag with dots": json.dumps([entry(RepoTags=["a." * 500_000 + "/b!"])]),
    "a layer outside": json.dumps([entry(Layers=["../../../../etc/passwd"])]),
    "an absolute config": json.dumps([entry(Config="/etc/passwd")]),
}


@pytest.mark.parametrize("manifest", ARCHIVES.values(), ids=ARCHIVES)
def test_a_hostile_docker_archive_is_refused_in_one_line(oci: Called, tmp_path: Path, manifest: str) -> None:
    data = {"c.json": json.dumps(CONFIG).encode(), "l.tar": LAYER}
    archive_of(tmp_path / "a.tar", {**data, "manifest.json": manifest.replace("LONE", LONE).encode()})
    status, _, err = oci("load", "-i", tmp_path / "a.tar")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert len(err) < 2200
    assert "root:" not in err
    assert oci("images", "--json")[1] == "[]\n"


def test_an_archive_that_lists_one_layer_often_reads_it_once(oci: Called, tmp_path: Path) -> None:
    """20,000 images of one compressed layer of 3 MB would be 60 GB to hash."""
    import gzip

    packed = gzip.compress(tar_of(("f", os.urandom(3_000_000))), 1)  # type: ignore[arg-type]
    config = json.dumps({**CONFIG, "x": "y" * 100_000}).encode()
    manifest = json.dumps([entry()] * 20_000).encode()
    archive_of(tmp_path / "a.tar", {"c.json": config, "l.tar": packed, "manifest.json": manifest})
    status, _, err = oci("inspect", f"docker-archive:{tmp_path}/a.tar:a:1", "--json")
    assert (status, err) == (0, "")


# Layers that only some verbs meet


def test_holes_are_never_written_out(oci: Called, tmp_path: Path) -> None:
    """A terabyte of holes unpacks to nothing; written out it would fill the disk."""
    records = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 39)}
    make_image(tmp_path / "l", "n", tar_of((member("f", pax_headers=records), b"x")))  # type: ignore[arg-type]
    assert oci("export", f"oci:{tmp_path}/l:n", "-o", tmp_path / "e.tar")[0] == 0
    assert (tmp_path / "e.tar").stat().st_size < 10_000
    assert oci("squash", f"oci:{tmp_path}/l:n", "other", "--compression", "none")[0] == 0
    assert all(path.stat().st_size < 10_000 for path in (oci.root / "layout/blobs/sha256").iterdir())


EXTENDED: dict[str, list[tarfile.TarInfo]] = {
    "NUL in a sparse file's name": [
        member("f", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": "0", "GNU.sparse.name": "a\0b"})
    ],
    "an ACL of many digits": [member("f", pax_headers={"SCHILY.acl.access": f"user:{'9' * 5000}:rwx"})],
    "a time of many digits": [member("f", pax_headers={"mtime": "1." + "9" * 5000})],
    "a libarchive xattr with NUL": [member("f", pax_headers={"LIBARCHIVE.xattr.user.%00": "eA"})],
}


@pytest.mark.root
@pytest.mark.parametrize("entries", EXTENDED.values(), ids=EXTENDED)
def test_hostile_records_are_applied_or_refused_in_one_line(
    oci: Called, tmp_path: Path, entries: list[tarfile.TarInfo]
) -> None:
    make_image(tmp_path / "l", "n", tar_of(*entries))
    for words in (("unpack", f"oci:{tmp_path}/l:n", tmp_path / "out"), ("verify", f"oci:{tmp_path}/l:n")):
        status, _, err = oci(*words)
        assert status == 0 or len(err.splitlines()) == 1


def extended(kind: bytes, count: int) -> bytes:
    """Extended headers one behind the other, each of nearly 1 MiB, for one file."""
    out = []
    for i in range(count):
        value = "x" * 1_000_000
        record = f" SCHILY.xattr.user.{i}={value}\n"
        data = f"{len(record) + 7}{record}".encode()
        info = member("PaxHeader", kind)
        info.size = len(data)
        out.append(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
    return b"".join(out) + LAYER


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_extended_headers_are_bounded_together(oci: Called, tmp_path: Path, kind: bytes) -> None:
    """Each is small enough; 60 of them for one file were all kept in memory."""
    make_image(tmp_path / "l", "n", extended(kind, 60))
    status, _, err = oci("verify", f"oci:{tmp_path}/l:n")
    assert status == 1
    assert "extended header" in err


# What is written to


@pytest.mark.root
@pytest.mark.parametrize("verb", ["export", "save"])
def test_a_device_that_is_named_as_output_stays_a_device(oci: Called, tmp_path: Path, verb: str) -> None:
    make_image(tmp_path / "l", "n", LAYER)
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert oci(verb, f"oci:{tmp_path}/l:n", "-o", tmp_path / "null")[0] == 0
    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    os.mkfifo(tmp_path / "fifo")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    assert oci(verb, f"oci:{tmp_path}/l:n", "-o", tmp_path / "fifo")[0] == 0
    reader.join()
    assert tarfile.open(fileobj=io.BytesIO(got[0])).getnames()
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    assert oci(verb, f"oci:{tmp_path}/l:n", "-o", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert tarfile.is_tarfile(tmp_path / "real")


@pytest.mark.parametrize("verb", ["export", "save", "dir"])
def test_what_a_killed_process_left_is_in_nobody_s_way(
    oci: Called, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the next one has the same process id."""
    make_image(tmp_path / "l", "n", LAYER)
    words = {
        "export": ("export", f"oci:{tmp_path}/l:n", "-o", tmp_path / "out"),
        "save": ("save", f"oci:{tmp_path}/l:n", "-o", tmp_path / "out"),
        "dir": ("copy", f"oci:{tmp_path}/l:n", f"dir:{tmp_path}/out"),
    }[verb]
    made: list[str] = []
    for name in ("rename", "mkdir", "open"):
        original = getattr(os, name)

        def record(path: Any, *rest: Any, original: Callable[..., Any] = original, **more: Any) -> Any:
            made.append(os.path.basename(os.fsdecode(path)) if isinstance(path, str | bytes) else "")
            return original(path, *rest, **more)

        monkeypatch.setattr(os, name, record)
    assert oci(*words)[0] == 0
    first = {name for name in made if name.endswith(".tmp")}
    subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
    made.clear()
    assert oci(*words)[0] == 0
    assert first
    assert not first & set(made)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("verb", ["import - n", "verify", "images", "inspect --json", "nosuch"])
def test_closed_standard_files_do_no_harm(tmp_path: Path, closed: str, verb: str) -> None:
    """What is opened must not get their numbers: an error message would go into a blob."""
    make_image(tmp_path / "l", "n", LAYER)
    where = "" if verb in ("import - n", "images", "nosuch") else f"oci:{tmp_path}/l:n"
    words = f"'{PROGRAM}' --root {tmp_path}/r {verb} {where} {closed}"
    done = subprocess.run(["sh", "-c", words], input=LAYER, capture_output=True)
    assert b"internal error" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if verb == "nosuch" else 0)  # stdin is empty then, which tar may be
    blobs = [path for path in tmp_path.rglob("blobs/sha256/*") if path.name != digest(path.read_bytes())[7:]]
    assert blobs == []


@pytest.mark.root
def test_a_store_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    """By another user, and where its file system is read-only."""
    make_image(tmp_path / "r/layout", "docker.io/library/n:latest", LAYER, config={"Cmd": ["/f"]})
    verbs = [
        "images --json",
        "inspect n --json",
        "verify n",
        "history n",
        "size",
        "tree",
        f"export n -o {tmp_path}/e",
    ]
    script = f"mount --bind {tmp_path}/r {tmp_path}/r && mount -o remount,bind,ro {tmp_path}/r && set -e\n"
    script += "\n".join(f"'{PROGRAM}' --root {tmp_path}/r {verb}" for verb in verbs)
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "r/layout/blobs/sha256" / ("0" * 64)).write_text("for gc")
    words = f"mount --bind {tmp_path}/r {tmp_path}/r && mount -o remount,bind,ro {tmp_path}/r && "
    for verb in ("tag n m", "rm n", "gc", f"import {tmp_path}/e x"):
        script = f"{words} '{PROGRAM}' --root {tmp_path}/r {verb}"
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "Read-only file system" in done.stderr


def test_a_latin_1_locale_changes_no_names(tmp_path: Path) -> None:
    layer = tar_of(("\u00e9/\u0142", "x"))
    make_image(
        tmp_path / "r/layout", "docker.io/library/n:latest", layer, config={"Labels": {"\u0142": "\u0142"}}
    )
    for locale in ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        env = {"PATH": os.environ["PATH"], **locale, "PYTHONIOENCODING": "ascii"}
        for i, verb in enumerate(
            (f"unpack --rootless n {tmp_path}/out{len(locale)}", "inspect n", "tree", "images")
        ):
            words = [PROGRAM, "--root", str(tmp_path / "r"), *verb.split()]
            done = subprocess.run(words, env=env, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), i
        assert (tmp_path / f"out{len(locale)}/\u00e9/\u0142").read_text() == "x"


@pytest.mark.parametrize(
    "words", ["inspect --format {{.Config.Labels}}", "images --format {{.CreatedAt}}", "inspect"]
)
def test_an_image_s_words_do_not_control_a_terminal(tmp_path: Path, words: str) -> None:
    config = {**with_("config/Labels", {"a": "\x1b]0;owned\x07"}), "created": "\x1b[2J"}
    image_of(tmp_path / "l", config)
    root = tmp_path / "r"
    subprocess.run(
        [PROGRAM, "--root", root, "copy", f"oci:{tmp_path}/l:n", "n"], check=True, capture_output=True
    )
    verb, *options = words.split()
    command = [PROGRAM, "--root", root, verb, *options, *(["n"] if verb == "inspect" else [])]
    master, slave = pty.openpty()
    subprocess.run(command, stdout=slave, check=True)
    os.close(slave)
    told = os.read(master, 65536)
    os.close(master)
    assert b"x1b" in told
    assert b"\x1b" not in told
    if "--format" in words:  # for programs, as it is
        assert b"\x1b" in subprocess.run(command, capture_output=True, check=True).stdout
