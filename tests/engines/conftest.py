"""One EngineHost for all engine tests, and the engines in it, started when first asked for.

The runtime under test is the installed ocirt or $OCIRT: `OCIRT=/usr/sbin/runc pytest tests/engines`
shows what the tests say of another one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engines import Buildah, Containerd, Docker, Engine, Podman
from tests.engines.host import CGROUP_PREFIX, HIERARCHIES, PATH, SHARE, EngineHost
from tests.engines.images import write_archive
from tests.lib.declared import missing

STATE_ROOTS = ("/run/ocirt", "/run/user/*/ocirt", "/run/docker/runtime-*/*", "/run/containerd/runc/*")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def engine_host(
    tmp_path_factory: pytest.TempPathFactory, nothing_is_left: None, ocirt: Path
) -> Iterator[EngineHost]:
    host = EngineHost(tmp_path_factory.mktemp("engines") / "host", ocirt)
    host.start()
    try:
        write_archive(host.share / "image.tar")
        paths = host.share / "path"
        paths.mkdir()
        (paths / "runc").symlink_to(ocirt)  # BuildKit takes the first runc of dockerd's PATH
        yield host
    finally:
        containers = containers_left(host)
        killed = host.stop()
    assert not containers, "left behind by removed containers:\n" + "\n".join(containers)
    # podman leaves one process that holds the user namespace of its rootless containers.
    left = [line for line in killed if line.split()[1:] not in (["podman"], ["catatonit", "-P"])]
    assert not left, "still running after every container was removed:\n" + "\n".join(left)


def started(engine: Engine) -> Iterator[Engine]:
    """The engine between start() and stop()."""
    name = str(engine.words[0])
    if not shutil.which(name, path=PATH):
        missing(f"{name} is not installed: tests/install-deps does it")
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def containers_left(host: EngineHost) -> list[str]:
    """State directories and groups of containers; to be asked when every engine has removed its own."""
    pattern = " ".join(f"{root}/*" for root in STATE_ROOTS)
    left = host.run("sh", "-c", f"ls -d {pattern} 2>/dev/null", check=False).stdout.split()
    groups = [
        *HIERARCHIES.glob(f"*/{CGROUP_PREFIX}-engines/*"),
        *HIERARCHIES.glob("*/libpod_parent/libpod-*"),
    ]
    return left + [str(group) for group in groups if group.is_dir() and group.name != "buildkit"]


@pytest.fixture(scope="session")
def podman(engine_host: EngineHost, ocirt: Path) -> Iterator[Engine]:
    yield from started(Podman(engine_host, ocirt))


@pytest.fixture(scope="session")
def rootless(engine_host: EngineHost, ocirt: Path) -> Iterator[Engine]:
    yield from started(Podman(engine_host, ocirt, rootless=True))


@pytest.fixture(scope="session")
def docker(engine_host: EngineHost, ocirt: Path) -> Iterator[Engine]:
    engine = Docker(engine_host, ocirt)
    engine.path = f"{SHARE / 'path'}:{PATH}"
    yield from started(engine)


@pytest.fixture(scope="session")
def ctr(engine_host: EngineHost, ocirt: Path) -> Iterator[Engine]:
    yield from started(Containerd(engine_host, ocirt))


@pytest.fixture(scope="session")
def buildah(podman: Podman, ocirt: Path) -> Iterator[Engine]:
    """Shares the images that podman loaded."""
    yield from started(Buildah(podman.host, ocirt))


@pytest.fixture
def share(engine_host: EngineHost, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new directory that engines see below SHARE under the same name."""
    name = "".join(letter for letter in request.node.name if letter.isalnum() or letter == "_")
    directory = engine_host.share / name
    directory.mkdir()
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
