"""The table of limits: what each field becomes in the files of v1 and v2 and for systemd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocirt.cgroups import resources
from ocirt.cgroups.v1 import V1Manager
from ocirt.cgroups.v2 import V2Manager
from ocirt.errors import CgroupError, SpecError, Unsupported

ALL = [
    "blkio",
    "cpu",
    "cpuset",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "pids",
    "rdma",
]
SCHEMAS = Path(__file__).parents[2] / "schemas"


def v1_manager(tmp_path: Path, files: list[str]) -> V1Manager:
    for controller in ALL:
        (tmp_path / controller).mkdir()
    for file in files:
        (tmp_path / file.partition(".")[0] / file).write_text("")
    return V1Manager({controller: str(tmp_path / controller) for controller in ALL})


def v2_manager(tmp_path: Path, files: list[str]) -> V2Manager:
    for file in files:
        (tmp_path / file).write_text("")
    return V2Manager(str(tmp_path), str(tmp_path.parent))


def written(tmp_path: Path) -> dict[str, str]:
    return {
        path.name: text for path in tmp_path.rglob("*.*") if path.is_file() and (text := path.read_text())
    }


MiB = 1 << 20
ROWS = [
    # resources, files on v1 (None: Unsupported), files on v2 (None: Unsupported)
    ({"memory": {"limit": 64 * MiB}}, {"memory.limit_in_bytes": "67108864"}, {"memory.max": "67108864"}),
    ({"memory": {"limit": 0}}, {}, {}),
    (
        {"memory": {"limit": -1}},
        {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"},
        {"memory.max": "max", "memory.swap.max": "max"},
    ),
    (
        {"memory": {"limit": 200, "swap": 300}},
        {"memory.limit_in_bytes": "200", "memory.memsw.limit_in_bytes": "300"},
        {"memory.max": "200", "memory.swap.max": "100"},
    ),
    (
        {"memory": {"limit": 200, "swap": 200}},
        {"memory.limit_in_bytes": "200", "memory.memsw.limit_in_bytes": "200"},
        {"memory.max": "200", "memory.swap.max": "0"},
    ),
    (
        {"memory": {"limit": 200, "swap": -1}},
        {"memory.limit_in_bytes": "200", "memory.memsw.limit_in_bytes": "-1"},
        {"memory.max": "200", "memory.swap.max": "max"},
    ),
    ({"memory": {"reservation": 4096}}, {"memory.soft_limit_in_bytes": "4096"}, {"memory.low": "4096"}),
    ({"memory": {"reservation": -1}}, {"memory.soft_limit_in_bytes": "-1"}, {"memory.low": "max"}),
    ({"memory": {"swappiness": 0}}, {"memory.swappiness": "0"}, None),
    ({"memory": {"swappiness": 60}}, {"memory.swappiness": "60"}, None),
    ({"memory": {"swappiness": (1 << 64) - 1}}, {}, {}),
    ({"memory": {"disableOOMKiller": True}}, {"memory.oom_control": "1"}, None),
    ({"memory": {"disableOOMKiller": False}}, {}, {}),
    ({"memory": {"kernel": 4096, "useHierarchy": True, "checkBeforeUpdate": False}}, {}, {}),
    ({"memory": {"kernelTCP": 4096}}, {"memory.kmem.tcp.limit_in_bytes": "4096"}, {}),
    ({"memory": {"kernelTCP": -1}}, {"memory.kmem.tcp.limit_in_bytes": "-1"}, {}),
    ({"memory": {"kernelTCP": 0}}, {}, {}),
    ({"cpu": {"shares": 0}}, {}, {}),
    ({"cpu": {"shares": 2}}, {"cpu.shares": "2"}, {"cpu.weight": "1"}),
    ({"cpu": {"shares": 512}}, {"cpu.shares": "512"}, {"cpu.weight": "59"}),
    ({"cpu": {"shares": 1024}}, {"cpu.shares": "1024"}, {"cpu.weight": "100"}),
    ({"cpu": {"shares": 262144}}, {"cpu.shares": "262144"}, {"cpu.weight": "10000"}),
    ({"cpu": {"quota": 50000}}, {"cpu.cfs_quota_us": "50000"}, {"cpu.max": "50000 100000"}),
    (
        {"cpu": {"quota": 5000, "period": 20000}},
        {"cpu.cfs_quota_us": "5000", "cpu.cfs_period_us": "20000"},
        {"cpu.max": "5000 20000"},
    ),
    ({"cpu": {"quota": -1}}, {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
    ({"cpu": {"period": 20000}}, {"cpu.cfs_period_us": "20000"}, {"cpu.max": "max 20000"}),
    ({"cpu": {"quota": 0, "period": 0}}, {}, {}),
    ({"cpu": {"burst": 1000}}, {"cpu.cfs_burst_us": "1000"}, {"cpu.max.burst": "1000"}),
    ({"cpu": {"burst": 0}}, {"cpu.cfs_burst_us": "0"}, {"cpu.max.burst": "0"}),
    ({"cpu": {"idle": 1}}, {"cpu.idle": "1"}, {"cpu.idle": "1"}),
    ({"cpu": {"idle": 0}}, {"cpu.idle": "0"}, {"cpu.idle": "0"}),
    (
        {"cpu": {"idle": 1, "shares": 512}},
        {"cpu.shares": "512", "cpu.idle": "1"},
        {"cpu.weight": "59", "cpu.idle": "1"},
    ),
    (
        {"cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1000000}},
        {"cpu.rt_runtime_us": "950000", "cpu.rt_period_us": "1000000"},
        None,
    ),
    ({"cpu": {"realtimeRuntime": 0, "realtimePeriod": 0}}, {}, {}),
    (
        {"cpu": {"cpus": "0-1", "mems": "0"}},
        {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
        {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
    ),
    ({"cpu": {"cpus": "", "mems": ""}}, {}, {}),
    ({"pids": {"limit": 100}}, {"pids.max": "100"}, {"pids.max": "100"}),
    ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    ({"pids": {"limit": 0}}, {"pids.max": "1"}, {"pids.max": "1"}),  # no fork
    ({"pids": {}}, {}, {}),
    ({"blockIO": {"weight": 500}}, {"blkio.weight": "500"}, {"io.bfq.weight": "500"}),
    ({"blockIO": {"weight": 0}}, {}, {}),
    ({"blockIO": {"leafWeight": 500}}, {"blkio.leaf_weight": "500"}, None),
    (
        {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 500}, {"major": 8, "minor": 16}]}},
        {"blkio.weight_device": "8:0 500"},
        {"io.bfq.weight": "8:0 500"},
    ),
    (
        {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 300}]}},
        {"blkio.leaf_weight_device": "8:0 300"},
        None,
    ),
    (
        {
            "blockIO": {
                "throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 1048576},
                    {"major": 8, "minor": 16, "rate": 0},
                ]
            }
        },
        {"blkio.throttle.read_bps_device": "8:0 1048576\n8:16 0"},
        {"io.max": "8:0 rbps=1048576\n8:16 rbps=max"},
    ),
    (
        {"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
        {"blkio.throttle.write_bps_device": "8:0 7"},
        {"io.max": "8:0 wbps=7"},
    ),
    (
        {"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
        {"blkio.throttle.read_iops_device": "8:0 7"},
        {"io.max": "8:0 riops=7"},
    ),
    (
        {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
        {"blkio.throttle.write_iops_device": "8:0 7"},
        {"io.max": "8:0 wiops=7"},
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
        {"hugetlb.2MB.limit_in_bytes": "0", "hugetlb.2MB.rsvd.limit_in_bytes": "0"},
        {"hugetlb.2MB.max": "0", "hugetlb.2MB.rsvd.max": "0"},
    ),
    ({"network": {"classID": 0x100001}}, {"net_cls.classid": "1048577"}, None),
    ({"network": {"classID": 0, "priorities": []}}, {}, {}),
    (
        {"network": {"priorities": [{"name": "eth0", "priority": 5}, {"name": "lo", "priority": 0}]}},
        {"net_prio.ifpriomap": "eth0 5\nlo 0"},
        None,
    ),
    (
        {"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx5_1": {"hcaObjects": 7}}},
        {"rdma.max": "mlx5_0 hca_handle=3 hca_object=10000\nmlx5_1 hca_object=7"},
        {"rdma.max": "mlx5_0 hca_handle=3 hca_object=10000\nmlx5_1 hca_object=7"},
    ),
    (
        {"unified": {"memory.high": "1000", "io.weight": "default 10\n8:0 20"}},
        None,
        {"memory.high": "1000", "io.weight": "default 10\n8:0 20"},
    ),
    ({"unified": {}}, {}, {}),
]


def name_of(row: object) -> str:
    return json.dumps(row)[:70]


@pytest.mark.parametrize(("asked", "v1", "_v2"), ROWS, ids=[name_of(row[0]) for row in ROWS])
def test_v1_files_hold_what_was_asked_for(tmp_path, asked, v1, _v2):
    manager = v1_manager(tmp_path, list(v1 or ()))
    if v1 is None:
        with pytest.raises(Unsupported):
            manager.apply(asked)
    else:
        manager.apply(asked)
    assert written(tmp_path) == (v1 or {})


@pytest.mark.parametrize(("asked", "_v1", "v2"), ROWS, ids=[name_of(row[0]) for row in ROWS])
def test_v2_files_hold_what_was_asked_for(tmp_path, asked, _v1, v2):
    manager = v2_manager(tmp_path, list(v2 or ()))
    if v2 is None:
        with pytest.raises(Unsupported):
            manager.apply(asked)
    else:
        manager.apply(asked)
    assert written(tmp_path) == (v2 or {})


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (2, 1),
        (3, 2),
        (100, 17),
        (512, 59),
        (1000, 99),
        (1024, 100),
        (2048, 174),
        (10240, 639),
        (262143, 10000),
    ],
)
def test_the_curve_from_shares_to_weight_passes_through_the_usual_value(shares, weight):
    assert resources.weight_of_shares(shares) == weight


@pytest.mark.parametrize(("blkio", "io"), [(10, 1), (100, 910), (500, 4950), (1000, 10000)])
def test_io_weight_spreads_the_old_scale_over_the_new(blkio, io, tmp_path):
    v2_manager(tmp_path, ["io.weight"]).apply({"blockIO": {"weight": blkio}})
    assert written(tmp_path) == {"io.weight": str(io)}


def test_blkio_weight_goes_to_the_file_of_bfq_where_that_is_all_there_is(tmp_path):
    v1_manager(tmp_path, ["blkio.bfq.weight"]).apply({"blockIO": {"weight": 500}})
    assert written(tmp_path) == {"blkio.bfq.weight": "500"}


def test_a_missing_file_is_refused_naming_the_field_and_the_file(tmp_path):
    with pytest.raises(Unsupported) as caught:
        v1_manager(tmp_path, []).apply({"blockIO": {"weight": 500}})
    text = str(caught.value)
    assert text.startswith("linux.resources.blockIO.weight: ")
    assert "blkio.weight or blkio.bfq.weight" in text


def test_a_controller_that_is_not_mounted_is_refused_naming_it():
    with pytest.raises(Unsupported) as caught:
        V1Manager({"memory": "/nowhere"}).apply({"pids": {"limit": 5}})
    assert "linux.resources.pids.limit" in str(caught.value)
    assert "pids controller" in str(caught.value)


def test_no_limit_needs_no_controller():
    V1Manager({"memory": "/nowhere"}).apply({"pids": {"limit": -1}})


@pytest.mark.parametrize("swap", [-1, 200])
def test_swap_that_is_off_satisfies_no_limit_and_no_swap(tmp_path, swap):
    v2_manager(tmp_path, ["memory.max"]).apply({"memory": {"limit": 200, "swap": swap}})
    assert written(tmp_path) == {"memory.max": "200"}


def test_swap_that_is_off_does_not_satisfy_a_limit(tmp_path):
    with pytest.raises(Unsupported, match=r"memory\.swap"):
        v2_manager(tmp_path, ["memory.max"]).apply({"memory": {"limit": 200, "swap": 300}})


@pytest.mark.parametrize(
    ("asked", "version", "field"),
    [
        ({"memory": {"swap": 300}}, 2, "linux.resources.memory.swap"),
        ({"memory": {"swap": 100, "limit": 200}}, 2, "linux.resources.memory.swap"),
        ({"memory": {"swap": 100, "limit": -1}}, 2, "linux.resources.memory.swap"),
        ({"unified": {".max": "1"}}, 2, "linux.resources.unified..max"),
        ({"unified": {"../x/memory.max": "1"}}, 2, "linux.resources.unified.../x/memory.max"),
        ({"unified": {"cgroup.freeze": "1"}}, 2, "linux.resources.unified.cgroup.freeze"),
        ({"unified": {"cgroup.procs": "0"}}, 2, "linux.resources.unified.cgroup.procs"),
        ({"memory": {"swappiness": 101}}, 1, "linux.resources.memory.swappiness"),
        ({"cpu": {"shares": 1}}, 1, "linux.resources.cpu.shares"),
        ({"cpu": {"shares": 262145}}, 1, "linux.resources.cpu.shares"),
        ({"unified": {"../memory.max": "1"}}, 2, "linux.resources.unified.../memory.max"),
        ({"unified": {"tasks": "1"}}, 2, "linux.resources.unified.tasks"),
    ],
)
def test_values_that_cannot_be_are_refused_by_field(asked, version, field):
    with pytest.raises(SpecError) as caught:
        resources.writes(asked, version)
    assert caught.value.field == field


def test_what_is_left_alone_is_told_with_the_reason():
    asked = {"memory": {"kernel": 1, "kernelTCP": 0, "useHierarchy": True}}
    told = dict(resources.left_alone(asked, 1))
    assert list(told) == ["linux.resources.memory.kernel", "linux.resources.memory.useHierarchy"]


def test_a_limit_below_use_is_refused_on_v2_when_the_check_is_asked_for(tmp_path):
    manager = v2_manager(tmp_path, ["memory.max"])
    (tmp_path / "memory.current").write_text("5000\n")
    with pytest.raises(CgroupError, match="in use now: 5000"):
        manager.apply({"memory": {"limit": 4096, "checkBeforeUpdate": True}})
    assert written(tmp_path) == {"memory.current": "5000\n"}


def test_every_property_of_the_schema_has_a_row():
    document = json.loads((SCHEMAS / "config.schema.json").read_text())
    properties = document["$defs"]["Resources"]["properties"]
    for section, schema in properties.items():
        if section == "devices":
            continue
        rows = {row[0] for row in resources.TABLE[section]}
        inner = schema.get("properties")
        assert rows == (set(inner) if inner else {""}), section


@pytest.mark.parametrize(
    ("asked", "version", "expected"),
    [
        ({"memory": {"limit": 100}}, 1, [("MemoryLimit", "t", 100)]),
        ({"memory": {"limit": 100}}, 2, [("MemoryMax", "t", 100)]),
        (
            {"memory": {"limit": -1}},
            2,
            [("MemoryMax", "t", 18446744073709551615), ("MemorySwapMax", "t", 18446744073709551615)],
        ),
        ({"cpu": {"shares": 1024}}, 1, [("CPUShares", "t", 1024)]),
        ({"cpu": {"shares": 1024}}, 2, [("CPUWeight", "t", 100)]),
        (
            {"cpu": {"quota": 33333, "period": 100000}},
            2,
            [("CPUQuotaPeriodUSec", "t", 100000), ("CPUQuotaPerSecUSec", "t", 340000)],
        ),
        ({"cpu": {"quota": -1}}, 2, [("CPUQuotaPerSecUSec", "t", 18446744073709551615)]),
        ({"cpu": {"cpus": "0-2,9"}}, 2, [("AllowedCPUs", "ay", b"\x07\x02")]),
        ({"pids": {"limit": -1}}, 2, [("TasksMax", "t", 18446744073709551615)]),
        ({"blockIO": {"weight": 500}}, 2, [("IOWeight", "t", 4950)]),
        ({"blockIO": {"weight": 500}}, 1, [("BlockIOWeight", "t", 500)]),
        ({"pids": {"limit": 0}, "network": {"classID": 3}}, 2, [("TasksMax", "t", 1)]),
        ({"unified": {"pids.max": "0"}}, 2, [("TasksMax", "t", 1)]),
        (
            {
                "blockIO": {
                    "weightDevice": [{"major": 8, "minor": 0, "weight": 500}, {"major": 8, "minor": 1}]
                }
            },
            2,
            [("IODeviceWeight", "a(st)", [("/dev/block/8:0", 4950)])],
        ),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 500}]}},
            1,
            [("BlockIODeviceWeight", "a(st)", [("/dev/block/8:0", 500)])],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
            1,
            [("BlockIOReadBandwidth", "a(st)", [("/dev/block/8:0", 7)])],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
            2,
            [("IOReadBandwidthMax", "a(st)", [("/dev/block/8:0", 7)])],
        ),
        (
            {"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}},
            2,
            [("IOWriteBandwidthMax", "a(st)", [("/dev/block/8:0", 18446744073709551615)])],
        ),
        ({"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}}, 1, []),
        (
            {"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
            2,
            [("IOReadIOPSMax", "a(st)", [("/dev/block/8:0", 7)])],
        ),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
            2,
            [("IOWriteIOPSMax", "a(st)", [("/dev/block/8:0", 7)])],
        ),
        ({"cpu": {"idle": 1}}, 2, [("CPUWeight", "t", 0)]),
        ({"cpu": {"idle": 0}}, 2, [("CPUWeight", "t", 18446744073709551615)]),
        ({"cpu": {"idle": 0, "shares": 1024}}, 2, [("CPUWeight", "t", 100)] * 2),
        ({"cpu": {"idle": 1, "shares": 1024}}, 2, [("CPUWeight", "t", 100), ("CPUWeight", "t", 0)]),
        ({"memory": {"reservation": 9}}, 2, [("MemoryLow", "t", 9)]),
        ({"memory": {"reservation": 9}}, 1, []),
        ({"memory": {"limit": 200, "swap": 300}}, 1, [("MemoryLimit", "t", 200)]),
        (
            {"memory": {"limit": 200, "swap": 300}},
            2,
            [("MemoryMax", "t", 200), ("MemorySwapMax", "t", 100)],
        ),
        ({"cpu": {"mems": "0,2"}}, 1, [("AllowedMemoryNodes", "ay", b"\x05")]),
        ({"cpu": {"burst": 5, "idle": 1, "realtimeRuntime": 5, "realtimePeriod": 9}}, 1, []),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "rdma": {"x": {"hcaHandles": 1}}}, 2, []),
        (
            {"unified": {"memory.high": "1000", "memory.min": "max", "pids.max": "7", "misc.max": "x 1"}},
            2,
            [
                ("MemoryHigh", "t", 1000),
                ("MemoryMin", "t", 18446744073709551615),
                ("TasksMax", "t", 7),
            ],
        ),
        (
            {"unified": {"cpu.max": "5000 20000", "cpuset.cpus": "0-1", "cpu.weight": "50"}},
            2,
            [
                ("CPUQuotaPeriodUSec", "t", 20000),
                ("CPUQuotaPerSecUSec", "t", 250000),
                ("AllowedCPUs", "ay", b"\x03"),
                ("CPUWeight", "t", 50),
            ],
        ),
        ({"unified": {"memory.high": "1G", "cpu.max": "half", "cpuset.cpus": ""}}, 2, []),
    ],
)
def test_systemd_gets_properties_in_its_own_units(asked, version, expected):
    assert [row[1:] for row in resources.properties(asked, version)] == expected
