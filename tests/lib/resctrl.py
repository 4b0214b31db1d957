"""A directory that stands for a mounted resctrl: what the kernel does with its files, as far as
Documentation/filesystems/resctrl.rst says. There is no such hardware here.
"""

from __future__ import annotations

import posix
import shutil
from errno import EINVAL, ENOSPC
from pathlib import Path
from typing import Any

import pytest

from ocirt import intelrdt

DEFAULT = "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"
CLASSES = 4
STEP = 10  # percents of memory bandwidth


class Resctrl:
    """root is the mount point. mkdir makes a class, rmdir takes it with its files, schemata are merged."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.written: list[tuple[str, str]] = []  # class, line
        self._calls = {name: getattr(posix, name) for name in ("mkdir", "rmdir", "write")}
        for path, text in {
            "info/L3/cbm_mask": "fffff",
            "info/L3/min_cbm_bits": "2",
            "info/L3/num_closids": "4",
            "info/MB/bandwidth_gran": str(STEP),
            "info/MB/delay_linear": "1",
            "info/MB/min_bandwidth": "10",
            "info/MB/num_closids": "4",
            "info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes",
            "info/last_cmd_status": "ok",
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")
        self.fill(root)
        monkeypatch.setattr(intelrdt, "find_root", lambda: str(root))
        for name in self._calls:
            monkeypatch.setattr(posix, name, getattr(self, name))

    def fill(self, group: Path) -> None:
        group.mkdir(exist_ok=True)
        (group / "tasks").touch()
        for number, (cache, total) in enumerate((("65536", "700"), ("0", "Unavailable"))):
            counters = group / f"mon_data/mon_L3_0{number}"
            counters.mkdir(parents=True)
            (counters / "llc_occupancy").write_text(f"{cache}\n")
            (counters / "mbm_total_bytes").write_text(f"{total}\n")
            (counters / "mbm_local_bytes").write_text("300\n")
        if group.parent.name != "mon_groups":
            (group / "schemata").write_text(DEFAULT)
            (group / "mon_groups").mkdir()

    def schemata(self, group: str = "") -> list[str]:
        return [line.strip() for line in (self.root / group / "schemata").read_text().splitlines()]

    def classes(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("*/schemata"))

    def _say(self, text: str) -> None:
        (self.root / "info/last_cmd_status").write_text(f"{text}\n")

    def mkdir(self, path: Any, *words: Any, **options: Any) -> None:
        if not str(path).startswith(f"{self.root}/"):
            return self._calls["mkdir"](path, *words, **options)
        if len(self.classes()) == CLASSES - 1:
            self._say("Out of CLOSIDs")
            raise OSError(ENOSPC, "No space left on device")
        self._calls["mkdir"](path, *words, **options)
        return self.fill(Path(path))

    def rmdir(self, path: Any, **options: Any) -> None:
        if str(path).startswith(f"{self.root}/") and Path(path).is_dir():
            return shutil.rmtree(path)
        return self._calls["rmdir"](path, **options)

    def write(self, fd: int, data: bytes) -> int:
        try:
            path = Path(posix.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            path = Path()
        if path.name != "schemata" or self.root not in path.parents:
            return int(self._calls["write"](fd, data))
        line = bytes(data).decode().removesuffix("\n")
        self.written.append((str(path.parent.relative_to(self.root)), line))
        name, _, rest = line.partition(":")
        rows = dict(row.split(":") for row in self.schemata(str(path.parent)))
        if name not in rows or not data.endswith(b"\n"):
            self._say("Unknown or unsupported resource name")
            raise OSError(EINVAL, "Invalid argument")
        values = dict(pair.split("=") for pair in rows[name].split(";"))
        for pair in rest.split(";"):
            domain, _, value = pair.partition("=")
            values[domain] = f"{int(value, 16):x}" if name == "L3" else str(-(-int(value) // STEP) * STEP)
        rows[name] = ";".join(f"{domain}={value}" for domain, value in values.items())
        path.write_text("".join(f"    {key}:{value}\n" for key, value in rows.items()))
        self._say("ok")
        return len(data)
