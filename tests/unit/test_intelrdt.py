"""linux.intelRdt over a directory that stands for resctrl."""

from __future__ import annotations

import os
from errno import EIO
from typing import Any

import pytest

from ocirt import intelrdt
from ocirt.context import Context
from ocirt.errors import CgroupError, SpecError, Unsupported
from ocirt.host import Host
from ocirt.observe import intelrdt as observer
from ocirt.options import CreateOptions
from ocirt.plan import Plan
from ocirt.spec import rules
from tests.lib.resctrl import DEFAULT, Resctrl

UNDO: list[Any] = []


@pytest.fixture
def resctrl(tmp_path, monkeypatch):
    UNDO.clear()
    root = tmp_path / "resctrl"
    root.mkdir()
    return Resctrl(root, monkeypatch)


def make(resctrl: Resctrl, name: str = "box", **asked: Any) -> dict[str, Any]:
    """What is saved of a group that was made."""
    group = intelrdt.Group(str(resctrl.root), name, asked)
    group.create(UNDO.append)
    return group.save()


def test_without_resctrl_it_is_an_error_that_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(intelrdt, "find_root", lambda: "")
    plan = Plan()
    spec = {"ociVersion": "1.3.0", "linux": {"intelRdt": {}}}
    ctx = Context(spec, plan, bundle="/b", container_id="box", options=CreateOptions(), host=Host())
    plan.phase = "ENTER"
    intelrdt.apply(ctx, {})
    action = next(plan.actions_at("OPEN"))
    with pytest.raises(Unsupported, match=r"^linux\.intelRdt: not supported: a mounted resctrl"):
        action.call(None)


def test_without_closid_the_class_has_the_containers_name_and_goes_with_it(resctrl):
    saved = make(resctrl, l3CacheSchema="L3:0=ff", memBwSchema="MB:1=70")
    assert resctrl.classes() == ["box"]
    assert resctrl.schemata("box") == ["MB:0=100;1=70", "L3:0=ff;1=fffff"]
    intelrdt.remove(saved["remove"])
    assert resctrl.classes() == []


def test_schemata_are_written_last_and_line_by_line(resctrl):
    make(resctrl, schemata=["L3:1=f0", "MB:0=20"], memBwSchema="MB:0=50", l3CacheSchema="L3:0=ff")
    lines = ["L3:0=ff", "MB:0=50", "L3:1=f0", "MB:0=20"]
    assert resctrl.written == [("box", line) for line in lines]


def test_without_a_schema_none_is_written(resctrl):
    make(resctrl)
    assert resctrl.written == []
    assert resctrl.schemata("box") == [line.strip() for line in DEFAULT.splitlines()]


def test_a_class_by_name_is_made_and_stays(resctrl):
    saved = make(resctrl, closID="gold", l3CacheSchema="L3:0=ff")
    intelrdt.remove(saved["remove"])
    assert resctrl.classes() == ["gold"]


def test_a_class_by_name_without_schemata_has_to_be_there(resctrl):
    with pytest.raises(CgroupError, match=r"^linux\.intelRdt\.closID: .*/gold: No such file"):
        make(resctrl, closID="gold")
    (resctrl.root / "gold").mkdir()
    resctrl.fill(resctrl.root / "gold")
    saved = make(resctrl, closID="gold")
    assert saved["path"] == f"{resctrl.root}/gold"
    assert saved["remove"] == ""


def test_the_default_class_is_the_root(resctrl):
    saved = make(resctrl, closID="/")
    assert saved["path"] == str(resctrl.root)
    assert resctrl.classes() == []


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"l3CacheSchema": "L3:0=000ff"}, True),
        ({"l3CacheSchema": "L3:0=0xff;1=fffff"}, True),
        ({"l3CacheSchema": "L3:0=f"}, False),
        ({"l3CacheSchema": "L2:0=ff"}, False),
        ({"l3CacheSchema": "L3:2=ff"}, False),
        ({"memBwSchema": "MB:0=20"}, True),
        ({"memBwSchema": "MB:0=15"}, True),  # what the kernel makes 20 of
        ({"memBwSchema": "MB:0=30"}, False),
    ],
)
def test_a_class_that_is_there_must_have_the_schemata_that_are_asked_for(resctrl, asked, fits):
    make(resctrl, closID="gold", l3CacheSchema="L3:0=ff", memBwSchema="MB:0=15")
    before = resctrl.schemata("gold")
    if fits:
        make(resctrl, "other", closID="gold", **asked)
    else:
        with pytest.raises(
            SpecError, match=rf"^linux\.intelRdt\.{next(iter(asked))}: .*is not what the class"
        ):
            make(resctrl, "other", closID="gold", **asked)
    assert resctrl.schemata("gold") == before


def test_a_schema_that_the_kernel_refuses_is_told_with_its_words_and_leaves_no_class(resctrl):
    with pytest.raises(CgroupError) as caught:
        make(resctrl, schemata=["L2:0=f"])
    assert str(caught.value) == (
        f"linux.intelRdt.schemata[0]: write 'L2:0=f' to {resctrl.root}/box/schemata: Invalid argument"
        " (Unknown or unsupported resource name)"
    )
    for undo in reversed(UNDO):
        undo()
    assert resctrl.classes() == []


