"""uac: From and To under other names on one side of a call, and answers to challenges."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import ParamError, StartError
from opensipspy.modules.rr import Rr
from opensipspy.modules.tm import Tm
from opensipspy.modules.uac import Uac, raised_by
from opensipspy.modules.uac.changes import display_text
from opensipspy.modules.uac.stored import decode, encode, is_uri
from opensipspy.modules.uac_auth import UacAuth
from opensipspy.script.run import Branch, Run
from opensipspy.sip import Message, digest
from tests.modules.asynchronous import in_loop
from tests.modules.tm_bench import CAROL, TmBench

ALICE = '"Alice" <sip:alice@example.com>;tag=a1'
HIDDEN = "sip:anonymous@anonymous.invalid"


async def bench(*, rr: Rr | None = None, **params: Any) -> TmBench:
    made = TmBench()
    made.core.add(rr or Rr())
    auth = UacAuth()
    auth.set_param("credential", "user:provider.example:pw")
    auth.set_param("credential", "edge:edge.example:pw2")
    made.core.add(auth)
    uac = made.core.add(Uac(**params))
    await auth.launch()
    await uac.launch()
    return made


def line(msg: Message, kind: int) -> str:
    header = msg.first(kind)
    assert header is not None
    return header.value


def from_(msg: Message) -> str:
    return line(msg, sip.H_FROM)


def to(msg: Message) -> str:
    return line(msg, sip.H_TO)


def invite(server: TmBench, *calls: tuple[Any, ...], **given: Any) -> tuple[Run, Message]:
    """An INVITE that the script records, changes by `calls` and relays; returns what left to bob."""
    run = server.run(from_=given.pop("from_", ALICE), **given)
    server.call("record_route", run)
    for function, *args in calls:
        assert server.call(function, run, *args) == 1
    assert server.call("t_relay", run) == 1
    server.end(run)
    return run, next(msg for msg in server.take() if msg.is_request)


def in_dialog(server: TmBench, sent: Message, method: str, *, upstream: bool, cseq: int = 2) -> Run:
    """A request within the dialog of an INVITE that left, followed by loose_route()."""
    route = sent.all(sip.H_RECORD_ROUTE)[0].value
    caller, callee = ALICE, to_with_tag("<sip:bob@example.org>")
    if upstream:
        caller, callee = to_with_tag(to(sent)), from_(sent)
    run = server.run(
        method,
        "sip:far@192.0.2.77",
        from_=caller,
        to=callee,
        cseq=cseq,
        headers=f"Route: {route}",
        via=VIA.format(cseq),
    )
    assert server.call("loose_route", run) == 1
    return run


VIA = "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-d{}"


def to_with_tag(value: str) -> str:
    return f"{value};tag=b1"


# --- replacing


@pytest.mark.parametrize(
    ("display", "uri", "expected"),
    [
        ("batman", HIDDEN, f"batman <{HIDDEN}>;tag=a1"),
        ('"The Bat"', HIDDEN, f'"The Bat" <{HIDDEN}>;tag=a1'),
        ("The Bat", HIDDEN, f'"The Bat" <{HIDDEN}>;tag=a1'),
        ("batman", "", "batman <sip:alice@example.com>;tag=a1"),
        ("", HIDDEN, f"<{HIDDEN}>;tag=a1"),
        ("", "", "<sip:alice@example.com>;tag=a1"),
        (None, HIDDEN, f'"Alice" <{HIDDEN}>;tag=a1'),
    ],
)
@in_loop
async def test_display_and_uri(display: str | None, uri: str, expected: str) -> None:
    """The manual's examples: "" as display removes it, "" as URI keeps it, no display at all keeps it."""
    server = await bench()
    fixed = None if display is None else display_text(display)
    _, sent = invite(server, ("uac_replace_from", fixed, uri))
    assert from_(sent) == expected


@in_loop
async def test_to_and_an_address_without_brackets() -> None:
    """RFC 3261 §20: without brackets the parameters are those of the header; the new URI has brackets."""
    server = await bench()
    _, sent = invite(
        server,
        ("uac_replace_to", None, "sip:+49301234@provider.example"),
        ("uac_replace_from", None, "sip:x@y"),
        from_="sip:alice@example.com;tag=a1",
    )
    assert to(sent) == "<sip:+49301234@provider.example>"
    assert from_(sent) == "<sip:x@y>;tag=a1"


