"""What becomes of packets: over real sockets, with routes written in Python."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.script import kinds
from opensipspy.script.run import Run
from opensipspy.server.core import ServerCore
from opensipspy.server.listening import Listen
from opensipspy.server.services import Services
from tests.server.house import House, Peer, Route, Script, free_port, play, request, running, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def answer(code: int, reason: str = "OK") -> Any:
    """A route that answers."""

    def route(run: Run) -> int:
        core_of(run).send_reply(run, code, reason)
        return 1

    return route


def core_of(run: Run) -> ServerCore:
    """The server that a route runs in."""
    services = run.services
    assert isinstance(services, Services)
    return services._core


def test_a_request_runs_the_route_and_is_answered(loop: str) -> None:
    async def scene() -> None:
        async with running(Script(answer(200))) as house:
            with Peer(house.port) as peer:
                peer.send(request())
                reply = await peer.receive()
            assert reply.startswith("SIP/2.0 200 OK\r\n")
            assert (
                f";received=127.0.0.1;rport={peer.port}" in reply or f";rport={peer.port};received=127.0.0.1" in reply
            )
            assert "Server: test (1)\r\n" in reply
            assert ";tag=" in reply.partition("\r\nTo:")[2].partition("\r\n")[0]
            assert house.stat("rcv_requests") == 1

    play(loop, scene)


def test_copies_of_a_request_get_the_same_to_tag(loop: str) -> None:
    """RFC 3261 §8.2.7: a stateless server answers a retransmission with the same tag."""

    async def scene() -> None:
        async with running(Script(answer(404, "Not Found"))) as house:
            with Peer(house.port) as peer:
                peer.send(request())
                first = await peer.receive()
                peer.send(request())
                assert await peer.receive() == first

    play(loop, scene)


def test_ipv6_works_like_ipv4(loop: str) -> None:
    async def scene() -> None:
        port = free_port()
        script = Script(answer(200), listen=[Listen(sip.PROTO_UDP, "[::1]", port)])
        async with running(script) as house:
            assert house.core.sockets[0].text == f"udp:[::1]:{port}"
            with Peer(port, socket.AF_INET6) as peer:
                peer.send(request(via=f"SIP/2.0/UDP [::1]:{peer.port};rport"))
                assert (await peer.receive()).startswith("SIP/2.0 200")

    play(loop, scene)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\r\n\r\n",
        b"\0\0\0\0",
        b"hello",
        b"\xff" * 2000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS sip:x SIP/2.0\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"SIP/2.0 999999 OK\r\nVia: x\r\n\r\n",
        b"ACK sip:x SIP/2.0\r\nVia: SIP/2.0/UDP x\r\nCSeq: x\r\n\r\n",
        bytes(range(256)) * 100,
    ],
    ids=lambda p: repr(p[:20]),
)
def test_what_is_no_sip_is_dropped_and_the_server_lives(loop: str, packet: bytes) -> None:
    async def scene() -> None:
        async with running(Script(answer(200))) as house:
            with Peer(house.port) as peer:
                peer.send(packet)
                peer.send(request())
                assert (await peer.receive()).startswith("SIP/2.0 200"), "the first answer is to the good request"
                assert peer.nothing()
            assert house.stat("internal_errors") == 0

    play(loop, scene)


def test_a_broken_request_that_can_be_answered_gets_400(loop: str) -> None:
    """RFC 3261 §16.3 step 1: a request that is not well formed is answered."""

    async def scene() -> None:
        async with running(Script(answer(200))) as house:
            with Peer(house.port) as peer:
                peer.send(request(cseq_method="INVITE"))
                assert (await peer.receive()).startswith("SIP/2.0 400 ")
                peer.send(request("ACK", cseq_method="INVITE"))
                peer.send(request())
                assert (await peer.receive()).startswith("SIP/2.0 200"), "an ACK is never answered (RFC 3261 §17)"
            assert house.stat("err_requests") == 2
            assert house.stat("bad_msg_hdr") == 2

    play(loop, scene)


def test_the_ack_of_a_refusal_that_no_script_made_goes_no_further(loop: str) -> None:
    """RFC 3261 §17.1.1.3: it acknowledges a failure to the server that made it; a script might send it on, or round."""

    async def scene() -> None:
        methods: list[str] = []

        def route(run: Run) -> int:
            methods.append(run.msg.method)
            core_of(run).send_reply(run, 200, "OK")
            return 1

        async with running(Script(route)) as house:
            with Peer(house.port) as peer:
                peer.send(request("INVITE", headers="Max-Forwards: many\r\n"))
                refusal = await peer.receive()
                assert refusal.startswith("SIP/2.0 400 ")
                tag = refusal.partition("To: ")[2].partition(";tag=")[2].partition("\r\n")[0]
                peer.send(request("ACK", to_tag=tag))
                peer.send(request("ACK", to_tag="other"))
                peer.send(request())
                assert (await peer.receive()).startswith("SIP/2.0 200")
        assert methods == ["ACK", "OPTIONS"]

    play(loop, scene)


def test_another_sip_version_gets_505(loop: str) -> None:
    """RFC 3261 §21.5.6."""

    async def scene() -> None:
        async with running(Script(answer(200))) as house:
            with Peer(house.port) as peer:
                peer.send(request().replace("SIP/2.0\r\nVia", "SIP/7.0\r\nVia", 1))
                assert (await peer.receive()).startswith("SIP/2.0 505 ")

    play(loop, scene)


def test_error_route_judges_broken_requests(loop: str) -> None:
    async def scene() -> None:
        seen: list[tuple[int, str]] = []

        def error_route(run: Run) -> int:
            seen.append((run.error_code, run.error_info))
            core_of(run).send_reply(run, 488, "No thanks")
            return 1

        script = Script(answer(200), others=[Route(error_route, kinds.ERROR)])
        async with running(script) as house:
            with Peer(house.port) as peer:
                peer.send(request(cseq_method="INVITE"))
                assert (await peer.receive()).startswith("SIP/2.0 488 No thanks")
        assert seen[0][0] == 400
        assert seen[0][1]

    play(loop, scene)


def test_a_mistake_in_a_route_gives_500_and_one_line(loop: str) -> None:
    async def scene() -> None:
        def route(run: Run) -> int:
            run.route_stack.append((kinds.REQUEST, "relay"))
            raise KeyError("lost")

        async with running(Script(route)) as house:
            with Peer(house.port) as peer:
                peer.send(request(call_id="call-17"))
                assert (await peer.receive()).startswith("SIP/2.0 500 ")
            line = next(line for line in house.log if "KeyError" in line)
            assert "call-17" in line
            assert "route[relay]" in line
            assert not any("Traceback" in line for line in house.log)
            assert house.stat("script_errors") == 1

    play(loop, scene)


def test_a_route_that_waits_does_not_hold_up_the_others(loop: str) -> None:
    async def scene() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def route(run: Run) -> int:
            if run.msg.call_id == "slow":
                await gate
            core_of(run).send_reply(run, 200, run.msg.call_id)
            return 1

        async with running(Script(route)) as house:
            with Peer(house.port) as peer:
                peer.send(request(call_id="slow"))
                peer.send(request(call_id="quick"))
                assert (await peer.receive()).startswith("SIP/2.0 200 quick")
                assert house.stat("suspended_runs") == 1
                gate.set_result(None)
                assert (await peer.receive()).startswith("SIP/2.0 200 slow")
            assert house.stat("suspended_runs") == 0

    play(loop, scene)


def test_core_wait_ends_at_its_time_limit(loop: str) -> None:
    async def scene() -> None:
        async def route(run: Run) -> int:
            core = core_of(run)
            try:
                await core.wait(asyncio.sleep(60), 0.02)
            except TimeoutError:
                core.send_reply(run, 504, "Too late")
            return 1

        async with running(Script(route)) as house:
            with Peer(house.port) as peer:
                peer.send(request())
                assert (await peer.receive()).startswith("SIP/2.0 504 Too late")

    play(loop, scene)


def test_a_cancel_waits_for_the_script_of_its_invite(loop: str) -> None:
    """RFC 3261 §9.2: a CANCEL that overtook the creation of the INVITE's transaction would find nothing to cancel."""

    async def scene() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        order: list[str] = []

        async def route(run: Run) -> int:
            if run.msg.method == "INVITE":
                await gate
            order.append(run.msg.method)
            core_of(run).send_reply(run, 200, run.msg.method)
            return 1

        async with running(Script(route)) as house:
            with Peer(house.port) as peer:
                peer.send(request("INVITE"))
                peer.send(request("INVITE"))
                peer.send(request("CANCEL"))
                await settled(lambda: house.stat("held_requests") == 1)
                assert house.stat("absorbed_retransmissions") == 1
                gate.set_result(None)
                assert (await peer.receive()).startswith("SIP/2.0 200 INVITE")
                assert (await peer.receive()).startswith("SIP/2.0 200 CANCEL")
                assert peer.nothing(), "the copy of the INVITE ran no script"
        assert order == ["INVITE", "CANCEL"]

    play(loop, scene)


