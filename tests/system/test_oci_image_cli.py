"""The command oci-image as users call it, beside skopeo, podman and tar."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from oci_image.cli import VERBS
from tests.lib.images import digest, make_image, make_index, member, tar_of

PROGRAM = os.environ.get("OCI_IMAGE") or str(Path(sys.executable).parent / "oci-image")
LAYER = tar_of(member("bin", tarfile.DIRTYPE), ("bin/tool", "#!/bin/sh\n"), ("etc/motd", "hello\n"))


class Command:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.words = (PROGRAM, "--root", root)

    def __call__(
        self, *words: object, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        arguments = {"capture_output": True, "text": True, "timeout": 120, **options}
        done = subprocess.run([*map(str, (*self.words, *words))], **arguments)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def json(self, *words: object) -> Any:
        return json.loads(self(*words, "--json").stdout)

    def fails(self, *words: object, **options: Any) -> str:
        """stderr of a call that fails: one line, without a traceback."""
        done = self(*words, check=False, **options)
        assert done.returncode == 1, done.stdout
        (line,) = done.stderr.splitlines()
        return str(line)


@pytest.fixture
def oci(tmp_path: Path) -> Command:
    return Command(tmp_path / "root")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "rootfs.tar").write_bytes(LAYER)
    return tmp_path / "rootfs.tar"


def succeed(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def podman_of(tmp_path: Path) -> Iterator[list[object]]:
    """podman with a storage of its own, which is empty again afterwards."""
    runroot = tempfile.mkdtemp(prefix="ocirt-test-")  # at most 50 characters
    words = ["podman", "--root", tmp_path / "p", "--runroot", runroot, "--storage-driver", "vfs"]
    try:
        yield words
    finally:
        succeed(*words, "rmi", "--all", "--force")
        shutil.rmtree(runroot)


def test_a_store_is_used_from_import_to_gc(oci: Command, archive: Path, tmp_path: Path) -> None:
    top = oci("import", archive, "app:1", "--cmd", '["/bin/tool"]', "--env", "A=b").stdout.strip()
    oci("tag", "app:1", "app:2", "registry.example/app")
    rows = oci.json("images")
    assert [row["name"] for row in rows] == [
        "docker.io/library/app:1",
        "docker.io/library/app:2",
        "registry.example/app:latest",
    ]
    assert {row["digest"] for row in rows} == {top}
    table = oci("images").stdout.splitlines()
    assert table[0].split() == ["NAME", "DIGEST", "PLATFORM", "CREATED", "SIZE"]
    assert [line.split()[0] for line in table[1:]] == ["app:1", "app:2", "registry.example/app:latest"]
    seen = oci.json("inspect", "app:2")
    assert seen["config"]["config"] == {"Cmd": ["/bin/tool"], "Env": ["A=b"]}
    assert "/bin/tool" in oci("inspect", top[7:19]).stdout
    oci("rm", "app:1", "app:2")
    assert oci.json("gc")["blobs"] == 0
    oci("rm", top)
    assert oci.json("images") == []
    assert oci.json("gc")["blobs"] == 3
    assert oci("fsck").stdout == "nothing is wrong\n"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_import_and_export_are_inverse(oci: Command, archive: Path, compression: str) -> None:
    oci("import", archive, "app", "--compression", compression)
    out = oci("export", "app", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as new, tarfile.open(archive) as old:
        kept = {
            info.name: (info.mode, info.mtime, info.size) for info in new if info.name not in (".", "etc")
        }
        assert kept == {info.name: (info.mode, info.mtime, info.size) for info in old}


def test_a_compressed_tar_file_stays_the_layer_as_it_is(oci: Command, archive: Path) -> None:
    subprocess.run(["zstd", "-q", archive], check=True)
    oci("import", f"{archive}.zst", "app")
    layer = oci.json("inspect", "app")["manifest"]["layers"][0]
    assert layer["mediaType"].endswith("+zstd")
    assert layer["size"] == Path(f"{archive}.zst").stat().st_size


@pytest.mark.parametrize(("given", "wanted"), [("zstd", "gzip"), ("gzip", "none"), ("gzip", "zstd")])
def test_a_layer_is_compressed_anew_when_asked(oci: Command, archive: Path, given: str, wanted: str) -> None:
    subprocess.run([given, "-q", archive], check=True)
    file = f"{archive}.{'zst' if given == 'zstd' else 'gz'}"
    oci("import", file, "app", "--compression", wanted)
    found = oci.json("inspect", "app")
    assert found["manifest"]["layers"][0]["mediaType"].endswith({"none": ".tar"}.get(wanted, f"+{wanted}"))
    assert found["config"]["rootfs"]["diff_ids"] == [digest(LAYER)]
    assert "tool" in str(oci("export", "app", text=False).stdout)


def test_the_store_is_its_owner_s_alone(oci: Command) -> None:
    oci("images")
    assert stat.S_IMODE(oci.root.stat().st_mode) == 0o700


def test_import_is_reproducible(oci: Command, archive: Path) -> None:
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1000000000"}
    first = oci("import", archive, "a", env=env).stdout
    assert oci("import", "-", "b", env=env, stdin=archive.open("rb")).stdout == first
    assert oci.json("inspect", "a")["config"]["created"] == "2001-09-09T01:46:40Z"


def test_import_refuses_what_is_no_tar_file_and_leaves_nothing(oci: Command, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 10000)
    assert "this is not a tar stream" in oci.fails("import", tmp_path / "x", "app")
    assert oci.json("images") == []
    assert oci.json("gc") == {"blobs": 0, "bytes": 0, "temporary": 0, "snapshots": 0}


def test_podman_and_skopeo_read_what_save_writes(oci: Command, archive: Path, tmp_path: Path) -> None:
    top = oci("import", archive, "app:1", "--label", "a=b").stdout.strip()
    oci("save", "app:1", "--output", tmp_path / "docker.tar")
    oci("save", "app:1", "--format", "oci", "--output", tmp_path / "oci.tar")
    seen = json.loads(succeed("skopeo", "inspect", f"oci-archive:{tmp_path}/oci.tar"))
    assert (seen["Digest"], seen["Labels"]) == (top, {"a": "b"})
    with podman_of(tmp_path) as podman:
        assert "docker.io/library/app:1" in succeed(
            *podman, "load", "--quiet", "--input", tmp_path / "docker.tar"
        )
        config = oci.json("inspect", "app:1")["manifest"]["config"]["digest"]
        assert succeed(*podman, "images", "--no-trunc", "--quiet").strip() == config


def test_load_reads_what_podman_and_skopeo_save(oci: Command, tmp_path: Path) -> None:
    make_image(tmp_path / "l", "app", LAYER, config={"Cmd": ["/bin/tool"]})
    old = f"docker-archive:{tmp_path}/old.tar:registry.example/a:1"
    succeed("skopeo", "copy", f"oci:{tmp_path}/l:app", old)
    assert oci("load", "--input", tmp_path / "old.tar").stdout == "loaded: registry.example/a:1\n"
    with podman_of(tmp_path) as podman:
        succeed(*podman, "pull", "--quiet", f"oci:{tmp_path}/l:app")
        name = succeed(*podman, "images", "--quiet").split()[0]
        succeed(*podman, "tag", name, "registry.example/b:2")
        for form in ("docker-archive", "oci-archive"):
            saved = tmp_path / f"{form}.tar"
            succeed(*podman, "save", "--quiet", "--format", form, "--output", saved, "registry.example/b:2")
            oci("rm", "registry.example/b:2", check=form == "oci-archive")
            with saved.open("rb") as file:
                assert oci("load", stdin=file).stdout == "loaded: registry.example/b:2\n"
            assert oci.json("inspect", "registry.example/b:2")["config"]["config"]["Cmd"] == ["/bin/tool"]
    assert oci("fsck").stdout == "nothing is wrong\n"


def test_dir_is_skopeo_s(oci: Command, tmp_path: Path) -> None:
    images = {arch: make_image(tmp_path / "l", arch, LAYER, architecture=arch) for arch in ("amd64", "arm64")}
    make_index(tmp_path / "l", "all", **images)
    oci("copy", "--all", f"oci:{tmp_path}/l:all", f"dir:{tmp_path}/ours")
    succeed("skopeo", "copy", "--all", f"oci:{tmp_path}/l:all", f"dir:{tmp_path}/theirs")
    ours, theirs = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("ours", "theirs")
    )
    assert ours == theirs
    oci("copy", "--all", f"dir:{tmp_path}/theirs", "all")
    assert [row["platforms"] for row in oci.json("images")] == [["linux/amd64", "linux/arm64"]]


def test_the_platform_is_chosen_by_name(oci: Command, tmp_path: Path) -> None:
    images = {arch: make_image(tmp_path / "l", arch, LAYER, architecture=arch) for arch in ("amd64", "arm64")}
    make_index(tmp_path / "l", "all", **images)
    oci("copy", "--platform", "linux/aarch64", f"oci:{tmp_path}/l:all", "app")
    assert oci.json("images")[0]["platforms"] == ["linux/arm64"]
    assert "no image for linux/amd64" in oci.fails("export", "app", "--platform", "linux/amd64")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("inspect", "nosuch"), "nosuch: there is no such image"),
        (("rm", "nosuch"), "nosuch: there is no such image"),
        (("inspect", "UPPER"), "repository name 'library/UPPER' must be lower case"),
        (("copy", "oci:/nosuch:a", "b"), "/nosuch: is not a directory with an image layout"),
        (("copy", "docker-archive:/nosuch", "b"), "/nosuch: does not exist"),
        (("import", "/nosuch", "a"), "/nosuch: No such file or directory"),
        (("inspect", "--platform", "a/b/c/d", "x"), "x: there is no such image"),
        (("import", "/dev/null", "a", "--env", "x"), "--env: 'x' is not NAME=VALUE"),
        (("import", "/dev/null", "dir:/x"), "dir:/x: an image is imported into the store or into oci:DIR"),
    ],
)
def test_an_error_is_one_line_that_names_the_place(oci: Command, words: tuple[str, ...], told: str) -> None:
    assert oci.fails(*words).endswith(told)


def test_fsck_fails_when_something_is_wrong(oci: Command, archive: Path) -> None:
    oci("import", archive, "app")
    layer = oci.json("inspect", "app")["manifest"]["layers"][0]["digest"]
    (oci.root / "layout/blobs/sha256" / layer[7:]).write_bytes(b"x")
    done = oci("fsck", check=False)
    assert done.returncode == 1
    assert "is damaged" in done.stdout


def test_options_of_the_program_may_stand_before_the_verb(archive: Path, tmp_path: Path) -> None:
    words = [PROGRAM, "--root", tmp_path / "images", "images", "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_a_reader_that_goes_away_is_no_error_to_talk_about(oci: Command, tmp_path: Path) -> None:
    (tmp_path / "big.tar").write_bytes(tar_of(("f", "x" * 10_000_000)))
    oci("import", tmp_path / "big.tar", "app", "--compression", "none")
    words = f"'{PROGRAM}' --root {oci.root} export app | head -c 10 >/dev/null"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True)
    assert done.stderr == ""


def test_the_help_names_every_verb(oci: Command) -> None:
    text = oci("--help").stdout
    assert all(
        f"    {verb} " in text
        for verb in ("images", "copy", "load", "save", "import", "export", "gc", "fsck")
    )
    assert "--platform" in oci("copy", "--help").stdout


BARS = {
    "copy": ("copy", "n", "dir:{}/d"),
    "save": ("save", "n", "--output", "{}/b.tar"),
    "load": ("load", "--input", "{}/a.tar"),
    "unpack": ("unpack", "n", "{}/out"),
    "bundle": ("bundle", "--copy", "n", "{}/b"),
    "import": ("import", "{}/f.tar", "other"),
    "export": ("export", "n", "--output", "{}/e.tar"),
    "append": ("append", "n", "{}/f.tar", "other"),
    "config": ("config", "oci:{}/l:n", "other", "--user", "1"),
    "cp": ("cp", "n:/f", "{}/cp"),
    "squash": ("squash", "n", "other"),
    "rebase": ("rebase", "oci:{}/l:n", "oci:{}/l:n", "oci:{}/l:n", "other"),
    "commit": ("commit", "{}/c", "other"),
    "verify": ("verify", "n"),
    "fsck": ("fsck",),
    "gc": ("gc",),
}
UNKNOWN_END = ("commit", "gc")  # how much it will be is not known before


@pytest.mark.root
@pytest.mark.parametrize("verb", BARS)
def test_long_work_has_a_bar_on_a_terminal_and_nowhere_else(oci: Command, tmp_path: Path, verb: str) -> None:
    layer = tar_of(("f", os.urandom(3_000_000).hex() * 8))
    (tmp_path / "f.tar").write_bytes(layer)
    make_image(tmp_path / "l", "n", layer, config={"Cmd": ["/f"]})
    oci("copy", f"oci:{tmp_path}/l:n", "n")
    oci("save", "n", "--output", tmp_path / "a.tar")
    words = tuple(word.format(tmp_path) for word in BARS[verb])
    with ExitStack() as after:
        if verb == "commit":
            oci("bundle", "n", tmp_path / "c")
            after.callback(oci, "unbundle", tmp_path / "c")
            (tmp_path / "c/rootfs/g").write_bytes(layer)
        if verb in ("load", "config", "rebase", "gc"):
            oci("rm", "n")
        if verb in ("load", "config", "rebase"):
            oci("gc")
        if verb == "gc":
            for i in range(500):  # a bar comes after 0.1 s
                (oci.root / f"layout/blobs/sha256/{i:064}").write_bytes(b"x" * 1000)
        watch_bar(oci, words, b" of " if verb not in UNKNOWN_END else b"B/s")
    if verb in ("copy", "save"):
        assert oci(*words[:-1], f"{words[-1]}2").stderr == ""


def watch_bar(oci: Command, words: tuple[str, ...], shown: bytes) -> None:
    master, slave = pty.openpty()
    # As slow as a disk may be: the first picture comes after 0.1 s.
    slow = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=read,pread64,unlinkat",
        "-e",
        f"inject=read,pread64,unlinkat:delay_enter={8000 if words[0] == 'fsck' else 2000}",
    ]
    subprocess.run([*slow, *map(str, (*oci.words, *words))], stderr=slave, stdout=subprocess.PIPE, check=True)
    os.close(slave)
    told = b""
    while select.select([master], [], [], 0)[0]:
        try:
            told += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    assert shown in told
    assert told.endswith(b"\r\033[K")  # and is taken away


# --json: what each verb prints, apart from those that are tested elsewhere.


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_says_in_its_help_what_its_json_holds(oci: Command, verb: str) -> None:
    helped = " ".join(oci(verb, "--help").stdout.split())
    assert re.search(r" --json print JSON: \w", helped)


def test_json_of_verbs_that_write_files(oci: Command, archive: Path, tmp_path: Path) -> None:
    top = oci("import", archive, "app:1").stdout.strip()
    name = "docker.io/library/app:1"
    assert oci.json("tag", "app:1", "b") == [{"name": "docker.io/library/b:latest", "digest": top}]
    saved = oci.json("save", "app:1", top[7:27], "--output", tmp_path / "a.tar")
    images = [{"names": [name], "digest": top}, {"names": [], "digest": top}]
    assert saved == {"output": f"{tmp_path}/a.tar", "format": "docker", "images": images}
    exported = oci.json("export", "app:1", "--output", tmp_path / "e.tar")
    data = (tmp_path / "e.tar").read_bytes()
    told = {"output": f"{tmp_path}/e.tar", "size": len(data), "diffId": digest(data), "digest": top}
    assert exported == told
    for verb in ("save", "export"):
        assert "--output FILE" in oci.fails(verb, "app:1", "--json")


@pytest.mark.root
def test_json_of_verbs_that_make_directories(oci: Command, tmp_path: Path) -> None:
    records = {"SCHILY.xattr.trusted.overlay.opaque": "y"}
    layer = tar_of(member("d", tarfile.DIRTYPE, pax_headers=records), ("d/f", "x"))
    labels = {"a": "b", "io.containerd.x": "y"}
    top = make_image(tmp_path / "l", "n", layer, config={"Cmd": ["/f"], "Labels": labels})
    oci("copy", f"oci:{tmp_path}/l:n", "n")
    left_out = {"xattr trusted.overlay.opaque": 1}
    unpacked = oci.json("unpack", "n", tmp_path / "out")
    assert unpacked == {"directory": f"{tmp_path}/out", "digest": top["digest"], "leftOut": left_out}
    bundled = oci.json("bundle", "--copy", "n", tmp_path / "b")
    assert bundled == {
        "directory": f"{tmp_path}/b",
        "digest": top["digest"],
        "leftOut": left_out,
        "droppedLabels": ["io.containerd.x"],
    }
    done = oci("unbundle", "--json", tmp_path / "b", tmp_path / "nosuch", check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout) == [{"directory": f"{tmp_path}/b"}]


@pytest.mark.root
def test_json_of_cp(oci: Command, archive: Path, tmp_path: Path) -> None:
    oci("import", archive, "app:1")
    (tmp_path / "f").write_text("x")
    copied = oci.json("cp", tmp_path / "f", "app:1:/new", "--name", "app:2")
    assert copied == {
        "source": f"{tmp_path}/f",
        "target": "app:1:/new",
        "name": "docker.io/library/app:2",
        "digest": oci.json("inspect", "app:2")["digest"],
    }
    told = oci.json("cp", "app:2:/new", tmp_path / "g")
    assert told == {"source": "app:2:/new", "target": f"{tmp_path}/g"}
    assert (tmp_path / "g").read_text() == "x"
    assert "stdout is taken" in oci.fails("cp", "app:2:/new", "-", "--json")


# --format with what docker has


def test_docker_s_templates_show_an_image(oci: Command, tmp_path: Path) -> None:
    config = {"Env": ["A=b", "C=d"], "Labels": {"k.1": "v"}, "Cmd": ["/f"]}
    one, two = tar_of(("f", "x")), tar_of(("g", "y"))
    top = make_image(tmp_path / "l", "n", one, two, config=config)["digest"]
    oci("copy", f"oci:{tmp_path}/l:n", "team/app:1")
    oci("tag", "team/app:1", "registry.example:5000/b")

    def filled(template: str) -> str:
        return str(oci("inspect", "team/app:1", "--format", template).stdout)

    assert filled("{{.Config.Env}}") == "[A=b C=d]\n"
    assert filled('{{index .Config.Labels "k.1"}}') == "v\n"
    assert filled("{{range .RootFS.Layers}}{{println .}}{{end}}") == f"{digest(one)}\n{digest(two)}\n\n"
    assert filled("{{if .Config.Entrypoint}}e{{else}}c{{end}}{{len .Config.Volumes}}") == "c0\n"
    assert filled("{{.Os}}/{{.Architecture}}") == "linux/amd64\n"
    assert filled('{{join .RepoTags ","}}') == "team/app:1,registry.example:5000/b:latest\n"
    assert filled("{{index .RepoDigests 0}}") == f"docker.io/team/app@{top}\n"
    assert json.loads(filled("json")) == oci.json("inspect", "team/app:1")
    assert "--format: character 3: there is no Nosuch" in oci.fails(
        "inspect", "team/app:1", "--format", "{{.Nosuch}}"
    )


def test_lists_are_shown_by_docker_s_templates(oci: Command, archive: Path) -> None:
    top = oci("import", archive, "app:1", "--comment", "c").stdout.strip()
    oci("tag", "app:1", "registry.example:5000/b")
    table = oci("images", "--format", "table {{.Repository}}\\t{{.Tag}}\t{{upper .CreatedAt}}").stdout
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["REPOSITORY", "TAG", "CREATED", "AT"]
    assert [line[:2] for line in lines[1:]] == [["app", "1"], ["registry.example:5000/b", "latest"]]
    plain = oci("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.digest}}").stdout.splitlines()
    assert plain[0] == f"app:1 {top[7:19]} {top}"
    rows = [json.loads(line) for line in oci("images", "--format", "json").stdout.splitlines()]
    assert [row["Tag"] for row in rows] == ["1", "latest"]
    assert oci("history", "app:1", "--format", "{{.Comment}}|{{.created_by}}").stdout == "c|\n"
    shown = oci("images", "--format", '{{range .platforms}}{{printf "%s\\n" .}}{{end}}\\t|').stdout
    assert shown == "linux/amd64\n\t|\n" * 2
    told = oci.fails("images", "--format", "table {{.Tag}}\\t{{.Nosuch}}")
    assert "--format: character 19: there is no Nosuch" in told
    assert oci("history", "app:1", "--format", "table {{.Comment}}").stdout == "COMMENT\nc\n"


@pytest.mark.root
def test_programs_in_go_read_gzip_of_several_blocks(oci: Command, tmp_path: Path) -> None:
    """Go's readers are strict about what follows a block, unlike zlib."""
    layer = tar_of(("f", os.urandom(1_500_000).hex()))
    (tmp_path / "f.tar").write_bytes(layer)
    oci("import", tmp_path / "f.tar", f"oci:{tmp_path}/l:n", "--compression", "gzip")
    succeed("skopeo", "copy", "-q", "--dest-decompress", f"oci:{tmp_path}/l:n", f"dir:{tmp_path}/d")
    assert (tmp_path / "d" / digest(layer)[7:]).read_bytes() == layer
    succeed("umoci", "raw", "unpack", "--image", f"{tmp_path}/l:n", tmp_path / "out")
    assert (tmp_path / "out/f").stat().st_size == 3_000_000
    with podman_of(tmp_path) as podman:
        succeed(*podman, "pull", "-q", f"oci:{tmp_path}/l:n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("verb", ["import", "unpack"])
def test_a_signal_ends_long_work_and_leaves_nothing(
    oci: Command, tmp_path: Path, number: signal.Signals, verb: str
) -> None:
    """import waits for a pipe that nobody writes to; unpack for its slow writes."""
    make_image(tmp_path / "l", "n", tar_of(*((f"f{i}", "x" * 1000) for i in range(2000))))
    words = {
        "import": [*oci.words, "import", "-", "n"],
        "unpack": [
            *(
                "strace",
                "-o",
                tmp_path / "trace",
                "-e",
                "trace=fchmod",
                "-e",
                "inject=fchmod:delay_enter=20000",
            ),
            *(*oci.words, "unpack", "--rootless", f"oci:{tmp_path}/l:n", tmp_path / "out"),
        ],
    }[verb]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    running = subprocess.Popen([*map(str, words)], **pipes)  # type: ignore[call-overload]
    running.stdin.write(LAYER[:512])
    running.stdin.flush()
    begun = "root/layout/.oci-image-tmp/*" if verb == "import" else ".out.*/f5"
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(begun)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if verb == "import":
        os.kill(running.pid, number)
    else:
        (child,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(child), number)
    told = running.stderr.read().decode()
    assert running.wait() == 128 + number
    for pipe in (running.stdin, running.stdout, running.stderr):
        pipe.close()
    assert told == f"oci-image: {'interrupted' if number == signal.SIGINT else f'ended by {number.name}'}\n"
    assert not list(tmp_path.glob(".out.*"))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("root/layout/.oci-image-tmp/*"))
