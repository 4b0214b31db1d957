"""Platforms: what `--platform` says, and which image of an index suits it (image-index.md)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from oci_image.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_WORD = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
MOST_TOLD = 10  # platforms in an error
SYSTEMS = {
    "linux",
    "windows",
    "freebsd",
    "darwin",
    "netbsd",
    "openbsd",
    "solaris",
    "aix",
    "illumos",
    "wasip1",
}

# Other names of architectures (the kernel's, Debian's) and the variant that they imply.
ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64el": ("ppc64le", ""),
    "mips64el": ("mips64le", ""),
}
# The variant that an absent one means.
DEFAULT_VARIANT = {"arm": "v7", "arm64": "v8", "amd64": "v1"}


class Platform(NamedTuple):
    """variant "" means the architecture's default one."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def parse(text: str) -> Platform:
    """OS/ARCH[/VARIANT], ARCH alone or OS alone; what is left out is this machine's."""
    words = text.lower().split("/")
    if not 1 <= len(words) <= 3 or not all(_WORD.fullmatch(word) for word in words):
        raise ImageError(text, "is not a platform: os/architecture[/variant]")
    here = host()
    if len(words) == 1:
        if words[0] in SYSTEMS:
            return here._replace(os=words[0])
        words.insert(0, here.os)
    return normalised(*words)


def normalised(system: str, architecture: str, variant: str = "") -> Platform:
    """With the names that image-spec uses (Go's), and without a variant that is the default."""
    architecture, implied = ALIASES.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant.isdigit():
        variant = f"v{variant}"
    return Platform(system, architecture, "" if variant == DEFAULT_VARIANT.get(architecture) else variant)


def of_document(document: dict[str, Any]) -> Platform:
    """The platform of a descriptor's `platform` or of an image config."""
    return normalised(document["os"], document["architecture"], document.get("variant") or "")


def host() -> Platform:
    """This machine's."""
    system = os.uname()
    return normalised(system.sysname.lower(), system.machine)


def _rank(offered: Platform, wanted: Platform) -> int | None:
    """How well an image suits: 0 is the very platform, None is not at all.

    A processor of version n runs what was made for its architecture's lower versions.
    """
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    if offered.variant == wanted.variant:
        return 0
    default = DEFAULT_VARIANT.get(wanted.architecture, "")
    has, wants = (_version(platform.variant or default) for platform in (offered, wanted))
    return wants - has if has is not None and wants is not None and has < wants else None


def _version(variant: str) -> int | None:
    return int(variant[1:]) if re.fullmatch(r"v[0-9]{1,4}", variant) else None


def choose(descriptors: Iterable[dict[str, Any]], wanted: Platform, where: str) -> dict[str, Any]:
    """The descriptor that suits best, the first of equals. Raises ImageError listing what there is."""
    best: tuple[int, dict[str, Any]] | None = None
    offered = []
    for descriptor in descriptors:
        if not descriptor.get("platform"):
            continue
        platform = of_document(descriptor["platform"])
        offered.append(str(platform))
        rank = _rank(platform, wanted)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, descriptor
    if best is None:
        have = f"{', '.join(offered[:MOST_TOLD])}{' …' if len(offered) > MOST_TOLD else ''}"
        raise ImageError(where, f"has no image for {wanted}, but for: {have or 'no platform'}")
    return best[1]
