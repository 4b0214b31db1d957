"""A content-addressed store of images: an OCI image layout that other tools read as it is.

image-layout.md. What is added to the layout: the directory TEMPORARY while blobs are written.

Concurrent processes. Two flock(2)s, on directories that every layout has, so that no file is added:
the layout's own directory, shared while an import adds blobs and names them, exclusive while gc
removes; `blobs`, exclusive while index.json is read, changed and replaced. kill -9 drops both.
A blob, and index.json, is written under another name, fsync'ed and renamed; a blob's directory is
fsync'ed before index.json refers to it. So at any moment a name leads to a whole image.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image.descriptor import MAX_DOCUMENT, OCI_INDEX, REF_NAME
from oci_image.digest import CHUNK, Verified, check_digest, new_hash
from oci_image.errors import ImageError, NotInStore, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader

LAYOUT_FILE = "oci-layout"
LAYOUT_VERSION = "1.0.0"
INDEX_FILE = "index.json"
BLOBS = "blobs"
TEMPORARY = ".oci-image-tmp"
CONTAINERD_NAME = "io.containerd.image.name"  # the full name, where REF_NAME is the tag alone

MAX_INDEX = 64 << 20  # bytes of index.json: some 200,000 names
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class FdReader:
    """Reader of an fd that it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Store:
    """An open layout; close it, or use it in a with statement. path is shown in errors."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: str) -> Store:
        """The layout at path. Raises ImageError when there is none or its version is unknown."""
        try:
            fd = os.open(path, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError(path, "is not a directory with an image layout") from None
        store = cls(path, fd)
        try:
            store._check_layout()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def create(cls, path: str) -> Store:
        """The layout at path, made if path does not exist, is empty, or was left half-made."""
        os.makedirs(path, exist_ok=True)
        store = cls(path, os.open(path, _DIRECTORY))
        try:
            others = set(os.listdir(store._fd)) - {BLOBS, INDEX_FILE, TEMPORARY}
            if LAYOUT_FILE not in others:
                if others:
                    raise ImageError(path, f"is neither empty nor an image layout: it holds {min(others)}")
                store._make_layout()
            store._check_layout()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Layout

    def _make_layout(self) -> None:
        self._make_directory(BLOBS)
        with self._changing_index():  # two processes may be making it
            self._make_directory(f"{BLOBS}/sha256")
            self._make_directory(TEMPORARY, 0o700)
            if not self._exists(INDEX_FILE):
                self._replace(INDEX_FILE, documents.encode(_empty_index()))
            if not self._exists(LAYOUT_FILE):
                self._replace(LAYOUT_FILE, documents.encode({"imageLayoutVersion": LAYOUT_VERSION}))

    def _check_layout(self) -> None:
        where = f"{self.path}/{LAYOUT_FILE}"
        try:
            data = self._read_file(LAYOUT_FILE, MAX_DOCUMENT)
        except FileNotFoundError:
            raise ImageError(
                self.path, f"is not an image layout: it has no {LAYOUT_FILE}", "image-layout.md"
            ) from None
        version = documents.parse(data, where).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise ImageError(where, f"imageLayoutVersion {version!r} is not known", "image-layout.md")

    def _make_directory(self, name: str, mode: int = 0o755) -> None:
        try:
            os.mkdir(name, mode, dir_fd=self._fd)
        except FileExistsError:
            pass

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def _read_file(self, name: str, limit: int) -> bytes:
        fd = os.open(name, _READ, dir_fd=self._fd)
        try:
            status = os.fstat(fd)
            where = f"{self.path}/{name}"
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(where, "is not a regular file")
            if status.st_size > limit:
                raise TooLarge(where, f"has {status.st_size} bytes, more than the {limit} that are allowed")
            parts = []
            while limit > 0 and (part := os.read(fd, min(CHUNK, limit))):
                parts.append(part)
                limit -= len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def _replace(self, name: str, data: bytes) -> None:
        """name with new content, all or nothing, durable when this returns."""
        temporary, fd = self._temporary()
        try:
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self._unlink(temporary)
            raise
        os.fsync(self._fd)

    def _temporary(self) -> tuple[str, int]:
        """(name, fd) of a new file below TEMPORARY. gc removes those of processes that died."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        while True:
            name = f"{TEMPORARY}/{os.getpid()}-{os.urandom(6).hex()}"
            try:
                return name, os.open(name, flags, 0o644, dir_fd=self._fd)
            except FileNotFoundError:
                self._make_directory(TEMPORARY, 0o700)
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise ImageError(self.path, f"cannot be written to: {reason}") from error

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass

    # Locks

    @contextmanager
    def _locked(self, name: str, operation: int) -> Iterator[None]:
        fd = os.open(name, _DIRECTORY, dir_fd=self._fd)  # a description of its own: flock is per description
        try:
            fcntl.flock(fd, operation)
            yield
        finally:
            os.close(fd)

    def _changing_index(self) -> AbstractContextManager[None]:
        return self._locked(BLOBS, fcntl.LOCK_EX)

    @contextmanager
    def importing(self) -> Iterator[Import]:
        """Keep gc away while blobs are added and named. Several processes may import at once."""
        with self._locked(".", fcntl.LOCK_SH):
            yield Import(self)

    @contextmanager
    def alone(self, wait: bool = True) -> Iterator[None]:
        """Keep every import away. Without wait, BlockingIOError while one is running."""
        with self._locked(".", fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
            yield

    # Names

    def index(self) -> dict[str, Any]:
        """index.json, checked."""
        where = f"{self.path}/{INDEX_FILE}"
        try:
            data = self._read_file(INDEX_FILE, MAX_INDEX)
        except FileNotFoundError:
            raise ImageError(where, "does not exist", "image-layout.md") from None
        return documents.check_index(documents.parse(data, where), OCI_INDEX, where)

    def images(self) -> list[tuple[str, Descriptor]]:
        """(name or "", descriptor) in the order of index.json."""
        return [(name_of(descriptor), descriptor) for descriptor in self.index()["manifests"]]

    def find(self, name: str) -> Descriptor:
        """The image of this name; with an empty name, the only one there is. Raises NotInStore."""
        manifests = self.index()["manifests"]
        found = [one for one in manifests if not name or name in names_of(one)]
        where = f"{self.path}:{name}" if name else self.path
        if not found:
            known = sorted({name_of(one) for one in manifests} - {""})
            have = f"; it has {', '.join(known[:10])}{' …' if len(known) > 10 else ''}" if known else ""
            raise NotInStore(where, f"there is no such image{have}" if name else "holds no image")
        if len({one["digest"] for one in found}) > 1:
            reason = "several images have this name" if name else f"holds {len(found)} images: name one"
            raise ImageError(where, reason)
        descriptor: Descriptor = found[0]
        return descriptor

    def remove_name(self, name: str) -> Descriptor:
        """Take a name away; the blobs stay until gc. Raises NotInStore."""
        with self._changing_index():
            removed = self.find(name)
            index = self.index()
            index["manifests"] = [one for one in index["manifests"] if name not in names_of(one)]
            self._replace(INDEX_FILE, documents.encode(index))
        return removed

    def find_digest(self, prefix: str) -> Descriptor:
        """The image whose digest begins with prefix, with or without `sha256:`. Raises NotInStore."""
        found = {
            one["digest"]: one
            for one in self.index()["manifests"]
            if one["digest"].startswith(prefix) or one["digest"].partition(":")[2].startswith(prefix)
        }
        if len(found) > 1:
            raise ImageError(f"{self.path}: {prefix}", f"{len(found)} images have such a digest")
        if not found:
            raise NotInStore(f"{self.path}: {prefix}", "there is no such image")
        descriptor: Descriptor = next(iter(found.values()))
        return descriptor

    def remove_digest(self, digest: str) -> list[str]:
        """Take away all entries of a digest, named or not; the names that were lost."""
        with self._changing_index():
            index = self.index()
            removed = [one for one in index["manifests"] if one["digest"] == digest]
            index["manifests"] = [one for one in index["manifests"] if one["digest"] != digest]
            self._replace(INDEX_FILE, documents.encode(index))
        return [name for name in map(name_of, removed) if name]

    # Blobs

    def has(self, descriptor: Descriptor) -> bool:
        """Is there a blob of this digest and size? Its content was verified when it was written."""
        try:
            status = os.stat(blob_path(descriptor["digest"]), dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == descriptor["size"]

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The blob as a reader that verifies it; close it. Raises NotInStore, ImageError."""
        digest = descriptor["digest"]
        where = f"{self.path}: {digest}"
        try:
            fd = os.open(blob_path(digest), _READ, dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError):
            raise NotInStore(where, "the blob is missing") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != descriptor["size"]:
            os.close(fd)
            raise ImageError(where, f"has {status.st_size} bytes, its descriptor says {descriptor['size']}")
        return Verified(FdReader(fd), digest, descriptor["size"], where)

    def blobs(self) -> Iterator[tuple[str, str, os.stat_result]]:
        """(algorithm, file name, lstat) of everything below blobs/ALGORITHM."""
        for algorithm in sorted(os.listdir(self._child(BLOBS))):
            try:
                fd = os.open(f"{BLOBS}/{algorithm}", _DIRECTORY, dir_fd=self._fd)
            except NotADirectoryError:
                continue
            try:
                for name in sorted(os.listdir(fd)):
                    yield algorithm, name, os.stat(name, dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(fd)

    def remove_blob(self, digest: str) -> None:
        """Only for gc, under `alone`."""
        self._unlink(blob_path(digest))

    def remove_temporary(self) -> int:
        """Remove what processes that died were writing, under `alone`; how many files."""
        try:
            left = os.listdir(self._child(TEMPORARY))
        except FileNotFoundError:
            return 0
        for name in left:
            self._unlink(f"{TEMPORARY}/{name}")
        return len(left)

    def _child(self, name: str) -> str:
        # listdir has no dir_fd; the layout may have been renamed since it was opened.
        return f"/proc/self/fd/{self._fd}/{name}"


class Import:
    """What may be added while gc is kept away: made by Store.importing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._algorithms = {"sha256"}

    def writer(self, digest: str = "", size: int | None = None) -> BlobWriter:
        """A new blob; with digest and size, nothing else is accepted."""
        if digest:
            self._algorithms.add(check_digest(digest, "descriptor.digest")[0])
        return BlobWriter(self._store, digest, size)

    def put(self, descriptor: Descriptor, reader: Reader) -> None:
        """Copy a blob from reader; its digest and size are verified while it is written."""
        with self.writer(descriptor["digest"], descriptor["size"]) as writer:
            while data := reader.read(CHUNK):
                writer.write(data)
            writer.commit()

    def put_bytes(self, data: bytes, media_type: str) -> Descriptor:
        """Store a small blob."""
        descriptor = documents.describe(data, media_type)
        self.put_document(descriptor, data)
        return descriptor

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        """Store a small blob that has a descriptor already."""
        with self.writer(descriptor["digest"], descriptor["size"]) as writer:
            writer.write(data)
            writer.commit()

    def set_name(self, name: str, descriptor: Descriptor) -> None:
        """Give an image a name ("": none), which another one loses. Its blobs must be there already."""
        store = self._store
        if not store.has(descriptor):
            raise NotInStore(f"{store.path}: {descriptor['digest']}", "cannot be named: the blob is missing")
        for directory in (*(f"{BLOBS}/{algorithm}" for algorithm in self._algorithms), BLOBS):
            fd = os.open(directory, _DIRECTORY, dir_fd=store._fd)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        entry: dict[str, Any] = {**descriptor}
        annotations = {
            key: value
            for key, value in (descriptor.get("annotations") or {}).items()
            if key not in (REF_NAME, CONTAINERD_NAME)
        }
        if name:
            annotations[REF_NAME] = name
        entry.pop("annotations", None)
        if annotations:
            entry["annotations"] = annotations
        with store._changing_index():
            index = store.index()
            others = index["manifests"]
            if name:
                others = [one for one in others if name not in names_of(one)]
            others = [one for one in others if one["digest"] != entry["digest"] or names_of(one)]
            if not name and any(one["digest"] == entry["digest"] for one in others):
                return
            index["manifests"] = [*others, entry]
            store._replace(INDEX_FILE, documents.encode(index))


class BlobWriter:
    """A blob on its way in. Without commit(), nothing of it is left."""

    def __init__(self, store: Store, digest: str, size: int | None) -> None:
        self._store = store
        self._digest = digest
        self._expected = size
        self._algorithm = check_digest(digest, "descriptor.digest")[0] if digest else "sha256"
        self._hash = new_hash(self._algorithm)
        self.size = 0
        self._name, self._fd = store._temporary()

    def write(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        if self._expected is not None and self.size > self._expected:
            raise ImageError(self._digest, f"has more than the {self._expected} bytes of its descriptor")
        self._hash.update(data)
        _write_all(self._fd, data)

    def commit(self) -> str:
        """Digest of the blob, which is in the store now."""
        found = f"{self._algorithm}:{self._hash.hexdigest()}"
        if self._expected is not None and self.size != self._expected:
            raise ImageError(self._digest, f"has {self.size} bytes, its descriptor says {self._expected}")
        if self._digest and found != self._digest:
            raise ImageError(self._digest, f"its content is {found}")
        os.fsync(self._fd)
        root = self._store._fd
        if self._algorithm != "sha256":
            self._store._make_directory(f"{BLOBS}/{self._algorithm}")
        # Also over a blob that is there: should that one be damaged, it is not any more.
        os.rename(self._name, blob_path(found), src_dir_fd=root, dst_dir_fd=root)
        self._name = ""
        return found

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self._name:
            self._store._unlink(self._name)


def blob_path(digest: str) -> str:
    """Where a layout keeps a blob, relative to its directory."""
    algorithm, encoded = check_digest(digest, "digest")
    return f"{BLOBS}/{algorithm}/{encoded}"


def names_of(descriptor: dict[str, Any] | Descriptor) -> list[str]:
    """The names under which an entry of index.json is found."""
    annotations = descriptor.get("annotations") or {}
    return [annotations[key] for key in (CONTAINERD_NAME, REF_NAME) if annotations.get(key)]


def name_of(descriptor: dict[str, Any] | Descriptor) -> str:
    """The fullest name of an entry of index.json, or ""."""
    return next(iter(names_of(descriptor)), "")


def read_blob(descriptor: Descriptor, reader: Reader, limit: int = MAX_DOCUMENT) -> bytes:
    """The whole of a small blob, from a reader that verifies it; the reader is closed."""
    try:
        if descriptor["size"] > limit:
            reason = f"has {descriptor['size']} bytes, more than the {limit} that are allowed"
            raise TooLarge(descriptor["digest"], reason)
        parts = []
        while data := reader.read(CHUNK):
            parts.append(data)
        return b"".join(parts)
    finally:
        reader.close()


def _empty_index() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def digest_of_file(store: Store, algorithm: str, name: str, progress: Callable[[int], None]) -> str:
    """Digest of a file below blobs, whatever it is called; progress is called with the bytes read."""
    fd = os.open(f"{BLOBS}/{algorithm}/{name}", _READ, dir_fd=store._fd)
    try:
        hashed = new_hash(algorithm)
        while data := os.read(fd, CHUNK):
            hashed.update(data)
            progress(len(data))
        return f"{algorithm}:{hashed.hexdigest()}"
    finally:
        os.close(fd)
