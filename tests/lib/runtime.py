"""A runtime (ocirt, runc or crun) driven by its command line."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PREFIX = "octest"  # ids of test containers; the leak watch looks for it
_numbers = itertools.count(1)


def installed_ocirt() -> Path:
    """$OCIRT, or the command installed beside this Python."""
    path = Path(os.environ.get("OCIRT") or Path(sys.executable).with_name("ocirt")).absolute()
    assert path.is_file(), f"{path} is missing: `make dev` installs it"
    return path


class Runtime:
    """Commands of one runtime with one state root. ids come from new_id()."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.root = root
        self.ids: list[str] = []

    @property
    def name(self) -> str:
        return self.path.name

    def new_id(self) -> str:
        container_id = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.ids.append(container_id)
        return container_id

    def command(self, *words: object) -> list[str]:
        """The words of a call. crun refuses the hybrid layout: it gets a mount namespace without
        the part that it does not know."""
        call = [str(self.path), "--root", str(self.root), *map(str, words)]
        if self.name == "crun" and os.path.ismount("/sys/fs/cgroup/unified"):
            script = 'umount /sys/fs/cgroup/unified && exec "$@"'
            return ["unshare", "-m", "sh", "-c", script, "sh", *call]
        return call

    def __call__(
        self, *words: object, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        arguments = {"text": True, "capture_output": True, "timeout": 60, "stdin": subprocess.DEVNULL}
        if "input" in options:
            del arguments["stdin"]
        done = subprocess.run(self.command(*words), **{**arguments, **options})
        if check:
            assert done.returncode == 0, f"{words}: status {done.returncode}: {done.stderr}"
        return done

    def run(self, bundle: Any, *options: object, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """`run` of a bundle under a new id, in the foreground."""
        bundle.write()
        return self("run", "--bundle", bundle.path, *options, self.new_id(), **keywords)

    def create(self, bundle: Any, *options: object) -> str:
        """`create` with stdio on /dev/null and files; the id of the created container."""
        bundle.write()
        container_id = self.new_id()
        # Not pipes: the container would hold them open and communicate() would wait for it.
        with open(bundle.path / "stdout", "w") as out, open(bundle.path / "stderr", "w+") as err:
            done = subprocess.run(
                self.command("create", "--bundle", bundle.path, *options, container_id),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=60,
            )
            err.seek(0)
            assert done.returncode == 0, err.read()
        return container_id

    def start(self, container_id: str) -> None:
        self("start", container_id, check=True)

    def start_bundle(self, bundle: Any, *options: object) -> str:
        container_id = self.create(bundle, *options)
        self.start(container_id)
        return container_id

    def state(self, container_id: str) -> dict[str, Any]:
        return dict(json.loads(self("state", container_id, check=True).stdout))

    def state_list(self) -> list[dict[str, Any]]:
        """`list --format json`; null is none."""
        return list(json.loads(self("list", "--format", "json", check=True).stdout) or [])

    def wait_for_status(self, container_id: str, status: str, seconds: float = 10) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            state = self.state(container_id)
            if state["status"] == status:
                return state
            assert time.monotonic() < deadline, f"still {state['status']}, not {status}"
            time.sleep(0.01)

    def delete_all(self) -> None:
        for container_id in self.ids:
            self("delete", "--force", container_id)
        self.ids.clear()


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that a test started."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