@in_loop
async def test_the_last_of_two_changes_counts() -> None:
    """Display and URI may come in two calls; Record-Route then carries one value."""
    server = await bench()
    _, sent = invite(server, ("uac_replace_from", "first", HIDDEN), ("uac_replace_from", None, "sip:second@x.invalid"))
    assert from_(sent) == "first <sip:second@x.invalid>;tag=a1"
    assert sent.all(sip.H_RECORD_ROUTE)[0].value.count("vsf=") == 1


@pytest.mark.parametrize("uri", ["batman", "sip:", "sip:a@b>\r\nX: y", "sip:a b@c", "sip:" + "x" * 600 + "@y"])
@in_loop
async def test_what_is_no_uri_is_refused(uri: str) -> None:
    """Nothing from a variable can end the header."""
    server = await bench()
    run = server.run()
    assert server.call("uac_replace_from", run, None, uri) == -1


def test_displays_are_quoted() -> None:
    """RFC 3261 §25.1: display-name is tokens or a quoted string; what is neither is quoted."""
    assert display_text('a"b') == '"a\\"b"'
    assert display_text('"a"b"') == '"a\\"b"'
    assert display_text("a\r\nVia: x") == '"a  Via: x"'
    assert display_text('"x\\"') == '"x\\\\"'
    assert sip.parse_name_addr(display_text('"x\\"') + " <sip:a@b>").uri == "sip:a@b"


@in_loop
async def test_a_branch_has_its_own_from() -> None:
    """The manual: changes in branch routes are for one branch; replies of each are restored."""
    server = await bench()

    def change(run: Run) -> int:
        if run.branch_index == 1:
            server.call("uac_replace_from", run, None, HIDDEN)
        return 1

    server.branch("b", change)
    run = server.run(from_=ALICE)
    server.call("record_route", run)
    server.call("t_on_branch", run, "b")
    run.branches = [Branch(CAROL)]
    server.call("t_relay", run)
    one, two = (msg for msg in server.take() if msg.is_request)
    assert (from_(one), from_(two)) == (ALICE, f'"Alice" <{HIDDEN}>;tag=a1')
    assert "vsf=" not in one.all(sip.H_RECORD_ROUTE)[0].value
    assert "vsf=" in two.all(sip.H_RECORD_ROUTE)[0].value
    server.answer(two, 180)
    server.answer(one, 180, to_tag="b2")
    assert [from_(reply) for reply in server.take()] == [ALICE, ALICE]


# --- restoring


@in_loop
async def test_replies_are_restored() -> None:
    """RFC 3261 §8.2.6.2: From of a response equals that of the request, To too apart from the tag."""
    server = await bench()
    _, sent = invite(server, ("uac_replace_from", None, HIDDEN), ("uac_replace_to", "x", "sip:other@example.org"))
    for status in (180, 200):
        server.answer(sent, status)
        (reply,) = server.take()
        assert from_(reply) == ALICE
        assert to(reply) == "<sip:bob@example.org>;tag=b1"
    # A second callee behind a forking proxy (§13.2.2.4), after the transaction has let go of the request.
    server.answer(sent, 200, to_tag="b9")
    (reply,) = server.take()
    assert (from_(reply), to(reply)) == (ALICE, "<sip:bob@example.org>;tag=b9")


@pytest.mark.parametrize("password", ["", "s3cret"])
@in_loop
async def test_later_requests_of_both_sides(password: str) -> None:
    """RFC 3261 §12.2.1.1: each side sees the From and To of its own first request."""
    server = await bench(restore_passwd=password)
    other = "sip:other@example.org"
    _, sent = invite(server, ("uac_replace_from", None, HIDDEN), ("uac_replace_to", None, other))
    server.answer(sent, 200)
    server.take()
    down = in_dialog(server, sent, "INFO", upstream=False)
    server.call("t_relay", down)
    (info,) = server.take()
    assert (info.from_.uri, info.to.uri) == (HIDDEN, other)
    server.answer(info, 200)
    (reply,) = server.take()
    assert (from_(reply), to(reply)) == (ALICE, "<sip:bob@example.org>;tag=b1")

    up = in_dialog(server, sent, "BYE", upstream=True, cseq=7)
    server.call("t_relay", up)
    (bye,) = server.take()
    assert (bye.from_.uri, bye.to.uri) == ("sip:bob@example.org", "sip:alice@example.com")
    server.answer(bye, 200)
    (reply,) = server.take()
    assert (reply.from_.uri, reply.to.uri) == (other, HIDDEN)


