"""The state directory: ids, modes, atomic writes, locks."""

from __future__ import annotations

import multiprocessing
import os
import resource
import stat
from pathlib import Path

import pytest

from ocirt import state
from ocirt.errors import AlreadyExists, NotFound, OcirtError, SpecError

WHOLE = {
    "ociVersion": "1.2.0",
    "id": "one",
    "pid": 7,
    "startTime": 1,
    "bundle": "/b\udc80",
    "rootfs": "/b\udc80/rootfs",
    "created": "",
    "annotations": {},
    "owner": "root",
    "pidNamespace": True,
    "noNewKeyring": False,
    "hooks": {},
    "cgroup": {"driver": "cgroupfs", "version": 1, "paths": {"pids": "/sys/fs/cgroup/pids/one"}},
}


@pytest.mark.parametrize("name", ["a", "A1_+-.", "..a", "x" * 255])
def test_ids_of_runc_are_taken(name: str) -> None:
    state.check_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\n", "a\0b", "x" * 256])
def test_other_ids_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="invalid container ID format"):
        state.check_id(name)


def test_state_directories_are_closed_to_others(tmp_path: Path) -> None:
    """CVE-2020-15257, CVE-2024-25621."""
    old = os.umask(0)
    try:
        with state.reserve(f"{tmp_path}/run/ocirt", "one") as directory:
            directory.save({"pid": 1})
    finally:
        os.umask(old)
    for path in (tmp_path / "run", tmp_path / "run/ocirt", tmp_path / "run/ocirt/one"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "run/ocirt/one/state.json").stat().st_mode) == 0o600


def test_an_id_is_reserved_once(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one"), pytest.raises(AlreadyExists, match="already exists: one"):
        state.reserve(str(tmp_path), "one")


def test_an_unknown_id_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^container does not exist$"):
        state.open_state(str(tmp_path / "missing"), "one")
    assert not (tmp_path / "missing").exists()


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        directory.save(WHOLE)
    with state.open_state(str(tmp_path), "one") as directory:
        assert directory.load() == {"format": 1, **WHOLE}
        assert os.listdir(directory.path) == ["state.json"]


def test_a_state_of_another_version_is_named(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        directory.write("state.json", b'{"format": 99}')
        with pytest.raises(SpecError, match=r"state\.json: was written by another version"):
            directory.load()


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one").symlink_to("elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        state.open_state(str(tmp_path), "one")


def test_a_fifo_in_place_of_the_state_is_empty(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        os.mkfifo(tmp_path / "one/state.json")
        with pytest.raises(FileNotFoundError):
            directory.load()


def test_a_state_without_end_is_refused(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        with open(tmp_path / "one/state.json", "wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(SpecError, match=r"one/state\.json: is larger than 128 MiB"):
            directory.load()


def test_a_failure_names_the_file(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        (tmp_path / "one/state.json").mkdir()
        with pytest.raises(OcirtError, match=r"one/state\.json: read: Is a directory"):
            directory.load()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            with pytest.raises(OcirtError, match=r"one/config\.json: write: File too large"):
                directory.write("config.json", b"x")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_remove_takes_everything_along(tmp_path: Path) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        (tmp_path / "one/deep/er").mkdir(parents=True)
        (tmp_path / "one/deep/er/file").touch()
        (tmp_path / "one/link").symlink_to("/etc/passwd")
        directory.remove()
    assert os.listdir(tmp_path) == []


def _hold(root: str, locked: object, release: object) -> None:
    with state.open_state(root, "one"):
        locked.set()  # type: ignore[attr-defined]
        release.wait()  # type: ignore[attr-defined]


def test_a_second_command_waits_for_the_lock_and_looking_does_not(tmp_path: Path) -> None:
    state.reserve(str(tmp_path), "one").close()
    locked, release = multiprocessing.Event(), multiprocessing.Event()
    holder = multiprocessing.Process(target=_hold, args=(str(tmp_path), locked, release))
    holder.start()
    assert locked.wait(10)
    state.open_state(str(tmp_path), "one", lock=False).close()
    waiter = multiprocessing.Process(target=_hold, args=(str(tmp_path), locked, release))
    locked.clear()
    waiter.start()
    assert not locked.wait(0.2)
    release.set()
    assert locked.wait(10)
    holder.join(10)
    waiter.join(10)


def test_ids_lists_directories_and_a_missing_root_is_empty(tmp_path: Path) -> None:
    assert state.ids(str(tmp_path / "missing")) == []
    state.reserve(str(tmp_path), "b").close()
    state.reserve(str(tmp_path), "a").close()
    assert state.ids(str(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("pid", -1), ("pid", "7"), ("pid", True), ("id", None), ("hooks", {"poststop": [{}]}), ("steps", {}),
     ("cgroup", {"driver": "cgroupfs", "version": 1, "paths": {"pids": "/"}}), ("cgroup", [])],
)  # fmt: skip
def test_a_damaged_state_is_refused(tmp_path: Path, name: str, value: object) -> None:
    with state.reserve(str(tmp_path), "one") as directory:
        directory.save({**WHOLE, name: value})
        with pytest.raises(SpecError, match=r"state\.json: is damaged"):
            directory.load()
