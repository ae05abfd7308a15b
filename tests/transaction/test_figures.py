"""Each arrow of figures 5 to 8 of RFC 3261, with those that RFC 6026 draws anew, as a row; and what has no arrow.

A row is played on its transports: the way into the state, the event, what has to leave or be told, the state after it,
and what time alone does next. Rows that the figures do not have (section 9.1, section 16.7 and 16.8) stand below them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from opensipspy.transaction import tables

from .timeline import (
    Bench,
    Step,
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

Line = tuple[float, Step, list[str]]

UDP, TCP = "unreliable", "reliable"
BOTH = (UDP, TCP)

# Seconds in the rows: T1 0.5, T2 4, T4 5; B, F and H are `fr_timeout` (30), C is `fr_inv_timeout` (120), I and J are
# `wt_timer` (5), as is what remains of a branch that was given up; D, L and M are 64*T1.


@dataclass(frozen=True)
class Row:
    """An arrow. after: the state it leads to. next: when time alone does something, seconds after the event, and what
    that is; None when nothing is left that time could do."""

    figure: str
    state: str
    event: str
    on: tuple[str, ...]
    out: list[str]
    after: str
    next: tuple[float, list[str]] | None


def row(figure: str, state: str, event: str, on: tuple[str, ...], out: str, after: str, next: str) -> Row:
    """`out` and `next` as words: "ACK, deliver 486" and "1.5 INVITE" or "32 gone"."""
    at, _, what = next.partition(" ")
    later = (float(at), words(what)) if next else None
    return Row(figure, state, event, on, words(out), after, later)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


INVITE, REQUEST = "INVITE", "MESSAGE"

# How each state is reached: early, so that no timer has fired, but for the branch that was given up.
CLIENT_WAYS: dict[str, list[Line]] = {
    "initial": [],
    "calling": [(0.0, start, [INVITE])],
    "trying": [(0.0, start, [REQUEST])],
    "proceeding": [(0.0, start, ["?"]), (0.1, recv(180), ["deliver 180"])],
    "held": [(0.0, start, [INVITE]), (0.1, cancel, [])],
    "cancelling": [
        (0.0, start, [INVITE]),
        (0.1, recv(180), ["deliver 180"]),
        (0.1, cancel, ["CANCEL"]),
        (0.2, recv(200, "CANCEL"), []),
    ],
    "accepted": [(0.0, start, [INVITE]), (0.2, recv(200), ["deliver 200"])],
    "abandoned": [
        (0.0, start, [INVITE]),
        (0.5, tick, [INVITE]),
        (1.5, tick, [INVITE]),
        (3.5, tick, [INVITE]),
        (7.5, tick, [INVITE]),
        (15.5, tick, [INVITE]),
        (30.0, tick, ["timeout"]),
    ],
}
COMPLETED_WAYS: dict[str, list[Line]] = {
    INVITE: [(0.0, start, [INVITE]), (0.2, recv(486), ["ACK", "deliver 486"])],
    REQUEST: [(0.0, start, [REQUEST]), (0.2, recv(200), ["deliver 200"])],
}
SERVER_WAYS: dict[str, list[Line]] = {
    "trying": [],
    "proceeding": [(0.1, respond(180), ["180"])],
    "accepted": [(0.2, respond(200), ["200"])],
    "accepted, own": [(0.2, respond(200, local=True), ["200"])],
    "completed": [(0.2, respond(486), ["486"])],
    "confirmed": [(0.1, respond(486), ["486"]), (0.2, ack, ["absorb ack"])],
}

EVENTS: dict[str, Step] = {
    "request from TU": start,
    "1xx": recv(183),
    "2xx": recv(200),
    "300-699": recv(404),
    "transport error": transport_error,
    "cancel from TU": cancel,
    "request": again,
    "ACK": ack,
    "1xx from TU": respond(183),
    "2xx from TU": respond(200),
    "own 2xx from TU": respond(200, local=True),
    "300-699 from TU": respond(404),
}
CLIENT_EVENTS = ("1xx", "2xx", "300-699", "transport error", "cancel from TU")
SERVER_EVENTS = ("request", "ACK", "1xx from TU", "2xx from TU", "own 2xx from TU", "300-699 from TU")

F5, F6, F7, F8 = "5 INVITE client", "6 client", "7 INVITE server", "8 server"

# A timer's row says its name instead of an event, with the time at which it fires after the way into the state.
ROWS = [
    # Figure 5, as RFC 6026 §8.4 draws it.
    row(F5, "initial", "request from TU", (UDP,), "INVITE", "calling", "0.5 INVITE"),
    row(F5, "initial", "request from TU", (TCP,), "INVITE", "calling", "30 timeout"),
    row(F5, "calling", "timer A @0.5", (UDP,), "INVITE", "calling", "1.0 INVITE"),
    row(F5, "calling", "timer B @30", (TCP,), "timeout", "abandoned", "5 gone"),
    row(F5, "calling", "transport error", BOTH, "failed, gone", "terminated", ""),
    row(F5, "calling", "1xx", BOTH, "deliver 183", "proceeding", "120 CANCEL, timeout"),
    row(F5, "calling", "2xx", BOTH, "deliver 200", "accepted", "32 gone"),
    row(F5, "calling", "300-699", (UDP,), "ACK, deliver 404", "completed", "32 gone"),
    row(F5, "calling", "300-699", (TCP,), "ACK, deliver 404, gone", "terminated", ""),
    row(F5, "proceeding", "1xx", BOTH, "deliver 183", "proceeding", "120 CANCEL, timeout"),
    row(F5, "proceeding", "2xx", BOTH, "deliver 200", "accepted", "32 gone"),
    row(F5, "proceeding", "300-699", (UDP,), "ACK, deliver 404", "completed", "32 gone"),
    row(F5, "proceeding", "300-699", (TCP,), "ACK, deliver 404, gone", "terminated", ""),
    row(F5, "completed", "300-699", (UDP,), "ACK", "completed", "31.9 gone"),
    row(F5, "completed", "transport error", (UDP,), "gone", "terminated", ""),
    row(F5, "completed", "timer D @32", (UDP,), "gone", "terminated", ""),
    row(F5, "accepted", "2xx", BOTH, "deliver 200", "accepted", "31.9 gone"),
    row(F5, "accepted", "timer M @32", BOTH, "gone", "terminated", ""),
    # Figure 6.
    row(F6, "initial", "request from TU", (UDP,), "MESSAGE", "trying", "0.5 MESSAGE"),
    row(F6, "initial", "request from TU", (TCP,), "MESSAGE", "trying", "30 timeout, gone"),
    row(F6, "trying", "timer E @0.5", (UDP,), "MESSAGE", "trying", "1.0 MESSAGE"),
    row(F6, "trying", "timer F @30", (TCP,), "timeout, gone", "terminated", ""),
    row(F6, "trying", "transport error", BOTH, "failed, gone", "terminated", ""),
    row(F6, "trying", "1xx", (UDP,), "deliver 183", "proceeding", "0.4 MESSAGE"),
    row(F6, "trying", "1xx", (TCP,), "deliver 183", "proceeding", "29.9 timeout, gone"),
    row(F6, "trying", "2xx", (UDP,), "deliver 200", "completed", "5 gone"),
    row(F6, "trying", "2xx", (TCP,), "deliver 200, gone", "terminated", ""),
    row(F6, "trying", "300-699", (UDP,), "deliver 404", "completed", "5 gone"),
    row(F6, "trying", "300-699", (TCP,), "deliver 404, gone", "terminated", ""),
    row(F6, "proceeding", "timer E @0.4", (UDP,), "MESSAGE", "proceeding", "4 MESSAGE"),
    row(F6, "proceeding", "timer F @29.9", (TCP,), "timeout, gone", "terminated", ""),
    row(F6, "proceeding", "transport error", BOTH, "failed, gone", "terminated", ""),
    row(F6, "proceeding", "1xx", (UDP,), "deliver 183", "proceeding", "0.3 MESSAGE"),
    row(F6, "proceeding", "1xx", (TCP,), "deliver 183", "proceeding", "29.8 timeout, gone"),
    row(F6, "proceeding", "2xx", (UDP,), "deliver 200", "completed", "5 gone"),
    row(F6, "proceeding", "2xx", (TCP,), "deliver 200, gone", "terminated", ""),
    row(F6, "proceeding", "300-699", (UDP,), "deliver 404", "completed", "5 gone"),
    row(F6, "proceeding", "300-699", (TCP,), "deliver 404, gone", "terminated", ""),
    row(F6, "completed", "timer K @5", (UDP,), "gone", "terminated", ""),
    # Figure 7, as RFC 6026 §8.4 draws it. A 2xx from further on is repeated by the one who gave it; one made here is
    # repeated here (RFC 3261 §13.3.1.4).
    row(F7, "proceeding", "request", BOTH, "180", "proceeding", ""),
    row(F7, "proceeding", "1xx from TU", BOTH, "183", "proceeding", ""),
    row(F7, "proceeding", "2xx from TU", BOTH, "200", "accepted", "32 gone"),
    row(F7, "proceeding", "own 2xx from TU", BOTH, "200", "accepted", "0.5 200"),
    row(F7, "proceeding", "300-699 from TU", (UDP,), "404", "completed", "0.5 404"),
    row(F7, "proceeding", "300-699 from TU", (TCP,), "404", "completed", "30 no ack, gone"),
    row(F7, "completed", "request", (UDP,), "486", "completed", "0.4 486"),
    row(F7, "completed", "request", (TCP,), "486", "completed", "29.9 no ack, gone"),
    row(F7, "completed", "timer G @0.5", (UDP,), "486", "completed", "1.0 486"),
    row(F7, "completed", "timer H @30", (TCP,), "no ack, gone", "terminated", ""),
    row(F7, "completed", "ACK", (UDP,), "absorb ack", "confirmed", "5 gone"),
    row(F7, "completed", "ACK", (TCP,), "gone, absorb ack", "terminated", ""),
    row(F7, "confirmed", "timer I @5", (UDP,), "gone", "terminated", ""),
    row(F7, "accepted", "request", BOTH, "", "accepted", "31.9 gone"),
    row(F7, "accepted", "ACK", BOTH, "pass ack", "accepted", "31.9 gone"),
    row(F7, "accepted", "2xx from TU", BOTH, "200", "accepted", "31.9 gone"),
    row(F7, "accepted", "own 2xx from TU", BOTH, "200", "accepted", "31.9 gone"),
    row(F7, "accepted", "timer L @32", BOTH, "gone", "terminated", ""),
    row(F7, "accepted, own", "timer G @0.5", BOTH, "200", "accepted", "1.0 200"),
    row(F7, "accepted, own", "ACK", BOTH, "pass ack", "accepted", "31.9 gone"),
    # Figure 8.
    row(F8, "trying", "1xx from TU", BOTH, "183", "proceeding", ""),
    row(F8, "trying", "2xx from TU", (UDP,), "200", "completed", "5 gone"),
    row(F8, "trying", "2xx from TU", (TCP,), "200, gone", "terminated", ""),
    row(F8, "trying", "300-699 from TU", (UDP,), "404", "completed", "5 gone"),
    row(F8, "trying", "300-699 from TU", (TCP,), "404, gone", "terminated", ""),
    row(F8, "proceeding", "request", BOTH, "180", "proceeding", ""),
    row(F8, "proceeding", "1xx from TU", BOTH, "183", "proceeding", ""),
    row(F8, "proceeding", "2xx from TU", (UDP,), "200", "completed", "5 gone"),
    row(F8, "proceeding", "2xx from TU", (TCP,), "200, gone", "terminated", ""),
    row(F8, "proceeding", "300-699 from TU", (UDP,), "404", "completed", "5 gone"),
    row(F8, "proceeding", "300-699 from TU", (TCP,), "404, gone", "terminated", ""),
    row(F8, "completed", "request", (UDP,), "486", "completed", "4.9 gone"),
    row(F8, "completed", "timer J @5", (UDP,), "gone", "terminated", ""),
    # Beside the figures. CANCEL (RFC 3261 §9.1): held back until a provisional; then 64*T1 for the final response.
    row(F5, "calling", "cancel from TU", (UDP,), "", "held", "0.4 INVITE"),
    row(F5, "calling", "cancel from TU", (TCP,), "", "held", "29.9 timeout"),
    row(F5, "held", "timer A @0.4", (UDP,), "INVITE", "held", "1.0 INVITE"),
    row(F5, "held", "timer B @29.9", (TCP,), "timeout", "abandoned", "5 gone"),
    row(F5, "held", "1xx", (UDP,), "CANCEL, deliver 183", "cancelling", "0.5 CANCEL"),
    row(F5, "held", "1xx", (TCP,), "CANCEL, deliver 183", "cancelling", "32 timeout, gone"),
    row(F5, "held", "2xx", BOTH, "deliver 200", "accepted", "32 gone"),
    row(F5, "held", "300-699", (UDP,), "ACK, deliver 404", "completed", "32 gone"),
    row(F5, "held", "300-699", (TCP,), "ACK, deliver 404, gone", "terminated", ""),
    row(F5, "held", "transport error", BOTH, "failed, gone", "terminated", ""),
    row(F5, "proceeding", "cancel from TU", (UDP,), "CANCEL", "cancelling", "0.5 CANCEL"),
    row(F5, "proceeding", "cancel from TU", (TCP,), "CANCEL", "cancelling", "32 timeout, gone"),
    row(F5, "cancelling", "1xx", BOTH, "deliver 183", "cancelling", "31.8 timeout, gone"),
    row(F5, "cancelling", "2xx", BOTH, "deliver 200", "accepted", "32 gone"),
    row(F5, "cancelling", "300-699", (UDP,), "ACK, deliver 404", "completed", "32 gone"),
    row(F5, "cancelling", "300-699", (TCP,), "ACK, deliver 404, gone", "terminated", ""),
    row(F5, "cancelling", "limit @31.9", BOTH, "timeout, gone", "terminated", ""),
    # RFC 3261 §16.8: timer C ends a call that only rings. §16.7: a 2xx goes on, whatever was said before.
    row(F5, "proceeding", "timer C @120", (UDP,), "CANCEL, timeout", "abandoned", "0.5 CANCEL"),
    row(F5, "proceeding", "timer C @120", (TCP,), "CANCEL, timeout", "abandoned", "32 gone"),
    row(F5, "abandoned", "1xx", (UDP,), "CANCEL", "abandoned", "0.5 CANCEL"),
    row(F5, "abandoned", "1xx", (TCP,), "CANCEL", "abandoned", "32 gone"),
    row(F5, "abandoned", "2xx", BOTH, "deliver 200", "accepted", "32 gone"),
    row(F5, "abandoned", "300-699", (UDP,), "ACK", "completed", "32 gone"),
    row(F5, "abandoned", "300-699", (TCP,), "ACK, gone", "terminated", ""),
    row(F5, "abandoned", "limit @5", BOTH, "gone", "terminated", ""),
    row(F5, "completed", "2xx", (UDP,), "deliver 200", "accepted", "32 gone"),
]  # fmt: skip


def bench_of(figure: str, transport: str) -> tuple[Bench, str]:
    method = INVITE if "INVITE" in figure else REQUEST
    make = client if "client" in figure else server
    return make(method, reliable=transport == TCP), method


def way(figure: str, state: str, transport: str) -> list[Line]:
    if "server" in figure:
        return SERVER_WAYS[state]
    method = INVITE if "INVITE" in figure else REQUEST
    lines = COMPLETED_WAYS[method] if state == "completed" else CLIENT_WAYS[state]
    resent = transport == UDP
    return [
        (now, step, [method] if out == ["?"] else out)
        for now, step, out in lines
        if resent or step is not tick or out != [method]
    ]


def state_of(bench: Bench, figure: str) -> str:
    if "client" in figure:
        assert bench.branch is not None
        return tables.STATE_NAMES[bench.branch.state]
    assert bench.transaction is not None
    return "terminated" if bench.transaction.gone else tables.STATE_NAMES[bench.transaction.state]


def cases() -> list[object]:
    return [
        pytest.param(each, transport, id=f"{each.figure}-{each.state}-{each.event}-{transport}")
        for each in ROWS
        for transport in each.on
    ]


@pytest.mark.parametrize(("wanted", "transport"), cases())
def test_an_arrow(wanted: Row, transport: str) -> None:
    """RFC 3261 §17, RFC 6026 §7: what leaves, what the transaction user is told, and what time does after it."""
    bench, _ = bench_of(wanted.figure, transport)
    lines = way(wanted.figure, wanted.state, transport)
    then = lines[-1][0] if lines else 0.0
    after_s = wanted.event.partition(" @")[2]
    if after_s:
        now = then + float(after_s)
        step: Step = tick
    else:
        now = then + 0.1 if lines else 0.0
        step = EVENTS[wanted.event]
    play(bench, [*lines, (now, step, wanted.out)])
    assert state_of(bench, wanted.figure) == wanted.after
    at, out = passing(bench)
    if wanted.next is None:
        assert out == []
    else:
        assert out == wanted.next[1]
        assert at - now == pytest.approx(wanted.next[0], abs=0.02)


def passing(bench: Bench) -> tuple[float, list[str]]:
    """Let time pass until something comes of it: when, and what."""
    bench.out.clear()
    at = bench.layer.next_wake()
    while at is not None:
        bench.layer.wake(at)
        if bench.out:
            return at, list(bench.out)
        at = bench.layer.next_wake()
    return 0.0, []


NOTHING = [
    (figure, state, event, transport)
    for figure, states, events in (
        (F5, ("calling", "proceeding", "held", "cancelling", "abandoned", "completed", "accepted"), CLIENT_EVENTS),
        (F6, ("trying", "proceeding", "completed"), CLIENT_EVENTS),
        (F7, ("proceeding", "completed", "confirmed", "accepted"), SERVER_EVENTS),
        (F8, ("trying", "proceeding", "completed"), tuple(e for e in SERVER_EVENTS if e != "own 2xx from TU")),
    )
    for state, event, transport in product(states, events, BOTH)
    if not any((r.figure, r.state, r.event) == (figure, state, event) for r in ROWS)
    # Over a reliable transport these states take no time.
    and not (transport == TCP and (state == "confirmed" or (state == "completed" and figure != F7)))
]


@pytest.mark.parametrize(("figure", "state", "event", "transport"), NOTHING)
def test_what_has_no_arrow_changes_nothing(figure: str, state: str, event: str, transport: str) -> None:
    """Neither a message leaves nor a timer moves; what the transaction user may not send any more is refused."""
    bench, _ = bench_of(figure, transport)
    lines = way(figure, state, transport)
    play(bench, lines)
    before = (state_of(bench, figure), bench.layer.next_wake(), bench.layer.pending_timers)
    bench.out.clear()
    EVENTS[event](bench, lines[-1][0] + 0.1 if lines else 0.1)
    # An ACK without a response to acknowledge is nobody's here; the script may pass it on.
    told = ["refused"] if "from TU" in event and "server" in figure else ["absorb ack"] if event == "ACK" else []
    assert bench.out in (told, ["pass ack"] if event == "ACK" else told)
    assert (state_of(bench, figure), bench.layer.next_wake(), bench.layer.pending_timers) == before


def test_every_row_of_the_code_is_a_row_here() -> None:
    """No arrow may be added to the machines without a row: neither one of the RFCs nor one of ours."""
    timers = {"limit": tables.TIMER_END, **{f"timer {name}": tables.TIMER_END for name in "BCDFHIJKLM"}}
    timers |= {f"timer {name}": tables.TIMER_RESEND for name in "AEG"}
    numbers = {
        "request from TU": tables.START,
        "1xx": tables.PROVISIONAL,
        "2xx": tables.FINAL_2XX,
        "300-699": tables.FINAL_OTHER,
        "transport error": tables.TRANSPORT_ERROR,
        "cancel from TU": tables.CANCEL,
        "request": tables.REQUEST,
        "ACK": tables.ACK,
        "1xx from TU": tables.TU_1XX,
        "2xx from TU": tables.TU_2XX,
        "own 2xx from TU": tables.TU_2XX_LOCAL,
        "300-699 from TU": tables.TU_FINAL,
        **timers,
    }
    for figure, table in (
        (F5, tables.INVITE_CLIENT),
        (F6, tables.CLIENT),
        (F7, tables.INVITE_SERVER),
        (F8, tables.SERVER),
    ):
        ours = {(figure, tables.STATE_NAMES[state], event) for state, event in table}
        here = {
            (figure, r.state.partition(",")[0], numbers[r.event.partition(" @")[0]]) for r in ROWS if r.figure == figure
        }
        # RFC 6026 draws a copy of the INVITE in Accepted as an arrow that does nothing: it needs no row in the code.
        assert here - ours <= {(F7, "accepted", tables.REQUEST)}
        assert not ours - here


# Timer, where, transport, and the seconds of what leaves; the last is the end of the state.
TIMES = [
    ("A and B", F5, "calling", UDP, [0.5, 1.5, 3.5, 7.5, 15.5], 30.0),
    ("B", F5, "calling", TCP, [], 30.0),
    ("E and F", F6, "trying", UDP, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5], 30.0),
    ("F", F6, "trying", TCP, [], 30.0),
    ("E at T2", F6, "proceeding", UDP, [0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5], 30.0),
    ("G and H", F7, "completed", UDP, [0.7, 1.7, 3.7, 7.7, 11.7, 15.7, 19.7, 23.7, 27.7], 30.2),
    ("H", F7, "completed", TCP, [], 30.2),
    ("D", F5, "completed", UDP, [], 32.2),
    ("M", F5, "accepted", UDP, [], 32.2),
    ("M", F5, "accepted", TCP, [], 32.2),
    ("I", F7, "confirmed", UDP, [], 5.2),
    ("J", F8, "completed", UDP, [], 5.2),
    ("K", F6, "completed", UDP, [], 5.2),
    ("L", F7, "accepted", UDP, [], 32.2),
    ("L", F7, "accepted", TCP, [], 32.2),
]


@pytest.mark.parametrize(("timer", "figure", "state", "transport", "sent", "end"), TIMES)
def test_the_whole_life_of_a_timer(
    timer: str, figure: str, state: str, transport: str, sent: list[float], end: float
) -> None:
    """RFC 3261 table 4: when each copy leaves and when the state ends, from the start of the transaction."""
    bench, method = bench_of(figure, transport)
    play(bench, way(figure, state, transport))
    copy = method if "client" in figure else "486"
    seen: list[tuple[float, list[str]]] = []
    while state_of(bench, figure) == state:
        seen.append(passing(bench))
        assert seen[-1][1], timer
    assert [at for at, _ in seen] == pytest.approx([*sent, end], abs=0.02)
    assert all(out == [copy] for _, out in seen[:-1])
    assert copy not in seen[-1][1]
