"""REGISTER requests step by step (RFC 3261 §10.3), with the bytes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import make_run, make_var, reply, request
from opensipspy.modules.registrar import standing
from opensipspy.modules.registrar.lookup import parse_lookup_flags
from opensipspy.modules.registrar.request import parse_save_flags
from opensipspy.script.kinds import ONREPLY
from opensipspy.script.run import Branch
from tests.modules.registration import House, bindings, wire

A = "sip:bob@192.0.2.4"
B = "sip:bob@192.0.2.5:5070;transport=tcp"


def play(scenario: Callable[[House], Coroutine[Any, Any, None]], **params: Any) -> None:
    async def run() -> None:
        async with House(**params) as house:
            await scenario(house)

    asyncio.run(run())


def with_registrar(**params: Any) -> dict[str, Any]:
    return {"registrar": params}


def test_a_registration_is_answered_with_the_binding():
    """§10.3 step 8: the 200 lists each current binding with its expires parameter."""

    async def scenario(house: House) -> None:
        answer = await house.register(f"<{A}>", headers="Expires: 1800\r\n")
        assert wire(answer) == (
            "SIP/2.0 200 OK\r\n"
            "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-1\r\n"
            "From: <sip:bob@example.com>;tag=1\r\n"
            "To: <sip:bob@example.com>;tag=tag1\r\n"
            "Call-ID: reg-1@phone\r\n"
            "CSeq: 1 REGISTER\r\n"
            f"Contact: <{A}>;expires=1800\r\n"
            "Content-Length: 0\r\n"
            "\r\n"
        )

    play(scenario)


def test_a_query_lists_the_bindings_and_changes_nothing():
    """§10.2.3: a REGISTER without Contact asks for the list."""

    async def scenario(house: House) -> None:
        assert bindings(await house.register()) == {}
        await house.register(f"<{A}>")
        house.core.advance(100)
        assert bindings(await house.register(cseq=2)) == {A: 3500}

    play(scenario)


def test_expires_come_from_the_contact_then_the_header_then_the_default():
    """§10.3 step 7."""

    async def scenario(house: House) -> None:
        answer = await house.register(f"<{A}>;expires=300, <{B}>", headers="Expires: 900\r\n")
        assert bindings(answer) == {A: 300, B: 900}
        answer = await house.register("<sip:bob@192.0.2.6>", cseq=2)
        assert bindings(answer)["sip:bob@192.0.2.6"] == 1234

    play(scenario, **with_registrar(default_expires=1234))


def test_lifetimes_are_kept_within_the_limits():
    async def scenario(house: House) -> None:
        answer = await house.register(f"<{A}>;expires=10, <{B}>;expires=7200")
        assert bindings(answer) == {A: 60, B: 3600}
        answer = await house.register(f"<{A}>;expires=10", cseq=2, flags="min-expires=5, max-expires=8")
        assert bindings(answer)[A] == 8

    play(scenario, **with_registrar(min_expires=60, max_expires=3600))


def test_lifetimes_can_be_spread():
    async def scenario(house: House) -> None:
        given = {bindings(await house.register(f"<{A}>", cseq=n))[A] for n in range(1, 40)}
        assert len(given) > 10
        assert all(3500 <= one <= 3700 for one in given)

    play(scenario, **with_registrar(expires_max_deviation=100))


def test_an_expires_of_zero_removes_one_binding():
    """§10.2.2."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>, <{B}>")
        assert bindings(await house.register(f"<{A}>;expires=0", cseq=2)) == {B: 3600}
        assert bindings(await house.register("<sip:not@there>;expires=0", cseq=3)) == {B: 3600}
        answer = await house.register(f"<{B}>", cseq=4, headers="Expires: 0\r\n")
        assert bindings(answer) == {}
        assert await house.dump() == {}

    play(scenario)