def test_no_class_is_left_is_an_error(resctrl):
    for name in ("a", "b", "c"):
        make(resctrl, name)
    with pytest.raises(CgroupError, match=r"^linux\.intelRdt: mkdir .*No space left .*Out of CLOSIDs"):
        make(resctrl, "d")


def test_what_others_are_in_is_not_removed_when_a_create_fails(resctrl):
    make(resctrl, closID="gold", l3CacheSchema="L3:0=ff")
    (resctrl.root / "gold/tasks").write_text("77\n")
    for undo in UNDO:
        undo()
    assert resctrl.classes() == ["gold"]


def test_a_monitoring_group_is_made_below_the_class_and_goes_with_the_container(resctrl):
    make(resctrl, "first", closID="gold", l3CacheSchema="L3:0=ff")
    saved = make(resctrl, closID="gold", enableMonitoring=True)
    monitor = resctrl.root / "gold/mon_groups/box"
    assert saved["monitor"] == str(monitor)
    assert monitor.is_dir()
    with pytest.raises(CgroupError, match=r"^linux\.intelRdt\.enableMonitoring: .*File exists"):
        make(resctrl, closID="gold", enableMonitoring=True)
    intelrdt.remove(saved["remove"])
    assert not monitor.exists()
    assert resctrl.classes() == ["gold"]


def test_the_init_joins_the_class_first_and_then_the_monitoring_group(resctrl):
    plan = Plan()
    spec = {"ociVersion": "1.3.0", "linux": {"intelRdt": {"enableMonitoring": True}}}
    ctx = Context(spec, plan, bundle="/b", container_id="box", options=CreateOptions(), host=Host())
    plan.phase = "ENTER"
    intelrdt.apply(ctx, spec["linux"]["intelRdt"])
    assert [(op.kind, op.detail) for op in plan.ops] == [
        ("write_fd", f"{resctrl.root}/box/tasks"),
        ("write_fd", f"{resctrl.root}/box/mon_groups/box/tasks"),
    ]


def test_events_have_runcs_keys(resctrl):
    saved = make(resctrl, l3CacheSchema="L3:0=ff", memBwSchema="MB:0=20")
    assert intelrdt.stats(saved) == {
        "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 2, "num_closids": 4},
        "l3_cache_schema_root": "L3:0=fffff;1=fffff",
        "l3_cache_schema": "L3:0=ff;1=fffff",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 4},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=20;1=100",
        "schemata": ["MB:0=20;1=100", "L3:0=ff;1=fffff"],
        "mbm_stats": [{"mbm_total_bytes": 700, "mbm_local_bytes": 300}, {"mbm_local_bytes": 300}],
        "cmt_stats": [{"llc_occupancy": 65536}, {"llc_occupancy": 0}],
    }