@in_loop
async def test_mode_none_restores_nothing() -> None:
    """The manual: nothing is stored, so nothing can be restored."""
    server = await bench(restore_mode="none")
    _, sent = invite(server, ("uac_replace_from", None, HIDDEN))
    assert "vsf" not in sent.all(sip.H_RECORD_ROUTE)[0].value
    server.answer(sent, 200)
    (reply,) = server.take()
    assert reply.from_.uri == HIDDEN


@in_loop
async def test_mode_manual_leaves_requests_to_the_script() -> None:
    """The manual: replies are restored, later requests by uac_restore_from() and uac_restore_to() only."""
    server = await bench(restore_mode="manual")
    _, sent = invite(server, ("uac_replace_from", None, HIDDEN))
    server.answer(sent, 200)
    (reply,) = server.take()
    assert from_(reply) == ALICE
    down = in_dialog(server, sent, "INFO", upstream=False)
    server.call("t_relay", down)
    (info,) = server.take()
    assert from_(info) == ALICE
    down = in_dialog(server, sent, "INFO", upstream=False, cseq=3)
    assert server.call("uac_restore_from", down) == 1
    assert server.call("uac_restore_to", down) == -1
    server.call("t_relay", down)
    (info,) = server.take()
    assert info.from_.uri == HIDDEN
    server.answer(info, 200)
    (reply,) = server.take()
    assert from_(reply) == ALICE


@in_loop
async def test_mode_auto_keeps_the_names_of_a_dialog() -> None:
    """RFC 3261 §12.2: another URI within the dialog is refused, another display is not."""
    server = await bench()
    run = server.run("INFO", from_=ALICE, to="<sip:bob@example.org>;tag=b1")
    assert server.call("uac_replace_from", run, None, HIDDEN) == -1
    assert server.call("uac_replace_from", run, "x", "") == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "%%%%",
        "A" * 3000,
        "-" * 8,
        base64.urlsafe_b64encode(b"sip:a@b sip:c@d>\r\nX: y").decode().rstrip("="),
        base64.urlsafe_b64encode(b"sip:a@b").decode().rstrip("="),
        base64.urlsafe_b64encode(b"\xff\xfe \x00").decode().rstrip("="),
        base64.urlsafe_b64encode(b" sip:c@d").decode().rstrip("="),
    ],
)
@pytest.mark.parametrize("password", ["", "s3cret"])
@in_loop
async def test_a_hostile_route_parameter(value: str, password: str) -> None:
    """The far end may send back anything: it is as if nothing had come."""
    server = await bench(restore_passwd=password)
    run = server.run(
        "INFO",
        from_=ALICE,
        to="<sip:bob@example.org>;tag=b1",
        headers=f"Route: <sip:127.0.0.1:5060;lr;ftag=a1;vsf={value};vst={value};aci={value}>",
    )
    assert server.call("loose_route", run) in (1, -1)
    server.call("t_relay", run)
    (sent,) = server.take()
    assert (from_(sent), to(sent), sent.cseq_number) == (ALICE, "<sip:bob@example.org>;tag=b1", 1)


def test_what_is_stored() -> None:
    """With a password nothing shows, and neither a changed text nor one of another call is taken."""
    plain = encode("sip:a@b", "sip:c@d", "", "id")
    assert decode(plain, "", "id") == ("sip:a@b", "sip:c@d")
    text = encode("sip:alice@b", "sip:c@d", "pw", "id")
    assert decode(text, "pw", "id") == ("sip:alice@b", "sip:c@d")
    assert b"alice" not in base64.urlsafe_b64decode(text + "==")
    assert decode(text, "other", "id") is None
    assert decode(text, "pw", "id2") is None
    assert decode(plain, "pw", "id") is None
    for index in range(len(text)):
        changed = text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]
        assert decode(changed, "pw", "id") is None
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert not is_uri("sip:a@b ")


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("0", 0), (None, 0), ("-1", 0), ("1000", 0), ("x", 0), ("²", 0)]
)
def test_what_cseq_is_raised_by(text: str | None, number: int) -> None:
    assert raised_by(text) == number


