"""The recorded configs of engines: each compiles to a plan, runs, and is in force afterwards.

What only existed on the recording machine is replaced: sources of bind mounts, namespaces by path,
hooks, capabilities and limits that this machine cannot give. All else is as the engine wrote it.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle, Probe, give_away

DATA = Path(__file__).parents[1] / "data/configs"
# A user namespace without mappings: crun fills them in, runc and the specification want them.
WITHOUT_MAPS = DATA / "crun-spec-rootless.json"
CONFIGS = sorted(set(DATA.glob("*.json")) - {WITHOUT_MAPS})
PROCESSES = sorted((Path(__file__).parents[1] / "data/process").glob("*.json"))
FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv", "/etc/file", "/dev/init")
PR_CAPBSET_READ = 23


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_a_user_namespace_without_mappings_is_refused(bundle, runtime):
    """config-linux.md, User namespace mappings; runc refuses it as well."""
    bundle.spec.clear()
    bundle.spec.update(load(WITHOUT_MAPS))
    done = runtime.run(bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert "linux.uidMappings: is required for a new user namespace" in done.stderr
    assert "linux.gidMappings: is required for a new user namespace" in done.stderr


def test_every_mount_and_field_of_the_config_is_in_the_plan(config, ocirt, run_command, tmp_path):
    done = run_command(ocirt, "plan", "--bundle", tmp_path, "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    fields = {step["field"] for step in json.loads(done.stdout)["steps"]}
    spec = load(config)
    missing = {f"mounts[{number}]" for number in range(len(spec["mounts"]))} - fields
    assert not missing
    for name in spec.get("hooks") or {}:
        assert any(field.startswith(f"hooks.{name}") for field in fields) or name.startswith("post"), name
    for name in ("maskedPaths", "readonlyPaths", "sysctl"):
        for key in spec["linux"].get(name) or []:
            label = key if name == "sysctl" else spec["linux"][name].index(key)
            assert f"linux.{name}[{label}]" in fields
    if "seccomp" in spec["linux"]:
        assert "linux.seccomp" in fields


def test_the_config_runs_and_verify_finds_it_in_force(config, bundle, runtime, tmp_path):
    adapt(load(config), bundle, tmp_path)
    container = runtime.start_bundle(bundle)
    done = runtime("verify", "--json", container)
    assert done.stdout, done.stderr
    differing = [row for row in json.loads(done.stdout) if not row["ok"] and not has_no_master(row)]
    assert differing == []


@pytest.mark.parametrize("recorded", PROCESSES, ids=lambda path: path.stem)
def test_exec_of_the_process_file_gives_what_it_asks_for(recorded, bundle, runtime, tmp_path):
    process = load(recorded)
    fit_process(process)
    process["args"] = ["/bin/probe"]
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process))
    container = runtime.start_bundle(bundle.args("/bin/sleep", "100"))
    seen = Probe(runtime("exec", "--process", file, container, check=True).stdout)
    user = process["user"]
    assert seen.status("Uid").split() == [str(user["uid"])] * 4
    assert seen.status("Gid").split() == [str(user["gid"])] * 4
    assert set(map(str, user.get("additionalGids", []))) <= set(seen.status("Groups").split())
    assert seen["cwd"] == process["cwd"]
    assert seen.status("NoNewPrivs") == str(int(process.get("noNewPrivileges", False)))
    for kind, line in {"bounding": "CapBnd", "permitted": "CapPrm", "effective": "CapEff"}.items():
        # execve takes all but the ambient ones from a process that is not root.
        kept = kind if user["uid"] == 0 or kind == "bounding" else "ambient"
        names = process["capabilities"].get(kept, [])
        assert seen.caps(line) == sum(1 << capability_numbers()[name] for name in names), kind
    for limit in process.get("rlimits", []):
        if limit["type"] == "RLIMIT_NOFILE":
            assert seen.limit("Max open files") == (str(limit["soft"]), str(limit["hard"]))


def has_no_master(row: dict[str, Any]) -> bool:
    """A mount whose source is in no peer group stays private when it is to be a slave."""
    return (row["asked"], row["inForce"]) == ("slave", "private") and not is_shared("/tmp")


def is_shared(mount_point: str) -> bool:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [words for words in lines if f"{mount_point}/".startswith(words[4].rstrip("/") + "/")]
    return any(word.startswith("shared:") for word in max(inside, key=lambda words: len(words[4])))


def adapt(spec: dict[str, Any], bundle: Bundle, scratch: Path) -> None:
    """Puts the engine's config into the bundle, fit for this machine."""
    bundle.spec = spec
    spec["root"]["path"] = "rootfs"
    process, linux = spec["process"], spec["linux"]
    process["args"] = ["/bin/sleep", "100"]
    fit_process(process)
    for namespace in linux["namespaces"]:
        namespace.pop("path", None)
    for number, mount in enumerate(spec["mounts"]):
        source = scratch / f"source{number}"
        if "bind" in mount.get("options", []) or "rbind" in mount.get("options", []):
            if not os.path.exists(mount["source"]):
                mount["source"] = str(source)
                source.write_text("content\n") if mount["destination"] in FILES else source.mkdir()
        elif mount["type"] == "overlay":
            names = ("lowerdir", "upperdir", "workdir")
            for name in names:
                (source / name).mkdir(parents=True)
            kept = [option for option in mount["options"] if not option.startswith(names)]
            mount["options"] = [f"{name}={source / name}" for name in names] + kept
    for kind, hooks in (spec.get("hooks") or {}).items():
        spec["hooks"][kind] = [hook for hook in hooks if os.path.exists(hook["path"])]
    for mapping in linux.get("uidMappings", []):
        if mapping["containerID"] == 0:
            give_away(bundle, mapping["hostID"])
    if linux.get("cgroupsPath"):
        linux["cgroupsPath"] = f"/octest-recorded-{bundle.path.parent.name}"


def fit_process(process: dict[str, Any]) -> None:
    """No terminal; capabilities and limits as far as the tests have them."""
    process["terminal"] = False
    for limit in process.get("rlimits", []):
        _, hard = resource.getrlimit(getattr(resource, limit["type"]))
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], hard)
    for kind, names in process.get("capabilities", {}).items():
        process["capabilities"][kind] = [name for name in names if has_capability(name)]


def has_capability(name: str) -> bool:
    """Whether the bounding set of the tests has it."""
    return ctypes.CDLL(None).prctl(PR_CAPBSET_READ, capability_numbers()[name], 0, 0, 0) == 1


@functools.cache
def capability_numbers() -> dict[str, int]:
    lines = Path("/usr/include/linux/capability.h").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith("#define CAP_")]
    return {word[1]: int(word[2]) for word in words if len(word) == 3 and word[2].isdigit()}
