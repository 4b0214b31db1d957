"""ocirt/plan.py and csrc/init/plan.h hold the same tables."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ocirt import launch, plan

SOURCE = Path(__file__).resolve().parents[2] / "csrc" / "init"
HEADER = (SOURCE / "plan.h").read_text()


def entries(macro: str) -> list[tuple[str, str]]:
    return re.findall(rf'\b{macro}\((\w+), "(\w*)"\)', HEADER)


def defined(name: str) -> int:
    match = re.search(rf"#define {name} \(?(0x[0-9a-f]+|\d+)(?:UL|u)?(?: << (\d+)\))?", HEADER)
    assert match, name
    return int(match[1], 0) << int(match[2] or 0)


def enumerated(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} {{(.*?)}};", HEADER, re.DOTALL)
    assert body
    names = re.findall(r"^\t([A-Z_]+)", body[1], re.MULTILINE)
    return {word: i for i, word in enumerate(names, 1)}


def test_kinds_and_their_arguments_are_alike() -> None:
    ours = [(name, signature) for name, signature, _ in plan.KINDS]
    assert ours == entries("CALL") + entries("OP")


def test_every_argument_has_a_name() -> None:
    for name, signature, names in plan.KINDS:
        assert len(signature) == len(names.split()), name


def test_no_operation_has_more_arguments_than_there_is_room_for() -> None:
    for name, signature, _ in plan.KINDS:
        assert len(signature) + signature.count("b") <= plan.ARGS, name


def test_constants_are_alike() -> None:
    assert defined("PLAN_MAGIC") == plan.MAGIC
    assert defined("PLAN_ARGS") == plan.ARGS
    assert defined("PLAN_REGISTERS") == plan.REGISTERS
    assert defined("PLAN_FDS") == plan.MAX_FDS
    assert defined("PLAN_FDS_AT_ONCE") == launch.FDS_AT_ONCE
    assert defined("PLAN_MAX_SIZE") == plan.MAX_SIZE
    assert defined("PLAN_TRACE") == plan.TRACE
    assert enumerated("plan_sync") == {f"SYNC_{name}": i for i, name in plan.SYNC_NAMES.items()}
    assert enumerated("plan_message") == {
        "MESSAGE_PID": launch.PID,
        "MESSAGE_SYNC": launch.SYNC,
        "MESSAGE_ERROR": launch.ERROR,
        "MESSAGE_EXEC": launch.EXEC,
        "MESSAGE_TRACE": launch.TRACE,
    }


def test_structures_have_the_sizes_that_python_packs(tmp_path: Path) -> None:
    names = ("plan_header", "plan_op", "plan_report", "plan_answer")
    lines = [f'printf("%zu ", sizeof(struct {name}));' for name in names]
    program = f'#include <stdio.h>\n#include "plan.h"\nint main(void) {{ {" ".join(lines)} return 0; }}\n'
    (tmp_path / "sizes.c").write_text(program)
    subprocess.run(["cc", f"-I{SOURCE}", "-o", tmp_path / "sizes", tmp_path / "sizes.c"], check=True)
    sizes = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    ours = (plan._HEADER, plan._OP, launch.REPORT, launch.ANSWER)
    assert [int(size) for size in sizes.split()] == [packed.size for packed in ours]


def test_equal_vectors_are_one() -> None:
    # HOME that set_home finds must reach the environment of execve.
    made = plan.Plan()
    env = [b"A=b", b""]
    made.add("find_executable", "process", [b"true"], env)
    made.add("execve", "process", [b"true"], list(env))
    data = made.encode(4)
    first = plan._OP.unpack_from(data, plan._HEADER.size)
    second = plan._OP.unpack_from(data, plan._HEADER.size + plan._OP.size)
    assert first[3:5] == second[3:5]