# --- credentials


def challenge(realm: str = "provider.example", **given: Any) -> str:
    return digest.challenge(realm, given.pop("nonce", "n1"), **given)


def check(msg: Message, kind: int, password: str, user: str) -> digest.Credentials:
    """The credentials of a request, found right."""
    (found,) = [c for c in msg.credentials(kind) if c.username == user]
    assert digest.verify(found, digest.ha1(user, found.realm, password, found.algorithm), msg.method, msg.body)
    return found


@in_loop
async def test_a_challenge_is_answered() -> None:
    """RFC 3261 §22.2: the same request again with credentials and a higher CSeq; the caller sees his own number."""
    server = await bench()
    results = []

    def again(run: Run) -> int:
        results.append(server.call("uac_auth", run))
        return int(server.call("t_relay", run))

    server.failure("auth", again)
    _, first = invite(server, ("t_on_failure", "auth"), cseq=5)
    server.answer(first, 407, headers=f"Proxy-Authenticate: {challenge(algorithm='SHA-256')}\r\n")
    sent = server.take()
    (second,) = [msg for msg in sent if msg.method == "INVITE" and msg.is_request]
    assert results == [1]
    assert any(msg.method == "ACK" and msg.cseq_number == 5 for msg in sent)
    assert second.cseq_number == 6
    assert second.call_id == first.call_id
    assert check(second, sip.H_PROXY_AUTHORIZATION, "pw", "user").algorithm == "SHA-256"
    server.answer(second, 200)
    (reply,) = server.take()
    assert reply.cseq_number == 5

    # The caller's ACK and BYE go on from the number that the provider knows (§12.2.1.1, §13.2.2.4).
    ack = in_dialog(server, second, "ACK", upstream=False, cseq=5)
    server.call("t_relay", ack)
    assert [msg.cseq_number for msg in server.take()] == [6]
    bye = in_dialog(server, second, "BYE", upstream=False, cseq=6)
    server.call("t_relay", bye)
    (sent_bye,) = server.take()
    assert sent_bye.cseq_number == 7
    server.answer(sent_bye, 200)
    (reply,) = server.take()
    assert reply.cseq_number == 6
    # The callee has numbers of his own.
    back = in_dialog(server, second, "INFO", upstream=True, cseq=3)
    server.call("t_relay", back)
    assert [msg.cseq_number for msg in server.take()] == [3]


@in_loop
async def test_a_refused_answer_is_not_given_again() -> None:
    """RFC 3261 §22.1: credentials that were rejected are not tried again, unless only the nonce was stale."""
    server = await bench()
    results = []

    def again(run: Run) -> int:
        server.call("t_on_failure", run, "auth")
        results.append(server.call("uac_auth", run))
        return int(server.call("t_relay", run)) if results[-1] > 0 else 1

    server.failure("auth", again)
    _, sent = invite(server, ("t_on_failure", "auth"))
    for headers, result in (
        (challenge(nonce="n1"), 1),
        (challenge(nonce="n2", stale=True), 1),
        (challenge(nonce="n3"), -1),
    ):
        server.answer(sent, 401, headers=f"WWW-Authenticate: {headers}\r\n")
        assert results[-1] == result
        left = [msg for msg in server.take() if not (msg.is_request and msg.method == "ACK")]
        if result > 0:
            (sent,) = left
            assert sent.cseq_number == len(results) + 1
    assert [msg.status for msg in left] == [401]


