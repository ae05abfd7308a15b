"""The list of name servers that an operator writes."""

from __future__ import annotations

import pytest

from opensipspy.net import name_servers


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", []),
        ("192.0.2.53", ["192.0.2.53:53"]),
        (" 192.0.2.53:5353 ,2001:db8::53,", ["192.0.2.53:5353", "[2001:db8::53]:53"]),
        ("[2001:db8::53]:5353,[2001:db8::1]", ["[2001:db8::53]:5353", "[2001:db8::1]:53"]),
    ],
)
def test_addresses_with_and_without_a_port(text: str, servers: list[str]) -> None:
    """Port 53 where none is given (RFC 1035 §4.2)."""
    assert name_servers(text) == servers


@pytest.mark.parametrize(
    "text", ["ns.example.com", "192.0.2.53:0", "192.0.2.53:65536", "192.0.2.53:x", "192.0.2.53:", "[::1"]
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"name server"):
        name_servers("192.0.2.1," + text)
