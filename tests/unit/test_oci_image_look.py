"""history, size, tree, verify and --format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oci_image import look
from oci_image.cli import main
from oci_image.errors import ImageError
from oci_image.transports import Location, open_source
from tests.lib.images import make_image, make_index, tar_of

BASE, UPPER, OTHER = (tar_of((name, name * 1000)) for name in ("base", "upper", "other"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_image(tmp_path / "layout", "docker.io/library/one:latest", BASE, UPPER)
    make_image(tmp_path / "layout", "docker.io/library/two:latest", BASE, OTHER)
    make_image(tmp_path / "layout", "docker.io/library/three:latest", tar_of(("alone", "")))
    return tmp_path


def told(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["--root", str(root), *words]) == 0
    return capsys.readouterr().out


def test_sizes_are_split_into_own_and_shared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"].split("/")[2]: row for row in json.loads(told(root, capsys, "size", "--json"))}
    blobs = root / "layout/blobs/sha256"
    total = sum(path.stat().st_size for path in blobs.iterdir())
    assert rows["three:latest"]["shared"] == 0
    assert rows["one:latest"]["shared"] == rows["two:latest"]["shared"] > 0
    assert sum(row["own"] for row in rows.values()) + rows["one:latest"]["shared"] == total
    assert told(root, capsys, "size").splitlines()[0].split() == ["NAME", "DIGEST", "OWN", "SHARED", "TOTAL"]


def test_the_tree_shows_common_layers_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(root, capsys, "tree").splitlines()
    assert [line[:6] for line in lines] == ["├─ " + lines[0][3:6], "│  ├─ ", "│  └─ ", "└─ " + lines[3][3:6]]
    assert [line.rpartition("  ")[2] for line in lines[1:]] == [
        "one:latest (linux/amd64)",
        "two:latest (linux/amd64)",
        "three:latest (linux/amd64)",
    ]
    document = json.loads(told(root, capsys, "tree", "--json"))
    assert [len(node["layers"]) for node in document] == [2, 0]


def test_history_is_newest_first_and_knows_steps_without_a_layer() -> None:
    manifest = {"layers": [{"size": 1}, {"size": 2}, {"size": 3}]}
    entries: list[dict[str, Any]] = [
        {"created_by": "a", "created": "2026-01-01T00:00:00Z"},
        {"created_by": "b", "empty_layer": True},
        {"created_by": "c", "comment": "note"},
    ]
    steps = look.history(manifest, {"history": entries})
    assert [(step.created_by, step.layer and step.layer["size"]) for step in steps] == [
        ("", 3),
        ("c", 2),
        ("b", None),
        ("a", 1),
    ]
    assert steps[1].comment == "note"


def test_the_history_of_an_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.tar").write_bytes(BASE)
    told(tmp_path, capsys, "import", str(tmp_path / "x.tar"), "app", "--comment", "from a test")
    (step,) = json.loads(told(tmp_path, capsys, "history", "app", "--json"))
    assert step["comment"] == "from a test"
    assert "from a test" in told(tmp_path, capsys, "history", "app")


def test_verify_reads_down_to_the_diff_id(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(root, capsys, "verify", "one", "two") == (
        "one: 4 blobs are what they should be\ntwo: 4 blobs are what they should be\n"
    )
    layout = root / "layout"
    make_index(layout, "all", amd64=make_image(layout, "x", BASE), arm64=make_image(layout, "y", UPPER))
    source = open_source(Location("oci", str(layout)))
    assert look.verify(source, source.find("all")) == 6
    source.close()


@pytest.mark.parametrize("layers", [(b"no tar stream" * 100,), (BASE[:600],)])
def test_verify_tells_what_is_wrong(tmp_path: Path, layers: tuple[bytes, ...]) -> None:
    make_image(tmp_path / "l", "n", *layers)
    source = open_source(Location("oci", f"{tmp_path}/l"))
    with pytest.raises(ImageError, match="tar"):
        look.verify(source, source.find("n"))
    source.close()


def test_inspect_takes_a_template(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(root, capsys, "inspect", "--format", "{{.config.os}}", "one") == "linux\n"
