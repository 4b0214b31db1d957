"""The systemd cgroup driver without systemd: names, properties, and what is asked in which order."""

from __future__ import annotations

from errno import EEXIST, EIO, ENOENT, ETIMEDOUT
from types import SimpleNamespace
from typing import Any

import pytest

from ocirt.cgroups import dbus, gvariant, systemd
from ocirt.cgroups.manager import Manager
from ocirt.context import Context
from ocirt.errors import CgroupError, SpecError
from ocirt.options import CreateOptions
from ocirt.plan import Plan

V2 = SimpleNamespace(
    cgroup_layout="v2",
    unified_mount="/sys/fs/cgroup",
    own_cgroups={"": "/"},
    euid=0,
    in_userns=False,
    v1_hierarchies={},
)


@pytest.mark.parametrize(
    ("path", "user", "slice_name", "scope"),
    [
        ("machine.slice:libpod:abc", False, "machine.slice", "libpod-abc.scope"),
        ("system.slice:docker:abc", False, "system.slice", "docker-abc.scope"),
        ("", False, "system.slice", "ocirt-c1.scope"),
        ("", True, "user.slice", "ocirt-c1.scope"),
        (":libpod:abc", True, "user.slice", "libpod-abc.scope"),
        ("a-b.slice::abc", False, "a-b.slice", "abc.scope"),
        ("-.slice:p:abc.scope", False, "-.slice", "p-abc.scope"),
        # Ids may have a plus, names of units may not.
        ("::a+b", False, "system.slice", r"a\x2bb.scope"),
        ("::ä", False, "system.slice", r"\xc3\xa4.scope"),
    ],
)
def test_cgroups_path_names_slice_and_scope(path, user, slice_name, scope):
    assert systemd.parse_path(path, "c1", user) == (slice_name, scope)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/machine.slice/x", "is not slice:prefix:name"),
        ("a:b:c:d", "is not slice:prefix:name"),
        ("machine:p:n", "is not the name of a slice"),
        ("a--b.slice:p:n", "is not the name of a slice"),
        ("-a.slice:p:n", "is not the name of a slice"),
        ("a/b.slice:p:n", "is not the name of a slice"),
        ("../x.slice:p:n", "is not the name of a slice"),
        (".slice:p:n", "is not the name of a slice"),
        ("a.slice:p:n.slice", "processes go into a scope"),
        ("a.slice:p:" + "n" * 300, "more than 255"),
    ],
)
def test_a_path_that_names_no_scope_is_refused(path, words):
    with pytest.raises(SpecError, match=words) as caught:
        systemd.parse_path(path, "c1", False)
    assert caught.value.field == "linux.cgroupsPath"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("system.slice", "/system.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
    ],
)
def test_a_slice_lies_in_the_slices_that_its_name_tells(name, group):
    assert systemd.expand_slice(name) == group


# Properties


def test_limits_become_properties_of_v2():
    resources = {
        "memory": {"limit": 1 << 20, "swap": 3 << 20, "reservation": 4096},
        "cpu": {"shares": 1024, "quota": 25_500, "period": 100_000, "cpus": "0-1,9", "mems": "0"},
        "pids": {"limit": 10},
        "blockIO": {"weight": 10},
    }
    assert dict(systemd.resource_properties(resources, 2)) == {
        "MemoryMax": ("t", 1 << 20),
        "MemorySwapMax": ("t", 2 << 20),
        "MemoryLow": ("t", 4096),
        "CPUWeight": ("t", 100),
        "CPUQuotaPeriodUSec": ("t", 100_000),
        "CPUQuotaPerSecUSec": ("t", 260_000),  # whole percents, rounded up
        "AllowedCPUs": ("ay", b"\x03\x02"),
        "AllowedMemoryNodes": ("ay", b"\x01"),
        "TasksMax": ("t", 10),
        "IOWeight": ("t", 1),
    }


