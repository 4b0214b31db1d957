"""exec --cgroup: into an existing group below the container's own."""

from __future__ import annotations

import posix
from errno import ENOENT

from ocirt import cgroups
from ocirt.errors import CgroupError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocirt.cgroups.manager import Manager

OPTION = "--cgroup"


def below(manager: Manager, words: Sequence[str]) -> Manager:
    """A manager for the groups that words name, PATH or CONTROLLER[,CONTROLLER]:PATH.

    PATH is relative to the container's group. Raises SpecError for what leads out of it or has no
    controller of the container's, CgroupError when there is no such group.
    """
    saved = manager.save()
    paths: dict[str, str] = dict(saved["paths"])
    for word in words:
        names, colon, path = word.rpartition(":")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise SpecError(OPTION, f"{word!r} leads out of the container's cgroup")
        for directory in _directories(saved["paths"], names.split(",") if colon else None, word):
            target = "/".join([directory, *parts])
            _check(target)
            for key, old in saved["paths"].items():
                if old == directory:  # controllers that share a hierarchy move together
                    paths[key] = target
    return cgroups.load({**saved, "driver": "cgroupfs", "paths": paths})


def _directories(paths: dict[str, str], controllers: list[str] | None, word: str) -> list[str]:
    if controllers is None:
        return list(dict.fromkeys(paths.values()))
    if not any(paths.keys() - {""}):
        raise SpecError(OPTION, f"{word!r} names a controller, but cgroup v2 has one hierarchy for all")
    for name in controllers:
        if name not in paths:
            raise SpecError(OPTION, f"the container has no cgroup of the controller {name!r}")
    return list(dict.fromkeys(paths[name] for name in controllers))


def _check(directory: str) -> None:
    try:
        posix.stat(directory)
    except FileNotFoundError:
        raise CgroupError(OPTION, directory, "", ENOENT) from None
