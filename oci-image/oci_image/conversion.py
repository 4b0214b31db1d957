"""An image config becomes a config.json, by the rules of image-spec's conversion.md."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, NamedTuple

from oci_image import users
from oci_image.errors import ImageError
from ocirt.errors import SpecError
from ocirt.spec.check import check
from ocirt.spec.example import example, rootless_example

if TYPE_CHECKING:
    from typing import Any

    from oci_image.userns import Maps

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IMAGE = "org.opencontainers.image."
# What engines give a container unless told otherwise; images are made for it.
CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
# Annotations by which runtimes and engines are controlled: never from an image (CVE-2026-53488).
RESERVED = (
    "org.systemd.property.",
    "org.criu.",
    "org.opencontainers.runc.",
    "run.oci.",
    "io.containerd.",
    "io.katacontainers.",
    "io.kubernetes.",
    "io.podman.",
    "com.github.containers.",
    "io.github.seccomp-agent.",
    "module.wasm.",
    "ocirt.",
)


class Overrides(NamedTuple):
    """What a caller wants otherwise than the image; None leaves the image's word.

    args replaces Cmd (and Entrypoint, where entrypoint is given too). env adds or replaces.
    """

    entrypoint: list[str] | None = None
    args: list[str] | None = None
    env: tuple[str, ...] = ()
    cwd: str | None = None
    user: str | None = None
    hostname: str | None = None
    terminal: bool = False
    readonly: bool = False
    host_network: bool = False


class Converted(NamedTuple):
    """config.json; the image's volumes, for which it has no mounts yet; labels that were left out."""

    spec: dict[str, Any]
    volumes: list[str]
    dropped: list[str]


def convert(
    image: dict[str, Any], root_fd: int, overrides: Overrides, rootless: bool, maps: Maps | None = None
) -> Converted:
    """The config.json for a checked image config; names of users are looked up in root_fd.

    rootless: for a user namespace, in which the caller alone is mapped. maps: for a user namespace
    with these maps. The bundle's root is "rootfs". Raises ImageError.
    """
    if image["os"] != "linux":
        raise ImageError("os", f"the image is for {image['os']}, not for linux", "conversion.md")
    config = image.get("config") or {}
    v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    if rootless:
        spec = rootless_example(os.geteuid(), os.getegid(), cgroup_namespace=v2)
    else:
        spec = example(cgroup_namespace=v2)
        if maps:
            spec["linux"]["namespaces"].append({"type": "user"})
    if maps:
        spec["linux"]["uidMappings"] = [one.as_spec() for one in maps.uids]
        spec["linux"]["gidMappings"] = [one.as_spec() for one in maps.gids]
    process = spec["process"]
    process["terminal"] = overrides.terminal
    process["args"] = _args(config, overrides)
    process["env"] = _env(config, overrides)
    process["cwd"] = _absolute(overrides.cwd or config.get("WorkingDir") or "/")
    where = "--user" if overrides.user is not None else "config.User"
    user = users.resolve(
        config.get("User") or "" if overrides.user is None else overrides.user, root_fd, where
    )
    if rootless or maps:
        _check_mapped(user, spec["linux"], where)
    process["user"] = {"uid": user.uid, "gid": user.gid}
    if user.additional_gids:
        process["user"]["additionalGids"] = list(user.additional_gids)
    process["capabilities"] = {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")}
    process["noNewPrivileges"] = False  # setuid programs of images are meant to work
    spec["root"] = {"path": "rootfs", "readonly": overrides.readonly}
    if overrides.hostname is not None:
        spec["hostname"] = overrides.hostname
    if overrides.host_network:
        namespaces = spec["linux"]["namespaces"]
        spec["linux"]["namespaces"] = [one for one in namespaces if one["type"] != "network"]
    annotations, dropped = _annotations(image, config)
    if annotations:
        spec["annotations"] = annotations
    volumes = sorted({_absolute(path) for path in config.get("Volumes") or ()})
    if "/" in volumes:
        raise ImageError("config.Volumes", "the root cannot be a volume")
    checked(spec)
    return Converted(spec, volumes, dropped)


def _check_mapped(user: users.User, linux: dict[str, Any], where: str) -> None:
    for what, kind, ids in (("user", "uid", [user.uid]), ("group", "gid", [user.gid, *user.additional_gids])):
        rows = [
            (row["containerID"], row["containerID"] + row["size"] - 1) for row in linux[f"{kind}Mappings"]
        ]
        known = ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in rows)
        for one in ids:
            if not any(first <= one <= last for first, last in rows):
                raise ImageError(where, f"{what} {one} is not mapped in the user namespace: {known}")


def checked(spec: dict[str, Any]) -> dict[str, Any]:
    """spec, if ocirt would take it. Raises ImageError."""
    try:
        check(copy.deepcopy(spec))
    except SpecError as error:
        raise ImageError("the config.json of this image", str(error)) from None
    return spec


def _args(config: dict[str, Any], overrides: Overrides) -> list[str]:
    entrypoint = config.get("Entrypoint") or []
    command = config.get("Cmd") or []
    if overrides.entrypoint is not None:
        entrypoint, command = overrides.entrypoint, []  # Cmd holds arguments of the image's Entrypoint
    if overrides.args is not None:
        command = overrides.args
    args = [*entrypoint, *command]
    if not args or not args[0]:
        raise ImageError("config", "the image has neither Entrypoint nor Cmd: give a command")
    return args


def _env(config: dict[str, Any], overrides: Overrides) -> list[str]:
    """The image's variables, ours where it has none of the name, the caller's in their place."""
    found: dict[str, str] = {}
    for source, where in ((config.get("Env") or (), "config.Env"), (overrides.env, "--env")):
        for variable in source:
            name, equals, _ = variable.partition("=")
            if not name or not equals:
                raise ImageError(where, f"{variable!r} is not NAME=VALUE")
            found[name] = variable
    found.setdefault("PATH", PATH)
    if overrides.terminal:
        found.setdefault("TERM", "TERM=xterm")
    return list(found.values())


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _annotations(image: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """(annotations, labels that were left out): what the config implies, then its labels."""
    implied = {
        "os": image["os"],
        "architecture": image["architecture"],
        "variant": image.get("variant"),
        "os.version": image.get("os.version"),
        "os.features": ",".join(image.get("os.features") or ()),
        "author": image.get("author"),
        "created": image.get("created"),
        "stopSignal": config.get("StopSignal"),
        "exposedPorts": ",".join(sorted(config.get("ExposedPorts") or ())),
    }
    annotations = {IMAGE + name: value for name, value in implied.items() if value}
    dropped = []
    for name, value in (config.get("Labels") or {}).items():
        if name.startswith(RESERVED) or not name:
            dropped.append(name)
        else:
            annotations[name] = value
    return annotations, dropped