def test_a_star_with_expires_zero_removes_every_binding():
    """§10.3 step 6."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>, <{B}>")
        answer = await house.register("*", cseq=2, headers="Expires: 0\r\n")
        assert (answer.code, bindings(answer)) == (200, {})

    play(scenario)


@pytest.mark.parametrize(
    ("contact", "headers"),
    [
        ("*", ""),
        ("*", "Expires: 60\r\n"),
        ("*;expires=0", ""),
        (f"*\n<{A}>", "Expires: 0\r\n"),
        (f"*, <{A}>", "Expires: 0\r\n"),
    ],
)
def test_a_star_that_does_not_stand_alone_with_expires_zero_is_400(contact: str, headers: str):
    """§10.3 step 6: additional Contacts or another expiration time are an Invalid Request."""

    async def scenario(house: House) -> None:
        await house.register(f"<{B}>")
        answer = await house.register(contact, cseq=2, headers=headers)
        assert answer.code == 400
        assert await house.uris() == [B]

    play(scenario)


def test_a_lower_cseq_of_the_same_call_changes_nothing():
    """§10.3 step 7: the update is aborted, all of it."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", cseq=10)
        answer = await house.register(f"<{B}>, <{A}>;expires=0", cseq=9)
        assert answer.code == 400
        assert "P-Registrar-Error: Invalid CSeq number\r\n" in answer.headers
        assert await house.uris() == [A]
        answer = await house.register("*", cseq=9, headers="Expires: 0\r\n")
        assert answer.code == 400
        assert await house.uris() == [A]

    play(scenario)


def test_another_call_id_updates_whatever_its_cseq():
    """§10.3 step 7: the phone was restarted."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;q=0.5", cseq=100)
        answer = await house.register(f"<{A}>;expires=60", cseq=1, callid="reg-2@phone")
        assert bindings(answer) == {A: 60}
        assert (await house.dump())["bob@example.com"][0]["Callid"] == "reg-2@phone"

    play(scenario)


def test_a_retransmission_is_answered_and_not_taken_for_an_update():
    """cseq_delay: the same Call-ID and CSeq within 20 s."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;expires=600", cseq=5)
        house.core.advance(10)
        assert bindings(await house.register(f"<{A}>;expires=600", cseq=5)) == {A: 590}
        house.core.advance(15)
        assert bindings(await house.register(f"<{A}>;expires=600", cseq=5)) == {A: 600}

    play(scenario)


