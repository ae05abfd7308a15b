"""Requests made here: TmApi.request, t_new_request, tm:uac_dlg, local_route, and the other management commands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import MiError
from opensipspy.modules.tm import api
from opensipspy.modules.tm.uac import header_lines, with_tag
from opensipspy.script import kinds
from opensipspy.script.run import Run
from opensipspy.transaction import Transaction

from .tm_bench import BOB, CAROL, TmBench

ALICE = "<sip:alice@example.com>"


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


async def started(bench: TmBench, *args: Any, **given: Any) -> asyncio.Task[api.Reply]:
    task = asyncio.ensure_future(bench.tm.request(*args, **given))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


def test_a_request_of_ours_has_all_it_needs_and_gets_its_reply() -> None:
    """RFC 3261 §8.1.1."""

    async def scene() -> None:
        bench = TmBench()
        task = await started(bench, "OPTIONS", BOB, ALICE, f"<{BOB}>", "X-A: 1\r\n", b"hi")
        (options,) = bench.take()
        assert (options.method, options.ruri, options.body) == ("OPTIONS", BOB, b"hi")
        assert len(options.vias) == 1
        assert options.via.branch.startswith("z9hG4bK")
        assert options.from_tag
        assert options.to_tag == ""
        assert options.max_forwards == 70
        assert options.named("X-A")[0].value == "1"
        bench.answer(options, 200)
        reply = await task
        assert (reply.status, reply.message is not None) == (200, True)
        bench.run_out()
        assert bench.stat("UAC_transactions") == 1

    play(scene())


def test_a_request_of_ours_that_nobody_answers_gives_408() -> None:
    """RFC 3261 §8.1.3.1: a time-out counts as 408."""

    async def scene() -> None:
        bench = TmBench(fr_timeout=2)
        task = await started(bench, "OPTIONS", BOB, ALICE, f"<{BOB}>")
        bench.core.advance(2.1)
        reply = await task
        assert (reply.status, reply.message) == (408, None)
        bench.run_out()

    play(scene())


def test_a_request_of_ours_without_a_way_gives_an_answer_too() -> None:
    """TmApi.request never raises for what the network does."""

    async def scene() -> None:
        bench = TmBench()
        assert (await bench.tm.request("OPTIONS", "sip:x@nowhere.example", ALICE, ALICE)).status == 476
        bench.core.accept_sends = False
        assert (await bench.tm.request("OPTIONS", BOB, ALICE, ALICE)).status == 477
        assert (await bench.tm.request("OPTIONS", BOB, ALICE, ALICE, "no header")).status == 400
        bench.run_out()

    play(scene())


def test_an_invite_of_ours_is_acknowledged_along_its_route() -> None:
    """RFC 3261 §13.2.2.4: ACK to the Contact through the Record-Routes in reverse, again when the 200 comes again."""

    async def scene() -> None:
        bench = TmBench()
        task = await started(bench, "INVITE", BOB, ALICE, f"<{BOB}>")
        (invite,) = bench.take()
        headers = "Contact: <sip:bob@192.0.2.77>\r\nRecord-Route: <sip:192.0.2.61;lr>, <sip:192.0.2.60;lr>\r\n"
        bench.answer(invite, 200, headers=headers)
        assert (await task).status == 200
        (ack,) = bench.take()
        assert (ack.method, ack.ruri, ack.source.address) == ("ACK", "sip:bob@192.0.2.77", "192.0.2.60")
        assert [route.uri for route in ack.routes] == ["sip:192.0.2.60;lr", "sip:192.0.2.61;lr"]
        assert (ack.cseq_number, ack.to_tag) == (invite.cseq_number, "b1")
        bench.answer(invite, 200, headers=headers)
        assert bench.words() == ["ACK 192.0.2.60"]
        bench.run_out()

    play(scene())


def test_local_route_sees_and_changes_requests_of_ours() -> None:
    """tm manual: local_route; t_new_request's context is $avp(uac_ctx)."""

    async def scene() -> None:
        bench = TmBench()
        seen: list[Any] = []

        def local(run: Run) -> int:
            seen.append((run.kind, run.msg.method, run.avps.get("uac_ctx")))
            run.edits.append("X-Local: yes\r\n")
            return 1

        bench.program.add(kinds.LOCAL, "", local)
        run = bench.run()
        assert (
            bench.call("t_new_request", run, "MESSAGE", BOB, "Alice sip:alice@a", CAROL, "text/plain Hi there", "c1")
            == 1
        )
        for _ in range(5):
            await asyncio.sleep(0)
        (message,) = bench.take()
        assert (message.body, message.content_type) == (b"Hi there", "text/plain")
        assert message.from_.display.strip('"') == "Alice"
        assert message.named("X-Local")[0].value == "yes"
        assert seen == [(kinds.LOCAL, "MESSAGE", ["c1"])]
        bench.answer(message, 200)
        await bench.core.settle()

    play(scene())


