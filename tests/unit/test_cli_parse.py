"""Options as runc's callers write them."""

from __future__ import annotations

import pytest

from ocirt.cli.parse import BOOL, LIST, NUMBER, TEXT, expect, parse
from ocirt.errors import UsageError

TABLE = {
    "bundle": TEXT,
    "b": "bundle",
    "detach": BOOL,
    "d": "detach",
    "tty": BOOL,
    "t": "tty",
    "no-subreaper": BOOL,
    "preserve-fds": NUMBER,
    "env": LIST,
    "e": "env",
}


@pytest.mark.parametrize(
    ("line", "values", "words"),
    [
        ("", {}, []),
        ("id", {}, ["id"]),
        ("--bundle /b id", {"bundle": "/b"}, ["id"]),
        ("--bundle=/b id", {"bundle": "/b"}, ["id"]),
        ("-bundle /b id", {"bundle": "/b"}, ["id"]),
        ("-bundle=/b id", {"bundle": "/b"}, ["id"]),
        ("-b /b id", {"bundle": "/b"}, ["id"]),
        ("-b=/b id", {"bundle": "/b"}, ["id"]),
        ("--b /b id", {"bundle": "/b"}, ["id"]),
        ("id --bundle /b", {"bundle": "/b"}, ["id"]),
        ("id -no-subreaper", {"no_subreaper": True}, ["id"]),
        ("--detach=false id", {"detach": False}, ["id"]),
        ("--detach=0 id", {"detach": False}, ["id"]),
        ("-d=T id", {"detach": True}, ["id"]),
        ("--detach true", {"detach": True}, ["true"]),
        ("-dt id", {"detach": True, "tty": True}, ["id"]),
        ("--preserve-fds 3 id", {"preserve_fds": 3}, ["id"]),
        ("-e A=1 --env B=2=3 id", {"env": ["A=1", "B=2=3"]}, ["id"]),
        ("--env=A=1 id", {"env": ["A=1"]}, ["id"]),
        ("--bundle -d id", {"bundle": "-d"}, ["id"]),
        ("--bundle= id", {"bundle": ""}, ["id"]),
        ("--bundle /a --bundle /b", {"bundle": "/b"}, []),
        ("-- --detach", {}, ["--detach"]),
        ("id -- -b", {}, ["id", "-b"]),
        ("- id", {}, ["-", "id"]),
    ],
)
def test_options_stand_before_or_after_the_id_in_all_of_gos_forms(line, values, words):
    assert parse(line.split(), TABLE) == (values, words)


@pytest.mark.parametrize(
    ("line", "values", "words"),
    [
        ("id sh -c -d", {}, ["id", "sh", "-c", "-d"]),
        ("-t id ls -e", {"tty": True}, ["id", "ls", "-e"]),
        ("-t -- id ls", {"tty": True}, ["id", "ls"]),
        ("id -- ls", {}, ["id", "--", "ls"]),
    ],
)
def test_options_behind_the_first_word_belong_to_the_command(line, values, words):
    assert parse(line.split(), TABLE, mixed=False) == (values, words)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--nope id", "flag provided but not defined: -nope"),
        ("-x id", "flag provided but not defined: -x"),
        ("-dx id", "flag provided but not defined: -dx"),
        ("-db id", "flag provided but not defined: -db"),  # only switches stand together
        ("--nope=1 id", "flag provided but not defined: -nope"),
        ("id --bundle", "flag needs an argument: -bundle"),
        ("--detach=maybe id", 'invalid boolean value "maybe" for -detach: parse error'),
        ("--preserve-fds x id", 'invalid value "x" for flag -preserve-fds: parse error'),
        ("--preserve-fds -1 id", 'invalid value "-1" for flag -preserve-fds: parse error'),
        ("--preserve-fds= id", 'invalid value "" for flag -preserve-fds: parse error'),
        ("--preserve-fds 2147483648", 'invalid value "2147483648" for flag -preserve-fds: parse error'),
        ("--preserve-fds ٣", 'invalid value "٣" for flag -preserve-fds: parse error'),
    ],
)
def test_a_wrong_option_is_told_in_runcs_words(line, text):
    with pytest.raises(UsageError) as caught:
        parse(line.split(), TABLE)
    assert str(caught.value) == text


def test_the_table_is_not_changed_by_parsing():
    before = dict(TABLE)
    parse(["-dt", "-b", "x"], TABLE)
    assert before == TABLE


@pytest.mark.parametrize(
    ("count", "least", "most", "text"),
    [
        (0, 1, 1, '"state" requires exactly 1 argument(s)'),
        (2, 1, 1, '"state" requires exactly 1 argument(s)'),
        (0, 1, 2, '"state" requires a minimum of 1 argument(s)'),
        (3, 1, 2, '"state" requires a maximum of 2 argument(s)'),
        (0, 1, None, '"state" requires a minimum of 1 argument(s)'),
    ],
)
def test_a_wrong_number_of_words_is_told_in_runcs_words(count, least, most, text):
    with pytest.raises(UsageError) as caught:
        expect("state", ["x"] * count, least, most)
    assert str(caught.value) == text


@pytest.mark.parametrize(("count", "least", "most"), [(0, 0, 0), (1, 1, 1), (2, 1, 2), (9, 1, None)])
def test_a_right_number_of_words_passes(count, least, most):
    expect("state", ["x"] * count, least, most)
