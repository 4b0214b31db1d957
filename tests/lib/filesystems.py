"""File systems of their own for tests: made in a file, mounted by a loop device."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAKE = {
    "btrfs": ("mkfs.btrfs", "-q"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "ext4": ("mkfs.ext4", "-q"),
}


@contextmanager
def mounted(kind: str, directory: Path, size: int = 400 << 20) -> Iterator[Path]:
    """A new file system of a kind (also tmpfs) at directory/KIND; what is mounted in it goes as well."""
    point = directory / kind
    point.mkdir()
    image = directory / f"{kind}.image"
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", point], check=True)
    else:
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run([*MAKE[kind], image], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--recursive", point], check=True)
        image.unlink(missing_ok=True)
