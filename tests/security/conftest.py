"""What the attacks have in common: a hostile program, a sentinel outside the root, a swapper."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle
from tests.lib.runtime import Runtime, end

ATTACKER_SOURCE = Path(__file__).parent / "attacker.c"
ROUNDS_SHORT, ROUNDS_LONG = 30, 1000
MORE_ROUNDS = 1000

Swapping = Callable[[Path, Path], AbstractContextManager[None]]
Tree = dict[str, tuple[object, ...]]


@pytest.fixture(scope="session")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile program, compiled."""
    program = tmp_path_factory.mktemp("attacker") / "attacker"
    subprocess.run(["gcc", "-static", "-O1", "-o", program, ATTACKER_SOURCE], check=True)
    return program


@pytest.fixture
def armed(bundle: Bundle, attacker: Path) -> Bundle:
    """A bundle with /bin/attacker."""
    (bundle.rootfs / "bin/attacker").write_bytes(attacker.read_bytes())
    (bundle.rootfs / "bin/attacker").chmod(0o755)
    return bundle


def describe(directory: Path) -> Tree:
    """All below a directory: type, mode, owner, device, contents."""
    found: Tree = {}
    for parent, directories, files in os.walk(directory):
        for name in (".", *directories, *files):
            path = Path(parent, name)
            status = path.lstat()
            regular = path.is_file() and not path.is_symlink()
            data = hashlib.sha256(path.read_bytes()).hexdigest() if regular else ""
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, data)
    return found


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host; whatever a test does with a container, it stays as it is."""
    directory = tmp_path / "sentinel"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    (directory / "file").write_text("of the host\n")
    (directory / "sub").mkdir()
    (directory / "null").symlink_to("file")
    before = describe(directory)
    yield directory
    assert describe(directory) == before, "something outside the container was changed"


def way_out(path: Path) -> str:
    """A relative link that leads to path of the host from anywhere, if the root does not stop it."""
    return "../" * 20 + str(path).lstrip("/")


@pytest.fixture
def swapping(attacker: Path) -> Swapping:
    """Exchange two names as fast as it goes while the block runs."""

    @contextmanager
    def swap(first: Path, second: Path) -> Iterator[None]:
        process = subprocess.Popen([attacker, "swap", first, second], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"swapping\t-\n"  # it has swapped once
            yield
            assert process.poll() is None, "the attacker was gone before the end"
        finally:
            end(process)
            process.stdout.close()

    return swap


def attempt(runtime: Runtime, bundle: Bundle) -> subprocess.CompletedProcess[str]:
    """One round of a race: run the bundle, whose config.json is written already."""
    done = runtime("run", "--bundle", bundle.path, runtime.new_id())
    assert not (runtime.root / runtime.ids.pop()).exists()
    return done


def race(rounds: int, seen: Callable[[], object]) -> Iterator[int]:
    """The rounds of a race, and then as many more, up to MORE_ROUNDS, as it takes until what makes it
    one was seen: no number of rounds by itself makes that certain on a machine that does other work.
    """
    yield from range(rounds)
    for number in range(rounds, rounds + MORE_ROUNDS):
        if seen():
            return
        yield number


@pytest.fixture(params=[ROUNDS_SHORT, pytest.param(ROUNDS_LONG, marks=pytest.mark.slow)])
def rounds(request: pytest.FixtureRequest) -> int:
    """How often a race is run."""
    return int(request.param)