def test_an_update_is_taken_back_as_a_whole(resctrl):
    saved = make(resctrl, l3CacheSchema="L3:0=ff", memBwSchema="MB:0=20")
    before = resctrl.schemata("box")
    back = intelrdt.update(saved, {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=30"})
    assert resctrl.schemata("box") == ["MB:0=20;1=30", "L3:0=f;1=fffff"]
    back()
    assert resctrl.schemata("box") == before
    with pytest.raises(CgroupError, match=r"^linux\.intelRdt\.memBwSchema: "):
        intelrdt.update(saved, {"l3CacheSchema": "L3:0=f", "memBwSchema": "SMBA:1=30"})
    assert resctrl.schemata("box") == before


def test_what_cannot_be_taken_back_is_told_beside_what_failed_first(resctrl, monkeypatch):
    saved = make(resctrl, l3CacheSchema="L3:0=ff")

    def write(root: str, path: str, field: str, line: str, calls: list[str] = []) -> None:  # noqa: B006
        calls.append(line)
        if len(calls) > 1:
            raise CgroupError(field, path, line, EIO, f"write {len(calls)}")

    monkeypatch.setattr(intelrdt, "write_schema", write)
    with pytest.raises(CgroupError, match="write 2") as caught:
        intelrdt.update(saved, {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=30"})
    assert "write 3" in caught.value.__notes__[0]


def new_class(name: str, **asked: Any) -> intelrdt.Group:
    group = intelrdt.new_class(name, asked)
    intelrdt.make(group)
    return group


def test_an_update_gives_a_class_and_takes_all_threads_there(resctrl):
    pids = iter([[os.getpid()], [os.getpid(), 1 << 22], [os.getpid()]])
    intelrdt.fill(new_class("box", l3CacheSchema="L3:0=ff"), lambda: next(pids))
    threads = {int(name) for name in os.listdir("/proc/self/task")}
    assert threads <= set(map(int, (resctrl.root / "box/tasks").read_text().split()))
    assert resctrl.schemata("box")[1] == "L3:0=ff;1=fffff"


def test_an_update_gives_up_on_a_container_that_starts_processes_faster_than_they_are_moved(
    resctrl, monkeypatch
):
    threads = iter(range(1 << 22, 1 << 23))
    monkeypatch.setattr(intelrdt.procfs, "threads", lambda pid: [next(threads)])
    with pytest.raises(CgroupError, match="starts processes too fast"):
        intelrdt.fill(new_class("box", l3CacheSchema="L3:0=ff"), lambda: [1])


def test_a_thread_of_the_class_that_ends_meanwhile_is_not_outside(resctrl, monkeypatch):
    """Each is in the class when it is listed, and gone when `tasks` is read."""
    group = new_class("box", l3CacheSchema="L3:0=ff")
    lists = iter([[10], [10, 11], [11]])
    tasks = iter(["10 11", "11"])
    moved: list[int] = []
    monkeypatch.setattr(intelrdt.procfs, "threads", lambda pid: next(lists))
    monkeypatch.setattr(intelrdt, "_read", lambda path: next(tasks))
    monkeypatch.setattr(intelrdt, "_move", lambda group, thread: moved.append(thread))
    intelrdt.fill(group, lambda: [1])
    assert moved == []


def test_processes_that_cannot_be_told_are_a_matter_of_intel_rdt(resctrl):
    def pids() -> list[int]:
        raise Unsupported("pids", "a cgroup")

    with pytest.raises(Unsupported, match=r"^linux\.intelRdt: not supported: a cgroup$"):
        intelrdt.fill(new_class("box"), pids)


def test_a_schema_that_an_update_cannot_have_is_named(resctrl):
    with pytest.raises(CgroupError, match=r"linux\.intelRdt\.schemata\[0\]"):
        intelrdt.fill(new_class("box", schemata=["L2:0=f"]), list)


def test_an_update_takes_no_class_that_is_there(resctrl):
    group = intelrdt.new_class("box", {"l3CacheSchema": "L3:0=f"})
    make(resctrl, closID="box", l3CacheSchema="L3:0=ff")
    with pytest.raises(CgroupError, match="/box: File exists"):
        intelrdt.make(group)  # somebody was faster
    with pytest.raises(CgroupError, match="/box: File exists"):
        intelrdt.new_class("box", {"l3CacheSchema": "L3:0=f"})


def test_a_name_that_resctrl_has_itself_is_none_of_a_class(resctrl):
    found = [field for field, _ in rules.intel_rdt({"linux": {"intelRdt": {"closID": "mon_groups"}}})]
    assert found == ["linux.intelRdt.closID"]
    with pytest.raises(SpecError, match=r"^linux\.intelRdt\.closID: is needed: .*'info'"):
        intelrdt.new_class("info", {"l3CacheSchema": "L3:0=f"})
    intelrdt.check_name("info", {"closID": "gold", "enableMonitoring": True})
    with pytest.raises(SpecError, match=r"^linux\.intelRdt\.enableMonitoring: does not go with it: "):
        intelrdt.check_name("mon_groups", {"closID": "gold", "enableMonitoring": True})
    found = [field for field, _ in rules.intel_rdt({"linux": {"intelRdt": {"closID": "a\nb"}}})]
    assert found == ["linux.intelRdt.closID"]


# verify


class Process:
    pid = 77


def findings(resctrl, monkeypatch, **asked: Any) -> dict[str, tuple[str, str]]:
    monkeypatch.setattr(observer, "_root", lambda: str(resctrl.root))
    found = observer.observe(Process(), {"linux": {"intelRdt": asked}})  # type: ignore[arg-type]
    return {field.removeprefix("linux.intelRdt"): (wanted, now) for field, wanted, now in found}


def test_verify_reads_the_class_of_the_process_and_its_schemata(resctrl, monkeypatch):
    make(resctrl, closID="gold", l3CacheSchema="L3:0=ff", memBwSchema="MB:0=20", enableMonitoring=True)
    (resctrl.root / "gold/tasks").write_text("12\n77\n")
    asked = {
        "closID": "gold",
        "l3CacheSchema": "L3:0=00ff",
        "memBwSchema": "MB:0=30",
        "enableMonitoring": True,
    }
    assert findings(resctrl, monkeypatch, **asked) == {
        ".closID": ("gold", "gold"),
        ".l3CacheSchema": ("L3:0=ff", "L3:0=ff"),
        ".memBwSchema": ("MB:0=30", "MB:0=20"),
        ".enableMonitoring": ("counted", "not counted"),
    }
    (resctrl.root / "gold/mon_groups/box/tasks").write_text("77\n")
    assert findings(resctrl, monkeypatch, **asked)[".enableMonitoring"] == ("counted", "counted")


def test_verify_says_when_the_process_is_in_the_default_class(resctrl, monkeypatch):
    (resctrl.root / "tasks").write_text("77\n")
    assert findings(resctrl, monkeypatch) == {".closID": ("not the default one", "/")}
    monkeypatch.setattr(observer, "_root", lambda: "")
    found = observer.observe(Process(), {"linux": {"intelRdt": {}}})  # type: ignore[arg-type]
    assert found == [("linux.intelRdt", "a class of service", "no resctrl file system is mounted")]
