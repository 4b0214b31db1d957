"""Changes become layers and images: diff, commit, append, config."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.images import digest, make_image, member, tar_of
from tests.lib.runtime import Runtime
from tests.lib.trees import describe, differences
from tests.system.test_oci_image_bundle import BASE
from tests.system.test_oci_image_cli import Command

pytestmark = pytest.mark.root
DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
SECOND = tar_of(
    member("full", DIR),
    ("full/one", "1"),
    ("full/two", "2"),
    member("gone", DIR),
    ("gone/x", ""),
    ("changed", "before"),
    ("removed", ""),
    ("kept", ""),
)


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Command]:
    oci = Command(tmp_path / "root")
    make_image(tmp_path / "l", "base", BASE, SECOND, config={"Cmd": ["/bin/sh"], "Env": ["A=1"]})
    oci("copy", f"oci:{tmp_path}/l:base", "base")
    yield oci
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(tmp_path) in (point := line.split()[4]):
            subprocess.run(["umount", point], check=True)


def change(root: Path) -> None:
    """All that can happen to a root file system."""
    (root / "changed").write_text("after")
    (root / "removed").unlink()
    subprocess.run(["rm", "-r", root / "gone", root / "full"], check=True)
    (root / "full").mkdir(mode=0o750)
    (root / "full/three").write_text("3")
    (root / "new").mkdir()
    (root / "new/file").write_text("x")
    os.link(root / "new/file", root / "new/hard")
    (root / "new/link").symlink_to("/some/where")
    os.mkfifo(root / "new/fifo")
    os.setxattr(root / "new/file", "user.note", b"v")
    os.chown(root / "new/file", 7, 8)
    os.utime(root / "new/file", ns=(1, 1_700_000_000_123_456_789))
    (root / "new" / ("n" * 150)).touch()


def test_diff_tells_what_docker_diff_tells(oci: Command, tmp_path: Path) -> None:
    oci("bundle", "base", tmp_path / "b")
    assert oci("diff", tmp_path / "b").stdout == ""
    change(tmp_path / "b/rootfs")
    lines = oci("diff", tmp_path / "b").stdout.splitlines()
    assert sorted(lines) == sorted(
        [
            "C /changed",
            "C /full",
            "D /full/one",
            "D /full/two",
            "A /full/three",
            "D /gone",
            "A /new",
            "A /new/fifo",
            "A /new/file",
            "A /new/hard",
            "A /new/link",
            f"A /new/{'n' * 150}",
            "D /removed",
        ]
    )
    assert {"kind": "D", "path": "/removed"} in oci.json("diff", tmp_path / "b")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_committed_image_is_the_changed_root(oci: Command, tmp_path: Path, compression: str) -> None:
    oci("bundle", "base", tmp_path / "b")
    change(tmp_path / "b/rootfs")
    words = ["--compression", compression, "--cmd", '["/bin/id"]', "--env", "B=2", "--author", "me"]
    oci("commit", tmp_path / "b", "changed", *words)
    oci("unpack", "changed", tmp_path / "out")
    subprocess.run(["rm", "-r", tmp_path / "b/rootfs/new/fifo"], check=True)  # nothing else differs
    (tmp_path / "out/new/fifo").unlink()
    without = ["mtime"]  # of directories that the removal touched
    assert differences(describe(tmp_path / "b/rootfs", without), describe(tmp_path / "out", without)) == []
    assert (tmp_path / "out/new/file").stat().st_mtime_ns == 1_700_000_000_123_456_789
    config = oci.json("inspect", "changed")["config"]
    assert config["config"] == {"Cmd": ["/bin/id"], "Env": ["A=1", "B=2"]}
    assert config["author"] == "me"
    assert oci("fsck").stdout == "nothing is wrong\n"
    assert oci("verify", "changed").stdout.startswith("changed: ")
    oci("unbundle", tmp_path / "b")


def test_other_tools_unpack_a_committed_image_alike(oci: Command, tmp_path: Path) -> None:
    oci("bundle", "base", tmp_path / "b")
    change(tmp_path / "b/rootfs")
    oci("commit", tmp_path / "b", "changed")
    oci("unbundle", tmp_path / "b")
    oci("unpack", "changed", tmp_path / "ours")
    oci("copy", "changed", f"oci:{tmp_path}/2:n")
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{tmp_path}/2:n", tmp_path / "theirs"], check=True)
    made = ("data", "etc", ".")  # no entry of its own, or changed by a layer that has none
    ours, theirs = (
        {path: entry for path, entry in describe(tmp_path / name).items() if path not in made}
        for name in ("ours", "theirs")
    )
    assert differences(ours, theirs) == []


def test_a_time_that_no_config_holds_is_refused(oci: Command) -> None:
    for seconds in ("253402300800", "9" * 30, "x"):
        env = {**os.environ, "SOURCE_DATE_EPOCH": seconds}
        assert oci.fails("config", "base", "made", "--user", "1", env=env).startswith(
            "oci-image: SOURCE_DATE_EPOCH: "
        )


def test_a_commit_is_reproducible(oci: Command, tmp_path: Path) -> None:
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1600000000"}
    made = []
    for name in ("1", "2"):
        oci("bundle", "base", tmp_path / name)
        for i in (3, 1, 2) if name == "1" else (2, 3, 1):
            (tmp_path / name / "rootfs" / f"f{i}").write_text(str(i))
        made.append(oci("commit", tmp_path / name, f"made-{name}", env=env).stdout)
        oci("unbundle", tmp_path / name)
    assert made[0] == made[1]


def test_what_a_container_did_is_there_in_the_next(oci: Command, tmp_path: Path, runtime: Runtime) -> None:
    oci("bundle", "base", tmp_path / "b", "--", "/bin/sh", "-c", "echo done > /note; ls /kept")
    assert runtime("run", "--bundle", tmp_path / "b", runtime.new_id()).returncode == 0
    oci("commit", tmp_path / "b", "after", "--cmd", "cat /note")
    oci("unbundle", tmp_path / "b")
    oci("bundle", "after", tmp_path / "b")
    assert runtime("run", "--bundle", tmp_path / "b", runtime.new_id()).stdout == "done\n"
    steps = oci.json("history", "after")
    assert steps[0]["created_by"] == "oci-image commit"
    oci("unbundle", tmp_path / "b")


def test_append_adds_a_layer(oci: Command, tmp_path: Path) -> None:
    layer = tar_of(("added", "x"), (".wh.kept", ""))
    (tmp_path / "layer.tar").write_bytes(layer)
    oci("append", "base", tmp_path / "layer.tar", "more", "--comment", "added")
    oci("append", "base", "-", "same", input=layer, text=False)
    found = oci.json("inspect", "more")
    assert found["config"]["rootfs"]["diff_ids"] == [digest(one) for one in (BASE, SECOND, layer)]
    assert oci.json("inspect", "same")["config"]["rootfs"] == found["config"]["rootfs"]
    oci("unpack", "more", tmp_path / "out")
    assert (tmp_path / "out/added").read_text() == "x"
    assert not (tmp_path / "out/kept").exists()


@pytest.mark.parametrize("layer", [b"no tar" * 500, tar_of(("../x", "")), tar_of((".wh.", ""))])
def test_append_refuses_what_is_no_layer(oci: Command, tmp_path: Path, layer: bytes) -> None:
    (tmp_path / "layer.tar").write_bytes(layer)
    before = oci.json("images")
    assert "layer.tar: " in oci.fails("append", "base", tmp_path / "layer.tar", "more")
    assert oci.json("images") == before


def test_config_changes_what_is_named_and_nothing_else(oci: Command) -> None:
    words = [
        "--env",
        "A=2",
        "--env",
        "C=3",
        "--user",
        "5",
        "--label",
        "x=y",
        "--expose",
        "80",
        "--volume",
        "/v",
    ]
    oci(
        "config",
        "base",
        "base",
        *words,
        "--entrypoint",
        '["/e"]',
        "--stop-signal",
        "SIGINT",
        "--workdir",
        "/w",
    )
    found = oci.json("inspect", "base")
    assert found["config"]["config"] == {
        "Env": ["A=2", "C=3"],
        "User": "5",
        "Labels": {"x": "y"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
        "Entrypoint": ["/e"],
        "StopSignal": "SIGINT",
        "WorkingDir": "/w",
    }
    assert len(found["manifest"]["layers"]) == 2
    assert found["config"]["history"][-1]["empty_layer"] is True
    oci("config", "base", "base", "--label", "x", "--user", "", "--entrypoint", "[]", "--cmd", '["/c"]')
    changed: dict[str, Any] = oci.json("inspect", "base")["config"]["config"]
    assert (changed["Labels"], changed["Cmd"]) == ({}, ["/c"])
    assert not {"User", "Entrypoint"} & set(changed)


def test_an_image_of_docker_s_media_types_becomes_oci(oci: Command, tmp_path: Path) -> None:
    make_image(tmp_path / "l", "docker", BASE, docker=True)
    oci("config", f"oci:{tmp_path}/l:docker", "new", "--user", "5")
    assert oci.json("inspect", "new")["manifest"]["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    subprocess.run(["skopeo", "inspect", f"oci:{oci.root}/layout:docker.io/library/new:latest"], check=True)
    assert oci("fsck").stdout == "nothing is wrong\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--env", "x"], "--env: 'x' is not NAME=VALUE"),
        (["--label", "=x"], "--label: '=x' has no name"),
        (["--cmd", "[1]"], "--cmd: is not an array of strings"),
        (["--cmd", "["], "--cmd: line 1 column 2"),
    ],
)
def test_wrong_changes_are_refused(oci: Command, words: list[str], told: str) -> None:
    assert told in oci.fails("config", "base", "new", *words)


def test_json_of_all_that_makes_images(oci: Command, tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(tar_of(("x", "")))
    for words in (["config", "base", "new"], ["append", "base", tmp_path / "layer.tar", "new"]):
        made = oci.json(*words)
        assert made["name"] == "docker.io/library/new:latest"
        assert json.dumps(made["digest"]).startswith('"sha256:')


def test_a_squashed_image_has_the_same_root_in_one_layer(oci: Command, tmp_path: Path) -> None:
    oci("bundle", "base", tmp_path / "b")
    change(tmp_path / "b/rootfs")
    oci("commit", tmp_path / "b", "changed")
    oci("squash", "changed", "flat", "--compression", "zstd")
    for name in ("changed", "flat"):
        oci("unpack", name, tmp_path / name)
    made = {"data", "etc"}  # no layer has an entry: their time is that of unpacking
    changed, flat = (
        {path: entry for path, entry in describe(tmp_path / name).items() if path not in made}
        for name in ("changed", "flat")
    )
    assert differences(changed, flat) == []
    assert len(oci.json("inspect", "flat")["manifest"]["layers"]) == 1
    assert (
        oci.json("inspect", "flat")["config"]["config"] == oci.json("inspect", "changed")["config"]["config"]
    )
    assert len(oci.json("history", "flat")) == 1


def test_a_rebased_image_stands_on_the_new_base(oci: Command, tmp_path: Path) -> None:
    new = tar_of(("from-the-new-base", "x"))
    make_image(tmp_path / "l", "new", BASE, new)
    (tmp_path / "layer.tar").write_bytes(tar_of(("mine", "m")))
    oci("append", "base", tmp_path / "layer.tar", "app", "--env", "MINE=1")
    oci("rebase", "app", "base", f"oci:{tmp_path}/l:new", "app2")
    oci("unpack", "app2", tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "m"
    assert (tmp_path / "out/from-the-new-base").read_text() == "x"
    assert not (tmp_path / "out/kept").exists()
    found = oci.json("inspect", "app2")["config"]
    assert found["config"]["Env"] == ["A=1", "MINE=1"]
    assert found["rootfs"]["diff_ids"][:2] == [digest(BASE), digest(new)]
    assert oci("fsck").stdout == "nothing is wrong\n"
    told = oci.fails("rebase", "app2", "base", f"oci:{tmp_path}/l:new", "app3")
    assert told.endswith("does not stand on the layers of the old base")


def test_diff_does_not_look_through_links_of_the_image(oci: Command, tmp_path: Path) -> None:
    """A link to the host became a directory: what is new in it is new, whatever the host has there."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").touch()
    make_image(tmp_path / "l", "linked", BASE, tar_of(member("s", LINK, linkname=str(host))))
    oci("bundle", f"oci:{tmp_path}/l:linked", tmp_path / "b", "--", "/bin/sh")
    (tmp_path / "b/rootfs/s").unlink()
    (tmp_path / "b/rootfs/s").mkdir()
    (tmp_path / "b/rootfs/s/file").touch()
    assert sorted(oci("diff", tmp_path / "b").stdout.splitlines()) == ["A /s/file", "C /s"]
