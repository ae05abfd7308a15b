"""URIs: RFC 3261 §19.1, RFC 3966."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import PROTO_NONE, PROTO_TCP, PROTO_TLS, ParseError, UriCache, parse_uri, unescape, uri_equal


def test_parts_of_a_full_uri() -> None:
    uri = parse_uri("sip:alice:secret@[2001:DB8::10]:5070;transport=TCP;lr;x=%41?subject=a&b=c")
    assert (uri.scheme, uri.user, uri.password) == ("sip", "alice", "secret")
    assert (uri.host, uri.host_text, uri.port) == ("2001:DB8::10", "[2001:DB8::10]", 5070)
    assert (uri.transport, uri.proto, uri.lr) == ("tcp", PROTO_TCP, True)
    assert uri.param("x") == "%41"
    assert uri.param("maddr") is None
    assert uri.headers == "subject=a&b=c"
    assert uri.aor() == "alice@[2001:DB8::10]"
    assert str(uri) == uri.text


def test_transport_of_sips_is_tls() -> None:
    """RFC 3261 §26.2.2."""
    assert parse_uri("sips:a@b").proto == PROTO_TLS
    assert parse_uri("sips:a@b;transport=tcp").proto == PROTO_TLS
    assert parse_uri("sip:a@b").proto == PROTO_NONE


def test_tel() -> None:
    """RFC 3966 §3."""
    uri = parse_uri("tel:+1-201-555-0123;ext=7")
    assert (uri.scheme, uri.user, uri.param("ext")) == ("tel", "+1-201-555-0123", "7")
    assert uri_equal("tel:+1-201-555-0123", "tel:+1(201)5550123")
    assert not uri_equal("tel:+12015550123", "tel:12015550123")
    assert not uri_equal("tel:7042;phone-context=example.com", "tel:7042;phone-context=example.org")


@pytest.mark.parametrize(
    "text",
    [
        "", "sip", "sip:", ":x", "sip:@host", "sip:a@", "sip:a@b@c", "sip:a@b:", "sip:a@b:70000",
        "sip:a@b:5060x", "sip:a b@c", "sip:<a@b>", 'sip:"a"@b', "sip:a%4@b", "sip:a%zz@b", "sip:a@[::1",
        "sip:a@[1::2::3]",
        "sip:a@[::1]x", "sip:a@b;=x", "tel:;", "tel:", "tel:+", "tel:abz", "sip:a@b..c", "sip:a@\u00e9", "1:x",
    ],
)  # fmt: skip
def test_broken_uris(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_uri(text)
    assert caught.value.status == 400


def test_a_semicolon_with_nothing_after_it() -> None:
    """Some phones write their Contact so, and what is sent to them in a call has it as Request-URI."""
    uri = parse_uri("sip:a@b:5070;;transport=tcp;")
    assert (uri.host, uri.port, uri.transport, uri.param_list()) == ("b", 5070, "tcp", ["transport", "tcp"])
    assert uri_equal("sip:a@b;", "sip:a@b")
    assert not uri_equal("sip:a@b;transport=tcp;", "sip:a@b;")


def test_port_zero_is_none() -> None:
    """Phones that do not know theirs write it, and what is sent to them in a call has it; the usual port is tried."""
    uri = parse_uri("sip:a@b:0;ob")
    assert (uri.host, uri.port, uri.params, uri.host_port()) == ("b", 0, ";ob", "b")
    assert parse_uri("sip:a@[::1]:0").port == 0


# RFC 3261 §19.1.4, its own lists of examples.
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("sip:a@[2001:db8::1]", "sip:a@[2001:0DB8:0::0:1]"),
    ],
)
def test_equal_uris(one: str, two: str) -> None:
    assert uri_equal(one, two)
    assert uri_equal(two, one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:a@b", "sips:a@b"),
        ("sip:a@b;user=phone", "sip:a@b"),
        ("sip:a%3bb@c", "sip:a;b@c"),
    ],
)
def test_different_uris(one: str, two: str) -> None:
    assert not uri_equal(one, two)
    assert not uri_equal(two, one)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_parse_error(text: str) -> None:
    for prefix in ("", "sip:", "sip:a@b;", "tel:+1"):
        try:
            uri = parse_uri(prefix + text)
        except ParseError:
            continue
        assert uri.text == prefix + text
        assert uri_equal(uri, uri.text)


def test_unescape_keeps_octets() -> None:
    assert unescape("%C3%A9%ff%zz%4") == "\u00e9\udcff%zz%4"


def test_cache_forgets_the_oldest() -> None:
    cache = UriCache(2)
    first = cache.parse("sip:a@b")
    assert cache.parse("sip:a@b") is first
    for n in range(5):
        cache.parse(f"sip:{n}@b")
    assert cache.parse("sip:a@b") is not first
