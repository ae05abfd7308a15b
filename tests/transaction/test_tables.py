"""The four machines, row by row (RFC 3261 section 17, RFC 6026), and every input in every state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.transaction import Settings, tables

from .timeline import (
    Bench,
    ack,
    again,
    cancel,
    client,
    play,
    recv,
    respond,
    server,
    start,
    tick,
    transport_error,
)

TABLES = {
    "INVITE client": tables.INVITE_CLIENT,
    "client": tables.CLIENT,
    "INVITE server": tables.INVITE_SERVER,
    "server": tables.SERVER,
}


# -- INVITE client -----------------------------------------------------------------------------------------------------


def test_invite_is_resent_until_a_provisional_arrives() -> None:
    """RFC 3261 §17.1.1.2: timer A doubles from T1 and stops outside CALLING (UDP)."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.5, tick, ["INVITE"]),
            (1.5, tick, ["INVITE"]),
            (3.5, tick, ["INVITE"]),
            (7.5, tick, ["INVITE"]),
            (7.6, recv(180), ["deliver 180"]),
            (15.5, tick, []),
            (100.0, tick, []),
        ],
    )


def test_invite_is_not_resent_over_a_reliable_transport() -> None:
    """RFC 3261 §17.1.1.2: timer A runs over unreliable transports only."""
    play(client("INVITE", reliable=True), [(0.0, start, ["INVITE"]), (29.9, tick, []), (30.0, tick, ["timeout"])])


def test_timer_b_ends_an_invite_that_nobody_answers() -> None:
    """RFC 3261 §17.1.1.2: timer B, here `fr_timeout`; a while later nothing is left."""
    bench = client("INVITE", reliable=True)
    play(bench, [(0.0, start, ["INVITE"]), (30.0, tick, ["timeout"]), (35.0, tick, ["gone"])])
    assert bench.layer.next_wake() is None


def test_timer_c_cancels_a_call_that_only_rings() -> None:
    """RFC 3261 §16.8: once a provisional came, timer C makes the proxy send CANCEL; the late 487 is acknowledged."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.1, recv(180), ["deliver 180"]),
            (120.1, tick, ["CANCEL", "timeout"]),
            (120.2, recv(200, "CANCEL"), []),
            (120.3, recv(487), ["ACK"]),
            (120.8, recv(487), ["ACK"]),
        ],
    )


def test_each_provisional_starts_timer_c_again() -> None:
    """RFC 3261 §16.7 step 2: timer C is reset by provisional responses."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.1, recv(180), ["deliver 180"]),
            (100.0, recv(180), ["deliver 180"]),
            (120.1, tick, []),
            (220.0, tick, ["CANCEL", "timeout"]),
        ],
    )


def test_timer_c_can_run_from_the_first_provisional() -> None:
    """tm manual, restart_fr_on_each_reply=0."""
    settings = Settings()
    settings.restart_fr = False
    play(
        client("INVITE", settings=settings),
        [
            (0.0, start, ["INVITE"]),
            (0.1, recv(180), ["deliver 180"]),
            (100.0, recv(180), ["deliver 180"]),
            (120.1, tick, ["CANCEL", "timeout"]),
        ],
    )


@pytest.mark.parametrize("before", [[], [(0.1, recv(183), ["deliver 183"])]])
def test_2xx_opens_the_accepted_state(before: list[tuple[float, object, list[str]]]) -> None:
    """RFC 6026 §7.2: further 2xx responses are delivered for 64*T1, then timer M ends the transaction."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            *before,  # type: ignore[list-item]
            (0.2, recv(200), ["deliver 200"]),
            (0.7, recv(200), ["deliver 200"]),
            (1.0, recv(200, to_tag="b2"), ["deliver 200"]),
            (1.1, recv(180), []),
            (1.2, recv(486), []),
            (32.19, tick, []),
            (32.2, tick, ["gone"]),
        ],
    )


@pytest.mark.parametrize("before", [[], [(0.1, recv(183), ["deliver 183"])]])
def test_a_failure_is_acknowledged_hop_by_hop(before: list[tuple[float, object, list[str]]]) -> None:
    """RFC 3261 §17.1.1.2: each copy of a 300-699 is acknowledged, only the first delivered; timer D is 32 s."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            *before,  # type: ignore[list-item]
            (0.2, recv(486), ["ACK", "deliver 486"]),
            (0.7, recv(486), ["ACK"]),
            (32.2, tick, ["gone"]),
        ],
    )


