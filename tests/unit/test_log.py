"""Records of the log, as engines read them."""

from __future__ import annotations

import json
import os
import re

import pytest

from ocirt import logsink
from ocirt.errors import UsageError
from ocirt.log import Log

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def stderr(capfd):
    return lambda: capfd.readouterr().err


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("plain", "plain"),
        ("/a/b-c.d_e@f^g+h", "/a/b-c.d_e@f^g+h"),
        ("two words", '"two words"'),
        ('exec: "x": not found', r'"exec: \"x\": not found"'),
        ("two\nlines", r'"two\nlines"'),
        ("", '""'),
    ],
)
def test_a_text_record_quotes_what_is_not_one_plain_word(tmp_path, message, written):
    Log(str(tmp_path / "log")).warning(message)
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(rf'time="{TIME}" level=warning msg={re.escape(written)}\n', line)


@pytest.mark.parametrize("message", ["plain", 'a "b" \n c', "naïve", "\udcff"])
def test_a_json_record_is_one_line_of_json_whatever_the_text(tmp_path, stderr, message):
    Log(str(tmp_path / "log"), "json").error(message)
    text = (tmp_path / "log").read_text()
    assert text.count("\n") == 1
    assert json.loads(text)["msg"] == message.replace("\udcff", "\ufffd")


def test_an_error_is_also_told_on_stderr_but_a_warning_is_not(tmp_path, stderr):
    log = Log(str(tmp_path / "log"))
    log.warning("w")
    log.error("e")
    assert stderr() == "e\n"


def test_without_a_log_all_goes_to_stderr_on_one_line_each(stderr):
    log = Log()
    log.warning("w")
    log.error("two\nlines")
    assert stderr() == "warning: w\ntwo lines\n"


@pytest.mark.parametrize(
    ("level", "told"),
    [("error", "e"), ("warning", "we"), ("info", "we"), ("debug", "dwe"), ("", "we")],
)
def test_the_level_decides_what_is_told(tmp_path, stderr, level, told):
    path = tmp_path / "log"
    log = Log(str(path), "json", level)
    log.debug("d")
    log.warning("w")
    log.error("e")
    assert "".join(json.loads(line)["msg"] for line in path.read_text().splitlines()) == told


@pytest.mark.parametrize(
    ("warning", "told"),
    [
        ("open: Permission denied", "open: EACCES"),
        ("x: Operation not permitted, y: No such file or directory", "x: EPERM, y: ENOENT"),
        ("exec: executable file not found in $PATH", "exec: no executable in $PATH"),
        ("İİİPERMISSION denied permission denied", "İİİEACCES EACCES"),
        ("permission was denied", "permission was denied"),
    ],
)
def test_a_warning_has_no_words_that_podman_takes_for_the_reason(stderr, warning, told):
    Log().warning(warning)
    assert stderr() == f"warning: {told}\n"


def test_an_error_keeps_its_words(stderr):
    Log().error("open: Permission denied", ["undo: Permission denied"])
    assert stderr() == "open: Permission denied\nwarning: undo: EACCES\n"


def test_records_are_appended(tmp_path, stderr):
    path = tmp_path / "log"
    path.write_text("before\n")
    Log(str(path)).error("after")
    assert path.read_text().startswith("before\ntime=")


def test_the_log_is_not_passed_on_to_programs(tmp_path):
    log = Log(str(tmp_path / "log"))
    assert not os.get_inheritable(log._fd)


def test_a_full_disk_does_not_stop_the_command(stderr):
    Log("/dev/full").error("e")
    assert stderr() == "e\n"


@pytest.mark.parametrize(("form", "level"), [("xml", ""), ("", "loud")])
def test_an_unknown_format_or_level_is_refused(form, level):
    with pytest.raises(UsageError):
        Log("", form, level)


def test_syslog_gets_facility_and_level_and_identifier():
    datagram = logsink.encode("syslog", "me", "error", "two\nlines")
    assert datagram == b"<27>me[%d]: two lines" % os.getpid()


def test_journald_gets_fields():
    datagram = logsink.encode("journald", "me", "warning", "text")
    pid = b"%d" % os.getpid()
    assert datagram == b"MESSAGE=text\nPRIORITY=4\nSYSLOG_IDENTIFIER=me\nSYSLOG_PID=" + pid + b"\n"


def test_a_sink_sends_each_record_as_a_datagram(tmp_path, monkeypatch, stderr):
    import socket

    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "log"))
    monkeypatch.setitem(logsink.SOCKETS, "syslog", str(tmp_path / "log"))
    Log("syslog:me").error("e")
    assert server.recv(100) == b"<27>me[%d]: e" % os.getpid()
    assert stderr() == "e\n"
    server.close()