def test_a_repeated_cseq_can_be_refused():
    """allow_dup_cseq 0: RFC 3261 §10.3 step 7 to the letter, once it is no retransmission."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", cseq=5)
        house.core.advance(30)
        assert (await house.register(f"<{A}>", cseq=5)).code == 400

    play(scenario, **with_registrar(allow_dup_cseq=0))


@pytest.mark.parametrize(
    "same",
    ["sip:bob@192.0.2.4:5060", "SIP:bob@192.0.2.4:5060", "sip:%62ob@192.0.2.4:5060"],
)
def test_contacts_are_compared_as_uris(same: str):
    """§10.3 step 7 with §19.1.4: equal URIs are one binding."""

    async def scenario(house: House) -> None:
        await house.register("<sip:bob@192.0.2.4:5060>")
        assert list(bindings(await house.register(f"<{same}>", cseq=2))) == [same]

    play(scenario)


def test_a_request_with_many_contacts_is_cheap_to_match(monkeypatch: pytest.MonkeyPatch):
    """URIs are compared with those of the same user and host, not each with each."""

    async def scenario(house: House) -> None:
        def many(host: str) -> str:
            return ", ".join(f"<sip:bob@{host}{n}>" for n in range(200))

        await house.register(many("192.0.2."))
        compared = []
        compare = standing.uri_equal
        monkeypatch.setattr(standing, "uri_equal", lambda a, b: (compared.append(a), compare(a, b))[1])
        assert (await house.register(many("198.51.100."), cseq=2)).code == 200
        assert len(compared) <= 200
        assert len(await house.uris()) == 400

    play(scenario)


def test_matching_mode_one_wants_the_call_id_too():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", callid="one")
        answer = await house.register(f"<{A}>", callid="two")
        assert answer.headers.count(A) == 2

    play(scenario, usrloc={"matching_mode": 1})


def test_matching_by_a_uri_parameter():
    """A phone that came back with another address is the same by its rinstance."""

    async def scenario(house: House) -> None:
        await house.register("<sip:bob@192.0.2.4;rinstance=7>", callid="one")
        answer = await house.register(
            "<sip:bob@192.0.2.9;rinstance=7>", callid="two", flags="matching-mode=<rinstance>"
        )
        assert list(bindings(answer)) == ["sip:bob@192.0.2.9;rinstance=7"]

    play(scenario)


def test_q_values_order_the_contacts():
    async def scenario(house: House) -> None:
        answer = await house.register(f"<{A}>;q=0.3, <{B}>;q=0.8, <sip:bob@192.0.2.6>;q=1.0")
        assert (
            f"Contact: <sip:bob@192.0.2.6>;q=1;expires=3600, <{B}>;q=0.8;expires=3600, <{A}>;q=0.3;" in answer.headers
        )
        result, run = await house.lookup()
        assert (result, run.ruri) == (1, "sip:bob@192.0.2.6")
        assert [(b.uri, b.q) for b in run.branches] == [(B, 800), (A, 300)]

    play(scenario)


@pytest.mark.parametrize(
    ("contact", "why"),
    [
        (f"<{A}>;q=2", "q value"),
        ("<sip:bob@192.0.2.4:port>", "Contact"),
        (f"<sip:{'b' * 300}@192.0.2.4>", "too long"),
        ("<>", ""),
        ("<sip:>", ""),
    ],
)
def test_a_contact_that_cannot_be_is_400_and_changes_nothing(contact: str, why: str):
    async def scenario(house: House) -> None:
        answer = await house.register(f"<{B}>, {contact}")
        assert answer.code == 400
        assert why in answer.headers
        assert await house.dump() == {}
        assert (house.stat("rejected_regs"), house.stat("accepted_regs")) == (1, 0)

    play(scenario)


def test_a_broken_cseq_or_expires_does_not_end_in_an_exception():
    async def scenario(house: House) -> None:
        assert (await house.register(f"<{A}>;expires=9999999999999999999")).code == 200
        assert (await house.register(f"<{A}>;expires=soon", cseq=2)).code == 200

    play(scenario)


def test_too_many_contacts_are_503_with_retry_after():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>, <{B}>")
        answer = await house.register("<sip:bob@192.0.2.6>", cseq=2)
        assert (answer.code, answer.reason) == (503, "Service Unavailable")
        assert "Retry-After: 30\r\n" in answer.headers
        assert await house.uris() == [A, B]
        assert (await house.register(f"<{A}>", cseq=3)).code == 200, "a refresh needs no place"
        assert (await house.register("<sip:bob@192.0.2.6>", cseq=4, flags="max-contacts=0")).code == 200

    play(scenario, **with_registrar(max_contacts=2, retry_after=30))


def test_force_registration_puts_the_oldest_out():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        house.core.advance(1)
        await house.register(f"<{B}>", cseq=2)
        house.core.advance(1)
        answer = await house.register("<sip:bob@192.0.2.6>", cseq=3, flags="max-contacts=2, force-registration")
        assert list(bindings(answer)) == [B, "sip:bob@192.0.2.6"]

    play(scenario)


def test_only_request_contacts_are_listed_when_asked():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        answer = await house.register(f"<{B}>", cseq=2, flags="only-request-contacts")
        assert list(bindings(answer)) == [B]

    play(scenario)


def test_no_reply_sends_nothing():
    async def scenario(house: House) -> None:
        run = house.run(request("REGISTER", to="<sip:bob@example.com>", headers=f"Contact: <{A}>"))
        assert house.core.call("save", run, "location", parse_save_flags("no-reply")) == 1
        assert house.core.replies == []
        assert await house.uris() == [A]

    play(scenario)


def test_save_is_for_register_only():
    async def scenario(house: House) -> None:
        run = house.run(request("INVITE", headers=f"Contact: <{A}>"))
        assert house.core.call("save", run, "location") == -1
        assert house.core.replies == []

    play(scenario)


# --- the address of record (step 5)


def test_the_domain_of_the_aor_is_lower_case_and_escapes_are_undone():
    """§10.3 step 5: canonical form."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", user="sip:b%6Fb@EXAMPLE.com:5060;x=1")
        assert list(await house.dump()) == ["bob@example.com"]
        assert (await house.lookup("sip:Bob@example.com"))[0] == -1

    play(scenario)


