"""The builtin form of ocirt._shim that the launcher has, against cffi's."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from csrc.shim import builtin
from ocirt._shim import ffi, lib

SHIM = Path(__file__).resolve().parents[2] / "csrc/shim"


@pytest.fixture
def lite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """_ffi.py over a module that knows where buffers lie, as builtin.c does."""
    shim = ModuleType("ocirt._shim")
    shim.structs = {  # type: ignore[attr-defined]
        name: tuple(members) for name, members in builtin.structs().items()
    }
    shim.address = lambda target: (  # type: ignore[attr-defined]
        0 if target is None else int(ffi.cast("uintptr_t", ffi.from_buffer(target)))
    )
    monkeypatch.setitem(sys.modules, "ocirt._shim", shim)
    monkeypatch.setattr("ocirt._shim", shim)
    spec = importlib.util.spec_from_file_location("ocirt._ffi", SHIM / "_ffi.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_function_of_the_header_is_there() -> None:
    declared = re.findall(r"^(?:long|void) (oc_\w+)\(", (SHIM / "shim.h").read_text(), re.MULTILINE)
    assert [name for _, name, _ in builtin.functions()] == declared
    assert set(declared) <= set(dir(lib))


def test_arguments_are_told_apart() -> None:
    functions = {name: arguments for _, name, arguments in builtin.functions()}
    assert functions["oc_mount"] == [
        ("char", True, True),
        ("char", True, True),
        ("char", True, True),
        ("unsigned long", False, False),
        ("char", True, True),
    ]
    assert functions["oc_socketpair"] == [("int", False, False), ("int", True, False)]
    assert functions["oc_send_fd"][3] == ("size_t", False, False)
    assert functions["oc_termios_size"] == []


@pytest.mark.parametrize("name", builtin.structs())
def test_structs_lie_as_the_compiler_lays_them(lite: ModuleType, name: str) -> None:
    kind = name.removesuffix(" *")
    size, layout = lite._layout(name)
    assert size == ffi.sizeof(kind)
    for member, field in ffi.typeof(kind).fields:
        offset, form = layout[member]
        assert (offset, form.size) == (field.offset, ffi.sizeof(field.type)), member


def test_pointers_lead_to_what_was_given(lite: ModuleType) -> None:
    words = [lite.new("char[]", b"one"), lite.new("char[]", b"two")]
    table = lite.new("char *[]", [*words, lite.NULL])
    found = ffi.cast("char **", ffi.from_buffer(table))
    assert [ffi.string(found[i]) for i in range(2)] == [b"one", b"two"]
    assert found[2] == ffi.NULL


def test_arrays_hold_numbers(lite: ModuleType) -> None:
    assert list(lite.new("int[3]")) == [0, 0, 0]
    assert list(lite.new("uint64_t[2]", [1, 2**64 - 1])) == [1, 2**64 - 1]
    assert lite.new("unsigned *", 7)[0] == 7
    assert len(lite.new("int[]", [])) == 0
    assert lite.string(lite.new("char[]", b"a")) == b"a"
    assert len(lite.new("char[]", 10)) == 10
