"""Digest authentication: RFC 3261 §22, RFC 7616 with its examples, RFC 8760."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import H_AUTHORIZATION, ParseError, digest, parse_credentials
from tests.sip.samples import parse, request

NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_examples_of_rfc_7616(algorithm: str, expected: str) -> None:
    """RFC 7616 §3.9.1."""
    key = digest.ha1("Mufasa", "http-auth@example.org", "Circle of Life", algorithm)
    found = digest.response(key, "GET", "/dir/index.html", NONCE, "auth", "00000001", CNONCE, algorithm)
    assert found == expected


def test_example_of_rfc_2617() -> None:
    key = digest.ha1("Mufasa", "testrealm@host.com", "Circle Of Life")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    found = digest.response(key, "GET", "/dir/index.html", nonce, "auth", "00000001", "0a4f113b")
    assert found == "6629fae49393a05397450978507c4ef1"


def filled(algorithm: str, qop: str, method: str, body: bytes) -> digest.Credentials:
    text = (
        f'Digest username="al\\"ice@example.com", realm="a, b", nonce="n", uri="sip:b", nc=00000001, cnonce="c"'
        f'{f", qop={qop}" if qop else ""}{f", algorithm={algorithm}" if algorithm else ""}, response="0"'
    )
    credentials = parse_credentials(text)
    key = digest.ha1(credentials.username, credentials.realm, "secret", algorithm)
    credentials.response = digest.response(key, method, "sip:b", "n", qop, "00000001", "c", algorithm, body)
    return credentials


@pytest.mark.parametrize("algorithm", ["", "MD5", "md5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256"])
@pytest.mark.parametrize("qop", ["", "auth", "auth-int"])
def test_verify_takes_the_right_password_only(algorithm: str, qop: str) -> None:
    credentials = filled(algorithm, qop, "REGISTER", b"body")
    good = digest.ha1(credentials.username, credentials.realm, "secret", algorithm)
    bad = digest.ha1(credentials.username, credentials.realm, "Secret", algorithm)
    assert digest.verify(credentials, good, "REGISTER", b"body")
    assert digest.verify(credentials, good.upper(), "REGISTER", b"body")
    assert not digest.verify(credentials, bad, "REGISTER", b"body")
    assert not digest.verify(credentials, good, "INVITE", b"body")
    assert digest.verify(credentials, good, "REGISTER", b"other") == (qop != "auth-int")


def test_unknown_algorithm_and_qop_never_verify() -> None:
    credentials = filled("", "auth", "REGISTER", b"")
    key = digest.ha1(credentials.username, credentials.realm, "secret")
    credentials.algorithm = "CRC32"
    assert not digest.verify(credentials, key, "REGISTER")
    credentials.algorithm = ""
    credentials.qop = "none"
    assert not digest.verify(credentials, key, "REGISTER")


def test_credentials_are_taken_apart() -> None:
    credentials = filled("SHA-256", "auth", "REGISTER", b"")
    assert credentials.username == 'al"ice@example.com'
    assert (credentials.user, credentials.domain) == ('al"ice', "example.com")
    assert (credentials.realm, credentials.qop, credentials.nc) == ("a, b", "auth", "00000001")
    assert "secret" not in repr(credentials)
    assert credentials.response not in repr(credentials)


def test_a_tab_behind_the_scheme_and_an_empty_cnonce() -> None:
    """RFC 3261 §25.1: LWS parts scheme and parameters. RFC 7616 §3.4: a cnonce is a quoted string, maybe of nothing."""
    credentials = filled("", "auth", "REGISTER", b"")
    credentials.cnonce = ""
    key = digest.ha1(credentials.username, credentials.realm, "secret")
    credentials.response = digest.response(
        key, "REGISTER", credentials.uri, credentials.nonce, "auth", credentials.nc, ""
    )
    text = digest.authorization(credentials).replace(" ", "\t", 1)
    read = parse_credentials(text)
    assert (read.scheme, read.username) == ("Digest", credentials.username)
    assert digest.verify(read, key, "REGISTER")
    assert not digest.verify(parse_credentials(text.replace(', cnonce=""', "")), key, "REGISTER")


def test_credentials_of_a_message_know_their_header() -> None:
    msg = parse(request('Authorization: Digest username="a",\r\n realm="x"', "Authorization: Bearer abc=="))
    one, two = msg.credentials(H_AUTHORIZATION)
    assert (one.username, one.realm) == ("a", "x")
    assert one.header is msg.headers[0]
    assert (two.scheme, two.token) == ("Bearer", "abc==")


@pytest.mark.parametrize(
    "text",
    [
        f'Digest a="{"x" * 20_000}"',
        "",
        "Digest username",
        'Digest a="b',
        'Digest a="b"c',
        "Digest a=b,",
        "Digest a=b,a=c",
        "Digest =b",
        "D@ a=b",
    ],
)
def test_broken_credentials(text: str) -> None:
    with pytest.raises(ParseError):
        parse_credentials(text)


@given(realm=st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20), stale=st.booleans())
def test_challenge_reads_back(realm: str, stale: bool) -> None:
    found = parse_credentials(digest.challenge(realm, "n1", "auth,auth-int", "SHA-256", "o", stale))
    assert (found.realm, found.nonce, found.opaque, found.qop) == (realm, "n1", "o", "auth,auth-int")
    assert found.param("stale") == ("true" if stale else None)


def test_authorization_reads_back() -> None:
    credentials = filled("SHA-256", "auth", "INVITE", b"")
    again = parse_credentials(digest.authorization(credentials))
    key = digest.ha1(credentials.username, credentials.realm, "secret", "SHA-256")
    assert digest.verify(again, key, "INVITE")