def test_case_insensitive_aors_and_a_realm_prefix():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", user="sip:BOB@sip.Example.com")
        assert list(await house.dump()) == ["bob@example.com"]

    play(scenario, **with_registrar(case_sensitive=0, realm_prefix="sip."))


def test_without_use_domain_the_user_is_the_aor():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        assert list(await house.dump()) == ["bob"]
        assert (await house.lookup("sip:bob@other.org"))[0] == 1

    play(scenario, usrloc={"use_domain": 0})


@pytest.mark.parametrize("user", [f"sip:{'b' * 65}@example.com", f"sip:bob@{'e' * 62}.com"])
def test_an_aor_that_is_too_long_is_500(user: str):
    async def scenario(house: House) -> None:
        assert (await house.register(f"<{A}>", user=user)).code == 500

    play(scenario)


def test_save_for_another_aor():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", aor="sip:alice@example.com")
        assert list(await house.dump()) == ["alice@example.com"]
        assert (await house.register(f"<{A}>", aor="nonsense")).code == 400

    play(scenario)


# --- Path (RFC 3327)

PATH = "Path: <sip:p1.example.net;lr>, <sip:p2.example.net;lr>\r\n"


def test_a_path_is_ignored_without_a_path_flag():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", headers=PATH)
        assert "Path" not in (await house.dump())["bob@example.com"][0]

    play(scenario)


def test_path_strict_wants_the_phone_to_support_it():
    """RFC 3327 §5.3: 420 Bad Extension."""

    async def scenario(house: House) -> None:
        answer = await house.register(f"<{A}>", headers=PATH, flags="path-strict")
        assert (answer.code, answer.reason) == (420, "Bad Extension")
        assert "Unsupported: path\r\n" in answer.headers
        answer = await house.register(f"<{A}>", headers=PATH + "Supported: gruu, path\r\n", flags="path-strict")
        assert answer.code == 200
        assert PATH in answer.headers

    play(scenario)


def test_path_lazy_and_off_keep_the_path_and_answer_with_it_or_not():
    async def scenario(house: House) -> None:
        answer = await house.register(f"<{A}>", headers=PATH, flags="path-lazy")
        assert (answer.code, "Path:" in answer.headers) == (200, False)
        supported = PATH + "Supported: path\r\n"
        assert PATH in (await house.register(f"<{A}>", cseq=2, headers=supported, flags="path-lazy")).headers
        assert "Path:" not in (await house.register(f"<{A}>", cseq=3, headers=supported, flags="path-off")).headers
        _, run = await house.lookup()
        assert run.dst_uri == "sip:p1.example.net;lr"
        assert run.path == "<sip:p1.example.net;lr>, <sip:p2.example.net;lr>"

    play(scenario)


def test_path_received_becomes_the_received_uri_and_the_nat_flag():
    async def scenario(house: House) -> None:
        path = "Path: <sip:lb.example.net;lr;received=sip:198.51.100.7%3A4000>\r\n"
        await house.register(f"<{A}>", headers=path, flags="path-off, path-received")
        shown = (await house.dump())["bob@example.com"][0]
        assert shown["Cflags"] == "NAT"

    play(scenario, usrloc={"nat_bflag": "NAT"})


