"""What is "us": sockets, advertised addresses, aliases."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.server.identity import Identity
from opensipspy.sip import Socket


def identity() -> Identity:
    return Identity(
        [
            Socket(sip.PROTO_UDP, "192.0.2.1", 5060),
            Socket(sip.PROTO_TCP, "2001:db8::1", 5070),
            Socket(sip.PROTO_UDP, "10.0.0.1", 5060, "sip.example.com", 5080),
        ]
    )


def test_our_sockets_are_us() -> None:
    us = identity()
    assert us.is_myself("192.0.2.1")
    assert us.is_myself("192.0.2.1", 5060, sip.PROTO_UDP)
    assert not us.is_myself("192.0.2.1", 5061)
    assert not us.is_myself("192.0.2.1", 5060, sip.PROTO_TCP)
    assert not us.is_myself("192.0.2.9")


def test_an_ipv6_address_is_us_in_every_spelling() -> None:
    """RFC 5118 §4.1: brackets, case and zeros do not make another address."""
    us = identity()
    for text in ("[2001:db8::1]", "2001:DB8:0:0:0:0:0:1", "[2001:0db8::0001]"):
        assert us.is_myself(text, 5070, sip.PROTO_TCP)


def test_the_advertised_address_is_us_with_its_port() -> None:
    us = identity()
    assert us.is_myself("SIP.example.com", 5080)
    assert not us.is_myself("sip.example.com", 5060)
    assert us.is_myself("10.0.0.1", 5060)


def test_an_alias_without_port_or_protocol_is_us_on_any() -> None:
    us = identity()
    us.add("Example.COM")
    us.add("pbx.example.com", 5090, sip.PROTO_TCP)
    assert us.is_myself("example.com.", 12345, sip.PROTO_TLS)
    assert us.is_myself("pbx.example.com", 5090, sip.PROTO_TCP)
    assert us.is_myself("pbx.example.com")
    assert not us.is_myself("pbx.example.com", 5090, sip.PROTO_UDP)


def test_subdomains_of_an_alias_are_us_when_it_accepts_them() -> None:
    us = identity()
    us.add("example.com", 5060, 0, True)
    us.add("example.org")
    assert us.is_myself("a.b.Example.com", 5060)
    assert not us.is_myself("a.b.example.com", 5061)
    assert not us.is_myself("badexample.com")
    assert not us.is_myself("a.example.org")
    assert not us.is_myself("com")


def test_hostile_hosts_are_not_us() -> None:
    us = identity()
    for text in ("", "x" * 100_000, ":" * 63, "[[::1", "1.2.3.4.5", "\udcff"):
        assert not us.is_myself(text)


def test_a_closed_socket_is_not_us() -> None:
    """What it shares with others, such as its address or its advertised name, stays ours."""
    one = Socket(sip.PROTO_UDP, "192.0.2.1", 5060, "sip.example.org", 5060)
    two = Socket(sip.PROTO_UDP, "192.0.2.1", 5070, "sip.example.org", 5060)
    identity = Identity([one, two])
    identity.remove_socket(one, [two])
    assert not identity.is_myself("192.0.2.1", 5060, sip.PROTO_UDP)
    assert identity.is_myself("192.0.2.1", 5070, sip.PROTO_UDP)
    assert identity.is_myself("sip.example.org", 5060, sip.PROTO_UDP)
    identity.remove_socket(two, [])
    assert not identity.is_myself("192.0.2.1")
    assert not identity.is_myself("sip.example.org")
