"""Names of images: what docker makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_image.errors import ImageError
from oci_image.reference import parse

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/tool", "docker.io/user/tool"),
        ("library/busybox", "docker.io/library/busybox"),
        ("docker.io/busybox", "docker.io/library/busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox"),
        ("index.docker.io/user/tool:v1", "docker.io/user/tool:v1"),
        ("localhost/a", "localhost/a"),
        ("localhost:5000/a:b", "localhost:5000/a:b"),
        ("host:5000/a/b", "host:5000/a/b"),
        ("Host/a", "Host/a"),
        ("[2001:db8::1]:5000/a", "[2001:db8::1]:5000/a"),
        ("registry.example/a__b-c.d/e---f:T_1.2-x", "registry.example/a__b-c.d/e---f:T_1.2-x"),
        (f"a@{DIGEST}", f"docker.io/library/a@{DIGEST}"),
        (f"a:b@{DIGEST}", f"docker.io/library/a:b@{DIGEST}"),
        ("a:5000", "docker.io/library/a:5000"),  # a tag: there is no slash behind it
        ("host.example", "docker.io/library/host.example"),
        ("a" * 247, f"docker.io/library/{'a' * 247}"),  # 255 with library/
    ],
)
def test_a_name_is_normalised_as_docker_does(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "a:",
        "a@",
        "A",
        "a/B",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a.-b",
        "a:-t",
        "a:.t",
        "a:" + "t" * 129,
        "a b",
        "a\n",
        "ä",
        "a:ü",
        "http://host.example/a",
        "../a",
        "a/../b",
        "a.example/",
        "-x.example/a",
        HEX,
        "a" * 248,
        "a@sha256:" + HEX[:-1],
        "a@sha256:" + HEX.upper(),
        "a@md5:" + HEX,
        "a@sha256:../" + HEX[3:],
    ],
)
def test_what_docker_refuses_is_refused(text: str) -> None:
    with pytest.raises(ImageError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("docker.io/library/busybox:1", "busybox:1"),
        ("docker.io/user/tool", "user/tool"),
        ("docker.io/library/a/b", "library/a/b"),
        ("registry.example/a", "registry.example/a"),
        ("docker.io/a.b/c", "docker.io/a.b/c"),  # a.b/c would be another name
        (f"docker.io/library/{HEX}:x", f"docker.io/library/{HEX}:x"),
    ],
)
def test_people_see_the_short_name(text: str, short: str) -> None:
    assert parse(text).familiar == short


def test_the_default_tag_is_latest_unless_a_digest_says_more() -> None:
    assert parse("a").with_default_tag().tag == "latest"
    assert parse("a:1").with_default_tag().tag == "1"
    assert parse(f"a@{DIGEST}").with_default_tag().tag == ""


COMPONENT = st.from_regex(r"[a-z0-9]{1,3}([._-][a-z0-9]{1,3})?", fullmatch=True)


@given(
    domain=st.sampled_from(["", "docker.io/", "localhost/", "h.example/", "h:5000/", "[::1]/"]),
    path=st.lists(COMPONENT, min_size=1, max_size=3).map("/".join),
    tag=st.from_regex(r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,5})?", fullmatch=True),
)
def test_full_and_short_names_mean_the_same(domain: str, path: str, tag: str) -> None:
    reference = parse(domain + path + tag)
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_a_typed_error(text: str) -> None:
    reason = ""
    try:
        assert parse(str(parse(text))) == parse(text)
    except ImageError as error:
        reason = str(error)
    assert reason.isprintable()
