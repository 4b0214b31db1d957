"""Bundles for tests: busybox and the probe in a rootfs, and a config.json to change."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "sh ls cat echo true false sleep id ps mount hostname stat touch mkdir tty stty kill env pwd dd wc ln "
    "readlink tail date grep"
)
PROBE_SOURCE = Path(__file__).parents[1] / "probe" / "probe.c"


def build_probe(directory: Path) -> Path:
    """The static probe, compiled."""
    probe = directory / "probe"
    subprocess.run(["gcc", "-static", "-O1", "-o", probe, PROBE_SOURCE], check=True)
    return probe


def make_rootfs(directory: Path, probe: Path) -> None:
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/user", "usr/bin"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)  # mktemp gave 0700: other users of the container must get in
    (directory / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for applet in APPLETS.split():
        (directory / "bin" / applet).symlink_to("busybox")
    shutil.copy(probe, directory / "bin/probe")
    (directory / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
    )
    (directory / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")


class Bundle:
    """A bundle directory; spec is written by write(), which Runtime's methods call."""

    def __init__(self, path: Path, spec: dict[str, Any]) -> None:
        self.path = path
        self.spec = spec

    @classmethod
    def make(cls, path: Path, rootfs: Path) -> Bundle:
        from ocirt.spec.example import example

        path.mkdir(parents=True)
        subprocess.run(["cp", "-a", rootfs, path / "rootfs"], check=True)
        spec = copy.deepcopy(example())
        spec["ociVersion"] = "1.0.2"  # crun 1.8 refuses what it does not know
        spec["process"]["terminal"] = False
        spec["root"]["readonly"] = False
        spec["process"]["args"] = ["/bin/probe"]
        return cls(path, spec)

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    @property
    def process(self) -> dict[str, Any]:
        return self.spec["process"]

    @property
    def linux(self) -> dict[str, Any]:
        return self.spec["linux"]

    def args(self, *words: str) -> Bundle:
        self.process["args"] = list(words)
        return self

    def sh(self, script: str) -> Bundle:
        return self.args("/bin/sh", "-c", script)

    def namespaces(self, *kinds: str, **paths: str) -> Bundle:
        self.linux["namespaces"] = [{"type": kind} for kind in kinds]
        self.linux["namespaces"] += [{"type": kind, "path": path} for kind, path in paths.items()]
        return self

    def write(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.spec))


def give_away(bundle: Bundle, owner: int = 100000) -> None:
    """A rootfs that belongs to the root of a user namespace, with a path that it may walk."""
    subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", bundle.rootfs], check=True)
    path = bundle.path
    while path != Path("/"):
        path.chmod(path.stat().st_mode | 0o011)
        path = path.parent


class Probe:
    """The probe's output: values by name, lists for names that come several times."""

    def __init__(self, text: str) -> None:
        self.lists: dict[str, list[str]] = {}
        for line in text.splitlines():
            name, _, value = line.partition("\t")
            value = value.replace("\\n", "\n").replace("\\\\", "\\")
            self.lists.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        return self.lists[name][0]

    def get(self, name: str) -> str | None:
        return self.lists.get(name, [None])[0]

    def all(self, name: str) -> list[str]:
        return self.lists.get(name, [])

    def starting(self, prefix: str) -> dict[str, str]:
        """Values of the names that start with prefix, by the rest of the name."""
        found = self.lists.items()
        return {name[len(prefix) :]: values[0] for name, values in found if name.startswith(prefix)}

    def status(self, name: str) -> str:
        """One line of /proc/self/status."""
        for line in self["status"].splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        raise KeyError(name)

    def caps(self, name: str) -> int:
        return int(self.status(name), 16)

    def mounts(self) -> dict[str, tuple[set[str], str]]:
        """Mount point → (options, file system type); the last mount at a point counts."""
        table = {}
        for line in self["mountinfo"].splitlines():
            left, _, right = line.partition(" - ")
            words = left.split()
            table[words[4]] = (set(words[5].split(",")), right.split()[0])
        return table

    def limit(self, name: str) -> tuple[str, str]:
        """Soft and hard limit as /proc/self/limits names it ("Max open files")."""
        for line in self["limits"].splitlines():
            if line.startswith(name):
                soft, hard = line[len(name) :].split()[:2]
                return soft, hard
        raise KeyError(name)