# --- what the phone's surroundings add


def test_received_and_attributes_come_from_avps():
    async def scenario(house: House) -> None:
        def prepare(run: Any) -> None:
            run.avps["rcv"] = ["sip:198.51.100.7:4000"]
            run.avps["attr"] = ["office"]
            run.branch_flags = house.core.flags.mask("branch", "NAT")

        answer = await house.register(
            f"<{A}>", prepare=prepare, headers="User-Agent: Phone 1\r\nAllow: INVITE, BYE\r\n"
        )
        assert f'Contact: <{A}>;expires=3600;received="sip:198.51.100.7:4000"\r\n' in answer.headers
        shown = (await house.dump())["bob@example.com"][0]
        assert shown["Received"] == "sip:198.51.100.7:4000"
        assert (shown["Attr"], shown["Cflags"], shown["User-agent"]) == ("office", "NAT", "Phone 1")
        assert shown["Methods"] == 1 + 8
        _, run = await house.lookup()
        assert (run.ruri, run.dst_uri) == (A, "sip:198.51.100.7:4000")
        assert run.branch_flags == house.core.flags.mask("branch", "NAT")
        assert run.socket_out is house.core.sockets[0]
        assert run.ctx["core.branch.attrs"] == {"attr": "office"}

    play(scenario, **with_registrar(received_avp="$avp(rcv)", attr_avp="$avp(attr)"))


def test_a_socket_header_overrides_the_socket():
    async def scenario(house: House) -> None:
        run = house.run(request("REGISTER"))
        assert house.core.call("add_sock_hdr", run, "Sock-Info") == 1
        assert house.core.call("add_sock_hdr", run, "Bad Name:") == -1
        answer = await house.register(f"<{A}>", headers="Sock-Info: udp:127.0.0.1:5060\r\n", flags="socket-header")
        assert answer.code == 200
        assert (await house.dump())["bob@example.com"][0]["Socket"] == "udp:127.0.0.1:5060"

    play(scenario, **with_registrar(sock_hdr_name="Sock-Info"))


def test_saving_on_the_main_registrars_reply_takes_its_lifetime():
    """mcontact_avp: the reply's expires counts, and no answer is made here."""

    async def scenario(house: House) -> None:
        sent = house.run(request("REGISTER", to="<sip:bob@example.com>", headers=f"Contact: <{A}>;expires=3600"))
        answered = make_run(
            reply(200, method="REGISTER", headers="Contact: <sip:x@proxy>;expires=120"), ONREPLY, core=house.core
        )
        run = sent.for_reply(answered.msg)
        run.avps["ct"] = ["sip:x@proxy"]
        assert house.core.call("save", run, "location") == 1
        assert house.core.replies == []
        shown = (await house.dump())["bob@example.com"]
        assert [(c["Contact"], c["Expires"]) for c in shown] == [(A, 120)]

    play(scenario, **with_registrar(mcontact_avp="$avp(ct)"))


# --- lookup (RFC 3261 §16.5)


def test_lookup_without_contacts_leaves_the_request_alone():
    async def scenario(house: House) -> None:
        result, run = await house.lookup("sip:nobody@example.com")
        assert (result, run.ruri, run.branches) == (-1, "sip:nobody@example.com", [])
        assert house.core.call("lookup", run, "location", None, "no uri") == -3

    play(scenario)


def test_lookup_leaves_out_what_has_run_out():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;expires=60, <{B}>;expires=120")
        house.core.advance(60)
        result, run = await house.lookup()
        assert (result, run.ruri, run.branches) == (1, B, [])
        house.core.advance(60)
        assert (await house.lookup())[0] == -1

    play(scenario)


def test_lookup_flags_choose_where_contacts_go():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;q=1, <{B}>;q=0.5")
        _, run = await house.lookup(flags="no-branches")
        assert (run.ruri, run.branches) == (A, [])
        _, run = await house.lookup(flags="to-branches-only")
        assert run.ruri == "sip:bob@example.com"
        assert [b.uri for b in run.branches] == [A, B]

    play(scenario)


