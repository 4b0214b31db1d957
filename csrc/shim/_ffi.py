"""The part of cffi's `ffi` that ocirt.kernel uses, over plain buffers (see builtin.py)."""

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NULL = None
FORMATS = {
    "char": "B",
    "int": "i",
    "unsigned": "I",
    "unsigned short": "H",
    "uint32_t": "I",
    "uint64_t": "Q",
}
SIZES = {"B": 1, "H": 2, "I": 4, "i": 4, "Q": 8}


class _Struct(bytearray):
    """A struct in C's layout; its members are attributes."""

    layout: dict[str, tuple[int, Struct]]
    kept: list[Any]  # what its pointers lead to

    def __getattr__(self, name: str) -> Any:
        offset, form = self.layout[name]
        values = form.unpack_from(self, offset)
        return values[0] if len(values) == 1 else values


_layouts: dict[str, tuple[int, dict[str, tuple[int, Struct]]]] = {}


def _layout(kind: str) -> tuple[int, dict[str, tuple[int, Struct]]]:
    """(size, member: (offset, form))."""
    found = _layouts.get(kind)
    if found is None:
        from ocirt import _shim

        text = "@"
        members = {}
        for name, form in _shim.structs[kind]:  # type: ignore[attr-defined]
            member = Struct("@" + form)
            text += form
            members[name] = (Struct(text).size - member.size, member)
        found = _layouts[kind] = (Struct(text + "0P").size, members)
    return found


def _new_struct(kind: str, values: dict[str, Any]) -> _Struct:
    from ocirt._shim import address  # type: ignore[attr-defined]

    size, layout = _layout(kind)
    made = _Struct(size)
    made.layout = layout
    made.kept = list(values.values())
    for name, value in values.items():
        offset, form = layout[name]
        if form.format == "@P":
            form.pack_into(made, offset, address(value))
        elif isinstance(value, tuple):
            form.pack_into(made, offset, *value)
        else:
            form.pack_into(made, offset, value)
    return made


def new(kind: str, value: Any = None) -> Any:
    """Memory for a cffi type such as "int[3]", "uint64_t *", "char[]", "char *[]", "struct x *"."""
    if kind.startswith("struct "):
        return _new_struct(kind, value)
    if kind == "char[]":
        return bytearray(value) if isinstance(value, int) else bytearray(value) + b"\0"
    if kind == "char *[]":
        return _pointers(value)
    if kind.endswith(" *"):
        base, count, values = kind[:-2], 1, () if value is None else (value,)
    else:
        base, _, digits = kind[:-1].partition("[")
        if isinstance(value, int):
            count, values = value, ()
        else:
            values = tuple(value or ())
            count = int(digits or len(values))
    if not count:
        return bytearray()  # which memoryview does not cast
    form: Any = FORMATS[base]
    view = memoryview(bytearray(SIZES[form] * count)).cast(form)
    for index, number in enumerate(values):
        view[index] = number
    return view


class _Pointers(bytearray):
    """A table of pointers that keeps what they lead to."""

    kept: list[Any]


def _pointers(targets: list[Any]) -> _Pointers:
    from ocirt._shim import address  # type: ignore[attr-defined]

    form = Struct("@P")
    table = _Pointers(b"".join(form.pack(address(target)) for target in targets))
    table.kept = targets
    return table


def buffer(memory: Any) -> Any:
    return memory


def unpack(memory: Any, length: int) -> bytes:
    return bytes(memory[:length])


def string(memory: Any) -> bytes:
    """Up to the first NUL."""
    return bytes(memory).partition(b"\0")[0]