def test_requests_of_ours_are_shown_to_the_look_on_route() -> None:
    """tm manual, local_request_route and local_reply_route."""

    async def scene() -> None:
        bench = TmBench(local_request_route="look", local_reply_route="look")
        seen: list[str] = []
        bench.program.add(kinds.REQUEST, "look", lambda run: seen.append(run.msg.method) or 1)
        await bench.tm.start()
        task = await started(bench, "OPTIONS", BOB, ALICE, f"<{BOB}>")
        bench.answer(bench.take()[0], 200)
        await task
        bench.call("t_reply", bench.run("MESSAGE"), 200, "OK")
        assert seen == ["OPTIONS", "MESSAGE"]

    play(scene())


def test_uac_dlg_sends_and_reports_the_reply() -> None:
    """tm manual, tm:uac_dlg."""

    async def scene() -> None:
        bench = TmBench()
        params = {
            "method": "OPTIONS",
            "ruri": BOB,
            "headers": "From: sip:a@example.com\\r\\nTo: sip:b@example.com\\r\\nContact: sip:a@192.0.2.1\\r\\n",
        }
        task = asyncio.ensure_future(bench.core.mi_call("tm:uac_dlg", params))
        for _ in range(5):
            await asyncio.sleep(0)
        (options,) = bench.take()
        assert options.named("Contact")[0].value == "sip:a@192.0.2.1"
        assert options.from_.tag
        bench.answer(options, 404, "Nobody")
        answer = await task
        assert answer["Status"] == "404 Nobody"
        head, _, body = answer["Message"].partition("\r\n\r\n")
        assert (head.startswith("Via: "), body) == (True, "")
        task = asyncio.ensure_future(bench.core.mi_call("tm:uac_dlg", {**params, "method": "INVITE"}))
        for _ in range(5):
            await asyncio.sleep(0)
        (invite,) = bench.take()
        route = "Contact: <sip:bob@192.0.2.9>\r\nRecord-Route: <sip:192.0.2.7;lr>, <sip:192.0.2.8;lr>\r\n"
        bench.answer(invite, 200, headers=route, body="v=0\r\n")
        answer = await task
        assert (answer["RURI"], answer["Next-hop"]) == ("sip:bob@192.0.2.9", "sip:192.0.2.8;lr")
        assert answer["Message"].endswith("\r\n\r\nv=0\r\n")

    play(scene())


def test_uac_dlg_tells_what_could_not_be_sent() -> None:
    """As the C server does: an error of its own, not the status of a reply that nobody sent."""

    async def scene() -> None:
        bench = TmBench()
        params = {"method": "OPTIONS", "ruri": "sip:x@nowhere.example", "headers": "From: sip:a@x\r\nTo: sip:b@x\r\n"}
        with pytest.raises(MiError) as refused:
            await bench.core.mi_call("tm:uac_dlg", params)
        assert (refused.value.code, refused.value.message) == (476, "Unresolvable destination (476/MI/UAC)")

    play(scene())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"method": "IN VITE"}, 400),
        ({"method": "CANCEL"}, 400),
        ({"ruri": "nonsense"}, 400),
        ({"headers": "From: sip:a@b\r\n"}, 400),
        ({"headers": "To: sip:a@b\r\n"}, 400),
        ({"headers": "From: sip:a@b\r\nTo: sip:a@b\r\nContent-Length: 5\r\n"}, 400),
        ({"headers": "From: sip:a@b\r\nTo: sip:a@b\r\nCSeq: 1 BYE\r\n"}, 400),
        ({"headers": "From: sip:a@b\r\nTo: sip:a@b\r\nCSeq: x OPTIONS\r\n"}, 400),
        ({"headers": "no header"}, 400),
        ({"body": "hello"}, 400),
        ({"next_hop": "nonsense"}, 400),
        ({"socket": "udp:192.0.2.200:5060"}, 404),
    ],
)
def test_uac_dlg_refuses_what_cannot_be_sent(change: dict[str, str], code: int) -> None:
    """tm manual, tm:uac_dlg: From and To are needed, Content-Type with a body, a socket of ours."""

    async def scene() -> None:
        bench = TmBench()
        params = {"method": "OPTIONS", "ruri": BOB, "headers": "From: sip:a@b\r\nTo: sip:a@b\r\n", **change}
        with pytest.raises(MiError) as refused:
            await bench.core.mi_call("tm:uac_dlg", params)
        assert refused.value.code == code
        assert bench.core.sent == []

    play(scene())


