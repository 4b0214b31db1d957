"""A whole container in a class of service, over a directory that stands for resctrl: in this process,
as no program can mount one here.
"""

from __future__ import annotations

import json
import os
import posix
import signal

import pytest

from ocirt import Container, intelrdt
from ocirt.errors import CgroupError
from ocirt.options import CreateOptions, ExecOptions
from tests.lib.bundle import Bundle
from tests.lib.resctrl import Resctrl
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root


@pytest.fixture
def resctrl(tmp_path, monkeypatch):
    root = tmp_path / "resctrl"
    root.mkdir()
    return Resctrl(root, monkeypatch)


def start(runtime: Runtime, bundle: Bundle, **asked: object) -> Container:
    if asked:
        bundle.linux["intelRdt"] = asked
    bundle.args("/bin/sleep", "60").write()
    options = CreateOptions()
    return Container.create(
        str(bundle.path), runtime.new_id(), root=str(runtime.root), options=options, start=True
    )


def test_the_init_and_exec_write_themselves_to_tasks_and_delete_takes_the_class(runtime, bundle, resctrl):
    container = start(runtime, bundle, l3CacheSchema="L3:0=ff", enableMonitoring=True)
    group = resctrl.root / container.id
    try:
        tasks = [group / "tasks", group / f"mon_groups/{container.id}/tasks"]
        assert [path.read_text() for path in tasks] == ["0", "0"]  # 0 means the writer
        for path in tasks:
            path.write_text("")
        words = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        started = container.exec(words, ExecOptions())
        assert started.wait() == 0
        started.close()
        assert [path.read_text() for path in tasks] == ["0", "0"]
        data = container.stats()["data"]["intel_rdt"]
        assert data["l3_cache_schema"] == "L3:0=ff;1=fffff"
        container.update({}, intel_rdt={"memBwSchema": "MB:1=20"})
        assert resctrl.schemata(container.id) == ["MB:0=100;1=20", "L3:0=ff;1=fffff"]
        asked = json.loads((runtime.root / container.id / "config.json").read_text())["linux"]["intelRdt"]
        assert asked["memBwSchema"] == "MB:1=20"
        with pytest.raises(CgroupError, match=r"linux\.resources\.cpu\.mems"):
            container.update({"cpu": {"mems": "7"}}, intel_rdt={"memBwSchema": "MB:1=50"})
        assert resctrl.schemata(container.id)[0] == "MB:0=100;1=20"
        for path in tasks:
            path.write_text("")
    finally:
        container.delete(force=True)
    assert not group.exists()


def test_an_update_makes_a_class_for_a_container_that_had_none(runtime, bundle, resctrl):
    container = start(runtime, bundle)
    group = resctrl.root / container.id
    try:
        assert not group.exists()
        with pytest.raises(CgroupError, match=r"linux\.resources\.cpu\.mems"):
            container.update({"cpu": {"mems": "7"}}, intel_rdt={"memBwSchema": "MB:1=50"})
        assert not group.exists()
        assert "intelRdt" not in json.loads((runtime.root / container.id / "state.json").read_text())
        container.update({}, intel_rdt={"l3CacheSchema": "L3:0=f"})
        assert str(container.pid) in (group / "tasks").read_text().split()
        assert container.stats()["data"]["intel_rdt"]["l3_cache_schema"] == "L3:0=f;1=fffff"
        (group / "tasks").write_text("")
        words = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        started = container.exec(words, ExecOptions())
        assert started.wait() == 0
        started.close()
        assert (group / "tasks").read_text() == "0"
    finally:
        container.delete(force=True)
    assert not group.exists()


def killed_update(container: Container, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """An update that makes a class, and is killed when it comes to this step."""

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        if step == "undo":
            patched.setattr(intelrdt, "fill", lambda *_: 1 / 0)
            step = "remove"
            patched.setattr(intelrdt, "remove", lambda path: (posix.rmdir(path), killed()))
        else:
            patched.setattr(intelrdt, step, killed)
        pid = os.fork()
        if not pid:
            container.update({}, intel_rdt={"l3CacheSchema": "L3:0=f"})
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("step", ["make", "fill", "undo"])
def test_an_update_that_was_killed_hinders_nobody(runtime, bundle, resctrl, monkeypatch, step):
    """Whether it came to the class or not, or had removed it again: exec works, so does the next update."""
    container = start(runtime, bundle)
    group = resctrl.root / container.id
    try:
        killed_update(container, monkeypatch, step)
        container = Container.load(container.id, root=str(runtime.root))
        assert group.exists() is (step == "fill")
        words = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        started = container.exec(words, ExecOptions())
        assert started.wait() == 0
        started.close()
        container.update({}, intel_rdt={"l3CacheSchema": "L3:0=ff"})
        assert str(container.pid) in (group / "tasks").read_text().split()
        assert resctrl.schemata(container.id)[1] == "L3:0=ff;1=fffff"
        assert "begun" not in container.saved["intelRdt"]
        (group / "tasks").write_text("")
    finally:
        container.delete(force=True)
    assert not group.exists()


def test_a_class_of_others_is_not_taken_for_that_of_a_killed_update(runtime, bundle, resctrl, monkeypatch):
    container = start(runtime, bundle)
    group = resctrl.root / container.id
    try:
        killed_update(container, monkeypatch, "make")
        posix.mkdir(str(group))
        (group / "tasks").write_text("77\n")
        container = Container.load(container.id, root=str(runtime.root))
        for _ in range(2):  # nor by a second try
            with pytest.raises(CgroupError, match="File exists"):
                container.update({}, intel_rdt={"l3CacheSchema": "L3:0=ff"})
        assert (group / "tasks").read_text() == "77\n"
        killed = json.loads((runtime.root / container.id / "state.json").read_text())
        assert "intelRdt" not in killed
    finally:
        container.delete(force=True)
    assert (group / "tasks").read_text() == "77\n"


def test_a_create_that_fails_leaves_no_class(runtime, bundle, resctrl):
    with pytest.raises(CgroupError, match=r"linux\.intelRdt\.schemata\[0\]"):
        start(runtime, bundle, schemata=["L2:0=f"])
    assert resctrl.classes() == []
