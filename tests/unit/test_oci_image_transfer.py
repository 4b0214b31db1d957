"""Copies between all transports: what arrives, and what is left when something is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oci_image import descriptor, gc, look, transfer
from oci_image.errors import ImageError, NotInStore
from oci_image.platforms import Platform
from oci_image.store import Store
from oci_image.transfer import Options
from oci_image.transports import Location, open_sink, open_source, parse_location
from tests.lib.images import digest, make_image, make_index, member, tar_of

PLACES = ["oci:{0}/2:n", "oci-archive:{0}/a.tar:n", "docker-archive:{0}/d.tar:n", "dir:{0}/dir"]
LAYER = tar_of(("etc/motd", "hello\n"))
UPPER = tar_of(("etc/issue", "upper\n"))


def copy(source: str, target: str, options: Options | None = None) -> dict[str, Any]:
    """The descriptor at the target, both named as on the command line."""
    at, to = parse_location(source), parse_location(target)
    assert at
    assert to
    reading = open_source(at)
    try:
        sink = open_sink(to)
        try:
            names = (to.name,) if to.name else ()
            copied = transfer.copy(reading, sink, reading.find(at.name), names, options or Options())
            sink.commit()
            return copied  # type: ignore[return-value]
        finally:
            sink.close()
    finally:
        reading.close()


def several(path: Path) -> dict[str, Any]:
    """Images of two architectures, and the index `all` of them."""
    images = {
        arch: make_image(path, arch, tar_of((arch, "")), architecture=arch) for arch in ("amd64", "arm64")
    }
    return {**images, "all": make_index(path, "all", **images)}


@pytest.fixture
def layout(tmp_path: Path) -> str:
    make_image(tmp_path / "l", "app:1", LAYER, UPPER)
    return f"oci:{tmp_path}/l:app:1"


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("oci:/a/b:name:tag", Location("oci", "/a/b", "name:tag")),
        ("oci-archive:f", Location("oci-archive", "f")),
        ("docker-archive:f:h.example:5000/a:b", Location("docker-archive", "f", "h.example:5000/a:b")),
        ("dir:/a:b", Location("dir", "/a:b")),
        ("busybox:latest", None),
    ],
)  # fmt: skip
def test_places_are_written_as_for_skopeo(text: str, location: Location | None) -> None:
    assert parse_location(text) == location


@pytest.mark.parametrize(
    "way", ["oci:{0}/2:n", "oci-archive:{0}/a.tar:n", "docker-archive:{0}/d.tar:n:1", "dir:{0}/dir"]
)
def test_an_image_comes_back_from_every_place_as_it_was(tmp_path: Path, layout: str, way: str) -> None:
    there = way.format(tmp_path)
    first = copy(layout, there)
    back = copy(there, f"oci:{tmp_path}/back:app")
    assert back["digest"] == first["digest"]
    with Store.open(f"{tmp_path}/l") as old, Store.open(f"{tmp_path}/back") as new:
        assert old.find("app:1")["digest"] == new.find("app")["digest"]
        assert gc.fsck(new) == []


def test_the_image_of_a_platform_is_chosen_and_others_stay_behind(tmp_path: Path) -> None:
    images = {
        arch: make_image(tmp_path / "l", arch, tar_of((arch, "")), architecture=arch)
        for arch in ("amd64", "arm64")
    }
    make_index(tmp_path / "l", "all", **images)
    copied = copy(f"oci:{tmp_path}/l:all", f"oci:{tmp_path}/one:n", Options(Platform("linux", "arm64")))
    assert copied["digest"] == images["arm64"]["digest"]
    with Store.open(f"{tmp_path}/one") as store:
        assert not store.has(images["amd64"])  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no image for linux/s390x, but for: linux/amd64, linux/arm64"):
        copy(f"oci:{tmp_path}/l:all", f"oci:{tmp_path}/two:n", Options(Platform("linux", "s390x")))


@pytest.mark.parametrize("way", ["oci:{0}/2:n", "oci-archive:{0}/a.tar:n", "dir:{0}/dir"])
def test_all_platforms_are_copied_when_asked_for(tmp_path: Path, way: str) -> None:
    images = several(tmp_path / "l")
    copy(f"oci:{tmp_path}/l:all", way.format(tmp_path), Options(every=True))
    copied = copy(way.format(tmp_path), f"oci:{tmp_path}/back:n", Options(every=True))
    assert copied["digest"] == images["all"]["digest"]


def test_a_docker_archive_takes_one_platform_only(tmp_path: Path) -> None:
    make_index(tmp_path / "l", "all", amd64=make_image(tmp_path / "l", "n", LAYER))
    with pytest.raises(ImageError, match="one platform"):
        copy(f"oci:{tmp_path}/l:all", f"docker-archive:{tmp_path}/d.tar:n", Options(every=True))
    assert os.listdir(tmp_path) == ["l"]


def test_an_image_for_another_platform_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, layout: str
) -> None:
    with pytest.raises(ImageError, match="no image for linux/arm64, but for: linux/amd64"):
        copy(layout, f"dir:{tmp_path}/d", Options(Platform("linux", "arm64")))
    assert os.listdir(tmp_path) == ["l"]


def test_docker_media_types_become_oci_in_a_layout_unless_digests_are_to_stay(tmp_path: Path) -> None:
    top = make_image(tmp_path / "l", "n", LAYER, docker=True)
    plain = copy(f"oci:{tmp_path}/l:n", f"oci:{tmp_path}/converted:n")
    kept = copy(f"oci:{tmp_path}/l:n", f"oci:{tmp_path}/kept:n", Options(preserve=True))
    also = copy(f"oci:{tmp_path}/l:n", f"dir:{tmp_path}/dir")
    assert plain["mediaType"] == descriptor.OCI_MANIFEST
    assert kept["digest"] == also["digest"] == top["digest"]
    with Store.open(f"{tmp_path}/converted") as store:
        manifest = gc.load(store, store.find("n"))
        assert manifest["layers"][0]["mediaType"] == descriptor.OCI_LAYER + "+gzip"  # type: ignore[index]
        assert gc.fsck(store) == []


def test_a_list_of_docker_images_becomes_an_oci_index(tmp_path: Path) -> None:
    make_index(tmp_path / "l", "all", amd64=make_image(tmp_path / "l", "n", LAYER, docker=True))
    copy(f"oci:{tmp_path}/l:all", f"oci:{tmp_path}/2:n", Options(every=True))
    with Store.open(f"{tmp_path}/2") as store:
        index = gc.load(store, store.find("n"))
        assert index["manifests"][0]["mediaType"] == descriptor.OCI_MANIFEST  # type: ignore[index]
        assert index["manifests"][0]["platform"]["architecture"] == "amd64"  # type: ignore[index]
        assert gc.fsck(store) == []


def test_blobs_that_are_there_are_not_copied_again(tmp_path: Path, layout: str) -> None:
    seen: list[bool] = []
    copy(layout, f"oci:{tmp_path}/2:a", Options(progress=lambda _, there: seen.append(there)))
    assert seen == [False] * 3
    seen.clear()
    copy(layout, f"oci:{tmp_path}/2:b", Options(progress=lambda _, there: seen.append(there)))
    assert seen == [True] * 3


@pytest.mark.parametrize(
    "way", ["oci:{0}/2:n", "oci-archive:{0}/a.tar:n", "docker-archive:{0}/d.tar:n", "dir:{0}/dir"]
)
def test_a_damaged_layer_leaves_nothing_at_the_target(tmp_path: Path, layout: str, way: str) -> None:
    with Store.open(f"{tmp_path}/l") as store:
        layer = gc.load(store, store.find("app:1"))["layers"][1]["digest"]  # type: ignore[index]
    blob = tmp_path / "l/blobs/sha256" / layer[7:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises(ImageError, match=layer):
        copy(layout, way.format(tmp_path))
    if way.startswith("oci:"):
        with Store.open(f"{tmp_path}/2") as store:
            assert store.images() == []
            assert gc.fsck(store) == []
            gc.collect(store)
        assert list((tmp_path / "2/blobs/sha256").iterdir()) == []
    else:
        assert os.listdir(tmp_path) == ["l"]


def test_a_foreign_layer_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest(b"elsewhere"),
        "size": 9,
        "urls": ["http://host.example/layer"],
    }
    with Store.create(f"{tmp_path}/l") as store, store.importing() as session:
        config = {
            "os": "windows",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest(b"x")]},
        }
        manifest = {
            "schemaVersion": 2,
            "config": session.put_bytes(descriptor.encode(config), descriptor.OCI_CONFIG),
            "layers": [foreign],
        }
        session.set_name("n", session.put_bytes(descriptor.encode(manifest), descriptor.OCI_MANIFEST))
    with pytest.raises(ImageError, match=r"layers\[0\]: is a foreign layer"):
        copy(f"oci:{tmp_path}/l:n", f"dir:{tmp_path}/d")
    assert os.listdir(tmp_path) == ["l"]


def test_attestations_of_buildkit_travel_with_their_index(tmp_path: Path) -> None:
    """Their config is an image's, their layers are statements, their platform is unknown."""
    image = make_image(tmp_path / "l", "n", LAYER)
    with Store.open(f"{tmp_path}/l") as store, store.importing() as session:
        rootfs = {"type": "layers", "diff_ids": [digest(b"{}")]}
        config = {"os": "unknown", "architecture": "unknown", "rootfs": rootfs}
        manifest = {
            "schemaVersion": 2,
            "config": session.put_bytes(descriptor.encode(config), descriptor.OCI_CONFIG),
            "layers": [session.put_bytes(b"{}", "application/vnd.in-toto+json")],
        }
        other: Any = session.put_bytes(descriptor.encode(manifest), descriptor.OCI_MANIFEST)
        platforms = ({"os": "linux", "architecture": "amd64"}, {"os": "unknown", "architecture": "unknown"})
        manifests = [{**one, "platform": kind} for one, kind in zip((image, other), platforms, strict=True)]
        index = {"schemaVersion": 2, "mediaType": descriptor.OCI_INDEX, "manifests": manifests}
        top = session.put_bytes(descriptor.encode(index), descriptor.OCI_INDEX)
        session.set_name("all", top)
    copied = copy(f"oci:{tmp_path}/l:all", f"oci:{tmp_path}/2:n", Options(every=True))
    assert copied["digest"] == top["digest"]
    one = copy(f"oci:{tmp_path}/l:all", f"oci:{tmp_path}/3:n", Options(Platform("linux", "amd64")))
    assert one["digest"] == image["digest"]
    source = open_source(Location("oci", f"{tmp_path}/2"))
    assert look.verify(source, source.find("n")) == 6
    source.close()
    with Store.open(f"{tmp_path}/2") as store:
        assert gc.fsck(store) == []