def test_an_answer_may_follow_a_failure() -> None:
    """RFC 3261 §16.7: a proxy further on gave a branch up and said so, then its phone answered: each 2xx goes on."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.2, recv(480), ["ACK", "deliver 480"]),
            (0.8, recv(200), ["deliver 200"]),
            (0.9, recv(180), []),
            (32.8, tick, ["gone"]),
        ],
    )


def test_timer_d_is_zero_over_a_reliable_transport() -> None:
    """RFC 3261 §17.1.1.2: the transaction ends at once; a copy of the response finds nothing."""
    bench = client("INVITE", reliable=True)
    play(bench, [(0.0, start, ["INVITE"]), (0.2, recv(486), ["ACK", "deliver 486", "gone"]), (0.3, recv(486), [])])
    assert bench.branch is not None
    assert bench.branch.state == tables.TERMINATED


def test_the_ack_repeats_what_the_invite_said() -> None:
    """RFC 3261 §17.1.1.3: same Request-URI, branch, From, Call-ID, CSeq number; To from the response."""
    bench = play(client("INVITE"), [(0.0, start, ["INVITE"]), (0.2, recv(486), ["ACK", "deliver 486"])])
    invite, acknowledged = (sip_lines(data) for data in (bench.wire[0], bench.wire[1]))
    for name in ("Via", "From", "Call-ID"):
        assert acknowledged[name] == invite[name]
    assert acknowledged["To"] == "<sip:bob@example.org>;tag=b1"
    assert acknowledged["CSeq"] == "1 ACK"
    assert bench.wire[1].startswith(b"ACK sip:bob@example.org SIP/2.0\r\n")


def sip_lines(data: bytes) -> dict[str, str]:
    lines = data.decode().partition("\r\n\r\n")[0].split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def test_a_transport_error_ends_an_unanswered_invite() -> None:
    """RFC 3261 §17.1.4: the transaction user is told."""
    play(client("INVITE", reliable=True), [(0.0, start, ["INVITE"]), (0.3, transport_error, ["failed", "gone"])])


def test_a_transport_error_after_a_provisional_changes_nothing() -> None:
    """RFC 3261 figure 5: in PROCEEDING nothing is being sent."""
    play(
        client("INVITE", reliable=True),
        [(0.0, start, ["INVITE"]), (0.1, recv(180), ["deliver 180"]), (0.3, transport_error, [])],
    )


def test_an_ack_that_cannot_be_sent_ends_the_transaction() -> None:
    """RFC 3261 figure 5: COMPLETED, transport error."""
    play(
        client("INVITE"),
        [(0.0, start, ["INVITE"]), (0.2, recv(486), ["ACK", "deliver 486"]), (0.3, transport_error, ["gone"])],
    )


# -- CANCEL ------------------------------------------------------------------------------------------------------------


def test_cancel_waits_for_a_provisional() -> None:
    """RFC 3261 §9.1: CANCEL is held back until a provisional response came; the INVITE goes on being resent."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.1, cancel, []),
            (0.5, tick, ["INVITE"]),
            (0.6, recv(100), ["CANCEL", "deliver 100"]),
            (0.7, recv(200, "CANCEL"), []),
            (0.8, recv(487), ["ACK", "deliver 487"]),
        ],
    )