def test_method_filtering_leaves_out_phones_that_do_not_take_it():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", headers="Allow: INVITE, ACK, BYE\r\n")
        assert (await house.lookup(flags="method-filtering"))[0] == 1
        assert (await house.lookup(flags="method-filtering", method="MESSAGE"))[0] == -2
        assert (await house.lookup(method="MESSAGE"))[0] == 1
        await house.register(f"<{B}>", cseq=2)
        result, run = await house.lookup(flags="method-filtering", method="MESSAGE")
        assert (result, run.ruri, run.branches) == (1, B, [])

    play(scenario)


def test_user_agent_and_latency_filters():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", headers="User-Agent: Desk phone\r\n")
        await house.register(f"<{B}>", callid="b", headers="User-Agent: Soft client\r\n")
        _, run = await house.lookup(flags="ua-filtering=/^soft/i")
        assert (run.ruri, run.branches) == (B, [])
        assert (await house.lookup(flags="ua-filtering=/^soft/"))[0] == -2
        domain = house.usrloc.domain("location")
        record = domain.get("bob@example.com")
        assert record is not None
        house.usrloc.set_latency(domain, record.aor, record.contacts[0], 9000)
        house.usrloc.set_latency(domain, record.aor, record.contacts[1], 100)
        _, run = await house.lookup(flags="max-ping-latency=500")
        assert (run.ruri, run.branches) == (B, [])
        _, run = await house.lookup(flags="sort-by-latency")
        assert (run.ruri, [b.uri for b in run.branches]) == (B, [A])

    play(scenario)


def test_lookup_expands_users_among_the_branches():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        await house.register(f"<{B}>", user="sip:carol@example.com", callid="c")
        run = house.run(request("INVITE", "sip:bob@example.com"))
        run.branches = [Branch("sip:carol@example.com"), Branch("sip:nobody@example.com")]
        assert house.core.call("lookup", run, "location", parse_lookup_flags("branch")) == 1
        assert (run.ruri, [b.uri for b in run.branches]) == (A, [B])

    play(scenario)


@pytest.mark.parametrize("text", ["nonsense", "max-contacts=x", "matching-mode=7"])
def test_a_wrong_save_flag_is_found_at_load(text: str):
    with pytest.raises(ValueError, match=text.partition("=")[0]):
        parse_save_flags(text)


# --- questions and removal


def test_is_registered_asks_for_to_in_register_and_from_elsewhere():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        ask = house.core.call
        register = house.run(request("REGISTER", to="<sip:bob@example.com>", from_="<sip:x@y>;tag=1"))
        assert ask("is_registered", register, "location") == 1
        invite = house.run(request("INVITE", from_="<sip:bob@example.com>;tag=1"))
        assert ask("is_registered", invite, "location") == 1
        assert ask("is_registered", invite, "location", "sip:carol@example.com") == -1
        answer = make_run(reply(), ONREPLY, core=house.core)
        assert ask("is_registered", answer, "location") == -1
        assert ask("is_registered", answer, "location", "sip:bob@example.com") == 1
        house.core.advance(3600)
        assert ask("is_registered", invite, "location") == -1

    play(scenario)


def test_is_contact_registered_by_contact_and_call_id():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        run = house.run(request("INVITE", from_="<sip:bob@example.com>;tag=1", headers=f"Contact: <{A}>"))
        ask = house.core.call
        bob = "sip:bob@example.com"
        assert ask("is_contact_registered", run, "location") == 1
        assert ask("is_contact_registered", run, "location", bob, B) == -1
        assert ask("is_contact_registered", run, "location", bob, None, "reg-1@phone") == 1
        assert ask("is_contact_registered", run, "location", bob, A, "other") == -1

    play(scenario)


