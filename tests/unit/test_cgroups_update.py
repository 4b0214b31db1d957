"""update: what stays, what is written where, and the way back when something is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocirt.cgroups import files, update
from ocirt.cgroups.v1 import V1Manager
from ocirt.cgroups.v2 import V2Manager
from ocirt.cli.update import asked_for, number
from ocirt.errors import CgroupError, OcirtError, SpecError

CONTROLLERS = ("blkio", "cpu", "cpuset", "hugetlb", "memory", "pids")
DOCKERS = {  # what docker sends for `docker update --memory 300m`
    "memory": {"limit": 314572800, "reservation": 0, "swap": 0},
    "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
    "blockIO": {"weight": 0},
}


def v1_manager(tmp_path: Path, **files: str) -> V1Manager:
    for controller in CONTROLLERS:
        (tmp_path / controller).mkdir()
    for name, text in files.items():
        file = name.replace("__", ".")
        (tmp_path / file.partition(".")[0] / file).write_text(text)
    return V1Manager({controller: str(tmp_path / controller) for controller in CONTROLLERS})


def v2_manager(tmp_path: Path, **files: str) -> V2Manager:
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    return V2Manager(str(tmp_path), str(tmp_path))


def contents(tmp_path: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()}


# Merging


@pytest.mark.parametrize(
    ("old", "asked", "new"),
    [
        ({}, {"pids": {"limit": 5}}, {"pids": {"limit": 5}}),
        ({"pids": {"limit": 5}}, {"pids": {"limit": 0}}, {"pids": {"limit": 1}}),
        (
            {"memory": {"limit": 100, "swap": 200}, "pids": {"limit": 5}},
            {"memory": {"limit": 150}},
            {"memory": {"limit": 150, "swap": 200}, "pids": {"limit": 5}},
        ),
        (
            {"memory": {"limit": 100, "reservation": 50}, "cpu": {"cpus": "0", "quota": 9}},
            DOCKERS,
            {
                "memory": {"limit": 314572800, "reservation": 50},
                "cpu": {"cpus": "0", "quota": 9},
                "blockIO": {},
            },
        ),
        (
            {"memory": {"limit": 100, "swap": 200}},
            {"memory": {"limit": -1}},
            {"memory": {"limit": -1, "swap": -1}},
        ),
        (
            {"cpu": {"idle": 1, "burst": 7}},
            {"cpu": {"idle": 0, "burst": 0}},
            {"cpu": {"idle": 0, "burst": 0}},
        ),
        ({"memory": {"swappiness": 60}}, {"memory": {"swappiness": 0}}, {"memory": {"swappiness": 0}}),
        ({"cpu": {"shares": 7}}, {"cpu": None}, {"cpu": {"shares": 7}}),
        ({"cpu": {"shares": 7}}, {"cpu": {"shares": None}}, {"cpu": {"shares": 7}}),
        (
            {"unified": {"memory.high": "1", "io.weight": "2"}},
            {"unified": {"memory.high": "3"}},
            {"unified": {"memory.high": "3", "io.weight": "2"}},
        ),
        (
            {"rdma": {"mlx5_0": {"hcaHandles": 1, "hcaObjects": 2}}},
            {"rdma": {"mlx5_0": {"hcaObjects": 3}, "mlx5_1": {"hcaHandles": 4}}},
            {"rdma": {"mlx5_0": {"hcaHandles": 1, "hcaObjects": 3}, "mlx5_1": {"hcaHandles": 4}}},
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}},
            {
                "blockIO": {
                    "throttleReadBpsDevice": [
                        {"major": 8, "minor": 0, "rate": 0},
                        {"major": 8, "minor": 16, "rate": 2},
                    ]
                }
            },
            {
                "blockIO": {
                    "throttleReadBpsDevice": [
                        {"major": 8, "minor": 0, "rate": 0},
                        {"major": 8, "minor": 16, "rate": 2},
                    ]
                }
            },
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}]},
            {"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]},
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 0}]},
        ),
        ({"devices": [{"allow": True}]}, {"devices": [{"allow": False}]}, {"devices": [{"allow": False}]}),
        ({"devices": [{"allow": True}]}, {"devices": []}, {"devices": [{"allow": True}]}),
    ],
)
def test_what_is_left_out_or_says_nothing_stays(old, asked, new):
    before = repr(old)
    assert update.merge(old, asked) == new
    assert repr(old) == before


# What is written


def test_v1_gets_only_what_was_asked_for(tmp_path):
    manager = v1_manager(
        tmp_path, memory__limit_in_bytes="100", memory__memsw__limit_in_bytes="200", pids__max="7"
    )
    old = {"memory": {"limit": 100, "swap": 200}, "pids": {"limit": 5}}
    asked = {"memory": {"limit": 150}}
    manager.update(old, update.merge(old, asked), asked)
    assert contents(tmp_path) == {
        "memory.limit_in_bytes": "150",
        "memory.memsw.limit_in_bytes": "200",
        "pids.max": "7",
    }


def test_v2_gets_the_swap_that_follows_from_another_memory_limit(tmp_path):
    manager = v2_manager(tmp_path, memory__max="100", memory__swap__max="10")
    old = {"memory": {"limit": 100, "swap": 200}}
    asked = {"memory": {"limit": 150}}
    manager.update(old, update.merge(old, asked), asked)
    assert contents(tmp_path) == {"memory.max": "150", "memory.swap.max": "50"}


def test_v2_keeps_the_period_of_a_quota_that_changes(tmp_path):
    manager = v2_manager(tmp_path, cpu__max="5000 20000")
    old = {"cpu": {"quota": 5000, "period": 20000}}
    asked = {"cpu": {"quota": 8000}}
    manager.update(old, update.merge(old, asked), asked)
    assert contents(tmp_path) == {"cpu.max": "8000 20000"}


def test_the_same_value_is_written_again(tmp_path):
    """Somebody may have changed the file meanwhile."""
    manager = v1_manager(tmp_path, pids__max="7")
    old = {"pids": {"limit": 5}}
    manager.update(old, old, {"pids": {"limit": 5}})
    assert contents(tmp_path) == {"pids.max": "5"}


def test_the_weights_of_devices_are_written_again_with_another_weight_of_all():
    """BFQ sets every device to it."""
    device = {"major": 8, "minor": 0, "weight": 300}
    old = {"blockIO": {"weight": 500, "weightDevice": [device]}}
    asked = {"blockIO": {"weight": 700}}
    rows = update.changed(old, update.merge(old, asked), asked, 2)
    assert [value[0] for _, _, value in rows] == ["700", "8:0 300"]


def test_the_oom_killer_can_be_switched_on_again(tmp_path):
    manager = v1_manager(tmp_path, memory__oom_control="oom_kill_disable 1\nunder_oom 0\n")
    old = {"memory": {"disableOOMKiller": True}}
    asked = {"memory": {"disableOOMKiller": False}}
    manager.update(old, update.merge(old, asked), asked)
    assert contents(tmp_path)["memory.oom_control"][:1] == "0"


def test_hybrid_updates_what_is_in_cgroup2_there(tmp_path):
    group = tmp_path / "unified/box"
    group.mkdir(parents=True)
    for directory in (tmp_path / "unified", group):
        (directory / "cgroup.controllers").write_text("hugetlb\n")
    (group / "hugetlb.2MB.max").write_text("0")
    (group / "hugetlb.2MB.rsvd.max").write_text("0")
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids/pids.max").write_text("5")
    manager = V1Manager({"pids": f"{tmp_path}/pids", "": str(group)}, {str(group): f"{tmp_path}/unified"})
    old = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "pids": {"limit": 5}}
    asked = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}], "pids": {"limit": 6}}
    manager.update(old, update.merge(old, asked), asked)
    assert (group / "hugetlb.2MB.max").read_text() == "4096"
    assert (tmp_path / "pids/pids.max").read_text() == "6"
    (tmp_path / "pids/pids.max").unlink()
    (tmp_path / "pids/pids.max").mkdir()
    old, asked = (
        update.merge(old, asked),
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 7}], "pids": {"limit": 8}},
    )
    with pytest.raises(CgroupError, match=r"pids\.limit"):
        manager.update(old, update.merge(old, asked), asked)
    assert (group / "hugetlb.2MB.max").read_text() == "4096"


# The way back


def test_when_one_is_refused_the_old_limits_are_in_force_again(tmp_path):
    manager = v1_manager(
        tmp_path,
        memory__limit_in_bytes="100",
        blkio__throttle__read_bps_device="8:0 5\n8:16 6\n",
    )
    (tmp_path / "hugetlb/hugetlb.2MB.limit_in_bytes").mkdir()  # refuses every value
    old = {"memory": {"limit": 100}}
    asked = {
        "memory": {"limit": 150},
        "blockIO": {
            "throttleReadBpsDevice": [
                {"major": 8, "minor": 16, "rate": 9},
                {"major": 9, "minor": 0, "rate": 9},
            ]
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 6}],
    }
    with pytest.raises(CgroupError, match=r"linux\.resources\.hugepageLimits\.2MB"):
        manager.update(old, update.merge(old, asked), asked)
    assert contents(tmp_path)["memory.limit_in_bytes"] == "100"
    assert contents(tmp_path)["blkio.throttle.read_bps_device"].startswith("8:16 6\n9:0 0")


@pytest.mark.parametrize(
    ("name", "before", "written", "former"),
    [
        ("memory.limit_in_bytes", "9223372036854771712", "100", "9223372036854771712"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0", "1", "0"),
        ("cpu.max", "max 100000", "5000 20000", "max 100000"),
        ("cpuset.cpus", "0-3", "0", "0-3"),
        (
            "io.max",
            "8:0 rbps=1 wbps=max riops=max wiops=max",
            "8:0 rbps=2",
            "8:0 rbps=1 wbps=max riops=max wiops=max",
        ),
        ("io.max", "8:0 rbps=1 wbps=max", "8:16 wiops=9", "8:16 rbps=max wbps=max riops=max wiops=max"),
        ("io.weight", "default 100\n8:0 200", "50", "default 100\n8:0 200"),
        ("io.weight", "default 100\n8:0 200", "8:16 50", "8:16 default"),
        ("blkio.weight_device", "8:0 500", "8:16 300", "8:16 0"),
        ("net_prio.ifpriomap", "lo 0\neth0 5", "eth0 7", "eth0 5"),
        (
            "rdma.max",
            "mlx5_0 hca_handle=max hca_object=max",
            "mlx5_0 hca_handle=3",
            "mlx5_0 hca_handle=max hca_object=max",
        ),
    ],
)
def test_a_file_is_given_back_what_was_in_it(name, before, written, former):
    assert update.former_text(name, before, written) == former


def test_the_weights_of_devices_are_given_back_after_that_of_all(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(files, "write_file", lambda path, text: written.append((path, text)))
    undo = [
        ("/g/blkio.bfq.weight", "500", "700"),
        ("/g/blkio.bfq.weight_device", "8:0 300", "8:0 200"),
        ("/g/pids.max", "5", "6"),
    ]
    assert update.roll_back(undo) == []
    assert [text for _, text in written] == ["5", "500", "8:0 300"]


def test_a_file_that_cannot_be_set_back_is_told(tmp_path, monkeypatch):
    manager = v1_manager(tmp_path, memory__limit_in_bytes="100")
    (tmp_path / "pids/pids.max").mkdir()
    monkeypatch.setattr(update, "roll_back", lambda _undo: ["/somewhere/memory.limit_in_bytes"])
    asked = {"memory": {"limit": 150}, "pids": {"limit": 6}}
    with pytest.raises(CgroupError, match=r"/somewhere/memory.limit_in_bytes could not be set back"):
        manager.update({}, asked, asked)


# --check


@pytest.mark.parametrize("version", [1, 2])
def test_check_refuses_a_limit_below_what_is_in_use_and_names_it(tmp_path, version):
    if version == 1:
        manager = v1_manager(tmp_path, memory__limit_in_bytes="9000", memory__usage_in_bytes="5000")
    else:
        manager = v2_manager(tmp_path, memory__max="9000", memory__current="5000")
    old, asked = {"memory": {"limit": 9000}}, {"memory": {"limit": 4999}}
    new = update.merge(old, asked)
    before = contents(tmp_path)
    with pytest.raises(CgroupError, match=r"linux\.resources\.memory\.limit: .*in use now: 5000 bytes"):
        manager.update(old, new, asked, check=True)
    assert contents(tmp_path) == before
    with pytest.raises(CgroupError, match="in use now"):
        manager.update(old, {"memory": {"limit": 4999, "checkBeforeUpdate": True}}, asked)
    manager.update(old, {"memory": {"limit": 5000}}, {"memory": {"limit": 5000}}, check=True)


def test_a_swap_below_the_new_memory_limit_is_refused_on_v2(tmp_path):
    manager = v2_manager(tmp_path, memory__max="100", memory__swap__max="100")
    old, asked = {"memory": {"limit": 100, "swap": 200}}, {"memory": {"limit": 300}}
    with pytest.raises(SpecError, match=r"200 is less than memory\.limit, 300"):
        manager.update(old, update.merge(old, asked), asked)


# The command line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-1", -1),
        ("512", 512),
        ("512b", 512),
        ("50M", 52428800),
        ("50m", 52428800),
        ("50MB", 52428800),
        ("50MiB", 52428800),
        ("1g", 1073741824),
        ("1.5g", 1610612736),
        ("0.5k", 512),
        ("2 k", 2048),
        ("1t", 1099511627776),
    ],
)
def test_sizes_have_units_of_1024(text, value):
    assert number("memory", text, sizes=True) == value


@pytest.mark.parametrize("text", ["abc", "m", "1x", "1.5", "1e3", "--1", "1_0", "", " ", "9" * 20])
def test_what_is_no_number_is_refused_by_its_option(text):
    with pytest.raises(OcirtError, match=f"invalid value for cpu-period: '{text}' is not a number"):
        number("cpu-period", text)


@pytest.mark.parametrize("text", ["abc", "m", "1x", "1.5.5m", "1..5m", "1.m", "", "ib", "b"])
def test_what_is_no_size_is_refused_by_its_option(text):
    with pytest.raises(OcirtError, match=f"invalid value for memory: '{text}' is not a size"):
        number("memory", text, sizes=True)


def test_options_become_resources_and_count_more_than_the_file(tmp_path):
    file = tmp_path / "resources.json"
    file.write_text('{"memory": {"limit": 5, "swap": 9}, "pids": {"limit": 3}}')
    values = {
        "resources": str(file),
        "memory": "1k",
        "blkio_weight": "500",
        "cpu_period": "20000",
        "cpu_quota": "-1",
        "cpu_burst": "7",
        "cpu_share": "512",
        "cpu_rt_period": "1000000",
        "cpu_rt_runtime": "950000",
        "cpu_idle": "1",
        "cpuset_cpus": "0-1",
        "cpuset_mems": "0",
        "memory_reservation": "512",
    }
    assert asked_for(values) == {
        "memory": {"limit": 1024, "swap": 9, "reservation": 512},
        "pids": {"limit": 3},
        "blockIO": {"weight": 500},
        "cpu": {
            "period": 20000,
            "quota": -1,
            "burst": 7,
            "shares": 512,
            "realtimePeriod": 1000000,
            "realtimeRuntime": 950000,
            "idle": 1,
            "cpus": "0-1",
            "mems": "0",
        },
    }


# systemd


def test_systemd_is_told_what_changes_and_what_was_asked():
    old = [
        ("linux.resources.memory.limit", "MemoryMax", "t", 100),
        ("linux.resources.memory.swap", "MemorySwapMax", "t", 5),
    ]
    new = [
        *old[:1],
        ("linux.resources.memory.swap", "MemorySwapMax", "t", 6),
        ("linux.resources.cpu.cpus", "AllowedCPUs", "ay", b"\1"),
    ]
    told = update.changed_properties(old, new, {"memory": {"limit": 100}, "cpu": {"cpus": "0"}})
    assert [row[1:] for row in told] == [
        ("MemoryMax", "t", 100),
        ("MemorySwapMax", "t", 6),
        ("AllowedCPUs", "ay", b"\1"),
    ]
    assert [row[1:] for row in update.former_properties(old, told)] == [
        ("MemoryMax", "t", 100),
        ("MemorySwapMax", "t", 5),
        ("AllowedCPUs", "ay", b""),
    ]