def test_uac_cancel_cancels_a_call_by_call_id_and_cseq() -> None:
    """tm manual, tm:uac_cancel."""

    async def scene() -> None:
        bench = TmBench()
        bench.invite()
        bench.answer(bench.take()[1], 180)
        bench.words()
        await bench.core.mi_call("tm:uac_cancel", {"callid": "call-1@example.com", "cseq": "1 INVITE"})
        assert bench.words() == ["CANCEL 192.0.2.20"]
        with pytest.raises(MiError):
            await bench.core.mi_call("tm:uac_cancel", {"callid": "other", "cseq": "1 INVITE"})

    play(scene())


def test_mi_reply_answers_a_request_by_its_transaction_id() -> None:
    """tm manual, tm:reply: hash:label in decimal, a To tag of the caller's choice."""

    async def scene() -> None:
        bench = TmBench()
        run = bench.run()
        bench.call("t_newtran", run)
        bench.words()
        hash_, _, label = bench.transaction(run).id.partition(".")
        params = {"code": 403, "reason": "No", "trans_id": f"{int(hash_, 16)}:{int(label, 16)}", "to_tag": "mine"}
        await bench.core.mi_call("tm:reply", {**params, "new_headers": "X-A: 1\r\n"})
        (reply,) = bench.take()
        assert (reply.status, reply.to_tag, reply.named("X-A")[0].value) == (403, "mine", "1")
        assert bench.call("t_check_trans", bench.ack("mine")) == 1
        for wrong, code in (
            ({"trans_id": "1:2"}, 404),
            ({"trans_id": "1.2"}, 404),
            ({"trans_id": "x"}, 400),
            ({"trans_id": "1:x"}, 400),
            ({"code": 99}, 400),
            ({"new_headers": "x"}, 400),
            ({}, 500),
        ):
            with pytest.raises(MiError) as refused:
                await bench.core.mi_call("tm:reply", {**params, **wrong})
            assert refused.value.code == code

    play(scene())


@pytest.mark.parametrize("syn_branch", [0, 1])
def test_mi_reply_finds_labels_that_begin_with_zeros(syn_branch: int) -> None:
    """tm manual, tm:reply: a number in decimal does not show them."""

    async def scene() -> None:
        bench = TmBench(syn_branch=syn_branch)
        for number in range(400):
            run = bench.run(via=f"SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-zero-{number}")
            bench.call("t_newtran", run)
            hash_, _, label = bench.transaction(run).id.partition(".")
            if label.startswith("0"):
                break
        else:
            raise AssertionError("no such label was drawn")
        params = {"code": 403, "reason": "No", "trans_id": f"{int(hash_, 16)}:{int(label, 16)}", "to_tag": "mine"}
        assert await bench.core.mi_call("tm:reply", params) == "OK"

    play(scene())


def test_hash_counts_transactions_by_entry() -> None:
    """tm manual, tm:hash."""

    async def scene() -> None:
        bench = TmBench()
        bench.invite()
        (entry,) = await bench.core.mi_call("tm:hash")
        assert entry["Current"] == 1

    play(scene())


