"""doctor on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from ocirt.host import Host
from tests.lib.runtime import Runtime


def test_it_tells_what_this_machine_has_and_changes_nothing(runtime: Runtime) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    done = runtime("doctor", "--json", check=True)
    document = json.loads(done.stdout)
    assert document["ok"] is True
    found = {each["name"]: each for each in document["findings"]}
    assert found["layout"]["found"] == Host().cgroup_layout
    for key in Host().v1_hierarchies:
        for controller in key.split(","):
            if "=" not in controller:
                assert found[controller]["state"] == "ok", controller
    assert found["version"]["found"] == os.uname().release
    if os.geteuid() == 0:
        assert {found[name]["state"] for name in ("mount", "pid", "network", "uts", "ipc")} == {"ok"}
    assert all(each["needed"] for each in document["findings"] if each["state"] != "ok")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not (runtime.root).exists()


def test_the_table_has_a_line_for_each_and_the_commands(runtime: Runtime) -> None:
    document = json.loads(runtime("doctor", "--json", check=True).stdout)
    shown = runtime("doctor", check=True).stdout
    table = shown.split("\n\n")[0].splitlines()
    assert len(table) == len(document["findings"]) + 1
    assert table[0].split() == ["AREA", "WHAT", "STATE", "FOUND"]
    for each in document["findings"]:
        assert not each["mend"] or f"    {each['mend']}\n" in shown


def test_an_ordinary_user_can_ask(ocirt: Path) -> None:
    if os.geteuid() != 0:
        return
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ocirt, "doctor", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    found = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    assert found["subuid"]["mend"].startswith("usermod --add-subuids ")
