"""Manifests, indexes, configs, digests and platforms: what is refused, and under which name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from oci_image import descriptor, platforms
from oci_image.digest import check_digest
from oci_image.errors import ImageError, TooLarge
from oci_image.platforms import Platform

HEX = "0" * 64
DIGEST = f"sha256:{HEX}"
LAYER = {"mediaType": descriptor.OCI_LAYER + "+gzip", "digest": DIGEST, "size": 3}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": descriptor.OCI_MANIFEST,
    "config": {"mediaType": descriptor.OCI_CONFIG, "digest": DIGEST, "size": 2},
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "manifests": [{"mediaType": descriptor.OCI_MANIFEST, "digest": DIGEST, "size": 2}],
}
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
}


def check(document: dict[str, Any], media_type: str = descriptor.OCI_MANIFEST) -> dict[str, Any]:
    return descriptor.check_document(json.dumps(document).encode(), media_type, "doc")


def refusal(document: dict[str, Any], media_type: str = descriptor.OCI_MANIFEST) -> str:
    with pytest.raises(ImageError) as caught:
        check(document, media_type)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:../../x",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63 + "\n",
        "sha256:" + "0" * 63 + "/",
        "sha256",
        "sha256:",
        ":" + HEX,
        "md5:" + "0" * 32,
        "../sha256:" + HEX,
        "",
        None,
        7,
    ],
)
def test_a_digest_that_is_none_is_refused(text: object) -> None:
    """CVE-2024-3727: a digest becomes a file name and must not be taken as it comes."""
    with pytest.raises(ImageError, match=r"layers.0.*digest"):
        check_digest(text, "layers[0].digest")


def test_both_registered_algorithms_are_taken() -> None:
    assert check_digest(DIGEST, "x") == ("sha256", HEX)
    assert check_digest("sha512:" + "a" * 128, "x") == ("sha512", "a" * 128)


def test_a_plain_manifest_and_index_pass() -> None:
    assert check(MANIFEST) == MANIFEST
    assert check(INDEX, descriptor.OCI_INDEX) == INDEX


@pytest.mark.parametrize("name", ["manifests", "Manifests", "fsLayers"])
def test_a_manifest_that_is_also_something_else_is_refused(name: str) -> None:
    """CVE-2021-41190"""
    assert "CVE-2021-41190" in refusal({**MANIFEST, name: []})


@pytest.mark.parametrize("name", ["layers", "LAYERS", "config"])
def test_an_index_that_is_also_a_manifest_is_refused(name: str) -> None:
    """CVE-2021-41190"""
    assert "CVE-2021-41190" in refusal({**INDEX, name: []}, descriptor.OCI_INDEX)


def test_a_document_of_another_media_type_than_its_descriptor_says_is_refused() -> None:
    assert "doc: mediaType" in refusal(MANIFEST, descriptor.DOCKER_MANIFEST)
    assert "doc: mediaType" in refusal({**INDEX, "mediaType": descriptor.OCI_MANIFEST}, descriptor.OCI_INDEX)


def test_a_docker_document_must_say_its_media_type() -> None:
    without = {name: value for name, value in MANIFEST.items() if name != "mediaType"}
    assert "is missing" in refusal(without, descriptor.DOCKER_MANIFEST)


def test_a_key_that_others_read_differently_is_refused() -> None:
    assert "other programs read this as layers" in refusal({**MANIFEST, "Layers": []})


def test_a_key_that_occurs_twice_is_refused() -> None:
    text = json.dumps(MANIFEST)[:-1] + ', "layers": []}'
    with pytest.raises(ImageError, match="occurs twice"):
        descriptor.check_document(text.encode(), descriptor.OCI_MANIFEST, "doc")


@pytest.mark.parametrize("size", [-1, 2**62, 2**64, 1.0, "3", True, None])
def test_a_size_that_is_negative_huge_or_no_number_is_refused(size: object) -> None:
    document = copy.deepcopy(MANIFEST)
    document["layers"][0]["size"] = size
    assert "layers[0].size" in refusal(document)


def test_a_manifest_of_more_than_4_mib_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match=r"x\.size: 4194305"):
        descriptor.check_descriptor({**LAYER, "size": (4 << 20) + 1}, "x", descriptor.MAX_DOCUMENT)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"schemaVersion": True}, "schemaVersion"),
        ({"config": None}, "config"),
        ({"layers": {}}, "layers"),
        ({"layers": [3]}, "layers[0]"),
        ({"layers": [{**LAYER, "mediaType": "tar"}]}, "layers[0].mediaType"),
        ({"layers": [{**LAYER, "urls": "x"}]}, "layers[0].urls"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"subject": {}}, "subject"),
    ],
)
def test_the_error_names_the_field(change: dict[str, Any], field: str) -> None:
    assert refusal({**MANIFEST, **change}).startswith(f"doc: {field}")


def test_schema_1_is_refused_by_name() -> None:
    old = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    assert "schema 1" in refusal({"schemaVersion": 1}, old)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_a_foreign_layer_is_refused_clearly(media_type: str) -> None:
    manifest = {**MANIFEST, "layers": [{**LAYER, "mediaType": media_type}]}
    with pytest.raises(ImageError, match=r"layers\[0\]: is a foreign layer"):
        descriptor.check_image(manifest, CONFIG, "img")


def test_layers_and_diff_ids_must_be_as_many() -> None:
    with pytest.raises(ImageError, match="has 0 layers, its config 1"):
        descriptor.check_image({**MANIFEST, "layers": []}, CONFIG, "img")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"os": None}, "os"),
        ({"architecture": ""}, "architecture"),
        ({"rootfs": None}, "rootfs"),
        ({"rootfs": {"type": "x"}}, "rootfs.type"),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"]}}, "rootfs.diff_ids[0]"),
        ({"config": {"Env": "A=b"}}, "config.Env"),
        ({"config": {"Cmd": [1]}}, "config.Cmd"),
        ({"config": {"User": 0}}, "config: User"),
        ({"config": {"Labels": {"a": None}}}, "config: Labels"),
        ({"config": {"Volumes": []}}, "config.Volumes"),
        ({"history": [1]}, "history[0]"),
    ],
)
def test_a_config_with_a_wrong_field_is_refused_by_its_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ImageError) as caught:
        descriptor.check_config({**CONFIG, **change}, "cfg")
    assert str(caught.value).startswith(f"cfg: {field}")


def test_null_counts_as_absent_in_a_config() -> None:
    nulls = dict.fromkeys(("Env", "Cmd", "Entrypoint", "Volumes", "ExposedPorts", "Labels", "User"))
    descriptor.check_config({**CONFIG, "config": nulls, "history": None}, "cfg")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/armhf", Platform("linux", "arm")),
        ("linux/arm/6", Platform("linux", "arm", "v6")),
        ("arm64", Platform("linux", "arm64")),
        ("windows", platforms.host()._replace(os="windows")),
    ],
)
def test_a_platform_is_read_as_docker_does(text: str, wanted: Platform) -> None:
    assert platforms.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "linux/a b"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="is not a platform"):
        platforms.parse(text)


def offer(*names: str) -> list[dict[str, Any]]:
    keys = ("os", "architecture", "variant")
    return [{"name": name, "platform": dict(zip(keys, name.split("/"), strict=False))} for name in names]


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/arm64", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
    ],
)
def test_the_image_that_suits_best_is_chosen(wanted: str, offered: list[str], chosen: str) -> None:
    assert platforms.choose(offer(*offered), platforms.parse(wanted), "i")["name"] == chosen


def test_no_image_for_a_platform_lists_what_there_is() -> None:
    with pytest.raises(ImageError, match="no image for linux/arm/v6, but for: linux/arm, linux/s390x"):
        platforms.choose(offer("linux/arm/v7", "linux/s390x"), platforms.parse("linux/arm/v6"), "i")