def test_no_limit_is_the_largest_number():
    resources = {"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}
    found = dict(systemd.resource_properties(resources, 2))
    assert set(found.values()) == {("t", (1 << 64) - 1)}
    assert {"MemoryMax", "TasksMax", "CPUQuotaPerSecUSec"} <= found.keys()


def test_v1_has_the_older_names():
    resources = {"memory": {"limit": 1 << 20}, "cpu": {"shares": 512}, "blockIO": {"weight": 500}}
    assert dict(systemd.resource_properties(resources, 1)) == {
        "MemoryLimit": ("t", 1 << 20),
        "CPUShares": ("t", 512),
        "BlockIOWeight": ("t", 500),
    }


DENY_ALL = {"allow": False, "access": "rwm"}


def test_device_rules_become_a_list_of_what_is_allowed():
    entries = [
        DENY_ALL,
        {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "minor": 0},
        {"allow": True, "type": "c", "major": 13, "access": "r"},
        {"allow": False, "type": "b", "major": 8, "minor": 0, "access": "w"},
    ]
    policy, reset, allow = systemd.device_properties(entries, 2)
    assert policy == ("DevicePolicy", ("s", "strict"))
    assert reset == ("DeviceAllow", ("a(ss)", []))
    found = dict(allow[1][1])
    assert found["/dev/char/1:11"] == "rw"
    assert found["/dev/block/8:0"] == "rm"
    assert found["char-13"] == "r"
    assert found["char-136"] == "rwm"  # pts
    assert found["char-*"] == found["block-*"] == "m"


def test_without_a_general_denial_systemd_keeps_out_of_it():
    assert systemd.device_properties([{"allow": True, "access": "rwm"}], 2) == [
        ("DevicePolicy", ("s", "auto")),
        ("DeviceAllow", ("a(ss)", [])),
    ]


def test_on_v1_a_scope_is_in_the_devices_hierarchy_in_any_case():
    """It cannot enter or leave it later: systemd would move the processes out of their group."""
    found = systemd.device_properties([{"allow": True, "access": "rwm"}], 1)
    assert found[0] == ("DevicePolicy", ("s", "strict"))
    assert found[2] == ("DeviceAllow", ("a(ss)", [("char-*", "rwm"), ("block-*", "rwm")]))


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("TimeoutStopUSec", "uint64 5000000", ("TimeoutStopUSec", ("t", 5_000_000))),
        ("TimeoutStopSec", "5", ("TimeoutStopUSec", ("t", 5_000_000))),
        ("RuntimeMaxSec", "1.5", ("RuntimeMaxUSec", ("t", 1_500_000))),
        ("CollectMode", "'inactive'", ("CollectMode", ("s", "inactive"))),
        ("After", "['a.service', 'b.service']", ("After", ("as", ["a.service", "b.service"]))),
    ],
)
def test_annotations_are_properties(name, text, wanted):
    annotations = {f"org.systemd.property.{name}": text, "other": "x"}
    assert systemd.annotation_properties(annotations) == [wanted]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TimeoutStopUSec", "soon"),
        ("TimeoutStopSec", "'5'"),
        ("TimeoutStopSec", "-5"),
        ("PIDs", "[uint32 1]"),
        ("Slice", "'x.slice'"),
        ("lower", "1"),
        ("", "1"),
        ("A b", "1"),
    ],
)
def test_an_annotation_that_is_no_property_is_refused_by_name(name, text):
    with pytest.raises(SpecError) as caught:
        systemd.annotation_properties({f"org.systemd.property.{name}": text})
    assert caught.value.field == f"annotations.org.systemd.property.{name}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", ("b", True)),
        ("-3", ("i", -3)),
        ("0x10", ("i", 16)),
        ("010", ("i", 8)),
        ("1.5", ("d", 1.5)),
        ("1e3", ("d", 1000.0)),
        ("uint64 18446744073709551615", ("t", 18446744073709551615)),
        ("@t 1", ("t", 1)),
        ("byte 255", ("y", 255)),
        ("double 2", ("d", 2.0)),
        ('"a\\n\\"b\\u00e9"', ("s", 'a\n"bé')),
        ("objectpath '/a'", ("o", "/a")),
        ("b'ab'", ("ay", [97, 98, 0])),
        ("[1, 2]", ("ai", [1, 2])),
        ("[uint64 1, 2]", ("at", [1, 2])),
        ("@as []", ("as", [])),
        ("[('a', 'rw'), ('b', 'r')]", ("a(ss)", [("a", "rw"), ("b", "r")])),
        ("@(tb) (1, true)", ("(tb)", (1, True))),
        (" (1,) ", ("(i)", (1,))),
    ],
)
def test_gvariant_text(text, value):
    assert gvariant.parse(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "[1", "[]", "[1 2]", "[1, 'a']", "'a", "()", "byte 256", "4294967296", "@t -1", "@s 1",
     "uint64", "@", "nan x", "[" * 50, "b 'x'", "@q 'x'", "'a\\"],
)  # fmt: skip
def test_what_is_no_gvariant_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        gvariant.parse(text)


