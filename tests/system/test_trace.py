"""--trace FILE: a time for every step of the runtime and of the init."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle, give_away
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def steps(path: Path) -> list[dict[str, Any]]:
    """The complete events, checked to be what Perfetto reads."""
    document = json.loads(path.read_text())
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    named = {
        event["tid"]: event["args"]["name"]
        for event in document["traceEvents"]
        if event["name"] == "thread_name"
    }
    found = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert {event["ph"] for event in document["traceEvents"]} == {"M", "X"}
    for event in found:
        assert set(event) == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert event["ts"] > 0
        assert event["dur"] >= 0
        assert event["name"]
        assert event["tid"] in named
    assert set(named.values()) <= {"runtime", "ocirt-init"}
    return found


def of(found: list[dict[str, Any]], track: str) -> list[dict[str, Any]]:
    return sorted((event for event in found if event["cat"] == track), key=lambda event: event["ts"])


def test_both_sides_and_all_phases_are_there_in_order(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    runtime.run(bundle.args("/bin/true"), "--trace", tmp_path / "trace", check=True)
    found = steps(tmp_path / "trace")
    parent = [event["name"] for event in of(found, "parent")]
    phases = list(dict.fromkeys(name.split()[0] for name in parent))
    phases.remove("SPAWN")  # first, or behind CGROUP where the clone joins the group
    assert phases == [phase for phase in ("OPEN", "CGROUP", "HOOKS", "READY") if phase in phases]
    assert {"CGROUP", "HOOKS"} <= set(phases)
    init = of(found, "ocirt-init")
    assert len(init) > 40
    fields = [event["args"]["field"] for event in init]
    assert fields.index("root.path") < fields.index("mounts[0]") < fields.index("hostname")
    assert "process.args" in fields
    spawn = next(event for event in found if event["name"].startswith("SPAWN"))
    assert all(event["ts"] >= spawn["ts"] for event in init)
    for before, after in itertools.pairwise(init):
        assert before["ts"] + before["dur"] <= after["ts"] + 0.01
    assert init[-1]["ts"] + init[-1]["dur"] - found[0]["ts"] < 5_000_000  # microseconds


def test_what_the_init_does_while_the_plan_is_compiled_is_told(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    bundle.args("/bin/true").write()
    words = ("run", "--bundle", bundle.path, "--trace", tmp_path / "trace")
    runtime("--cgroup-manager", "disabled", *words, runtime.new_id(), check=True)
    found = steps(tmp_path / "trace")
    clone, hand_over = (event for event in of(found, "parent") if event["name"].startswith("SPAWN"))
    assert (clone["name"], hand_over["name"]) == ("SPAWN clone3", "SPAWN hand over the plan")
    init = of(found, "ocirt-init")
    assert [event["name"] for event in init[:3]] == [
        "SPAWN execveat",
        "SPAWN unshare",
        "SPAWN wait for the plan",
    ]
    assert init[0]["ts"] == clone["ts"]
    assert init[2]["ts"] + init[2]["dur"] > hand_over["ts"]


def test_a_plan_in_two_stages_is_traced_through(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.namespaces("user", "pid", "mount", "ipc", "uts", "network")
    bundle.linux.update(uidMappings=MAPS, gidMappings=MAPS)
    bundle.spec["mounts"] = bundle.spec["mounts"][:1]
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    give_away(bundle)
    runtime.run(bundle.args("/bin/true"), "--trace", tmp_path / "trace", check=True)
    found = steps(tmp_path / "trace")
    names = [event["name"].split()[0] for event in of(found, "ocirt-init")]
    assert "fork" in names
    assert names.index("fork") < names.index("pivot_root")
    assert any(event["name"].startswith("MAPS") for event in of(found, "parent"))


def test_create_is_traced_up_to_its_wait(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    runtime.create(bundle.args("/bin/true"), "--trace", tmp_path / "trace")
    found = steps(tmp_path / "trace")
    assert of(found, "parent")
    fields = {event["args"]["field"] for event in of(found, "ocirt-init")}
    assert {"root.path", "mounts[0]"} <= fields


def test_exec_is_traced(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    container_id = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    runtime("exec", "--trace", tmp_path / "trace", container_id, "true", check=True)
    found = steps(tmp_path / "trace")
    assert any(event["name"].startswith("setns") for event in of(found, "ocirt-init"))


def test_after_a_failure_it_shows_how_far_it_came(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.spec["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"})
    done = runtime.run(bundle.args("/bin/true"), "--trace", tmp_path / "trace")
    assert done.returncode == 1
    found = steps(tmp_path / "trace")
    fields = [event["args"]["field"] for event in of(found, "ocirt-init")]
    assert "mounts[0]" in fields
    assert "hostname" not in fields


def test_after_a_failure_of_the_runtimes_own_step(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.linux["resources"] = {"pids": {"limit": 10**12}}
    assert runtime.run(bundle.args("/bin/true"), "--trace", tmp_path / "trace").returncode == 1
    found = steps(tmp_path / "trace")
    assert of(found, "parent")[-1]["args"]["field"].startswith("linux.")
    assert of(found, "ocirt-init") == []


def test_a_trace_that_cannot_be_written_is_told(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    done = runtime.run(bundle.args("/bin/true"), "--trace", tmp_path / "missing" / "trace")
    assert done.returncode == 1
    assert done.stderr == f"--trace ({tmp_path}/missing/trace): open: No such file or directory\n"
    assert not (runtime.root / runtime.ids[-1]).exists()
