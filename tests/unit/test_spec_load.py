"""From bytes to a document and back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys

import pytest

from ocirt.errors import SpecError, StepError
from ocirt.spec import jsontext
from ocirt.spec.example import example
from ocirt.spec.load import MAX_SIZE, load


def refusal(text):
    with pytest.raises(SpecError) as caught:
        jsontext.loads(text, "config.json")
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        ' \t\r\n{"a": [1, -0, 2.5, 1e3, true, false, null, "\\u00e9\\ud83d\\ude00"]}\n',
        '{"big": 18446744073709551615, "bigger": 99999999999999999999999999}',
        '"text"',
        "0",
    ],
)
def test_valid_text_is_read_as_json_reads_it(text):
    assert jsontext.loads(text) == json.loads(text)
    assert jsontext.loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "config.json: line 1 column 1: a JSON value is missing"),
        ("  \n ", "config.json: line 2 column 2: a JSON value is missing"),
        ('{\n  "a": 1,\n  "b": }', "config.json: line 3 column 8: a JSON value is missing"),
        ('{"a": 1} x', "config.json: line 1 column 10: something follows the document's end"),
        ('{"a": 1}\n{"b": 2}', "config.json: line 2 column 1: something follows the document's end"),
        (
            '{"a": 1,\n "b": {"a": 2, "c": [], "a": 3}}',
            "config.json: line 2 column 25: key 'a' occurs twice in one object",
        ),
        ('{"a": "b", "\\u0061": 1}', "config.json: line 1 column 12: key 'a' occurs twice in one object"),
        (
            '[{"a": 1}, {"a": 2}, "a", {"b": "b"}, NaN]',
            "config.json: line 1 column 39: NaN is not a JSON value",
        ),
        ('{"a": -Infinity}', "config.json: line 1 column 7: -Infinity is not a JSON value"),
        ('{"a": 1e999}', "config.json: line 1 column 7: the number 1e999 is too large"),
        ("\ufeff{}", "config.json: line 1 column 1: begins with a byte order mark, which JSON forbids"),
        (b'{"a":\n "\xff"}', "config.json: line 2 column 3: is not UTF-8"),
        ('{"a": "\x01"}', "config.json: line 1 column 8: invalid control character at"),
        ("[" * 100_000, "config.json: is nested too deeply"),
        ("{'a': 1}", "config.json: line 1 column 2: expecting property name enclosed in double quotes"),
    ],
)
def test_invalid_text_is_refused_with_its_place(text, says):
    assert refusal(text) == says


def test_number_with_too_many_digits_is_refused():
    assert refusal("1" * 5000).startswith("config.json: has a number with too many digits")


@pytest.mark.parametrize("indent", ["", "  ", "\t"])
@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": []},
        {"a": {"b": [1, -2, 2.5, True, None, {"c": {}}]}, "d": ["x", []]},
        '\0 \x1f " \\ / \x7f é \u2028 \U0001f600 \ud800',
        {"é\n": 18446744073709551615},
    ],
)
def test_what_is_written_reads_back(value, indent):
    text = jsontext.dumps(value, indent)
    assert text.isascii()
    assert json.loads(text) == value
    assert text == json.dumps(value, indent=indent or None, separators=(",", ": " if indent else ":"))


def test_what_json_cannot_hold_is_not_written():
    with pytest.raises(TypeError):
        jsontext.dumps({"a": b"bytes"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsontext.dumps(float("nan"))


def test_too_deep_a_value_is_not_written():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SpecError, match="nested too deeply"):
        jsontext.dumps(value)
    with pytest.raises(SpecError, match="nested too deeply"):
        jsontext.dumps(value, "  ")
    while value:  # taken apart by hand: freeing it at once recurses, too
        value = value.pop()


def test_without_the_c_module_everything_is_the_same(monkeypatch):
    monkeypatch.setattr(jsontext, "_accelerator", lambda: None)
    assert jsontext.loads(' {"a": [1, "b"]} ') == {"a": [1, "b"]}
    assert refusal('{"a": 1, "a": 2}') == "config.json: line 1 column 10: key 'a' occurs twice in one object"
    assert refusal("") == "config.json: line 1 column 1: a JSON value is missing"
    assert refusal("[NaN]") == "config.json: line 1 column 2: NaN is not a JSON value"
    assert jsontext.dumps({"a": [1, "é"]}) == '{"a":[1,"\\u00e9"]}'
    assert jsontext.dumps({"a": [1]}, " ") == '{\n "a": [\n  1\n ]\n}'


def test_bundle_and_file_are_both_read(tmp_path):
    (tmp_path / "config.json").write_text('{"a": null, "unknown": {"kept": 0}}')
    expected = {"a": None, "unknown": {"kept": 0}}
    assert load(str(tmp_path)) == expected
    assert load(f"{tmp_path}/") == expected
    assert load(str(tmp_path / "config.json")) == expected


def test_missing_config_names_the_path(tmp_path):
    with pytest.raises(StepError) as caught:
        load(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}/config.json: open: No such file or directory"


def test_document_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SpecError, match=r"config\.json: is not a JSON object"):
        load(str(tmp_path))


def test_fifo_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(SpecError, match="is not a regular file"):
        load(str(tmp_path))


def test_huge_file_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SpecError, match="is larger than the 64 MiB"):
        load(str(tmp_path))


def test_file_of_exactly_the_limit_is_read(tmp_path):
    text = '{"a": 1}'
    (tmp_path / "config.json").write_text(text + " " * (MAX_SIZE - len(text)))
    assert load(str(tmp_path)) == {"a": 1}
    (tmp_path / "config.json").write_text(text + " " * (MAX_SIZE - len(text) + 1))
    with pytest.raises(SpecError, match="is larger than"):
        load(str(tmp_path))


def test_no_fd_is_left_open(tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    for content in ('{"a": 1}', "broken"):
        (tmp_path / "config.json").write_text(content)
        with contextlib.suppress(SpecError):
            load(str(tmp_path))
    with pytest.raises(StepError):
        load(str(tmp_path / "absent"))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_good_path_imports_no_heavy_module(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(example()))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ocirt.spec.load import load\n"
        "from ocirt.spec.check import check\n"
        "check(load(sys.argv[2]))\n"
        "heavy = {'json', 're', 'os', 'typing', 'enum', 'stat', 'jsonschema', 'dataclasses'}\n"
        "print(*(set(sys.modules) & heavy))"
    )
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    out = subprocess.run(
        [sys.executable, "-ISE", "-c", code, top, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert out.stdout == "\n"


def test_damaged_text_gives_what_json_gives_or_a_typed_error():
    generator = random.Random(20)
    text = jsontext.dumps(example(), "  ").encode()
    refused = 0
    for _ in range(3000):
        damaged = bytearray(text)
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(damaged))
            kind = generator.randrange(3)
            if kind == 0:
                damaged[place] = generator.randrange(256)
            elif kind == 1:
                del damaged[place : place + generator.randint(1, 40)]
            else:
                damaged[place:place] = generator.choice(
                    (b'"', b"{", b"]", b",", b"\\", b"\\ud800", b"\0", b"NaN", b"9" * 30, b"\xf0\x9f")
                )
        try:
            value = jsontext.loads(bytes(damaged), "config.json")
        except SpecError:
            refused += 1
        else:
            assert value == json.loads(damaged)
    assert 1500 < refused < 3000


def test_an_error_of_the_scanner_is_told_also_when_json_is_not_loaded() -> None:
    """As in the command itself, where it was an internal error."""
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from ocirt.spec.jsontext import loads; assert 'json' not in sys.modules\n"
        "try: loads(b'{', 'config.json')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-ISc", script], text=True, capture_output=True)
    assert done.stdout.startswith("SpecError config.json: line 1 column 2: "), done
