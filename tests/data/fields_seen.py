"""Prints every field path in the recorded configs: how many files have it, an example value.

    python3 tests/data/fields_seen.py [--files] [--process] [--values]

Array indexes are `*`, keys of annotations and sysctls `{}`. --files lists the files of each path,
--process reads the exec process files instead, --values prints the distinct values that matter.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
VALUES = {
    "mount types and options": lambda spec: [
        f"{mount.get('type', '(none)')}: {option}"
        for mount in spec.get("mounts", [])
        for option in mount.get("options") or ["(none)"]
    ],
    "mount entries without type, with uidMappings": lambda spec: [
        ",".join(sorted(mount)) for mount in spec.get("mounts", [])
    ],
    "namespaces": lambda spec: [
        n["type"] + (" by path" if n.get("path") else "") for n in spec.get("linux", {}).get("namespaces", [])
    ],
    "hooks": lambda spec: [kind for kind, hooks in (spec.get("hooks") or {}).items() if hooks],
    "rootfsPropagation": lambda spec: [spec.get("linux", {}).get("rootfsPropagation")],
    "cgroupsPath": lambda spec: [
        re.sub(r"[0-9a-f]{64}", "ID", str(spec.get("linux", {}).get("cgroupsPath")))
    ],
    "sysctl": lambda spec: [f"{k}={v}" for k, v in (spec.get("linux", {}).get("sysctl") or {}).items()],
    "annotations": lambda spec: list(spec.get("annotations") or {}),
    "rlimits": lambda spec: [r["type"] for r in spec.get("process", spec).get("rlimits") or []],
    "ociVersion": lambda spec: [spec.get("ociVersion")],
    "seccomp default": lambda spec: [
        f"{s['defaultAction']} errno {s.get('defaultErrnoRet')} {s.get('flags')} {s.get('architectures')}"
        for s in [spec.get("linux", {}).get("seccomp")]
        if s
    ],
    "seccomp rules": lambda spec: [
        f"{rule['action']} errno {rule.get('errnoRet')} args "
        + ",".join(a["op"] + ("+valueTwo" if a.get("valueTwo") else "") for a in rule.get("args") or [])
        for rule in (spec.get("linux", {}).get("seccomp") or {}).get("syscalls", [])
    ],
    "device rules": lambda spec: [
        json.dumps(rule) for rule in spec.get("linux", {}).get("resources", {}).get("devices") or []
    ],
    "devices": lambda spec: [
        f"{d['type']} {sorted(set(d) - {'path', 'type'})}" for d in spec.get("linux", {}).get("devices") or []
    ],
    "masked": lambda spec: spec.get("linux", {}).get("maskedPaths") or [],
    "readonly": lambda spec: spec.get("linux", {}).get("readonlyPaths") or [],
}


def paths(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            named = prefix.endswith(("/annotations", "/sysctl", "/unified"))
            yield from paths(item, f"{prefix}/{'{}' if named else key}")
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{prefix}/*")
    if not isinstance(value, (dict, list)) or not value:
        yield prefix, value


def main() -> None:
    kind = "process" if "--process" in sys.argv else "configs"
    documents = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / kind).glob("*.json"))}
    if "--values" in sys.argv:
        for title, find in VALUES.items():
            found: dict[str, int] = {}
            for document in documents.values():
                for value in set(map(str, find(document))):
                    found[value] = found.get(value, 0) + 1
            print(f"{title}: " + " | ".join(f"{value} ({count})" for value, count in sorted(found.items())))
        return
    seen: dict[str, tuple[object, list[str]]] = {}
    for name, document in documents.items():
        for path, value in paths(document):
            example, files = seen.setdefault(path, (value, []))
            if name not in files:
                files.append(name)
            if example in (None, [], {}, "", 0) and value:
                seen[path] = (value, files)
    for path, (example, files) in sorted(seen.items()):
        listed = " ".join(files) if "--files" in sys.argv or len(files) < 4 else f"{len(files)} files"
        print(f"{path}  {json.dumps(example)[:60]}  [{listed}]")


if __name__ == "__main__":
    main()