# Older docker archives


def old_archive(path: Path, entries: list[Any], *members: Any) -> str:
    data = tar_of(*members, ("manifest.json", json.dumps(entries)))
    path.write_bytes(data)
    return f"docker-archive:{path}"


def config_of(*layers: bytes) -> str:
    rootfs = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
    return json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs})


def test_an_archive_of_older_docker_is_read_also_with_linked_and_compressed_layers(
    tmp_path: Path,
) -> None:
    entry = {
        "Config": "c.json",
        "RepoTags": ["app:1"],
        "Layers": ["a/l.tar", "b/l.tar", "c/l.tar"],
    }
    place = old_archive(
        tmp_path / "old.tar",
        [entry],
        ("c.json", config_of(LAYER, LAYER, UPPER)),
        (member("./a/l.tar"), LAYER),
        member("b/l.tar", tarfile.SYMTYPE, linkname="../a/l.tar"),
        (member("c/l.tar"), gzip.compress(UPPER)),
    )
    copied = copy(place + ":app:1", f"oci:{tmp_path}/l:n")
    with Store.open(f"{tmp_path}/l") as store:
        assert gc.fsck(store) == []
        layers = gc.load(store, copied)["layers"]  # type: ignore[arg-type]
    assert [layer["mediaType"].rpartition(".")[2] for layer in layers] == ["tar", "tar", "tar+gzip"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: data])