def test_cancel_after_a_provisional_goes_out_at_once_and_is_resent() -> None:
    """RFC 3261 §9.1: CANCEL has a non-INVITE client transaction of its own (timers E and K)."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.1, recv(180), ["deliver 180"]),
            (0.2, cancel, ["CANCEL"]),
            (0.3, cancel, []),
            (0.7, tick, ["CANCEL"]),
            (1.7, tick, ["CANCEL"]),
            (1.8, recv(200, "CANCEL"), []),
            (1.9, recv(183), ["deliver 183"]),
            (2.0, recv(487), ["ACK", "deliver 487"]),
            (34.0, tick, ["gone"]),
        ],
    )


def test_a_2xx_that_crosses_the_cancel_wins() -> None:
    """RFC 3261 §9.1: CANCEL has no effect on a request that has a final response."""
    play(
        client("INVITE"),
        [
            (0.0, start, ["INVITE"]),
            (0.1, recv(180), ["deliver 180"]),
            (0.2, cancel, ["CANCEL"]),
            (0.25, recv(200), ["deliver 200"]),
            (0.3, recv(481, "CANCEL"), []),
        ],
    )


@pytest.mark.parametrize(("status", "out"), [(200, ["deliver 200"]), (486, ["ACK", "deliver 486"])])
def test_a_final_response_makes_a_held_cancel_pointless(status: int, out: list[str]) -> None:
    """RFC 3261 §9.1: no CANCEL once the INVITE has its final response."""
    play(client("INVITE"), [(0.0, start, ["INVITE"]), (0.1, cancel, []), (0.2, recv(status), out), (0.5, tick, [])])


def test_a_held_cancel_ends_with_timer_b() -> None:
    """RFC 3261 §9.1: without any response there is nothing to cancel."""
    play(client("INVITE", reliable=True), [(0.0, start, ["INVITE"]), (0.1, cancel, []), (30.0, tick, ["timeout"])])


def test_a_held_cancel_ends_with_a_transport_error() -> None:
    """RFC 3261 §17.1.4."""
    play(
        client("INVITE", reliable=True),
        [(0.0, start, ["INVITE"]), (0.1, cancel, []), (0.2, transport_error, ["failed", "gone"])],
    )


def test_a_cancelled_request_without_final_response_ends_after_64_t1() -> None:
    """RFC 3261 §9.1: the client then considers the request cancelled."""
    play(
        client("INVITE", reliable=True),
        [
            (0.0, start, ["INVITE"]),
            (0.1, recv(180), ["deliver 180"]),
            (1.0, cancel, ["CANCEL"]),
            (1.1, recv(200, "CANCEL"), []),
            (33.0, tick, ["timeout", "gone"]),
        ],
    )


def test_a_non_invite_is_not_cancelled() -> None:
    """RFC 3261 §9.1: CANCEL is for INVITE only."""
    play(client("MESSAGE"), [(0.0, start, ["MESSAGE"]), (0.1, recv(100), ["deliver 100"]), (0.2, cancel, [])])


def test_a_ringing_that_comes_after_we_gave_up_is_cancelled() -> None:
    """RFC 3261 §16.8: a peer that rings although nobody waits for it any more has to be told."""
    settings = Settings()
    settings.fr_timeout_s = 2.0
    play(
        client("INVITE", reliable=True, settings=settings),
        [
            (0.0, start, ["INVITE"]),
            (2.0, tick, ["timeout"]),
            (3.0, recv(180), ["CANCEL"]),
            (3.1, recv(200, "CANCEL"), []),
            (3.2, recv(487), ["ACK", "gone"]),
        ],
    )


def test_a_2xx_that_comes_after_we_gave_up_is_delivered() -> None:
    """RFC 3261 §16.7 step 5: a 2xx to an INVITE is forwarded whenever it comes."""
    settings = Settings()
    settings.fr_timeout_s = 2.0
    play(
        client("INVITE", reliable=True, settings=settings),
        [(0.0, start, ["INVITE"]), (2.0, tick, ["timeout"]), (3.0, recv(200), ["deliver 200"])],
    )


# -- non-INVITE client -------------------------------------------------------------------------------------------------


def test_a_request_is_resent_with_growing_intervals() -> None:
    """RFC 3261 §17.1.2.2: timer E doubles up to T2, timer F ends it."""
    play(
        client("MESSAGE"),
        [
            (0.0, start, ["MESSAGE"]),
            (0.5, tick, ["MESSAGE"]),
            (1.5, tick, ["MESSAGE"]),
            (3.5, tick, ["MESSAGE"]),
            (7.5, tick, ["MESSAGE"]),
            (11.5, tick, ["MESSAGE"]),
            (15.5, tick, ["MESSAGE"]),
            (19.5, tick, ["MESSAGE"]),
            (23.5, tick, ["MESSAGE"]),
            (27.5, tick, ["MESSAGE"]),
            (30.0, tick, ["timeout", "gone"]),
        ],
    )


def test_a_provisional_slows_the_retransmissions_of_a_request() -> None:
    """RFC 3261 §17.1.2.2: in PROCEEDING timer E is T2."""
    play(
        client("MESSAGE"),
        [
            (0.0, start, ["MESSAGE"]),
            (0.1, recv(100), ["deliver 100"]),
            (0.2, recv(182), ["deliver 182"]),
            (0.5, tick, ["MESSAGE"]),
            (4.5, tick, ["MESSAGE"]),
            (8.5, tick, ["MESSAGE"]),
            (8.6, recv(200), ["deliver 200"]),
            (13.6, tick, ["gone"]),
        ],
    )


def test_a_request_that_got_a_provisional_still_times_out() -> None:
    """RFC 3261 §17.1.2.2: timer F runs on in PROCEEDING."""
    play(
        client("MESSAGE", reliable=True),
        [(0.0, start, ["MESSAGE"]), (1.0, recv(100), ["deliver 100"]), (30.0, tick, ["timeout", "gone"])],
    )


@pytest.mark.parametrize("status", [200, 404])
def test_timer_k_absorbs_copies_of_the_final_response(status: int) -> None:
    """RFC 3261 §17.1.2.2: T4 long."""
    play(
        client("MESSAGE"),
        [
            (0.0, start, ["MESSAGE"]),
            (0.1, recv(status), [f"deliver {status}"]),
            (0.2, recv(status), []),
            (0.3, recv(100), []),
            (5.1, tick, ["gone"]),
        ],
    )


@pytest.mark.parametrize("status", [200, 404])
def test_a_final_response_ends_a_request_in_proceeding(status: int) -> None:
    """RFC 3261 figure 6."""
    play(
        client("MESSAGE"),
        [(0.0, start, ["MESSAGE"]), (0.1, recv(100), ["deliver 100"]), (0.2, recv(status), [f"deliver {status}"])],
    )


@pytest.mark.parametrize("before", [[], [(0.1, recv(100), ["deliver 100"])]])
def test_a_transport_error_ends_a_request(before: list[tuple[float, object, list[str]]]) -> None:
    """RFC 3261 §17.1.4."""
    play(
        client("MESSAGE", reliable=True),
        [(0.0, start, ["MESSAGE"]), *before, (0.2, transport_error, ["failed", "gone"])],  # type: ignore[list-item]
    )


def test_a_request_that_cannot_leave_at_all_is_refused() -> None:
    """RFC 3261 §17.1.4: known at once when the network says so."""
    bench = client("INVITE")
    bench.sending = False
    assert bench.branch is not None
    assert not bench.send(bench.branch, 0.0)
    assert bench.layer.next_wake() is None


# -- INVITE server -----------------------------------------------------------------------------------------------------


def test_a_retransmitted_invite_gets_the_last_provisional_again() -> None:
    """RFC 3261 §17.2.1: PROCEEDING."""
    play(
        server("INVITE"),
        [
            (0.0, again, []),
            (0.1, respond(100), ["100"]),
            (0.5, again, ["100"]),
            (0.6, respond(180), ["180"]),
            (1.5, again, ["180"]),
        ],
    )


def test_a_failure_is_resent_until_its_ack() -> None:
    """RFC 3261 §17.2.1: timer G doubles up to T2; the ACK stops it; timer I absorbs further ACKs."""
    play(
        server("INVITE"),
        [
            (0.0, respond(486), ["486"]),
            (0.5, tick, ["486"]),
            (1.5, tick, ["486"]),
            (3.5, tick, ["486"]),
            (7.5, tick, ["486"]),
            (11.5, tick, ["486"]),
            (12.0, again, ["486"]),
            (12.1, ack, ["absorb ack"]),
            (12.2, ack, ["absorb ack"]),
            (12.3, again, []),
            (12.4, respond(486), ["refused"]),
            (17.1, tick, ["gone"]),
        ],
    )


def test_a_failure_without_ack_ends_with_timer_h() -> None:
    """RFC 3261 §17.2.1: the transaction user is told."""
    play(server("INVITE", reliable=True), [(0.0, respond(486), ["486"]), (30.0, tick, ["no ack", "gone"])])


def test_timer_g_and_i_do_not_run_over_a_reliable_transport() -> None:
    """RFC 3261 §17.2.1."""
    play(
        server("INVITE", reliable=True),
        [(0.0, respond(486), ["486"]), (0.5, tick, []), (1.0, ack, ["gone", "absorb ack"])],
    )


def test_a_forwarded_2xx_is_left_to_the_far_end() -> None:
    """RFC 6026 §7.1: ACCEPTED sends further 2xx responses, absorbs the INVITE, passes the ACK, ends with timer L."""
    play(
        server("INVITE"),
        [
            (0.0, respond(180), ["180"]),
            (1.0, respond(200), ["200"]),
            (1.5, tick, []),
            (1.6, again, []),
            (1.7, respond(200), ["200"]),
            (1.8, respond(486), ["refused"]),
            (1.9, ack, ["pass ack"]),
            (33.0, tick, ["gone"]),
        ],
    )


@pytest.mark.parametrize("reliable", [False, True])
def test_a_2xx_made_here_is_resent_until_its_ack(reliable: bool) -> None:
    """RFC 3261 §13.3.1.4: over any transport, the interval doubles up to T2."""
    play(
        server("INVITE", reliable=reliable),
        [
            (0.0, respond(200, local=True), ["200"]),
            (0.5, tick, ["200"]),
            (1.5, tick, ["200"]),
            (1.6, ack, ["pass ack"]),
            (3.5, tick, []),
            (32.0, tick, ["gone"]),
        ],
    )


def test_a_second_2xx_made_here_goes_out_too() -> None:
    """RFC 6026 §7.1: ACCEPTED sends each 2xx that the transaction user has; the latest is the one that is repeated."""
    play(
        server("INVITE"),
        [
            (0.0, respond(200, local=True), ["200"]),
            (0.1, respond(202, local=True), ["202"]),
            (0.5, tick, ["202"]),
            (0.6, ack, ["pass ack"]),
            (32.0, tick, ["gone"]),
        ],
    )


# -- non-INVITE server -------------------------------------------------------------------------------------------------


def test_a_retransmitted_request_is_absorbed_until_there_is_an_answer() -> None:
    """RFC 3261 §17.2.2: TRYING discards, PROCEEDING and COMPLETED answer again; timer J is `wt_timer`."""
    play(
        server("MESSAGE"),
        [
            (0.0, again, []),
            (0.1, respond(182), ["182"]),
            (0.2, again, ["182"]),
            (0.3, respond(183), ["183"]),
            (1.0, respond(200), ["200"]),
            (1.1, again, ["200"]),
            (1.2, respond(404), ["refused"]),
            (6.0, tick, ["gone"]),
        ],
    )


@pytest.mark.parametrize("status", [200, 404])
def test_timer_j_is_zero_over_a_reliable_transport(status: int) -> None:
    """RFC 3261 §17.2.2."""
    play(server("MESSAGE", reliable=True), [(0.0, respond(status), [str(status), "gone"])])


@pytest.mark.parametrize("status", [200, 404])
def test_a_final_answer_from_trying_or_proceeding(status: int) -> None:
    """RFC 3261 figure 8."""
    play(server("MESSAGE"), [(0.0, respond(status), [str(status)]), (5.0, tick, ["gone"])])
    play(server("MESSAGE"), [(0.0, respond(100), ["100"]), (0.1, respond(status), [str(status)])])


# -- every state, every input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_left_and_every_next_state_is_known(name: str) -> None:
    """No row leads to a state without a way out, except to the end."""
    table = TABLES[name]
    for (_, event), (_, following) in table.items():
        assert 0 <= event < tables.INPUTS
        if following != tables.TERMINATED:
            assert any(state == following and target != following for (state, _), (_, target) in table.items())


STEPS = st.one_of(
    st.sampled_from([start, again, ack, cancel, transport_error]),
    st.builds(recv, st.sampled_from([100, 180, 200, 302, 404, 487, 503, 603]), st.sampled_from(["", "CANCEL"])),
    st.builds(respond, st.sampled_from([100, 180, 200, 302, 486, 603]), st.booleans()),
    st.floats(0.01, 40.0),
)


@given(
    st.sampled_from(["INVITE", "MESSAGE"]),
    st.booleans(),
    st.lists(STEPS, max_size=25),
)
def test_any_input_in_any_order_is_survived_and_everything_ends(method: str, reliable: bool, steps: list) -> None:  # type: ignore[type-arg]
    """A machine takes every input in every state, and time alone brings every transaction to its end."""
    bench = server(method, reliable=reliable)
    transaction = bench.transaction
    assert transaction is not None
    bench.branch = bench.layer.add_branch(transaction, "sip:bob@192.0.2.20")
    assert bench.branch is not None
    bench.branch.reliable = reliable
    now = 0.0
    for step in steps:
        if isinstance(step, float):
            now += step
            bench.layer.wake(now)
        elif not transaction.gone:
            if step is start and bench.branch.state != tables.INITIAL:
                continue
            step(bench, now)
    if not transaction.gone:
        if bench.branch.state == tables.INITIAL:
            bench.layer.discard(bench.branch, now)
        respond(500)(bench, now)
        run_out(bench, now)
    assert transaction.gone
    assert len(bench.layer) == 0
    assert bench.layer.pending_timers == 0
    assert bench.layer.next_wake() is None


def run_out(bench: Bench, now: float) -> None:
    """Let every timer fire in its own time."""
    for _ in range(1000):
        at = bench.layer.next_wake()
        if at is None:
            return
        assert at >= now - 0.01
        bench.layer.wake(at)
    raise AssertionError("timers go on for ever")
