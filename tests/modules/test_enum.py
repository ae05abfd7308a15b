"""enum: from telephone numbers to URIs (RFC 6116), with records that name servers might give."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import LocateError, Naptr, ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.enum import Enum, Wanted, checked_suffix, country_code_length, isn_name
from opensipspy.script.run import Run
from tests.modules.asynchronous import in_loop

NAME = "3.2.1.0.3.9.4.e164.arpa"
NUMBER = "+4930123"


def record(regexp: str = "!^.*$!sip:a@b.example!", order: int = 10, preference: int = 10, **given: str) -> Naptr:
    return Naptr(order, preference, given.get("flags", "u"), given.get("service", "E2U+sip"), regexp)


async def loaded(naptrs: dict[str, Any] | None = None, **params: Any) -> FakeCore:
    core = FakeCore()
    core.naptrs.update(naptrs or {})
    await core.add(Enum(**params)).launch()
    return core


def call_to(user: str, core: FakeCore, **given: Any) -> Run:
    return make_run(request(ruri=f"sip:{user}@gw.example", **given), core=core)


@in_loop
async def test_the_best_record_and_branches() -> None:
    """The manual: sorted by order and preference; the first is the Request-URI, the others are branches, q falls."""
    core = await loaded(
        {
            NAME: [
                record("!^.*$!sip:third@b.example!", 20, 5),
                record("!^\\+49(.*)$!sip:0\\1@b.example!", 10, 10),
                record("!^.*$!sip:equal@b.example!", 10, 10),
                record("!^.*$!mailto:a@b.example!", 1, 1, service="E2U+email:mailto"),
            ]
        }
    )
    run = call_to(NUMBER, core)
    assert await core.call("enum_query", run) == 1
    assert (run.ruri, run.q) == ("sip:030123@b.example", 990)
    assert [(branch.uri, branch.q) for branch in run.branches] == [
        ("sip:equal@b.example", 990),
        ("sip:third@b.example", 980),
    ]


@in_loop
async def test_suffix_service_and_number() -> None:
    """The manual: each argument takes the place of a default."""
    core = await loaded({"3.2.1.0.3.9.4.tree.example": [record(service="E2U+voice:sip")]}, domain_suffix="other.")
    run = call_to("bob", core)
    arguments = (checked_suffix("tree.example."), Wanted("voice"), NUMBER)
    assert await core.call("enum_query", run, *arguments) == 1
    assert run.ruri == "sip:a@b.example"
    assert await core.call("enum_query", run, arguments[0], None, NUMBER) == -1


@pytest.mark.parametrize(
    ("wanted", "service", "fits"),
    [
        ("", "E2U+sip", True),
        ("", "sip+E2U", True),
        ("", "E2U+voice:sip", False),
        ("voice", "e2u+Voice:SIP", True),
        ("voice", "E2U+sip", False),
        ("+sip+voice:sip", "E2U+voice:sip", True),
        ("+sip+voice:sip", "E2U+email:mailto+sip", True),
        ("+video:sip", "E2U+voice:sip+video:sip", True),
        ("+sip", "E2U+voice:sip", False),
        ("+sip", "sip", False),
        ("+sip", "", False),
    ],
)
def test_services(wanted: str, service: str, fits: bool) -> None:
    """The manual: one type, or with a plus several types and compound records, in any case."""
    assert Wanted(wanted).fits(record(service=service)) is fits
    assert not Wanted(wanted).fits(record(service=service, flags="s"))


@pytest.mark.parametrize("user", ["4930123", "+4", "+1234567890123456", "+49x", "+４９３０", "", "+"])
@in_loop
async def test_what_is_no_number(user: str) -> None:
    """The manual: a plus and 2 to 15 decimal digits."""
    core = await loaded()
    run = call_to(user or "x", core)
    assert await core.call("enum_query", run, None, None, user) == -1
    assert run.ruri.startswith("sip:")


@pytest.mark.parametrize(
    "found",
    [
        [],
        LocateError("no answer"),
        [record("nonsense")],
        [record("!^.*$!not a uri!")],
        [record("!^.*$!sip:a@b>\r\nX: y!")],
        [record("!^.*$!http://b.example!")],
        [record("!^1$!sip:a@b!")],
        [record("!^.*$!sip:" + "x" * 508 + "!")],
    ],
)
@in_loop
async def test_nothing_that_can_be_used(found: Any) -> None:
    """Records of strangers: what makes no URI is left out, and the Request-URI stays."""
    core = await loaded({NAME: found})
    run = call_to(NUMBER, core)
    assert await core.call("enum_query", run) == -1
    assert run.ruri == f"sip:{NUMBER}@gw.example"
    assert run.branches == []


@in_loop
async def test_a_number_has_so_many_destinations_at_most() -> None:
    """Hundreds of records must not become hundreds of requests."""
    core = await loaded({NAME: [record(f"!^.*$!sip:u{n}@b.example!", n) for n in range(400)]})
    run = call_to(NUMBER, core)
    assert await core.call("enum_query", run) == 1
    assert len(run.branches) == 11


@in_loop
async def test_a_record_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One expression that is given up is the last that is tried for a name."""
    tried: list[str] = []

    def slow(regexp: str, text: str, patterns: object) -> str:
        tried.append(regexp)
        raise TimeoutError

    monkeypatch.setattr("opensipspy.modules.enum.apply_rule", slow)
    core = await loaded({NAME: [record(order=n) for n in range(9)]})
    assert await core.call("enum_query", call_to(NUMBER, core)) == -1
    assert len(tried) == 1
    assert "too long" in caplog.text