def test_before_script_can_end_a_request(loop: str) -> None:
    async def scene() -> None:
        ran: list[str] = []

        def route(run: Run) -> int:
            ran.append(run.msg.call_id)
            core_of(run).send_reply(run, 200, "OK")
            return 1

        async with running(Script(route)) as house:
            after: list[str] = []
            house.core.before_script(lambda run: False if run.msg.call_id == "no" else None)
            house.core.after_script(lambda run: after.append(run.msg.call_id))
            with Peer(house.port) as peer:
                peer.send(request(call_id="no"))
                peer.send(request(call_id="yes"))
                await peer.receive()
            assert ran == after == ["yes"]
            assert house.stat("drop_requests") == 1

    play(loop, scene)


def test_a_request_is_forwarded_without_state_and_its_reply_comes_back(loop: str) -> None:
    """RFC 3261 §16.11: the branch is the same for each copy; the reply follows the second Via."""

    async def scene() -> None:
        def route(run: Run) -> int:
            return int(run.services.forward(run, f"udp:127.0.0.1:{callee.port}"))  # type: ignore[union-attr, arg-type]

        with socket.socket(type=socket.SOCK_DGRAM) as made:
            made.bind(("127.0.0.1", 0))
            made.setblocking(False)
            loop_ = asyncio.get_running_loop()

            class callee:
                port = made.getsockname()[1]

            async with running(Script(route)) as house:
                made.connect(("127.0.0.1", house.port))
                with Peer(house.port) as peer:
                    peer.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{peer.port};rport"))
                    first = (await loop_.sock_recv(made, 65535)).decode()
                    peer.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{peer.port};rport"))
                    assert (await loop_.sock_recv(made, 65535)).decode() == first
                    vias = [line for line in first.split("\r\n") if line.startswith("Via:")]
                    assert len(vias) == 2
                    assert f"127.0.0.1:{house.port};branch=z9hG4bK" in vias[0]
                    head = "\r\n".join(
                        line
                        for line in first.split("\r\n")
                        if line.startswith(("Via", "From", "To", "Call-ID", "CSeq"))
                    )
                    made.send(f"SIP/2.0 180 Ringing\r\n{head}\r\nContent-Length: 0\r\n\r\n".encode())
                    reply = await peer.receive()
                    assert reply.startswith("SIP/2.0 180 Ringing")
                    assert reply.count("Via:") == 1
                assert house.stat("fwd_requests") == 2
                assert house.stat("fwd_replies") == 1

    play(loop, scene)


