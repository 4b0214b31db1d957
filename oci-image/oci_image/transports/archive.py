"""oci-archive:FILE[:NAME] and docker-archive:FILE[:NAME] as sources: images in a tar file.

docker-archive is what `docker save` writes: since version 25 an image layout with a manifest.json
for older readers, before that only manifest.json, configs and layer.tar files. The archive may be
compressed; names in it are looked up in a table, never on a file system.
"""

from __future__ import annotations

import os
import stat
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image import reference
from oci_image.descriptor import (
    MAX_CONFIG,
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from oci_image.digest import CHUNK, Verified, copy_stream, new_hash
from oci_image.errors import ImageError, NotInStore, TooLarge
from oci_image.inflate import compression_of, inflated
from oci_image.store import INDEX_FILE, LAYOUT_FILE, FdReader, blob_path, names_of
from oci_image.tarstream import FILE, HARDLINK, LIMITS, SYMLINK, TarReader
from oci_image.transports import Image

if TYPE_CHECKING:
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader

MANIFEST = "manifest.json"
REPOSITORIES = "repositories"  # all that docker save wrote before version 1.10
MAX_MEMBERS = 100_000
MAX_LINKS = 8
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY


class Member(NamedTuple):
    """Where a member's content lies; link is the name of another member instead."""

    offset: int
    size: int
    link: str = ""


class Archive:
    """Random access to the members of a tar file, by their names without `./`."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            raise ImageError(path, "does not exist") from None
        try:
            self._fd = self._seekable(fd)
            try:
                self._members = self._read_names()
            except BaseException:
                os.close(self._fd)
                raise
        finally:
            os.close(fd)

    def _seekable(self, fd: int) -> int:
        """fd itself, or a temporary file without a name where that cannot be read at any place."""
        if stat.S_ISREG(os.fstat(fd).st_mode):
            if not compression_of(os.pread(fd, 8, 0), self.path):
                return os.dup(fd)
            os.lseek(fd, 0, os.SEEK_SET)
        elif stat.S_ISDIR(os.fstat(fd).st_mode):
            raise ImageError(self.path, "is a directory, not an archive")
        with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR", "/var/tmp")) as spool:
            copy_stream(inflated(FdReader(os.dup(fd)), self.path), spool.write)
            spool.flush()
            return os.dup(spool.fileno())

    def _read_names(self) -> dict[str, Member]:
        source = _FileChunks(self._fd)
        reader = TarReader(source, self.path, LIMITS._replace(trailing=LIMITS.total))
        members = {}
        while entry := reader.next():
            name = _normal(entry.name)
            if entry.kind == FILE and entry.sparse is None:
                members[name] = Member(entry.offset, entry.size)
            elif entry.kind == SYMLINK:
                base = name.rpartition("/")[0]
                members[name] = Member(0, 0, _normal(f"{base}/".encode() + entry.linkname))
            elif entry.kind == HARDLINK:
                members[name] = Member(0, 0, _normal(entry.linkname))
            if len(members) > MAX_MEMBERS:
                raise TooLarge(self.path, f"has more than {MAX_MEMBERS} members")
        return members

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> Member | None:
        member = self._members.get(name)
        for _ in range(MAX_LINKS):
            if member is None or not member.link:
                return member
            member = self._members.get(member.link)
        return None

    def size(self, name: str) -> int:
        return self._member(name).size

    def _member(self, name: str) -> Member:
        member = self._find(name)
        if member is None:
            raise NotInStore(f"{self.path}: {name}", "is missing in the archive")
        return member

    def open(self, name: str) -> Reader:
        """A reader of a member."""
        member = self._member(name)
        return _MemberReader(os.dup(self._fd), member.offset, member.size)

    def read(self, name: str, limit: int = MAX_DOCUMENT) -> bytes:
        member = self._member(name)
        if member.size > limit:
            raise TooLarge(f"{self.path}: {name}", f"has {member.size} bytes, more than {limit}")
        reader = self.open(name)
        try:
            return b"".join(iter(lambda: reader.read(CHUNK), b""))
        finally:
            reader.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _FileChunks:
    """A regular file for TarReader, which need not read what it skips."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._size = os.fstat(fd).st_size

    def chunk(self) -> bytes:
        data = os.pread(self._fd, 1 << 14, self._at)
        self._at += len(data)
        return data

    def skip(self, size: int) -> bool:
        self._at += size
        return self._at <= self._size


class _MemberReader:
    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._at = offset
        self._end = offset + size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _normal(name: bytes) -> str:
    """A member's name without `.`, `..` and repeated slashes, as text."""
    parts: list[str] = []
    for part in name.decode("utf-8", "surrogateescape").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def open_archive(path: str, docker: bool) -> LayoutArchive | DockerArchive:
    """The source in a tar file: with an image layout inside, or as older docker wrote it."""
    archive = Archive(path)
    try:
        if LAYOUT_FILE in archive and INDEX_FILE in archive:
            return LayoutArchive(archive, docker)
        if not docker:
            raise ImageError(path, f"is not an OCI archive: it has no {LAYOUT_FILE}", "image-layout.md")
        if MANIFEST not in archive:
            old = " (an archive of docker before 1.10)" if REPOSITORIES in archive else ""
            raise ImageError(path, f"is not a docker archive: it has no {MANIFEST}{old}")
        return DockerArchive(archive)
    except BaseException:
        archive.close()
        raise


class LayoutArchive:
    """An image layout in a tar file."""

    def __init__(self, archive: Archive, docker: bool) -> None:
        self.where = archive.path
        self._archive = archive
        self._docker = docker
        where = f"{archive.path}: {INDEX_FILE}"
        index = documents.parse(archive.read(INDEX_FILE), where)
        self._manifests = documents.check_index(index, OCI_INDEX, where)["manifests"]

    def images(self) -> list[Image]:
        """One for each digest: docker save lists an image once for each of its names."""
        found: dict[str, Image] = {}
        for one in self._manifests:
            names = tuple(names_of(one)[:1] if self._docker else names_of(one))
            earlier = found.get(one["digest"])
            merged = dict.fromkeys((*(earlier.names if earlier else ()), *names))
            found[one["digest"]] = Image(tuple(merged), one)
        return list(found.values())

    def find(self, name: str) -> Descriptor:
        return _find(self.images(), name, self.where, self._docker)

    def open_blob(self, descriptor: Descriptor) -> Reader:
        name = blob_path(descriptor["digest"])
        where = f"{self.where}: {descriptor['digest']}"
        return Verified(self._archive.open(name), descriptor["digest"], descriptor["size"], where)

    def close(self) -> None:
        self._archive.close()


class DockerArchive:
    """Images of an older `docker save`. It holds no manifests: they are made here, of OCI's media type."""

    def __init__(self, archive: Archive) -> None:
        self.where = archive.path
        self._archive = archive
        self._names: dict[str, str] = {}  # digest → member
        self._made: dict[str, bytes] = {}  # digest → manifest
        self._configs: dict[str, tuple[bytes, dict[str, Any]]] = {}  # by member, as are digests
        self._digests: dict[str, str] = {}  # of what may be named more than once
        self._images = [self._image(i, entry) for i, entry in enumerate(self._entries())]

    def _entries(self) -> list[dict[str, Any]]:
        where = f"{self.where}: {MANIFEST}"
        data = self._archive.read(MANIFEST)
        entries = documents.parse(b'{"images":%s}' % data, where)["images"]
        if not isinstance(entries, list):
            raise ImageError(where, "is not a list")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
                raise ImageError(where, f"[{i}].Config is not a name")
            for name in ("Layers", "RepoTags"):
                words = entry.get(name)
                if words is not None and not (
                    isinstance(words, list) and all(type(one) is str for one in words)
                ):
                    raise ImageError(where, f"[{i}].{name} is not a list of names")
        return entries

    def _image(self, number: int, entry: dict[str, Any]) -> Image:
        config_name = _normal(entry["Config"].encode())
        where = f"{self.where}: {config_name}"
        if config_name not in self._configs:
            data = self._archive.read(config_name, MAX_CONFIG)
            self._configs[config_name] = data, documents.check_config(documents.parse(data, where), where)
        data, config = self._configs[config_name]
        layer_names = [_normal(name.encode()) for name in entry.get("Layers") or ()]
        diff_ids = config["rootfs"].get("diff_ids") or []
        if len(layer_names) != len(diff_ids):
            reason = f"[{number}] has {len(layer_names)} layers, its config {len(diff_ids)} rootfs.diff_ids"
            raise ImageError(f"{self.where}: {MANIFEST}", reason)
        layers = [self._layer(name, diff_id) for name, diff_id in zip(layer_names, diff_ids, strict=True)]
        described = documents.describe(data, OCI_CONFIG)
        self._names[described["digest"]] = config_name
        manifest = documents.encode(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
        )
        top = documents.describe(manifest, OCI_MANIFEST)
        self._made[top["digest"]] = manifest
        names = [str(reference.parse(tag)) for tag in entry.get("RepoTags") or ()]
        return Image(tuple(names), top)

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        """Layers are uncompressed as a rule: then the DiffID is the digest, and is verified when read."""
        size = self._archive.size(name)
        reader = self._archive.open(name)
        try:
            compression = compression_of(reader.read(8), f"{self.where}: {name}")
            digest = diff_id
            if compression:
                digest = self._digest(name)
        finally:
            reader.close()
        self._names[digest] = name
        media_type = OCI_LAYER + (f"+{compression}" if compression else "")
        return {"mediaType": media_type, "digest": digest, "size": size}

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            reader = self._archive.open(name)
            hashed = new_hash()
            try:
                copy_stream(reader, hashed.update)
            finally:
                reader.close()
            self._digests[name] = f"sha256:{hashed.hexdigest()}"
        return self._digests[name]

    def images(self) -> list[Image]:
        return self._images

    def find(self, name: str) -> Descriptor:
        return _find(self._images, name, self.where, docker=True)

    def open_blob(self, descriptor: Descriptor) -> Reader:
        digest = descriptor["digest"]
        made = self._made.get(digest)
        if made is not None:
            return _Bytes(made)
        name = self._names.get(digest)
        if name is None:
            raise NotInStore(f"{self.where}: {digest}", "the blob is missing")
        where = f"{self.where}: {name}"
        return Verified(self._archive.open(name), digest, descriptor["size"], where)

    def close(self) -> None:
        self._archive.close()


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data

    def close(self) -> None:
        self._data = b""


def _find(images: list[Image], name: str, where: str, docker: bool) -> Descriptor:
    if name[:1] == "@" and name[1:].isdecimal():  # skopeo's way to name the n-th image
        if int(name[1:]) < len(images):
            return images[int(name[1:])].descriptor
    elif not name:
        if len(images) == 1:
            return images[0].descriptor
        raise ImageError(where, f"holds {len(images)} images: name one" if images else "holds no image")
    else:
        wanted = {name}
        if docker:
            wanted.add(str(reference.parse(name).with_default_tag()))
        for image in images:
            if wanted & set(image.names):
                return image.descriptor
    known = ", ".join(sorted(name for image in images for name in image.names)[:10])
    raise NotInStore(f"{where}:{name}", f"there is no such image; it has {known or 'none with a name'}")
