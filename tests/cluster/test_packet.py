"""BIN packets octet by octet, as the C server writes them (bin_interface.h of OpenSIPS 4), and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.cluster import MOST_BYTES, Packet, PacketError, PacketWriter, packet_bytes

# A ping of node 2 to cluster 1 that asks for the list of nodes, as an OpenSIPS 4 sent it over loopback.
PING = bytes.fromhex("5034434b2e00000001001200636c757374657265722d696e7465726e616c00000000010000000200000001000000")


def test_a_ping_of_the_c_server_is_read() -> None:
    packet = Packet(PING)
    assert (packet.capability, packet.kind, packet.version) == ("clusterer-internal", 0, 1)
    assert [packet.number() for _ in range(3)] == [1, 2, 1]
    assert packet.left == 0


def test_the_same_fields_make_the_same_octets() -> None:
    assert PacketWriter("clusterer-internal", 0, 1).number(1).number(2).number(1).data() == PING


def test_texts_and_numbers_from_both_ends() -> None:
    data = PacketWriter("x", 7, 3).text("héllo").number(-2).text(b"\xff\x00").number(10).number(20).data()
    packet = Packet(data)
    assert packet.last_number() == 20
    assert packet.text() == "héllo"
    assert packet.number() == -2
    assert packet.octets() == b"\xff\x00"
    assert packet.last_number() == 10
    with pytest.raises(PacketError, match="no address"):
        packet.last_number()
    with pytest.raises(PacketError, match="a number is missing"):
        packet.number()
    with pytest.raises(PacketError, match="a text is missing"):
        packet.text()


def test_fields_are_what_was_not_taken_off_the_end() -> None:
    packet = Packet(PacketWriter("x", 7).text("a").number(5).data())
    packet.last_number()
    packet.text()
    assert packet.fields() == b"\x01\x00a"
    assert packet.rest() == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "no BIN packet"),
        (b"P4CX" + bytes(20), "no BIN packet"),
        (b"P4CK" + bytes(20), "a packet of 0 octets"),
        (b"P4CK\xff\xff\xff\xff" + bytes(20), "a packet of 4294967295 octets"),
        (b"P4CK\x18\x00\x00\x00\x00\x00\xff\xff" + bytes(12), "name of the capability"),
        (PING + b"x", "came as"),
        (PING[:-1], "came as"),
        (b"", "came as"),
    ],
)
def test_what_is_no_packet_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PacketError, match=reason):
        Packet(data)


def test_a_text_may_not_be_longer_than_the_packet() -> None:
    data = PacketWriter("x", 1).raw(b"\xff\xff\x00").data()
    with pytest.raises(PacketError, match="longer than the packet"):
        Packet(data).text()


def test_parts_are_read_on_their_own() -> None:
    packet = Packet(PacketWriter("x", 1).number(1).number(2).number(3).data())
    part = packet.part(8)
    assert (part.number(), part.number(), part.left) == (1, 2, 0)
    assert packet.number() == 3
    for size in (-1, 1):
        with pytest.raises(PacketError, match="is not there"):
            packet.part(size)


def test_what_does_not_fit_is_not_built() -> None:
    with pytest.raises(PacketError, match="32 bits"):
        PacketWriter("x", 1).number(1 << 31)
    with pytest.raises(PacketError, match="longer than 65535"):
        PacketWriter("x", 1).text("x" * 65536)
    with pytest.raises(PacketError, match=f"longer than {MOST_BYTES}"):
        PacketWriter("x", 1).text("x" * 65500).data()


def test_lists_have_limits() -> None:
    for number in (-1, 129):
        with pytest.raises(PacketError, match="0 to 128"):
            Packet(PacketWriter("x", 1).number(number).data()).count(128)


@given(st.binary(max_size=200))
def test_any_octets_raise_packet_error_or_are_read(data: bytes) -> None:
    for candidate in (data, b"P4CK" + (len(data) + 8).to_bytes(4, "little") + data):
        taken = 0
        try:
            packet = Packet(candidate)
            head = len(candidate) - packet.left
            packet.last_number()
            while packet.left:
                taken += 2 + len(packet.octets())
        except PacketError:
            continue
        assert candidate[:4] == b"P4CK"
        assert head + taken + 4 == len(candidate), "each octet is read once"


@given(st.text(max_size=40), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=100))
def test_what_was_written_is_read(text: str, number: int, octets: bytes) -> None:
    try:
        data = PacketWriter("cap", number).text(text).number(number).text(octets).data()
    except UnicodeEncodeError:
        return
    packet = Packet(data)
    assert packet_bytes(data[:10]) == len(data)
    assert (packet.kind, packet.text(), packet.number(), packet.octets()) == (number, text, number, octets)