def reply_text(house: House, peer: Peer, status: int = 200) -> str:
    return (
        f"SIP/2.0 {status} Reply\r\nVia: SIP/2.0/UDP 127.0.0.1:{house.port};branch=z9hG4bKx\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:{peer.port};branch=z9hG4bKy\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\n"
        "Call-ID: r1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    )


def test_a_reply_is_offered_to_modules_before_it_is_forwarded(loop: str) -> None:
    async def scene() -> None:
        async with running(Script(answer(200))) as house:
            taken: list[int] = []

            async def later(run: Run) -> bool:
                await asyncio.sleep(0)
                taken.append(run.msg.status)
                return run.msg.status == 201

            house.core.on_reply(lambda run: run.msg.status == 200)
            house.core.on_reply(later)
            with Peer(house.port) as peer:
                for status in (200, 201, 202):
                    peer.send(reply_text(house, peer, status))
                assert (await peer.receive()).startswith("SIP/2.0 202")
                assert taken == [201, 202]

    play(loop, scene)


def test_drop_in_the_global_reply_route_ends_provisional_replies_only(loop: str) -> None:
    async def scene() -> None:
        def onreply(run: Run) -> int:
            run.dropped = run.exited = True
            return 0

        async with running(Script(answer(200), others=[Route(onreply, kinds.ONREPLY)])) as house:
            with Peer(house.port) as peer:
                peer.send(reply_text(house, peer, 183))
                peer.send(reply_text(house, peer, 200))
                assert (await peer.receive()).startswith("SIP/2.0 200")
            assert house.stat("drop_replies") == 1

    play(loop, scene)


def test_check_via_drops_replies_to_somebody_else(loop: str) -> None:
    """RFC 3261 §18.1.2."""

    async def scene() -> None:
        async with running(Script(answer(200), check_via=True)) as house:
            with Peer(house.port) as peer:
                peer.send(reply_text(house, peer, 181).replace(f"127.0.0.1:{house.port};", "192.0.2.77;"))
                peer.send(reply_text(house, peer, 182))
                assert (await peer.receive()).startswith("SIP/2.0 182")

    play(loop, scene)


def test_a_reply_is_never_sent_to_a_name_that_blocks(loop: str) -> None:
    """A hostile maddr (RFC 3261 §18.2.2) must not make the server ask a name server while it answers."""

    async def scene() -> None:
        async with running(Script(answer(200))) as house:
            with Peer(house.port) as peer:
                peer.send(request(via="SIP/2.0/UDP 127.0.0.1:5999;maddr=slow.example.com"))
                peer.send(request(branch="z9hG4bK2"))
                assert "z9hG4bK2" in await peer.receive()
            assert house.stat("udp_send_errors") == 1

    play(loop, scene)
