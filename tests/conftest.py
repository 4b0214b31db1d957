"""Fixtures for all layers: the runtime under test, bundles, and the watch over what is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lib import leaks
from tests.lib.bundle import Bundle, build_probe, make_rootfs
from tests.lib.runtime import Runtime, installed_ocirt


def pytest_configure() -> None:
    """Under nohup, or in the background of a shell, some signals are ignored: not by what the tests start."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CI declares root; elsewhere tests that need it are skipped, saying so."""
    if os.geteuid() == 0:
        return
    for item in items:
        if "root" in item.keywords:
            if os.environ.get("CI"):
                pytest.fail("CI must run as root", pytrace=False)
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """After all tests no process, mount, cgroup, network namespace or file of theirs exists."""
    before = leaks.snapshot()
    yield
    left = leaks.left_since(before)
    assert not left, "left behind by the tests:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def ocirt() -> Path:
    """The installed command."""
    return installed_ocirt()


@pytest.fixture(scope="session")
def rootfs_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox root file system with the probe; copied for each bundle."""
    directory = tmp_path_factory.mktemp("rootfs")
    make_rootfs(directory, build_probe(tmp_path_factory.mktemp("probe")))
    return directory


@pytest.fixture
def bundle(tmp_path: Path, rootfs_template: Path) -> Bundle:
    """A bundle with the config of `ocirt spec`, not on a terminal; change bundle.spec at will."""
    return Bundle.make(tmp_path / "bundle", rootfs_template)


@pytest.fixture
def runtime(tmp_path: Path, ocirt: Path):
    """ocirt with a state root of its own; every container of the test is deleted at its end."""
    runtime = Runtime(ocirt, tmp_path / "state")
    yield runtime
    runtime.delete_all()


@pytest.fixture(params=["ocirt", "runc", "crun"])
def any_runtime(request: pytest.FixtureRequest, tmp_path: Path, ocirt: Path):
    """The same case with the peers: what they also fail is suspect."""
    path = ocirt if request.param == "ocirt" else Path(shutil.which(request.param) or "")
    if request.param != "ocirt" and not path.is_file():
        pytest.fail(f"{request.param} is not installed: tests/install-deps does it")
    runtime = Runtime(path, tmp_path / "state")
    yield runtime
    runtime.delete_all()


@pytest.fixture(scope="session")
def run_command():
    """subprocess.run with the text captured and a time limit."""

    def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        arguments = {"text": True, "capture_output": True, "timeout": 60, **options}
        return subprocess.run([str(word) for word in words], **arguments)

    return run
