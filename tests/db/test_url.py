"""Database URLs: every part is found, and a password is never shown."""

from __future__ import annotations

import pytest

from opensipspy.db import parse_url


def test_all_parts_of_a_server_url():
    url = parse_url("mysql://ops:s%40cret@db.example.org:3307/opensips?ssl=1")
    assert (url.scheme, url.user, url.password, url.host, url.port, url.database) == (
        "mysql",
        "ops",
        "s@cret",
        "db.example.org",
        3307,
        "opensips",
    )
    assert url.options == {"ssl": "1"}


def test_the_password_is_hidden():
    for text in (str(parse_url("postgres://u:secret@h/db")), repr(parse_url("postgres://u:secret@h/db"))):
        assert text == "postgres://u:xxxxxx@h/db"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:name.db", "name.db"),
        ("sqlite:/var/name.db", "/var/name.db"),
        ("sqlite:///var/name.db", "/var/name.db"),
        ("sqlite:////var/name.db", "//var/name.db"),
    ],
)
def test_file_urls_are_relative_or_absolute(text: str, path: str):
    assert parse_url(text).path == path


def test_an_ipv6_host_keeps_its_colons():
    url = parse_url("postgres://u@[2001:db8::1]:5433/db")
    assert (url.host, url.port, str(url)) == ("2001:db8::1", 5433, "postgres://u@[2001:db8::1]:5433/db")


@pytest.mark.parametrize("text", ["", "nothing", "://h/db", "my sql://h/db", "mysql://h:port/db", "mysql://h:70000/db"])
def test_a_bad_url_is_refused_without_repeating_it(text: str):
    with pytest.raises(ValueError, match="database URL") as caught:
        parse_url(text)
    assert not text or text not in str(caught.value)