def test_a_whole_archive_may_be_compressed_or_come_through_a_pipe(tmp_path: Path, compress: Any) -> None:
    copy_of = tmp_path / "a.tar"
    make_image(tmp_path / "l", "n", LAYER)
    copy(f"oci:{tmp_path}/l:n", f"docker-archive:{copy_of}:n")
    copy_of.write_bytes(compress(copy_of.read_bytes()))
    os.mkfifo(tmp_path / "pipe")
    if os.fork() == 0:
        (tmp_path / "pipe").write_bytes(copy_of.read_bytes())
        os._exit(0)
    for place in (copy_of, tmp_path / "pipe"):
        copy(f"docker-archive:{place}:n", f"oci:{tmp_path}/{place.name}.l:n")
    os.wait()


def test_names_in_a_docker_archive_are_docker_s(tmp_path: Path) -> None:
    make_image(tmp_path / "l", "n", LAYER)
    make_image(tmp_path / "l", "m", UPPER)
    sink = open_sink(Location("docker-archive", f"{tmp_path}/a.tar"))
    source = open_source(Location("oci", f"{tmp_path}/l"))
    transfer.copy(source, sink, source.find("n"), ("one", "registry.example/two:2"), Options())
    transfer.copy(source, sink, source.find("m"), (), Options())
    sink.commit()
    sink.close()
    source.close()
    with tarfile.open(tmp_path / "a.tar") as tar:
        entries = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert [entry["RepoTags"] for entry in entries] == [["one:latest", "registry.example/two:2"], None]
    archive = open_source(Location("docker-archive", f"{tmp_path}/a.tar"))
    assert [image.names for image in archive.images()] == [
        ("docker.io/library/one:latest", "registry.example/two:2"),
        (),
    ]
    assert archive.find("one")["digest"] == archive.find("@0")["digest"]
    assert archive.find("@1")["digest"] != archive.find("@0")["digest"]
    with pytest.raises(ImageError, match="holds 2 images"):
        archive.find("")
    with pytest.raises(NotInStore, match="it has docker"):
        archive.find("three")
    archive.close()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("repositories", "{}")], "docker before 1.10"),
        ([("x", "")], "it has no manifest.json"),
        ([("manifest.json", "{}")], "is not a list"),
        ([("manifest.json", '[{"Config": 1}]')], r"\[0\].Config"),
        ([("manifest.json", '[{"Config": "c", "Layers": [1]}]')], r"\[0\].Layers"),
        ([("manifest.json", '[{"Config": "c"}]')], "c: is missing"),
        ([("manifest.json", '[{"Config": "c"}]'), ("c", config_of(LAYER))], "0 layers, its config 1"),
        ([("manifest.json", '[{"Config": "c", "Layers": ["l"]}]'), ("c", config_of(LAYER))], "l: is missing"),
        (
            [
                ("manifest.json", '[{"Config": "c", "Layers": ["l"]}]'),
                ("c", config_of(LAYER)),
                member("l", tarfile.SYMTYPE, linkname="l"),
            ],
            "l: is missing",
        ),
        ([("oci-layout", "{}"), ("index.json", "[]")], "not a JSON object"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, members: list[Any], reason: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(*members))
    with pytest.raises(ImageError, match=reason):
        copy(f"docker-archive:{tmp_path}/a.tar", f"oci:{tmp_path}/l:n")


