"""The command as a whole, without containers: dispatch, help, exit statuses, streams, logs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ocirt.cli import GLOBAL, HELP, VERBS
from ocirt.cli.exec import build_process
from ocirt.cli.help import COMMANDS, program_text, verb_text
from ocirt.cli.kill import parse_signal
from ocirt.cli.list import table
from ocirt.errors import OcirtError, SpecError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(tmp_path):
    """python -m ocirt with a state root of its own; stdout, stderr and status."""

    def run(*words, env=(), cwd=None):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **dict(env)}
        call = [sys.executable, "-m", "ocirt", *([] if env else ["--root", str(tmp_path / "state")])]
        done = subprocess.run(
            [*call, *map(str, words)],
            text=True,
            capture_output=True,
            timeout=30,
            env=variables,
            cwd=cwd or tmp_path,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout, done.stderr, done.returncode

    return run


# Dispatch


@pytest.mark.parametrize("name", ["checkpoint", "x"])
def test_a_command_that_is_not_built_has_no_help_and_fails(command, name):
    for words in ([name], [name, "--help"], ["help", name]):
        out, err, status = command(*words)
        assert (out, err) == ("", f"No help topic for '{name}'\n")
        assert status == 3


@pytest.mark.parametrize("words", [["--nope"], ["state", "--nope", "x"], ["exec", "--nope", "x", "sh"]])
def test_an_unknown_option_fails_with_usage_on_stdout_and_one_line_on_stderr(command, words):
    out, err, status = command(*words)
    assert status == 1
    assert err == "flag provided but not defined: -nope\n"
    assert out.startswith("Incorrect Usage: flag provided but not defined: -nope\n\nNAME:\n   ocirt")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (["state"], '"state" requires exactly 1 argument(s)\n'),
        (["state", "a", "b"], '"state" requires exactly 1 argument(s)\n'),
        (["kill"], '"kill" requires a minimum of 1 argument(s)\n'),
        (["kill", "a", "9", "9"], '"kill" requires a maximum of 2 argument(s)\n'),
        (["exec"], '"exec" requires a minimum of 1 argument(s)\n'),
        (["list", "a"], '"list" requires exactly 0 argument(s)\n'),
        (["--log-format", "bad", "list"], "invalid log-format: bad\n"),
        (["--log-level", "bad", "list"], "invalid log-level: bad\n"),
        (["--cgroup-manager", "bad", "create", "a"], "invalid cgroup-manager: bad\n"),
        (["--rootless", "bad", "create", "a"], "invalid rootless: bad\n"),
    ],
)
def test_wrong_usage_is_one_line_and_status_1(command, words, err):
    assert command(*words)[1:] == (err, 1)


@pytest.mark.parametrize(
    ("words", "err", "status"),
    [
        (["state", "nosuch"], "container does not exist\n", 1),
        (["start", "nosuch"], "container does not exist\n", 1),
        (["kill", "nosuch"], "container does not exist\n", 1),
        (["delete", "nosuch"], "container does not exist\n", 1),
        (["delete", "--force", "nosuch"], "", 0),
        (["delete", "nosuch", "-f"], "", 0),
        (["exec", "nosuch", "sh"], "container does not exist\n", 255),
        (["exec", "nosuch"], "container does not exist\n", 255),
        (["state", "../x"], "invalid container ID format: '../x'\n", 1),
        (["delete", "--force", "."], "invalid container ID format: '.'\n", 1),
        (["list", "--format", "xml"], "invalid format option\n", 1),
        (["kill", "--regex", "nosuch"], "", 0),
        (["delete", "--regex", "["], "invalid regular expression '['", 1),
        (["verify", "--pid", "1"], "verify takes a container's id, or --pid and --config\n", 1),
    ],
)
def test_errors_are_one_line_with_the_status_that_engines_expect(command, words, err, status):
    _, got, code = command(*words)
    assert code == status
    assert got == err or (err and got.startswith(err))
    assert got.count("\n") == bool(err)


def test_a_missing_bundle_fails_and_leaves_no_state(command, tmp_path):
    out, err, status = command("create", "--bundle", tmp_path, "id")
    assert (out, status) == ("", 1)
    assert err == f"{tmp_path}/config.json: open: No such file or directory\n"
    assert not (tmp_path / "state").exists()


def test_list_of_a_missing_root_is_empty_and_does_not_make_it(command, tmp_path):
    assert command("list") == ("ID          PID         STATUS      BUNDLE      CREATED     OWNER\n", "", 0)
    assert command("list", "--format", "json") == ("null\n", "", 0)
    assert command("list", "-q") == ("", "", 0)
    assert not (tmp_path / "state").exists()


def test_version_has_the_lines_that_engines_read(command):
    out, _, status = command("--version")
    assert status == 0
    lines = out.splitlines()
    assert re.fullmatch(r"ocirt version \d+\.\d+\.\d+", lines[0])
    assert lines[1].startswith("commit: ")
    assert lines[2] == "spec: 1.3.0"
    assert re.fullmatch(r"libseccomp: \d+\.\d+\.\d+", lines[3])
    assert command("-v")[0] == out


def test_a_closed_stdout_is_not_a_traceback(tmp_path):
    call = f"{sys.executable} -m ocirt features | true"
    done = subprocess.run(
        ["sh", "-c", call], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == ""


# Help


def test_help_of_the_program_lists_exactly_the_commands_that_are_there(command):
    out, err, status = command("--help")
    assert (err, status) == ("", 0)
    for other in ([], ["help"], ["h"], ["-h"]):
        assert command(*other) == (out, "", 0)
    section = out.partition("COMMANDS:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in section.splitlines()] == [*VERBS, "help"]
    for title in ("NAME:", "USAGE:", "OPTIONS:"):
        assert f"\n{title}\n" in f"\n{out}"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_command_has_the_sections_that_engines_look_for(command, verb):
    out, err, status = command(verb, "--help")
    assert (err, status) == ("", 0)
    assert command("help", verb)[0] == out
    for title in ("NAME:", "USAGE:", "OPTIONS:"):
        assert f"\n{title}\n" in f"\n{out}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_in_the_help_once(verb):
    module = __import__(f"ocirt.cli.{verb}", fromlist=("",))
    shown = re.findall(r"^   --([a-z0-9-]+)", verb_text(verb), re.M)
    assert shown == [name for name, kind in {**module.OPTIONS, **HELP}.items() if isinstance(kind, int)]
    assert verb in COMMANDS


def test_every_global_option_is_in_the_help_once():
    shown = re.findall(r"^   --([a-z-]+)", program_text(), re.M)
    assert shown == [name for name, kind in GLOBAL.items() if isinstance(kind, int)]


# Logs


def test_an_error_goes_to_stderr_and_to_the_log(command, tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        assert command("--log", log, "state", "x")[1:] == ("container does not exist\n", 1)
    pattern = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=error msg="container does not exist"'
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_a_json_log_is_one_object_per_failure(command, tmp_path):
    log = tmp_path / "log.json"
    command("--log", log, "--log-format", "json", "state", "x")
    record = json.loads(log.read_text())
    assert sorted(record) == ["level", "msg", "time"]
    assert (record["level"], record["msg"]) == ("error", "container does not exist")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["time"])


def test_crun_writes_file_before_the_path_of_the_log(command, tmp_path):
    command("--log", f"file:{tmp_path}/log", "state", "x")
    assert "container does not exist" in (tmp_path / "log").read_text()


def test_a_log_format_alone_decides_what_stderr_gets(command):
    err = command("--log-format", "json", "state", "x")[1]
    assert json.loads(err)["msg"] == "container does not exist"
    assert command("--log-format", "text", "state", "x")[1].startswith('time="')


def test_a_log_that_cannot_be_opened_names_the_option(command, tmp_path):
    _, err, status = command("--log", f"{tmp_path}/no/log", "list")
    assert (err, status) == (f"--log ({tmp_path}/no/log): open: No such file or directory\n", 1)


def test_a_traceback_comes_with_debug_only(command):
    assert "Traceback" not in command("state", "x")[1]
    assert "Traceback" in command("--debug", "state", "x")[1]


def test_debug_records_carry_their_level(command, tmp_path):
    log = tmp_path / "log"
    command("--debug", "--log", log, "list")
    assert re.search(r'level=debug msg="pid \d+ list"', log.read_text())


# Where state is kept


@pytest.mark.skipif(os.geteuid() != 0, reason="root's default")
@pytest.mark.parametrize("value", ["", "/nowhere"])
def test_root_keeps_its_state_in_run_whatever_the_runtime_dir(monkeypatch, value):
    from ocirt import kernel
    from ocirt.cli.root import state_root

    monkeypatch.setattr(kernel, "getenv", {"XDG_RUNTIME_DIR": value}.get)
    assert state_root(None) == "/run/ocirt"


@pytest.mark.parametrize(
    ("runtime_dir", "root"),
    [("/run/user/7", "/run/user/7/ocirt"), ("", "/tmp/ocirt-4242"), (None, "/tmp/ocirt-4242")],
)
def test_a_user_keeps_its_state_in_the_runtime_dir_if_there_is_one(monkeypatch, runtime_dir, root):
    from ocirt import kernel
    from ocirt.cli import root as module

    monkeypatch.setattr(kernel, "getenv", {"XDG_RUNTIME_DIR": runtime_dir}.get)
    monkeypatch.setattr(module.posix, "geteuid", lambda: 4242)
    assert module.state_root(None) == root


def test_a_directory_in_tmp_that_is_somebody_elses_is_refused(monkeypatch, tmp_path):
    from ocirt.cli import root as module

    Path("/tmp/ocirt-4243").mkdir(mode=0o700)
    try:
        with pytest.raises(OcirtError, match="is not this user's own directory"):
            module._in_tmp(4243)
    finally:
        Path("/tmp/ocirt-4243").rmdir()


@pytest.mark.parametrize(
    ("given", "root"), [("/a/b", "/a/b"), ("/a/b/", "/a/b"), ("/", "/"), ("rel", f"{os.getcwd()}/rel")]
)
def test_root_is_made_absolute(given, root):
    from ocirt.cli.root import state_root

    assert state_root(given) == root


# Signals


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("0", 0),
        ("64", 64),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("Usr1", 10),
        ("CLD", 17),
        ("POLL", 29),
        ("IOT", 6),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmax-1", 63),
        ("RTMAX", 64),
    ],
)
def test_signals_are_numbers_or_names_in_any_case(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "65", "-1", "FOO", "SIG", "term ", "RTMIN-1", "RTMAX+1", "RTMIN+31", "٩"]
)
def test_an_unknown_signal_is_refused(text):
    with pytest.raises(OcirtError) as caught:
        parse_signal(text)
    assert str(caught.value) == f'unknown signal "{text}"'


# exec's process


class Known:
    """A container as exec looks at it."""

    def __init__(self, process):
        self.spec = {"process": process}


BASE = {
    "terminal": True,
    "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
    "args": ["init"],
    "env": ["A=1"],
    "cwd": "/w",
    "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"]},
}


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({}, {}),
        ({"cwd": "/x"}, {"cwd": "/x"}),
        ({"tty": True}, {"terminal": True}),
        ({"env": ["B=2", "A=3"]}, {"env": ["A=1", "B=2", "A=3"]}),
        ({"user": "5"}, {"user": {"uid": 5, "gid": 2, "additionalGids": [3]}}),
        ({"user": "5:6"}, {"user": {"uid": 5, "gid": 6, "additionalGids": [3]}}),
        ({"additional_gids": ["7"]}, {"user": {"uid": 1, "gid": 2, "additionalGids": [3, 7]}}),
        ({"no_new_privs": True}, {"noNewPrivileges": True}),
        ({"apparmor": "p"}, {"apparmorProfile": "p"}),
        ({"process_label": "l"}, {"selinuxLabel": "l"}),
        (
            {"cap": ["CAP_CHOWN"]},
            {
                "capabilities": {
                    "bounding": ["CAP_KILL", "CAP_CHOWN"],
                    "effective": ["CAP_KILL", "CAP_CHOWN"],
                    "permitted": ["CAP_CHOWN"],
                    "inheritable": ["CAP_KILL"],
                }
            },
        ),
    ],
)
def test_exec_takes_the_containers_process_and_changes_what_is_given(values, changed):
    process = build_process(Known(BASE), values, ["ls", "-l"])
    assert process == {**BASE, "terminal": False, "args": ["ls", "-l"], **changed}


def test_exec_does_not_change_the_containers_own_process():
    before = json.dumps(BASE)
    build_process(Known(BASE), {"user": "5", "cap": ["CAP_CHOWN"], "env": ["B=2"]}, ["ls"])
    assert json.dumps(BASE) == before


@pytest.mark.parametrize("given", [{}, {"capabilities": {}}, {"capabilities": {"bounding": ["CAP_CHOWN"]}}])
def test_exec_takes_a_process_from_a_file(tmp_path, given):
    """What it says, and the container's capabilities if it says nothing of them."""
    path = tmp_path / "process.json"
    path.write_text(json.dumps({"args": ["id"], "cwd": "/", "terminal": True, **given}))
    assert build_process(Known(BASE), {"process": str(path)}, []) == {
        "args": ["id"],
        "cwd": "/",
        "terminal": True,
        "capabilities": given.get("capabilities", BASE["capabilities"]),
    }


@pytest.mark.parametrize(
    "text", ["", "1:", ":1", "-1", "1abc", "4294967295", "4294967296", "1:2:3", "+1", " 1"]
)
def test_exec_refuses_a_user_that_is_not_a_pair_of_numbers(text):
    with pytest.raises(SpecError):
        build_process(Known(BASE), {"user": text}, ["id"])


@pytest.mark.parametrize(
    ("values", "command", "text"),
    [
        ({}, [], "exec args cannot be empty"),
        ({"cap": ["CAP_FOO"]}, ["id"], "--cap: 'CAP_FOO' is not a capability of this kernel"),
        ({"additional_gids": ["x"]}, ["id"], "--additional-gids: 'x' is not a number below 4294967295"),
    ],
)
def test_exec_refuses_what_makes_no_process(values, command, text):
    with pytest.raises(OcirtError) as caught:
        build_process(Known(BASE), values, command)
    assert str(caught.value) == text


def test_a_table_is_as_wide_as_its_cells():
    rows = [("ID", "PID", "OWNER"), ("a-rather-long-id", "1", "root")]
    assert table(rows) == ("ID                 PID         OWNER\na-rather-long-id   1           root\n")