def test_other_modules_hear_what_happens_to_a_transaction() -> None:
    """TmApi: REQUEST_IN, RESPONSE_IN, RESPONSE_OUT, FAILURE, DESTROYED, in that order."""
    bench = TmBench()
    heard: list[tuple[str, Any, int]] = []

    def hear(name: str) -> api.Callback:
        def callback(transaction: Transaction, what: Any, reply: Any, status: int) -> None:
            heard.append((name, reply.status if reply is not None else None, status))

        return callback

    for name in ("REQUEST_IN", "RESPONSE_IN", "RESPONSE_OUT", "FAILURE", "CANCELLED", "DESTROYED"):
        bench.tm.on(getattr(api, name), hear(name))
    run = bench.invite()
    invite = bench.take()[1]
    own: list[int] = []
    bench.transaction(run).on(api.RESPONSE_OUT, lambda transaction, what, reply, status: own.append(status))
    bench.answer(invite, 180)
    bench.answer(invite, 486)
    bench.run_out()
    assert heard == [
        ("REQUEST_IN", None, 0),
        ("RESPONSE_OUT", None, 100),
        ("RESPONSE_IN", 180, 180),
        ("RESPONSE_OUT", 180, 180),
        ("RESPONSE_IN", 486, 486),
        ("FAILURE", 486, 486),
        ("RESPONSE_OUT", 486, 486),
        ("DESTROYED", None, 486),
    ]
    assert own == [180, 486]


def test_a_callback_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Another module's mistake is logged; the call goes on."""
    bench = TmBench()

    def broken(*args: Any) -> None:
        raise RuntimeError("broken")

    bench.tm.on(api.RESPONSE_IN, broken)
    bench.invite()
    bench.answer(bench.take()[1], 200)
    assert bench.words() == ["200"]
    assert "a callback failed" in caplog.text


def test_header_lines_are_read_with_their_folds() -> None:
    """RFC 3261 §7.3.1."""
    assert header_lines("A: 1\r\n 2\r\nB: 3\r\n") == [("A", "1 2"), ("B", "3")]
    for wrong in (" x\r\n", "abc\r\n", ": 1\r\n"):
        with pytest.raises(ValueError, match=r"line|continuation"):
            header_lines(wrong)


def test_a_from_gets_a_tag_only_when_it_has_none() -> None:
    """RFC 3261 §8.1.1.3; a bare URI is put in brackets, so that the tag is not its parameter (§20.10)."""
    assert with_tag("<sip:a@b>;tag=1", "2") == "<sip:a@b>;tag=1"
    assert with_tag("sip:a@b", "2") == "<sip:a@b>;tag=2"
    assert sip.parse_name_addr(with_tag('"A" <sip:a@b>', "2")).tag == "2"


@pytest.mark.parametrize(("wanted", "seen"), [(0, [200]), (1, [180, 200])])
def test_provisional_replies_are_told_only_when_wanted(wanted: int, seen: list[int]) -> None:
    """`pass_provisional_replies`."""

    async def scene() -> None:
        bench = TmBench(pass_provisional_replies=wanted)
        told: list[int] = []

        def tell(transaction: Transaction, what: Any, reply: Any, status: int) -> None:
            told.append(status)

        for event in (api.RESPONSE_OUT, api.LOCAL_COMPLETED):
            bench.tm.on(event, tell)
        task = asyncio.ensure_future(bench.tm.request("INVITE", BOB, "sip:a@example.com", "sip:b@example.com"))
        for _ in range(5):
            await asyncio.sleep(0)
        (invite,) = bench.take()
        bench.answer(invite, 180, "Ringing")
        bench.answer(invite, 200, "OK", headers="Contact: <sip:b@192.0.2.20>\r\n")
        assert (await task).status == 200
        assert told == seen

    play(scene())


def test_requests_of_ours_say_who_asks() -> None:
    """Section 20.41; `user_agent_header`, `server_signature`, and headers that name it themselves."""

    async def scene() -> None:
        line = "User-Agent: house (1)"
        for settings, headers, expected in (
            ({"user_agent_header": line}, "", ["house (1)"]),
            ({"user_agent_header": line}, "User-Agent: mine\r\n", ["mine"]),
            ({"user_agent_header": line, "server_signature": False}, "", []),
        ):
            bench = TmBench(globals=settings)
            work = bench.tm.request("OPTIONS", BOB, "sip:a@example.com", "sip:b@example.com", headers)
            task = asyncio.ensure_future(work)
            for _ in range(5):
                await asyncio.sleep(0)
            (options,) = bench.take()
            assert [header.value for header in options.named("User-Agent")] == expected
            bench.answer(options, 200)
            await task

    play(scene())
