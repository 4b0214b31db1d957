"""Device nodes below the container's root."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target

LETTERS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    found = []
    for i, device in enumerate(spec["linux"]["devices"]):
        letter = "c" if device["type"] == "u" else device["type"]
        asked = letter if letter == "p" else f"{letter} {device['major']}:{device['minor']}"
        field = f"linux.devices[{i}] {device['path']}"
        try:
            found_node = os.stat(device["path"].lstrip("/"), dir_fd=target.root, follow_symlinks=False)
        except OSError as error:
            found.append((field, asked, error.strerror or "missing"))
            continue
        actual = LETTERS.get(stat.S_IFMT(found_node.st_mode), "another file type")
        if actual in ("c", "b"):
            actual = f"{actual} {os.major(found_node.st_rdev)}:{os.minor(found_node.st_rdev)}"
        found.append((field, asked, actual))
    return found
