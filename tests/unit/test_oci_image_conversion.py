"""From an image config to config.json: conversion.md clause by clause, and users by name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from oci_image import users
from oci_image.conversion import PATH, Converted, Overrides, convert
from oci_image.drivers import find
from oci_image.errors import ImageError
from oci_image.snapshots import chain_ids
from oci_image.users import User

PASSWD = (
    "# comment\nroot:x:0:0::/:/bin/sh\nweb:x:33:34::/:\nbad line\nbig:x:99999999999:0::/:\nweb:x:7:7::/:\n"
)
GROUP = "root:x:0:\nwww:x:34:web\nextra:x:77:other,web\nmore:x:78:web\n"


@pytest.fixture
def root_fd(tmp_path: Path) -> Any:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0)),
        ("web", User(33, 34, (77, 78))),
        ("web:extra", User(33, 77)),
        ("web:5", User(33, 5)),
        ("33", User(33, 34)),  # a number: its group, not its further ones
        ("33:0", User(33, 0)),
        ("33:www", User(33, 34)),
        ("12345", User(12345, 0)),
        ("root", User(0, 0)),
        ("4294967294:4294967294", User(4294967294, 4294967294)),
        ("0033", User(33, 34)),
    ],
)
def test_a_user_is_found_by_number_or_in_the_image(root_fd: int, text: str, user: User) -> None:
    assert users.resolve(text, root_fd) == user


@pytest.mark.parametrize(
    "text",
    [":", ":1", "1:", "web:", ":www", "1:2:3", "nobody", "web:nogroup", "-1", "+1", " 1", "1abc", "0x1",
     "4294967295", "4294967296", "99999999999999999999", "0:4294967295", "big", "\u0661"],
)  # fmt: skip
def test_what_names_nobody_is_refused(root_fd: int, text: str) -> None:
    with pytest.raises(ImageError, match=r"config\.User"):
        users.resolve(text, root_fd)


def test_an_image_without_passwd_has_numbers_alone(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert users.resolve("5", fd) == User(5, 0)
        with pytest.raises(ImageError, match="has no user 'web'"):
            users.resolve("web", fd)
    finally:
        os.close(fd)


def converted(root_fd: int, config: dict[str, Any] | None = None, **more: Any) -> Converted:
    overrides = more.pop("overrides", Overrides())
    image = {"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/x"], **(config or {})}, **more}
    return convert(image, root_fd, overrides, rootless=False)


def test_verbatim_fields_are_taken_over(root_fd: int) -> None:
    config = {
        "Entrypoint": ["/bin/e", "a"],
        "Cmd": ["b"],
        "Env": ["A=1", "B="],
        "WorkingDir": "/w",
        "User": "web",
    }
    process = converted(root_fd, config).spec["process"]
    assert process["args"] == ["/bin/e", "a", "b"]
    assert process["cwd"] == "/w"
    assert process["env"] == ["A=1", "B=", PATH]
    assert process["user"] == {"uid": 33, "gid": 34, "additionalGids": [77, 78]}


def test_a_variable_of_the_image_is_never_replaced_by_ours(root_fd: int) -> None:
    assert converted(root_fd, {"Env": ["PATH=/x"]}).spec["process"]["env"] == ["PATH=/x"]


def test_absent_and_null_fields_have_defaults(root_fd: int) -> None:
    spec = converted(root_fd, {"Env": None, "Entrypoint": None, "WorkingDir": "", "User": None}).spec
    assert spec["process"]["cwd"] == "/"
    assert spec["process"]["user"] == {"uid": 0, "gid": 0}
    assert spec["root"] == {"path": "rootfs", "readonly": False}


@pytest.mark.parametrize(
    ("overrides", "args"),
    [
        (Overrides(args=["c"]), ["e", "c"]),
        (Overrides(entrypoint=["f"]), ["f"]),
        (Overrides(entrypoint=[], args=["c"]), ["c"]),
    ],
)
def test_commands_are_replaced_as_docker_run_does(
    root_fd: int, overrides: Overrides, args: list[str]
) -> None:
    config = {"Entrypoint": ["e"], "Cmd": ["d"]}
    assert converted(root_fd, config, overrides=overrides).spec["process"]["args"] == args


def test_the_caller_has_the_last_word(root_fd: int) -> None:
    words = {"env": ("A=2", "C=3"), "cwd": "/c", "user": "5:6", "hostname": "h"}
    overrides = Overrides(**words, terminal=True, readonly=True, host_network=True)
    spec = converted(root_fd, {"Env": ["A=1"], "User": "nobody"}, overrides=overrides).spec
    assert spec["process"]["env"] == ["A=2", "C=3", PATH, "TERM=xterm"]
    assert (spec["process"]["cwd"], spec["process"]["user"]) == ("/c", {"uid": 5, "gid": 6})
    assert (spec["hostname"], spec["root"]["readonly"], spec["process"]["terminal"]) == ("h", True, True)
    assert "network" not in {one["type"] for one in spec["linux"]["namespaces"]}


def test_annotations_come_from_the_config_and_labels_win(root_fd: int) -> None:
    config = {
        "Labels": {"a": "b", "org.opencontainers.image.author": "label"},
        "StopSignal": "SIGQUIT",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    }
    more = {"author": "config", "created": "2026-01-01T00:00:00Z", "variant": "v8", "os.version": "1"}
    spec = converted(root_fd, config, **more, **{"os.features": ["x", "y"]}).spec
    prefix = "org.opencontainers.image."
    assert spec["annotations"] == {
        "a": "b",
        prefix + "os": "linux",
        prefix + "architecture": "amd64",
        prefix + "variant": "v8",
        prefix + "os.version": "1",
        prefix + "os.features": "x,y",
        prefix + "author": "label",
        prefix + "created": "2026-01-01T00:00:00Z",
        prefix + "stopSignal": "SIGQUIT",
        prefix + "exposedPorts": "53/udp,80/tcp",
    }


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"Cmd": None}, "neither Entrypoint nor Cmd"),
        ({"Cmd": [""]}, "neither Entrypoint nor Cmd"),
        ({"Env": ["=x"]}, "is not NAME=VALUE"),
        ({"Env": ["x"]}, "is not NAME=VALUE"),
        ({"Volumes": {"/": {}}}, "the root cannot be a volume"),
    ],
)
def test_what_cannot_be_run_is_refused(root_fd: int, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        converted(root_fd, config)


def test_an_image_for_another_system_is_refused(root_fd: int) -> None:
    with pytest.raises(ImageError, match="for windows"):
        converted(root_fd, os="windows")


def test_chain_ids_are_those_of_the_specification() -> None:
    """config.md, Layer ChainID: digests of "parent child" in text."""
    one, two, three = ("sha256:" + letter * 64 for letter in "abc")
    second = hashlib.sha256(f"{one} {two}".encode()).hexdigest()
    third = hashlib.sha256(f"sha256:{second} {three}".encode()).hexdigest()
    assert chain_ids([one, two, three]) == ["a" * 64, second, third]
    assert chain_ids([]) == []


def test_drivers_that_are_not_built_say_why() -> None:
    assert find("vfs").name == "vfs"
    with pytest.raises(ImageError, match="aufs is not built, because no kernel has it any more; there is"):
        find("aufs")
    with pytest.raises(ImageError, match="'magic' is none; there is overlay, btrfs, fuse-overlayfs, vfs and"):
        find("magic")