@in_loop
async def test_uri_parameters() -> None:
    """The manual: tel_uri_params is added to every URI, before its headers."""
    rules = ["!^.*$!tel:+49!", "!^.*$!sip:a@b?Subject=x!"]
    core = await loaded({NAME: [record(rule, n) for n, rule in enumerate(rules)]}, tel_uri_params=";npdi")
    run = call_to(NUMBER, core)
    assert await core.call("enum_query", run) == 1
    assert run.ruri == "tel:+49;npdi"
    assert run.branches[0].uri == "sip:a@b;npdi?Subject=x"


@pytest.mark.parametrize(
    ("digits", "length"),
    [
        ("1234", 1),
        ("7095", 1),
        ("4930", 2),
        ("358312", 3),
        ("4201", 3),
        ("59811", 3),
        ("85212", 3),
        ("9712", 3),
        ("201", 2),
    ],
)
def test_country_codes(digits: str, length: int) -> None:
    """ITU-T E.164: the manual's examples are i.1, i.3.4 and i.2.5.3."""
    assert country_code_length(digits) == length


@pytest.mark.parametrize(
    ("number", "texts", "name"),
    [
        ("+12345678999", None, "9.9.9.8.7.6.5.4.3.2.i.1.e164.arpa"),
        ("+12345678999", {"i.1.e164.arpa": ["4"]}, "9.9.9.8.7.6.5.i.4.3.2.1.e164.arpa"),
        ("+12345678999", {"i.1.e164.arpa": ["nonsense"]}, "9.9.9.8.7.6.5.4.3.2.i.1.e164.arpa"),
        ("+12345678999", {"i.1.e164.arpa": ["99"]}, "9.9.9.8.7.6.5.4.3.2.i.1.e164.arpa"),
        ("+12345678999", {"i.1.e164.arpa": LocateError("x")}, "9.9.9.8.7.6.5.4.3.2.i.1.e164.arpa"),
        ("+3581", {}, "1.i.8.5.3.e164.arpa"),
        ("+35", {}, "i.5.3.e164.arpa"),
    ],
)
@in_loop
async def test_the_infrastructure_tree(number: str, texts: dict[str, Any] | None, name: str) -> None:
    """The manual: the label stands behind the country code, or where a TXT record says."""
    core = await loaded({name: [record()]}, bl_algorithm="cc" if texts is None else "txt")
    core.txts.update(texts or {})
    run = call_to(number, core)
    assert await core.call("i_enum_query", run) == 1
    assert run.ruri == "sip:a@b.example"
    assert await core.call("i_enum_query", call_to("bob", core)) == -1


@pytest.mark.parametrize(
    ("user", "name"),
    [("56*1212", "6.5.1212."), ("+56*1212", "6.5.1212."), ("561212", None), ("*12", None), ("5*", None), ("a*1", None)],
)
@in_loop
async def test_itad_subscriber_numbers(user: str, name: str | None) -> None:
    """The manual: 56*1212 is asked for as 6.5.1212.suffix, the ITAD not reversed."""
    assert isn_name(user) == name
    core = await loaded({"6.5.1212.freenum.org": [record()]})
    run = call_to(user, core)
    assert await core.call("isn_query", run) == (1 if name else -1)


@pytest.mark.parametrize(("source", "result"), [("192.0.2.5", 1), ("192.0.2.6", -1)])
@in_loop
async def test_is_from_user_enum(source: str, result: int) -> None:
    """The number in From leads to a host, and the request came from there."""
    rules = ["!^.*$!tel:+1!", "!^.*$!sip:a@unknown.example!", "!^.*$!sip:a@192.0.2.5!"]
    core = await loaded({NAME: [record(rule, n) for n, rule in enumerate(rules)]})
    peer = sip.Peer(sip.PROTO_UDP, source, 5060)
    run = make_run(request(from_=f"<sip:{NUMBER}@x>;tag=1"), core=core, source=peer)
    assert await core.call("is_from_user_enum", run) == result
    assert await core.call("is_from_user_enum", make_run(request(), core=core, source=peer)) == -1


@pytest.mark.parametrize("text", ["", ".", "a..b", "x" * 64 + ".example", "ü.example", "a." * 130])
def test_suffixes_that_cannot_be(text: str) -> None:
    """RFC 1035 §2.3.4: labels of 1 to 63 octets, names of 255 at most."""
    with pytest.raises(ValueError, match="domain"):
        checked_suffix(text)


@pytest.mark.parametrize(
    "params",
    [
        {"bl_algorithm": "ebl"},
        {"branchlabel": "a.b"},
        {"domain_suffix": ""},
        {"tel_uri_params": "npdi"},
        {"tel_uri_params": ";a=b\r\n"},
    ],
)
@in_loop
async def test_parameters_that_cannot_be(params: dict[str, str]) -> None:
    with pytest.raises(ParamError):
        await loaded(**params)