@in_loop
async def test_two_servers_on_the_way_ask() -> None:
    """RFC 3261 §22.3: the second answer comes with the first, whose nonce is used once more."""
    server = await bench()

    def again(run: Run) -> int:
        server.call("t_on_failure", run, "auth")
        server.call("uac_auth", run)
        return int(server.call("t_relay", run))

    server.failure("auth", again)
    _, first = invite(server, ("t_on_failure", "auth"), body="v=0\r\n")
    server.answer(first, 407, headers=f"Proxy-Authenticate: {challenge('edge.example', qop='auth')}\r\n")
    (second,) = [msg for msg in server.take() if msg.method == "INVITE"]
    server.answer(second, 401, headers=f"WWW-Authenticate: {challenge(qop='auth-int')}\r\n")
    (third,) = [msg for msg in server.take() if msg.method == "INVITE"]
    assert check(third, sip.H_PROXY_AUTHORIZATION, "pw2", "edge").nc == "00000002"
    assert check(third, sip.H_AUTHORIZATION, "pw", "user").qop == "auth-int"
    assert third.cseq_number == 3


@pytest.mark.parametrize(
    ("status", "headers", "algorithms"),
    [
        (407, f"Proxy-Authenticate: {challenge('unknown')}\r\n", None),
        (407, "", None),
        (407, "Proxy-Authenticate: Digest \x00garbage\r\n", None),
        (407, f"Proxy-Authenticate: {challenge()}\r\n", frozenset({"sha-256"})),
        (403, f"Proxy-Authenticate: {challenge()}\r\n", None),
    ],
)
@in_loop
async def test_no_answer(status: int, headers: str, algorithms: frozenset[str] | None) -> None:
    """No login for the realm, no challenge, none that is wanted: -1, and the caller gets the answer."""
    server = await bench()
    results = []
    server.failure("auth", lambda run: results.append(server.call("uac_auth", run, algorithms)) or 1)
    _, sent = invite(server, ("t_on_failure", "auth"))
    server.answer(sent, status, headers=headers)
    assert results == [-1]
    assert status in [msg.status for msg in server.take()]


@in_loop
async def test_only_bye_is_authenticated_within_a_dialog() -> None:
    """The manual: without the dialog's state only BYE may have another CSeq, as nothing follows it."""
    server = await bench()
    results: list[int] = []

    def again(run: Run) -> int:
        results.append(server.call("uac_auth", run))
        return int(server.call("t_relay", run)) if results[-1] > 0 else 1

    server.failure("auth", again)
    _, invited = invite(server)
    for method, result in (("INFO", -1), ("BYE", 1)):
        run = in_dialog(server, invited, method, upstream=False, cseq=8)
        server.call("t_on_failure", run, "auth")
        server.call("t_relay", run)
        sent = server.take()[-1]
        server.answer(sent, 407, headers=f"Proxy-Authenticate: {challenge()}\r\n")
        assert results.pop() == result
        assert result < 0 or server.take()[-1].cseq_number == 9
        server.take()


@in_loop
async def test_uac_inc_cseq() -> None:
    """The manual: CSeq of an ongoing request rises by the argument; replies have the number of the caller."""
    server = await bench()
    run = server.run(cseq=3)
    assert server.call("uac_inc_cseq", run, 1) == -1
    assert server.call("t_newtran", run) == 1
    assert server.call("uac_inc_cseq", run, 4) == 1
    assert server.call("uac_inc_cseq", run, 1) == 1
    assert server.call("uac_inc_cseq", run, 2**31) == -1
    server.call("t_relay", run)
    (sent,) = [msg for msg in server.take() if msg.is_request]
    assert sent.cseq_number == 8
    server.answer(sent, 486)
    assert [msg.cseq_number for msg in server.take() if not msg.is_request] == [3]


# --- parameters


@pytest.mark.parametrize(
    ("name", "value"), [("restore_mode", "dialog"), ("rr_from_store_param", "a=b"), ("rr_to_store_param", "")]
)
def test_parameters_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(ParamError, match=name):
        Uac(**{name: value})


@in_loop
async def test_what_it_needs() -> None:
    """The manual: dialog for force_dialog; rr with append_fromtag for the mode auto."""
    with pytest.raises(ParamError, match="dialog"):
        await bench(force_dialog=1)
    with pytest.raises(StartError, match="append_fromtag"):
        await bench(rr=Rr(append_fromtag=0))
    server = TmBench()
    assert isinstance(server.tm, Tm)
    with pytest.raises(StartError, match="module rr"):
        await server.core.add(Uac()).launch()
    server = TmBench()
    await server.core.add(Uac(restore_mode="none")).launch()
    run = server.run()
    assert server.call("uac_replace_from", run, None, HIDDEN) == 1