# The manager


def chosen(**spec: Any) -> systemd.SystemdManager:
    host = SimpleNamespace(**V2.__dict__, rootless=False)
    options = CreateOptions()
    ctx = Context(spec, Plan(), bundle="/b", container_id="box", options=options, host=host)  # type: ignore[arg-type]
    return systemd.choose(ctx, "a.slice:x:box", False)


def test_limits_and_device_rules_count_more_than_annotations():
    annotations = {"org.systemd.property.TasksMax": "uint64 9", "org.systemd.property.DevicePolicy": "'auto'"}
    resources = {"pids": {"limit": 5}, "devices": [DENY_ALL]}
    manager = chosen(annotations=annotations, linux={"resources": resources})
    assert manager.wanted is not None
    found = dict(manager.wanted)  # the last of a name is the one that systemd keeps
    assert found["TasksMax"] == ("t", 5)
    assert found["DevicePolicy"] == ("s", "strict")
    assert not manager.tell_devices


def test_the_rules_come_later_when_a_mount_needs_a_device():
    mounts = [{"destination": "/data", "type": "ext4", "source": "/dev/sdb"}]
    manager = chosen(mounts=mounts, linux={"resources": {"devices": [DENY_ALL]}})
    assert manager.tell_devices
    assert manager.wanted is not None
    assert "DevicePolicy" not in dict(manager.wanted)


def test_files_are_those_of_the_group_below_the_scope():
    manager = chosen(annotations={systemd.SUBGROUP: "payload"}, linux={})
    assert manager.paths[""].endswith("/a.slice/x-box.scope/payload")
    assert manager.save()["subgroup"] == "payload"


