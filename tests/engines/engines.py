"""The engines in an EngineHost, each with the OCI runtime under test."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.engines.host import CGROUP_PREFIX, PATH, SHARE, EngineHost, Terminal, wait_for
from tests.engines.images import IMAGE

Done = subprocess.CompletedProcess[str]
DOCKER_SOCKET = "unix:///run/docker.sock"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CGROUP_PARENT = f"/{CGROUP_PREFIX}-engines"


class Engine:
    """A command line tool of an engine: engine("run", ...) runs it, fails when it fails."""

    words: tuple[object, ...] = ()
    user = False

    def __init__(self, host: EngineHost, runtime: Path) -> None:
        self.host = host
        self.runtime = runtime

    def __call__(self, *words: object, check: bool = True, **options: Any) -> Done:
        return self.host.run(*self.words, *words, check=check, user=self.user, **options)

    def terminal(self, *words: object, **options: Any) -> Terminal:
        return self.host.terminal(*self.words, *words, user=self.user, **options)

    def start(self) -> None:
        """Starts what the tool needs and loads the image."""

    def stop(self) -> None:
        """Removes all containers, ends what start() started."""


class Podman(Engine):
    """podman without a daemon; as the ordinary user when rootless."""

    def __init__(self, host: EngineHost, runtime: Path, rootless: bool = False) -> None:
        super().__init__(host, runtime)
        self.user = rootless
        self.words = ("podman", "--runtime", runtime.name if runtime == host.runtime else runtime)

    def start(self) -> None:
        self("load", "-q", "-i", SHARE / "image.tar")

    def stop(self) -> None:
        self("pod", "rm", "-af", "-t", "0", check=False)
        self("rm", "-af", "-t", "0", check=False)

    def pid(self, container: str) -> int:
        return int(self("inspect", "--format", "{{.State.Pid}}", container).stdout)

    def remove(self, name: str, *, pod: bool = False) -> None:
        """rm -f until it works: podman's own cleanup is sometimes still at it, with every runtime."""
        words = ("pod", "rm", "-f", "-t", "0", name) if pod else ("rm", "-f", "-t", "0", name)
        wait_for(lambda: self(*words, check=False).returncode == 0, f"the removal of {name}")


class Docker(Engine):
    """dockerd and its containerd with the runtime as the default one."""

    words = ("docker", "-H", DOCKER_SOCKET)
    settings: dict[str, object] = {}
    path = PATH

    def start(self) -> None:
        settings = {
            "hosts": [DOCKER_SOCKET],
            "storage-driver": "overlay2",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "oom-score-adjust": 0,
            "userland-proxy": False,
            "cgroup-parent": CGROUP_PARENT,
            "runtimes": {"tested": {"path": str(self.runtime)}},
            "default-runtime": "tested",
            **self.settings,
        }
        file = self.host.share / "daemon.json"
        file.write_text(json.dumps(settings))
        self.log = self.host.share / "dockerd.log"
        self.daemon = self.host.daemon(
            "dockerd", "--config-file", SHARE / "daemon.json", log=self.log, env={"PATH": self.path}
        )
        wait_for(self._answers, "dockerd's answer", 60)
        self("load", "-q", "-i", SHARE / "image.tar")

    def _answers(self) -> bool:
        assert self.daemon.poll() is None, f"dockerd ended: {self.log.read_text()[-2000:]}"
        return self("version", check=False).returncode == 0

    def stop(self) -> None:
        ids = self("ps", "-aq", check=False).stdout.split()
        if ids:
            self("rm", "-f", *ids, check=False)
        self.host.end_daemon(self.daemon)

    def inspect(self, container: str, template: str) -> str:
        return self("inspect", "--format", template, container).stdout.strip()


class Containerd(Engine):
    """containerd with ctr."""

    words = ("ctr", "--address", CONTAINERD_SOCKET)

    def start(self) -> None:
        config = self.host.share / "containerd.toml"
        config.write_text('version = 2\noom_score = 0\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self.log = self.host.share / "containerd.log"
        self.daemon = self.host.daemon("containerd", "--config", SHARE / "containerd.toml", log=self.log)
        wait_for(self._answers, "containerd's answer", 30)
        self("image", "import", "--snapshotter", "overlayfs", SHARE / "image.tar")

    def _answers(self) -> bool:
        assert self.daemon.poll() is None, f"containerd ended: {self.log.read_text()[-2000:]}"
        return self("version", check=False).returncode == 0

    def run_words(self, *options: object) -> tuple[object, ...]:
        """`run` up to the options; image, id and command follow."""
        runtime = ("--runtime", "io.containerd.runc.v2", "--runc-binary", self.runtime)
        return ("run", "--snapshotter", "overlayfs", *runtime, *options, IMAGE)

    def stop(self) -> None:
        for task in self("task", "ls", "-q", check=False).stdout.split():
            self("task", "kill", "-s", "KILL", "-a", task, check=False)
            self("task", "rm", "-f", task, check=False)
        self.host.end_daemon(self.daemon)


class Buildah(Engine):
    """buildah; shares podman's images."""

    def __init__(self, host: EngineHost, runtime: Path) -> None:
        super().__init__(host, runtime)
        self.words = ("buildah",)

    def run(self, container: str, *words: object, options: tuple[object, ...] = (), **keywords: Any) -> Done:
        return self("run", "--runtime", self.runtime, *options, container, "--", *words, **keywords)

    def stop(self) -> None:
        self("rm", "--all", check=False)
