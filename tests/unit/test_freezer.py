"""The freezer of v1 and v2 over directories that behave as the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocirt import freeze
from ocirt.cgroups import freezer as module
from ocirt.cgroups.freezer import Freezer, freezer_of
from ocirt.container import Container


@pytest.fixture
def v1(tmp_path: Path) -> Freezer:
    (tmp_path / "freezer.state").write_text("THAWED\n")
    (tmp_path / "freezer.self_freezing").write_text("0\n")
    return Freezer(str(tmp_path), 1)


@pytest.fixture
def v2(tmp_path: Path) -> Freezer:
    (tmp_path / "cgroup.freeze").write_text("0\n")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    return Freezer(str(tmp_path), 2)


def container(paths: dict[str, str]) -> Container:
    return Container("/run", "x", {"cgroup": {"paths": paths}})


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({"freezer": "/f", "": "/u", "memory": "/m"}, ("/f", 1)),
        ({"": "/u", "memory": "/m"}, ("/u", 2)),  # hybrid, and nobody has mounted the freezer of v1
        ({"": "/u"}, ("/u", 2)),
    ],
)
def test_the_freezer_is_that_of_v1_where_there_is_one(paths, expected):
    found = freezer_of(paths)
    assert (found.directory, found.version) == expected


@pytest.mark.parametrize("paths", [{}, {"memory": "/m"}])
def test_without_a_group_there_is_no_freezer(paths):
    assert freezer_of(paths) is None


def test_v1_is_frozen_when_the_kernel_says_so(v1):
    assert v1.freeze()
    assert Path(v1.directory, "freezer.state").read_text().strip() == "FROZEN"
    assert v1.is_frozen()
    v1.thaw()
    assert not v1.is_frozen()


def test_v2_is_frozen_when_every_process_is(v2):
    events = Path(v2.directory, "cgroup.events")
    events.write_text("populated 1\nfrozen 1\n")
    assert v2.freeze()
    assert Path(v2.directory, "cgroup.freeze").read_text()[:1] == "1"


@pytest.mark.parametrize(("state", "own"), [("FROZEN", "0"), ("FREEZING", "0"), ("FROZEN", "1")])
def test_v1_tells_frozen_from_above_and_paused_apart(v1, state, own):
    Path(v1.directory, "freezer.state").write_text(f"{state}\n")
    Path(v1.directory, "freezer.self_freezing").write_text(f"{own}\n")
    assert v1.is_frozen()
    assert container({"freezer": v1.directory}).is_paused() == (own == "1")


def test_v2_tells_frozen_from_above_and_paused_apart(v2):
    Path(v2.directory, "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert v2.is_frozen()
    assert not container({"": v2.directory}).is_paused()
    Path(v2.directory, "cgroup.freeze").write_text("1\n")
    assert container({"": v2.directory}).is_paused()


def test_v1_tries_again_while_it_says_freezing(v1, monkeypatch):
    said = iter(["FREEZING"] * 5)
    read = Freezer._read
    monkeypatch.setattr(Freezer, "_read", lambda self, name: next(said, "") or read(self, name))
    assert v1.freeze()
    assert next(said, None) is None


@pytest.mark.parametrize("version", [1, 2])
def test_what_never_stops_is_told_and_let_go_on(request, monkeypatch, version):
    found = request.getfixturevalue(f"v{version}")
    monkeypatch.setattr(module, "WAIT", 0.05)
    monkeypatch.setattr(module, "LET_GO", 0.02)
    monkeypatch.setattr(Freezer, "_read", lambda _self, _name: "FREEZING")
    file = Path(found.directory, "freezer.state" if version == 1 else "cgroup.freeze")
    seen = []
    assert not found.freeze(lambda: seen.append(file.read_text()[:6]))
    assert seen[0] == ("FROZEN" if version == 1 else "1\n")
    assert file.read_text()[:6] in ("THAWED", "0\n")


@pytest.mark.parametrize("version", [1, 2])
def test_an_interrupted_freeze_lets_all_go_on(request, monkeypatch, version):
    found = request.getfixturevalue(f"v{version}")
    file = Path(found.directory, "freezer.state" if version == 1 else "cgroup.freeze")

    def interrupted(_self, _name):
        assert file.read_text().strip() in ("FROZEN", "1")
        raise KeyboardInterrupt

    monkeypatch.setattr(Freezer, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.freeze()
    assert file.read_text().strip() in ("THAWED", "0")


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_that_is_gone_is_neither_frozen_nor_an_error(tmp_path, version):
    found = Freezer(str(tmp_path / "gone"), version)
    assert not found.freeze()
    assert not found.is_frozen()
    assert not container({"": found.directory}).is_paused()
    found.thaw()


def test_who_clearly_moves_is_named_first(monkeypatch):
    states = {1: ("D", "folio_wait"), 2: ("R", ""), 3: ("D", "__refrigerator"), 4: ("Z", ""), 5: ("", "")}
    monkeypatch.setattr(freeze.procfs, "process_state", lambda pid: states[pid][0])
    monkeypatch.setattr(freeze.procfs, "wchan", lambda pid: states[pid][1])
    assert freeze._still_moving([1, 2, 3, 4, 5]) == ["pid 2 (R)", "pid 1 (D, in folio_wait)"]
