"""proto_udp: the port of UDP listening points that name none."""

from __future__ import annotations

import pytest

from opensipspy import sip
from opensipspy.module import ParamError
from opensipspy.modules.proto_udp import ProtoUdp
from opensipspy.server.listening import Listen, plan


def test_it_gives_the_port_that_is_missing() -> None:
    for module, port in ((ProtoUdp(), 5060), (ProtoUdp(udp_port=5065), 5065)):
        found = plan([Listen(sip.PROTO_UDP, "192.0.2.1")], {module.protocol: module.default_port})
        assert found[0].socket.text == f"udp:192.0.2.1:{port}"


def test_a_port_is_a_number() -> None:
    with pytest.raises(ParamError, match="udp_port"):
        ProtoUdp(udp_port="5060")
