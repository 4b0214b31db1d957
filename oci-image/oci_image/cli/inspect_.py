"""inspect: an image's digest, platform, layers and config."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from oci_image import reference
from oci_image.cli import common
from oci_image.descriptor import CONFIGS, INDEXES
from oci_image.errors import printable
from oci_image.platforms import of_document
from oci_image.transfer import read_config, read_document, resolve
from oci_image.transports import parse_location

if TYPE_CHECKING:
    import argparse

    from oci_image.descriptor import Descriptor
    from oci_image.transports import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    what = parser.add_mutually_exclusive_group()
    common.add_json(what, "digest, mediaType, of an index platforms, manifest, config")
    names = "Id RepoTags RepoDigests Created Author Architecture Os Size Config RootFS"
    text = f"a Go template; members are those of --json, and docker's {names}"
    what.add_argument("--format", metavar="TEMPLATE", help=text)
    what.add_argument("--raw", action="store_true", help="print the manifest or index, byte for byte")
    what.add_argument("--config", action="store_true", help="print the image config as JSON")
    common.add_platform(parser)


def run(arguments: argparse.Namespace) -> int:
    with common.found(arguments, arguments.image) as (source, top):
        if arguments.raw:
            data, _ = read_document(source, top)
            sys.stdout.buffer.write(data)
            return 0
        found = describe(source, top, arguments)
    if arguments.config:
        common.print_json(found["config"])
    elif arguments.format is not None:
        _fill(arguments, found)
    elif arguments.json:
        common.print_json(found)
    else:
        _show(arguments.image, found)
    return 0


def describe(source: Source, top: Descriptor, arguments: argparse.Namespace) -> dict[str, Any]:
    """What --json prints: the top, the manifest chosen by the platform, its config."""
    found: dict[str, Any] = {"digest": top["digest"], "mediaType": top["mediaType"]}
    if top["mediaType"] in INDEXES:
        _, index = read_document(source, top)
        found["platforms"] = [
            str(of_document(one["platform"]))
            for one in index["manifests"]
            if one.get("platform") and one["platform"]["os"] != "unknown"  # attestations of buildkit
        ]
    descriptor = resolve(source, top, common.platform(arguments))
    _, manifest = read_document(source, descriptor)
    found["manifest"] = {"digest": descriptor["digest"], **manifest}
    found["config"] = read_config(source, manifest) if manifest["config"]["mediaType"] in CONFIGS else None
    return found


# Members that docker has whether the image sets them or not, so that {{if .Config.Cmd}} is no error.
_UNSET: dict[str, Any] = {
    "User": "",
    "ExposedPorts": {},
    "Env": [],
    "Entrypoint": [],
    "Cmd": [],
    "Volumes": {},
    "WorkingDir": "",
    "Labels": {},
    "StopSignal": "",
}


def _fill(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    from oci_image.cli.template import fill  # most calls do without

    if arguments.format == "json":
        common.print_json(found)
    else:
        print(common.shown(fill(arguments.format, {**_as_docker(arguments, found), **found})))


def _as_docker(arguments: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """The image under the names of docker inspect."""
    manifest, config = found["manifest"], found["config"] or {}
    names = []
    if not parse_location(arguments.image):
        with common.open_store(arguments) as store:
            names = [name for name, one in store.images() if name and one["digest"] == found["digest"]]
    run_config = {name: value for name, value in (config.get("config") or {}).items() if value is not None}
    known = [reference.parse(name) for name in names]
    digests = dict.fromkeys(f"{one.name}@{found['digest']}" for one in known)
    return {
        "Id": manifest["config"]["digest"],
        "RepoTags": [one.familiar for one in known if one.tag],
        "RepoDigests": list(digests),
        "Created": config.get("created") or "",
        "Author": config.get("author") or "",
        "Architecture": config.get("architecture") or "",
        "Variant": config.get("variant") or "",
        "Os": config.get("os") or "",
        "Size": sum(layer["size"] for layer in manifest["layers"]),
        "Config": {**_UNSET, **run_config},
        "RootFS": {"Type": "layers", "Layers": (config.get("rootfs") or {}).get("diff_ids") or []},
    }


def _show(name: str, found: dict[str, Any]) -> None:
    manifest, config = found["manifest"], found["config"] or {}
    lines = [("Name", name), ("Digest", found["digest"])]
    if found.get("platforms"):
        lines += [("Index of", ", ".join(found["platforms"])), ("Manifest", manifest["digest"])]
    if config:
        lines.append(("Platform", str(of_document(config))))
    lines += [("Created", config.get("created") or ""), ("Author", config.get("author") or "")]
    size = sum(blob["size"] for blob in manifest["layers"])
    lines.append(("Layers", f"{len(manifest['layers'])}, {common.size_text(size)}"))
    lines += [("", f"{layer['digest']}  {common.size_text(layer['size'])}") for layer in manifest["layers"]]
    run_config = config.get("config") or {}
    for key in ("User", "WorkingDir", "Entrypoint", "Cmd", "StopSignal"):
        value = run_config.get(key)
        lines.append((key, " ".join(value) if isinstance(value, list) else value or ""))
    for key in ("Env", "ExposedPorts", "Volumes"):
        lines += [(key if not i else "", word) for i, word in enumerate(run_config.get(key) or ())]
    labels = sorted((run_config.get("Labels") or {}).items())
    lines += [("Labels" if not i else "", f"{key}={value}") for i, (key, value) in enumerate(labels)]
    for label, value in lines:
        if value:
            print(f"{label:<13}{printable(value)}")
