"""proto_sctp: its port; what the kernel says to it is in tests/net/test_sctp.py."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.modules.proto_sctp import ProtoSctp


def test_the_port() -> None:
    assert ProtoSctp().default_port == 5060
    assert ProtoSctp(sctp_port=5070).default_port == 5070
    assert ProtoSctp.protocol == sip.PROTO_SCTP