def test_is_ip_registered_looks_at_where_the_phone_is():
    async def scenario(house: House) -> None:
        await house.register(f"<{B}>")
        run = house.run(request("INVITE", from_="<sip:bob@example.com>;tag=1"))
        ask = house.core.call
        assert ask("is_ip_registered", run, "location", None, make_var("ip", "192.0.2.5")) == 1
        assert ask("is_ip_registered", run, "location", None, make_var("ip", "192.0.2.6")) == -1
        for port, result in ((5070, 1), ("5070", 1), (5060, -1)):
            answer = ask("is_ip_registered", run, "location", None, make_var("ip", "192.0.2.5"), make_var("p", port))
            assert answer == result

    play(scenario)


def test_remove_filters_by_contact_next_hop_and_instance():
    async def scenario(house: House) -> None:
        instance = "<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"
        run = house.run(request("REGISTER"))
        bob = "sip:bob@example.com"
        await house.register(f'<{A}>;+sip.instance="{instance}", <{B}>, <sip:bob@192.0.2.6>')
        assert house.core.call("remove", run, "location", bob, B) == 1
        assert await house.uris() == [A, "sip:bob@192.0.2.6"]
        assert house.core.call("remove", run, "location", bob, None, None, instance) == 1
        assert await house.uris() == ["sip:bob@192.0.2.6"]
        assert await house.core.call("remove", run, "location", bob, None, "192.0.2.99") == 1
        assert await house.uris() == ["sip:bob@192.0.2.6"]
        assert await house.core.call("remove", run, "location", bob, None, "192.0.2.6") == 1
        assert await house.dump() == {}
        assert house.core.call("remove", run, "location", "not a uri") == -1

    play(scenario)


def test_remove_ip_port_of_one_user_or_all():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>, <{B}>")
        await house.register(f"<{A}>", user="sip:carol@example.com", callid="c")
        run = house.run(request("INVITE"))
        assert house.core.call("remove_ip_port", run, "192.0.2.4", 5060, "location", "sip:carol@example.com") == 1
        assert list(await house.dump()) == ["bob@example.com"]
        assert house.core.call("remove_ip_port", run, "192.0.2.4", 5060, "location") == 1
        assert await house.uris() == [B]

    play(scenario)


# --- statistics and parameters


def test_statistics_show_counts_and_parameters():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        await house.register(f"<{A}>;q=9", cseq=2)
        assert (house.stat("accepted_regs"), house.stat("rejected_regs")) == (1, 1)
        shown = house.core.stats.read(["registrar:"])
        assert shown["registrar:default_expire"] == 1000
        assert shown["registrar:max_expires"] == 5000
        assert shown["registrar:max_contacts"] == 7

    play(scenario, **with_registrar(default_expires=1000, max_expires=5000, max_contacts=7))


@pytest.mark.parametrize("params", [{"default_q": 1001}, {"min_expires": 100, "max_expires": 50}])
def test_parameters_that_cannot_be_stop_the_start(params: dict[str, int]):
    async def run() -> None:
        house = House(registrar=params)
        with pytest.raises(ParamError):
            await house.registrar.start()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("parse", "old", "now"),
    [
        (parse_lookup_flags, "m", "method-filtering"),
        (parse_lookup_flags, "bm", "no-branches,method-filtering"),
        (parse_save_flags, "c1fp0", "max-contacts=1,force-registration,path-off"),
        (parse_save_flags, "e60E3600", "min-expires=60,max-expires=3600"),
    ],
)
def test_letters_of_older_scripts_are_refused_with_what_says_it_today(parse: Any, old: str, now: str) -> None:
    """registrar manual, save() and lookup(): each flag with its old letter."""
    with pytest.raises(ValueError, match=f"unknown flag '{old}': letters are not taken any more, write {now}$"):
        parse(old)
    for unknown in ("nonsense-flag", "m2", "1m"):
        with pytest.raises(ValueError, match=f"unknown flag '{unknown}'$"):
            parse(unknown)
