"""What the host part of a listening point stands for."""

from __future__ import annotations

from opensipspy.net import expand, is_address, local_addresses


def test_this_machine_has_a_loopback_address() -> None:
    assert ("lo", "127.0.0.1") in local_addresses()


def test_an_address_stands_for_itself() -> None:
    assert expand("192.0.2.1") == ["192.0.2.1"]
    assert expand("[2001:DB8::1]") == ["2001:db8::1"]


def test_a_star_stands_for_all_with_loopback_last() -> None:
    found = expand("*")
    assert set(found) == {address for _, address in local_addresses()}
    assert found[-1] in ("127.0.0.1", "::1")


def test_an_interface_stands_for_its_addresses() -> None:
    assert "127.0.0.1" in expand("lo")
    assert expand("nosuch0") == []


def test_what_is_an_address() -> None:
    assert is_address("192.0.2.1")
    assert is_address("[::1]")
    assert not is_address("example.com")
