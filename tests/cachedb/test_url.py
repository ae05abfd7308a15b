"""URLs of key-value stores, as OpenSIPS's cachedb interface writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.cachedb import parse_url


@pytest.mark.parametrize(
    ("text", "name", "hosts", "database"),
    [
        ("local://", "local", (), ""),
        ("local:///calls", "local", (), "calls"),
        ("local:group2:///calls", "local:group2", (), "calls"),
        ("redis:group1://localhost:6379/", "redis:group1", (("localhost", 6379),), ""),
        ("redis:m://h1:1,h2:2,h3/3", "redis:m", (("h1", 1), ("h2", 2), ("h3", 0)), "3"),
        ("memcached:y://[2001:db8::1]:8888/", "memcached:y", (("2001:db8::1", 8888),), ""),
        (
            "mongodb://10.0.0.10,10.0.0.11:27017/db.dialog?replicaSet=x",
            "mongodb",
            (("10.0.0.10", 0), ("10.0.0.11", 27017)),
            "db.dialog",
        ),
        ("sql:1st-mysql://root:vlad@localhost/opensips", "sql:1st-mysql", (("localhost", 0),), "opensips"),
    ],
)
def test_urls_of_the_manuals(text: str, name: str, hosts: tuple[tuple[str, int], ...], database: str) -> None:
    url = parse_url(text)
    assert (url.name, url.hosts, url.database, url.text) == (name, hosts, database, text)


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("redis:g://:s3cret@h/", "", "s3cret"),
        ("redis:g://me:p@ss@h:1/2", "me", "p@ss"),
        ("redis:g://me:a%2Fb%40c@h/", "me", "a/b@c"),
        ("redis:g://me@h/", "me", ""),
        ("redis:g://h/?note=a@b", "", ""),
    ],
)
def test_accounts(text: str, user: str, password: str) -> None:
    url = parse_url(text)
    assert (url.user, url.password, url.host) == (user, password, "h")
    if password:
        assert password not in str(url)
        assert password not in repr(url)


def test_options() -> None:
    assert parse_url("redis:a://localhost/2?socket=/run/s&x=").options == {"socket": "/run/s", "x": ""}


@pytest.mark.parametrize(
    "text",
    [
        *("", "redis", "redis:", "redis:/h", "://h", "re dis://h/", "redis:a:b://h/", "redis://h:0/", "redis://h:x/"),
        *("redis://h:99999/", "redis://a,,b/", "redis://[::1/", "redis://" + ",".join(["h"] * 100) + "/"),
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"store's URL|key-value store"):
        parse_url(text)


@given(st.text(max_size=80))
def test_any_text_is_a_url_or_refused_without_being_repeated(text: str) -> None:
    for candidate in (text, f"redis:{text}", f"redis:g://u:secret{text}"):
        try:
            shown = str(parse_url(candidate))
        except ValueError as error:
            shown = str(error)
        assert shown
        assert "u:secret" not in shown
