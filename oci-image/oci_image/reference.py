"""Names of images, parsed and normalised as docker does: [DOMAIN/]PATH[:TAG][@DIGEST].

The grammar is the one of the distribution project's reference package, which docker, containerd
and podman share. `busybox` means docker.io/library/busybox:latest.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from oci_image.digest import check_digest
from oci_image.errors import ImageError

DEFAULT_DOMAIN = "docker.io"
OLD_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
MAX_NAME = 255  # characters of the path

_COMPONENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])"
_DOMAIN = re.compile(rf"{_HOST}(?::[0-9]+)?", re.ASCII)
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


class Reference(NamedTuple):
    """A normalised name; tag and digest are "" when the text had none."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """As people write it: without what the normalisation adds."""
        short = self.path
        if short.startswith(OFFICIAL) and "/" not in short[len(OFFICIAL) :]:
            short = short[len(OFFICIAL) :]
        # docker.io/a.b/c keeps its domain: a.b/c alone would be c of the registry a.b.
        same = self.domain == DEFAULT_DOMAIN and _split_domain(short) == (self.domain, self.path)
        return (short if same and not _IDENTIFIER.fullmatch(short) else self.name) + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """The same with the tag `latest` where there is neither a tag nor a digest."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.name + self._suffix


def parse(text: str) -> Reference:
    """The normalised reference that text stands for. Raises ImageError(text, reason)."""
    if not text:
        raise ImageError("reference", "is empty")
    if _IDENTIFIER.fullmatch(text):
        raise ImageError(text, "64 hexadecimal digits are an identifier, not a name")
    rest, at, digest = text.partition("@")
    if at:
        check_digest(digest, text)
    # A colon behind the last slash begins the tag; one before it belongs to the port.
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    tag = ""
    if colon >= 0:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not _TAG.fullmatch(tag):
            raise ImageError(text, f"{tag!r} is not a tag: 1 to 128 of A-Z a-z 0-9 _ . -, not . or - first")
    domain, path = _split_domain(rest)
    if not _DOMAIN.fullmatch(domain):
        raise ImageError(text, f"{domain!r} is not a registry: host[:port]")
    if path != path.lower():
        raise ImageError(text, f"repository name {path!r} must be lower case")
    if not _PATH.fullmatch(path):
        raise ImageError(text, f"{path!r} is not a repository name")
    if len(path) > MAX_NAME:
        raise ImageError(text[:40] + "…", f"the repository name has more than {MAX_NAME} characters")
    return Reference(domain, path, tag, digest)


def _split_domain(name: str) -> tuple[str, str]:
    """(domain, path): the first component is a domain if it could not be a path's."""
    first, slash, rest = name.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, name)
    if domain == OLD_DEFAULT_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    return domain, path
