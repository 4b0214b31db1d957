"""tree: which images of the store stand on the same layers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.descriptor import check_image, is_image
from oci_image.errors import printable
from oci_image.look import manifests
from oci_image.platforms import of_document
from oci_image.snapshots import chain_ids
from oci_image.transfer import read_config
from oci_image.transports import OCI, Location, open_source

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from oci_image.transports import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_json(parser, "a list of layers with chainId, diffId, size, layers above it and images")


def run(arguments: argparse.Namespace) -> int:
    with common.open_store(arguments) as store:
        images = store.images()
    top: dict[str, Any] = {"layers": {}, "images": []}
    source = open_source(Location(OCI, common.store_path(arguments)))
    try:
        for name, descriptor in images:
            for one, manifest in manifests(source, descriptor):
                if is_image(manifest):
                    label = common.names_for_people(name) if name else common.short(one["digest"])
                    _plant(top, source, label, one["digest"], manifest)
    finally:
        source.close()
    if arguments.json:
        common.print_json(_plain(top)["layers"])
    else:
        _show(top, "")
    return 0


def _plant(top: dict[str, Any], source: Source, name: str, digest: str, manifest: dict[str, Any]) -> None:
    config = read_config(source, manifest)
    layers = check_image(manifest, config, digest)
    node = top
    for (layer, diff_id), chain in zip(layers, chain_ids(diff for _, diff in layers), strict=True):
        fresh = {"diffId": diff_id, "size": layer["size"], "layers": {}, "images": []}
        node = node["layers"].setdefault(chain, fresh)
    node["images"].append(f"{name} ({of_document(config)})")


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    layers = [{"chainId": f"sha256:{chain}", **_plain(below)} for chain, below in node["layers"].items()]
    return {**node, "layers": layers}


def _show(node: dict[str, Any], margin: str) -> None:
    children = list(node["layers"].values())
    for i, child in enumerate(children):
        last = i == len(children) - 1
        names = f"  {', '.join(child['images'])}" if child["images"] else ""
        line = f"{margin}{'└─' if last else '├─'} {common.short(child['diffId'])} "
        sys.stdout.write(f"{line}{common.size_text(child['size'])}{printable(names)}\n")
        _show(child, f"{margin}{'   ' if last else '│  '}")