class FakeBus:
    """Answers from a table: a method to results, or to exceptions, one for each call."""

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        self.answers = answers
        self.calls: list[str] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.job_result = "done"

    def __enter__(self) -> FakeBus:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, member: str, signature: str = "", *values: Any, **_: Any) -> list[Any]:
        self.calls.append(member)
        self.arguments.append(values)
        left = self.answers.get(member)
        answer = left.pop(0) if left else ["/job/1"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait_for_job(self, _job: str) -> str:
        return self.job_result

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scope(monkeypatch):
    """scope(answers) is (manager of a new scope, its bus)."""

    def make(answers: dict[str, list[Any]], wanted: Any = ()) -> tuple[systemd.SystemdManager, FakeBus]:
        bus = FakeBus(answers)
        monkeypatch.setattr(dbus, "Bus", lambda user: bus)
        monkeypatch.setattr(systemd.SystemdManager, "_find", lambda self, pid: None)
        files = Manager({"": "/nowhere/x.scope"})
        files.version = 2
        return systemd.SystemdManager(
            files, "x.scope", False, V2, None if wanted is None else list(wanted)
        ), bus

    return make


def exists(name: str = "UnitExists") -> dbus.DBusError:
    return dbus.DBusError(f"org.freedesktop.systemd1.{name}", "so it is")


def test_the_process_is_a_property_of_the_new_scope(scope):
    manager, bus = scope({}, [("Slice", ("s", "a.slice"))])
    manager.attach(42)
    assert bus.calls == ["StartTransientUnit"]
    unit, mode, wanted, _ = bus.arguments[0]
    assert (unit, mode) == ("x.scope", "replace")
    assert wanted == [("Slice", ("s", "a.slice")), ("PIDs", ("au", [42]))]


def test_limits_are_not_told_twice_to_a_new_scope_but_to_an_old_one(scope):
    manager, bus = scope({})
    manager.attach(42)
    manager.apply({})
    assert bus.calls == ["StartTransientUnit"]
    manager.files.apply = lambda resources, field: None
    manager.apply({"pids": {"limit": 5}})
    assert bus.calls[1:] == ["SetUnitProperties", "Ping"]
    assert bus.arguments[1] == ("x.scope", True, [("TasksMax", ("t", 5))])


def test_an_update_tells_systemd_and_takes_it_back_when_a_file_refuses(scope):
    manager, bus = scope({}, wanted=None)
    old = {"pids": {"limit": 5}}
    new = asked = {"pids": {"limit": 6}, "cpu": {"cpus": "0"}}
    manager.files.update = lambda old, new, asked: None
    manager.update(old, new, asked)
    assert bus.calls == ["SetUnitProperties", "Ping"]
    assert bus.arguments[0][2] == [("AllowedCPUs", ("ay", b"\1")), ("TasksMax", ("t", 6))]

    def refuse(old, new, asked):
        raise CgroupError("linux.resources.pids.limit", "/x/pids.max", "6", 16)

    manager.files.update = refuse
    with pytest.raises(CgroupError, match=r"pids\.max"):
        manager.update(old, new, asked)
    assert bus.calls[2:] == ["SetUnitProperties", "Ping"] * 2
    assert bus.arguments[4][2] == [("AllowedCPUs", ("ay", b"")), ("TasksMax", ("t", 5))]


def test_an_update_tells_systemd_of_device_rules(scope):
    manager, bus = scope({}, wanted=None)
    told = []
    manager.files.replace_devices = told.append
    manager.update_devices([DENY_ALL], [DENY_ALL, {"allow": True, "type": "c", "access": "r"}])
    assert bus.calls == ["SetUnitProperties", "Ping"]
    assert len(told) == 1


def test_on_v1_a_bus_that_hangs_is_found_before_the_processes_are_stopped(scope, monkeypatch):
    manager, bus = scope({"Ping": [TimeoutError(ETIMEDOUT, "Connection timed out")]}, wanted=None)
    manager.version = 1
    monkeypatch.setattr(Manager, "freeze", lambda self: bus.calls.append("freeze"))
    rule = {"allow": True, "type": "c", "access": "r"}
    with pytest.raises(CgroupError, match="Connection timed out"):
        manager.update_devices([DENY_ALL], [DENY_ALL, rule])
    assert bus.calls == ["Ping"]
    manager.files.replace_devices = lambda entries: bus.calls.append("files")
    manager.update_devices([DENY_ALL], [DENY_ALL, rule])
    assert bus.calls[1:] == ["Ping", "freeze", "SetUnitProperties", "Ping", "files"]


@pytest.mark.parametrize(
    ("version", "told"),
    [("252 (252.39-1~deb12u1)", True), ("255.4", True), ("v257", True), ("249 (249.11)", False), ("", False)],
)
def test_a_systemd_that_knows_idle_groups_is_told_of_one(scope, version, told):
    manager, bus = scope({"Get": [[version]]}, [("CPUWeight", ("t", 0)), ("TasksMax", ("t", 5))])
    manager.attach(42)
    assert bus.calls == ["Get", "StartTransientUnit"]
    assert (("CPUWeight", ("t", 0)) in bus.arguments[1][2]) == told
    assert ("TasksMax", ("t", 5)) in bus.arguments[1][2]


def test_a_new_scope_is_told_of_device_rules_later_when_the_init_needs_other_devices_before(scope):
    manager, bus = scope({})
    manager.tell_devices = True
    manager.attach(42)
    manager.apply_devices([DENY_ALL])
    assert bus.calls == ["StartTransientUnit", "SetUnitProperties", "Ping"]
    assert bus.arguments[1][2] == systemd.device_properties([DENY_ALL], 2)


def test_a_new_scope_takes_one_call(scope):
    manager, bus = scope({}, systemd.device_properties([DENY_ALL], 2))
    manager.attach(42)
    manager.apply({})
    manager.apply_devices([DENY_ALL])
    assert bus.calls == ["StartTransientUnit"]
    assert bus.closed


@pytest.mark.parametrize(
    ("mount", "opens"),
    [
        ({"type": "ext4", "source": "/dev/sdb"}, True),
        ({"type": "tmpfs", "source": "tmpfs"}, False),
        ({"type": "bind", "source": "/srv"}, False),
        ({"type": "none", "source": "/srv", "options": ["rbind", "ro"]}, False),
        ({"type": "proc"}, False),
    ],
)
def test_a_file_system_on_a_device_needs_that_device(mount, opens):
    assert systemd.may_open_devices([{"destination": "/x", **mount}]) == opens


@pytest.mark.parametrize(
    ("annotations", "name"),
    [({}, ""), ({systemd.SUBGROUP: ""}, ""), ({systemd.SUBGROUP: "container"}, "container")],
)
def test_an_annotation_names_the_group_below_the_scope(annotations, name):
    assert systemd.subgroup(annotations) == name


@pytest.mark.parametrize("name", ["a/b", "..", "/", "."])
def test_a_group_below_the_scope_cannot_lie_elsewhere(name):
    with pytest.raises(SpecError, match=r"annotations\.run\.oci\.systemd\.subgroup: .* is not the name"):
        systemd.subgroup({systemd.SUBGROUP: name})


@pytest.mark.parametrize(("inner", "told"), [("payload", "/payload"), ("", "")])
def test_systemd_is_told_which_group_of_the_scope_exec_is_to_join(scope, inner, told):
    manager, bus = scope({}, wanted=None)
    manager.subgroup = inner
    manager.paths = {"": f"/nowhere/x.scope{told}"}
    manager.attach(7)
    assert bus.calls == ["AttachProcessesToUnit"]
    assert bus.arguments[0] == ("x.scope", told, [7])


def test_a_failed_unit_of_the_same_name_is_forgotten_first(scope):
    manager, bus = scope({"StartTransientUnit": [exists(), exists("UnitExists")]})
    manager.attach(42)
    assert bus.calls == ["StartTransientUnit", "ResetFailedUnit"] * 2 + ["StartTransientUnit"]


def test_an_active_unit_of_the_same_name_is_never_stopped(scope):
    manager, bus = scope({"StartTransientUnit": [exists() for _ in range(9)]})
    undo: list[Any] = []
    manager.create(undo.append)
    with pytest.raises(CgroupError) as caught:
        manager.attach(42)
    assert caught.value.errno == EEXIST
    for call in undo:
        call()
    assert "StopUnit" not in bus.calls


def test_a_job_that_fails_is_an_error_that_names_the_unit(scope):
    manager, bus = scope({})
    bus.job_result = "failed"
    with pytest.raises(CgroupError, match=r"StartTransientUnit x\.scope.*'failed'") as caught:
        manager.attach(42)
    assert caught.value.errno == EIO
    bus.job_result = "done"
    manager._abandon()
    assert "StopUnit" in bus.calls


def test_no_systemd_is_not_told_as_a_missing_file(scope, monkeypatch):
    def refuse(user):
        raise OSError(ENOENT, "No such file or directory", b"/run/bus")

    manager, _ = scope({})
    monkeypatch.setattr(dbus, "Bus", refuse)
    with pytest.raises(CgroupError) as caught:
        manager.attach(42)
    assert str(caught.value) == (
        "linux.cgroupsPath: connect for x.scope: Connection refused (systemd is not reached at /run/bus)"
    )


def test_a_scope_that_ended_by_itself_is_deleted_without_an_error(scope):
    manager, bus = scope({"StopUnit": [exists("NoSuchUnit")]}, None)
    manager.destroy()
    assert bus.calls == ["StopUnit"]


def test_a_scope_is_stopped_by_one_call(scope):
    manager, bus = scope({}, None)
    manager.destroy()
    assert bus.calls == ["StopUnit"]


@pytest.mark.parametrize("call", ["destroy", "remove_empty"])
def test_the_scope_goes_with_the_group_below_it(scope, tmp_path, call):
    """On v1 nobody else removes it in the hierarchies that systemd does not use."""
    group = tmp_path / "x.scope/payload"
    group.mkdir(parents=True)
    manager, _ = scope({}, None)
    manager.subgroup = "payload"
    manager.files.paths = {"pids": str(group)}
    getattr(manager, call)()
    assert list(tmp_path.iterdir()) == []


def test_the_cgroup_of_a_user_lies_below_the_users_manager():
    host = SimpleNamespace(**{**vars(V2), "euid": 1000})
    assert systemd.manager_root(host, True) == "/user.slice/user-1000.slice/user@1000.service"
    host.own_cgroups = {"": "/user.slice/user-7.slice/user@7.service/app.slice/x.service"}
    assert systemd.manager_root(host, True) == "/user.slice/user-7.slice/user@7.service"


def test_it_is_saved_with_its_unit_and_loaded_again(monkeypatch):
    files = systemd.files_manager(V2, "", "/system.slice/x.scope", True)
    manager = systemd.SystemdManager(files, "x.scope", True, V2, [])
    again = systemd.load(manager.save())
    assert again.save() == manager.save()
    assert again.paths == {"": "/sys/fs/cgroup/system.slice/x.scope"}
    assert (again.unit, again.user, again.needs_pid) == ("x.scope", True, True)
    manager.subgroup = "payload"
    assert systemd.load(manager.save()).subgroup == "payload"