def test_a_layer_of_an_older_archive_that_is_not_its_diff_id_is_refused(tmp_path: Path) -> None:
    place = old_archive(
        tmp_path / "old.tar",
        [{"Config": "c", "Layers": ["l"]}],
        ("c", config_of(LAYER)),
        (member("l"), UPPER),
    )
    with pytest.raises(ImageError, match="its content is"):
        copy(place, f"oci:{tmp_path}/l:n")


def test_names_of_an_archive_are_never_looked_up_on_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(config_of())
    name = f"../../../../../../../../{tmp_path}/secret"
    place = old_archive(tmp_path / "old.tar", [{"Config": name, "Layers": []}])
    with pytest.raises(NotInStore, match="is missing in the archive"):
        copy(place, f"oci:{tmp_path}/l:n")


# Directories


@pytest.mark.parametrize("there", ["file", "full"])
def test_a_directory_that_holds_something_is_not_overwritten(tmp_path: Path, layout: str, there: str) -> None:
    target = tmp_path / "d"
    if there == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").touch()
    with pytest.raises(ImageError, match="is not an empty directory"):
        copy(layout, f"dir:{target}")
    assert sorted(os.listdir(tmp_path)) == ["d", "l"]


@pytest.mark.parametrize(("path", "reason"), [("none", "is not a directory"), (".", "holds no image")])
def test_what_is_no_image_directory_is_refused(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        open_source(Location("dir", f"{tmp_path}/{path}"))


def test_a_pipe_in_an_image_directory_does_not_hang(tmp_path: Path, layout: str) -> None:
    copy(layout, f"dir:{tmp_path}/d")
    (blob,) = (
        path
        for path in (tmp_path / "d").iterdir()
        if path.name == digest(gzip.compress(LAYER, 1, mtime=0))[7:]
    )
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(ImageError, match="is not a regular file"):
        copy(f"dir:{tmp_path}/d", f"oci:{tmp_path}/2:n")


def test_an_archive_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path, layout: str) -> None:
    archive = tmp_path / "a.tar"
    archive.write_text("the old one")
    with pytest.raises(NotInStore):
        copy(f"oci:{tmp_path}/l:nosuch", f"oci-archive:{archive}")
    assert archive.read_text() == "the old one"
    copy(layout, f"oci-archive:{archive}:n")
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
        assert "index.json" in tar.getnames()
