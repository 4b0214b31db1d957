#!/usr/bin/env python3
"""How long the `ocirt` command takes to do next to nothing, in every way that it can be built.

    pytest tests/unit/test_launcher.py     # builds the variants
    python bench/startup.py [ROUNDS]       # times `--root EMPTY state x` of each, in turn

Beside them: Python by a shebang, runc, crun and /bin/true. Milliseconds from posix_spawn to the end
of waitpid. Run it on a quiet machine.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.lib.runtime import installed_ocirt

ROOT = Path(__file__).resolve().parents[1]
STDIO = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
SCRIPTS = {
    "script, #!/usr/bin/python3": "#!/usr/bin/python3\nimport sys\n",
    "script, #!/usr/bin/python3 -ISE and _exit": "#!/usr/bin/python3 -ISE\nimport sys\n",
}
BODY = """sys.path.insert(0, {root!r})
from ocirt.cli import main
import posix
posix._exit(main(sys.argv[1:]))
"""


def commands(directory: Path) -> dict[str, list[str]]:
    state = ["--root", str(directory / "state"), "state", "x"]
    found = {}
    for name, head in SCRIPTS.items():
        script = directory / f"script{len(found)}"
        script.write_text(head + BODY.format(root=str(ROOT)))
        script.chmod(0o755)
        found[name] = [str(script), *state]
    for variant in sorted((ROOT / "build/launchers").glob("*/prefix/bin/ocirt")):
        found[variant.parents[2].name] = [str(variant), *state]
    found["what is installed"] = [str(installed_ocirt()), *state]
    for peer in ("crun", "runc"):
        if path := shutil.which(peer):
            found[peer] = [path, *state]
    found["/bin/true"] = ["/bin/true"]
    return found


def spawn(words: list[str]) -> float:
    started = time.perf_counter()
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=STDIO)
    os.waitpid(pid, 0)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as directory:
        found = commands(Path(directory))
        samples: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, words in found.items():
                samples[name].append(spawn(words))
    print(f"{'start':48} {'median':>8} {'min':>8}   (ms, {rounds} rounds)")
    for name, times in samples.items():
        print(f"{name:48} {statistics.median(times):8.2f} {min(times):8.2f}")


if __name__ == "__main__":
    main()
