"""--format: what docker's users write, and what Go's text/template makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_image.cli.template import FUNCTIONS, fill
from oci_image.errors import ImageError

DOCUMENT: dict[str, Any] = {
    "digest": "sha256:0",
    "Size": 1500,
    "Config": {"Env": ["A=b", "C=d"], "Labels": {"k.1": "v", "b": "w"}, "Cmd": None, "Tty": False},
    "RootFS": {"Layers": ["sha256:1", "sha256:2"]},
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]},
}

# The right side is what text/template of Go makes of it, with the functions that docker adds.
FILLED = {
    "plain": "plain",
    "{{.digest}} and {{ .Size }}": "sha256:0 and 1500",
    "{{.Config.Env}}": "[A=b C=d]",
    "{{.Config.Labels}}": "map[b:w k.1:v]",
    "{{.Config.Cmd}}": "<no value>",
    "{{.Config.Tty}}": "false",
    "{{json .Config.Env}}": '["A=b","C=d"]',
    "{{.Config.Env | json}}": '["A=b","C=d"]',
    '{{range .RootFS.Layers}}{{.}}{{"\\n"}}{{end}}': "sha256:1\nsha256:2\n",
    "{{range .RootFS.Layers}}{{println .}}{{end}}": "sha256:1\nsha256:2\n",
    "{{range $i, $layer := .RootFS.Layers}}{{$i}}={{$layer}} {{end}}": "0=sha256:1 1=sha256:2 ",
    "{{range $layer := .RootFS.Layers}}{{$layer}},{{end}}": "sha256:1,sha256:2,",
    "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}": "b=w;k.1=v;",
    "{{range .Config.Cmd}}x{{else}}none{{end}}": "none",
    '{{index .Config.Labels "k.1"}}': "v",
    '{{index .Config.Labels "nosuch"}}': "<no value>",
    "{{index .RootFS.Layers 1}}": "sha256:2",
    '{{(index (index .Ports "80/tcp") 0).HostPort}}': "8080",
    '{{index .Ports "80/tcp" 0 | json}}': '{"HostIp":"0.0.0.0","HostPort":"8080"}',
    "{{len .RootFS.Layers}} {{len .digest}}": "2 8",
    '{{join .Config.Env ","}}': "A=b,C=d",
    '{{join (split "a:b" ":") "/"}}': "a/b",
    '{{join (split "ab" "") "/"}}': "a/b",
    '{{upper "a"}}{{"B" | lower}} {{title "one two"}}': "Ab One Two",
    '[{{pad "x" 1 2}}] [{{pad "" 1 2}}]': "[ x  ] []",
    "{{truncate .digest 6}}": "sha256",
    "{{if .Config.Cmd}}a{{else}}b{{end}}": "b",
    "{{if .Config.Tty}}a{{else if .Size}}b{{else}}c{{end}}": "b",
    "{{if .Size}}{{if .Config.Tty}}a{{end}}b{{end}}c": "bc",
    "{{with .Config.Labels}}{{.b}} of {{$.digest}}{{end}}": "w of sha256:0",
    "{{with $x := .digest}}{{$x}}{{end}}": "sha256:0",
    "{{with .Config.Cmd}}a{{else}}{{.digest}}{{end}}": "sha256:0",
    '{{if eq .Size 1500}}y{{end}}{{if ne .digest "x"}}y{{end}}': "yy",
    '{{if eq .digest "x" "sha256:0"}}y{{end}}': "y",
    "{{if and .Size (gt .Size 1000) (le .Size 1500) (not .Config.Tty)}}y{{end}}": "y",
    '{{or .Config.Cmd "none"}}': "none",
    '{{if lt "a" "b"}}y{{end}}{{if ge 2 3}}n{{end}}': "y",
    '{{printf "%s|%5d|%-4s|%03d|%q|%v|%%|%x" .digest 7 "a" 7 "b" .Config.Env 255}}':
        'sha256:0|    7|a   |007|"b"|[A=b C=d]|%|ff',
    '{{print "a" 1 2 "b"}}': "a1 2b",
    "{{print 1 2}}": "1 2",
    '{{$x := upper "a"}}{{$x}}{{range .Config.Env}}{{$x}}{{end}}': "AAA",
    "a  {{- .Size -}}  b": "a1500b",
    "a {{- /* {comment} */ -}} b{{/**/}}": "ab",
    '{{"}}"}}{{`\\n{{`}}{{"\\u00e9\\x41\\\\"}}': '}}\\n{{éA\\',
    "{{true}} {{-3}}": "true -3",
    "{{.}}": "map[Config:",
    "{{$.Size}}": "1500",
}  # fmt: skip


@pytest.mark.parametrize(("template", "text"), FILLED.items())
def test_templates_are_filled_as_go_does(template: str, text: str) -> None:
    found = fill(template, DOCUMENT)
    assert found == text or (template == "{{.}}" and found.startswith(text))


REFUSED = {
    "{{.nosuch}}": (3, "there is no nosuch; there is digest, Size, Config"),
    "ab{{.Config.Nosuch.Env}}": (12, "there is no Nosuch; there is Env"),
    "{{.digest.a}}": (10, "there is no a in a text"),
    "{{.Config.Cmd.a}}": (14, "there is no a in null"),
    "{{foo .Size}}": (3, "foo is not supported; functions are and, eq"),
    '{{template "x"}}': (3, "template is not supported"),
    "{{range .RootFS.Layers}}{{break}}{{end}}": (27, "break is not supported"),
    "{{range .RootFS.Layers}}": (3, "range has no end"),
    "x{{end}}": (4, "there is nothing that end could belong to"),
    "{{if .Size}}{{else}}{{else}}{{end}}": (3, "if has no end"),
    "{{.Size": (1, "the action is not closed by }}"),
    "a}} {{.Size}}": (2, "}} ends no action"),
    "{{}}": (3, "the action is empty"),
    "{{if}}a{{end}}": (5, "a value or function is missing"),
    "{{.Size | }}": (11, "a value or function is missing"),
    "{{| len}}": (3, "a value or function is missing"),
    "{{()}}": (4, "a value or function is missing"),
    "{{.Size | .digest}}": (11, "only a function takes what comes through |"),
    "{{.Size .digest}}": (9, ".Size is no function"),
    "{{(len .Size}}": (3, "( is not closed"),
    "{{len)}}": (6, "')' is not expected here"),
    "{{len .RootFS.Layers)}}": (21, "')' is not expected here"),
    "{{end if}}": (3, "there is nothing that end"),
    "{{join .Config.Env}}": (3, "join takes 2 arguments, not 1"),
    "{{eq .Size}}": (3, "eq takes at least 2 arguments, not 1"),
    '{{join .Size ","}}': (3, "join: 1500 is a number, not a list"),
    "{{upper .Config.Env}}": (3, "upper: [A=b C=d] is a list, not a text"),
    "{{index .RootFS.Layers 2}}": (3, "index: 2 is out of range: the list has 2"),
    '{{index .digest "a"}}': (3, "index: a text has no elements"),
    "{{len .Size}}": (3, "len: a number has no length"),
    "{{range .Size}}{{end}}": (9, "range needs a list or map, not a number"),
    '{{printf "%y" 1}}': (3, "printf: %y is not supported"),
    '{{printf "%s"}}': (3, "printf: there is no value for %s"),
    '{{printf "a" 1}}': (3, "printf: there is no % for 1"),
    "{{$x}}": (3, "variable $x is not known"),
    "{{if $x := .Size}}{{end}}{{$x}}": (28, "variable $x is not known"),
    "{{if .Size}}{{$x := 1}}{{else}}{{$x}}{{end}}": (34, "variable $x is not known"),
    "{{$x = 1}}": (6, "'=' is not understood"),
    "{{len upper}}": (7, "upper needs parentheses here"),
    "{{.Size#}}": (8, "'#' is not understood"),
    '{{"\\q"}}': (3, "has an escape that is not known"),
    "{{1.5}}": (3, "'1.5' is not understood"),
    "{{range $a, $b, $c := .Config.Labels}}{{end}}": (17, "there is one variable too many"),
}


@pytest.mark.parametrize(("template", "where", "reason"), [(text, *told) for text, told in REFUSED.items()])
def test_what_a_template_cannot_say_is_refused_with_its_place(template: str, where: int, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        fill(template, DOCUMENT)
    assert str(caught.value).startswith(f"--format: character {where}: ")
    assert reason in str(caught.value)


WORDS = '{{ }} . .Config .Env $ $x := , | ( ) "a" ` if else end range with - /* */ 1 nil "%s" \\ #'


@given(st.lists(st.sampled_from([*WORDS.split(" "), *FUNCTIONS, " "]), max_size=14), st.booleans())
def test_any_text_is_filled_or_refused(words: list[str], inside: bool) -> None:
    text = " ".join(words)
    try:
        fill(f"{{{{{text}}}}}" if inside else text, DOCUMENT)
    except ImageError as error:
        assert str(error).startswith("--format: character ")  # noqa: PT017
