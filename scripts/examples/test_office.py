"""Tests of office.cfg, as its operator writes them: `opensipspy test scripts/examples --cfg-coverage`."""

from __future__ import annotations

import pytest

from opensipspy.pytest_plugin import Opensips
from opensipspy.server.simulation import Simulation

CARRIER_1, CARRIER_2 = "192.0.2.10:5060", "192.0.2.11:5060"


def call(number: str, caller: str = "101", method: str = "INVITE", *more: str) -> str:
    lines = [
        f"{method} sip:{number}@127.0.0.1 SIP/2.0",
        f"Via: SIP/2.0/UDP 192.0.2.101:5060;branch=z9hG4bK{caller}{number}",
        f"From: <sip:{caller}@127.0.0.1>;tag=a1",
        f"To: <sip:{number}@127.0.0.1>",
        f"Call-ID: {caller}-{number}",
        f"CSeq: 1 {method}",
        f"Contact: <sip:{caller}@192.0.2.101:5060>",
        *(more or ("Max-Forwards: 70",)),
    ]
    return "\n".join(lines)


@pytest.fixture
def office(opensips: Opensips) -> Simulation:
    return opensips("office.cfg", answers="answers.json")


def test_a_colleague_is_called_at_the_contact_of_the_database(office: Simulation) -> None:
    asked = office.receive(call("101", "102"))
    assert asked.relayed.to == "192.0.2.101:5060"
    assert asked.relayed.message.ruri == "sip:101@192.0.2.101:5060"
    [lookup] = asked.lookups
    assert (lookup.kind, lookup.answered) == ("database", True)
    assert office.advance(4.1).statuses == [200]


def test_an_unknown_extension_is_told(office: Simulation) -> None:
    assert office.receive(call("999")).reply.status == 480


def test_a_busy_colleague_has_a_mailbox(office: Simulation) -> None:
    asked = office.receive(call("102"))
    assert [sent.to for sent in asked.requests if sent.method == "INVITE"] == ["192.0.2.102:5060", "192.0.2.30:5060"]
    assert asked.statuses == [100, 200]
    assert "failure_route[mailbox]" in asked.routes


def test_the_second_carrier_takes_over_when_the_first_is_silent(office: Simulation) -> None:
    """fr_timeout is 5 s: the test takes none of them."""
    office.gateway(CARRIER_1, "silence")
    assert office.receive(call("0301234567")).relayed.to == CARRIER_1
    later = office.advance(5.2)
    second = [sent for sent in later.requests if sent.to == CARRIER_2]
    assert second[0].header("X-Carrier") == "2"
    assert "carrier 1 failed with 408 for 0301234567" in "\n".join(later.log)
    assert office.advance(2.5).statuses == [200]


@pytest.mark.parametrize(("status", "carriers"), [(503, [CARRIER_1, CARRIER_2]), (486, [CARRIER_1])])
def test_only_trouble_of_the_carrier_leads_to_the_second(office: Simulation, status: int, carriers: list[str]) -> None:
    office.gateway(CARRIER_1, 100, status)
    asked = office.receive(call("0301234567"))
    assert [sent.to for sent in asked.requests if sent.method == "INVITE"] == carriers


def test_nobody_answers_for_thirty_seconds(office: Simulation) -> None:
    """fr_inv_timeout."""
    office.gateway(CARRIER_1, 180)
    office.gateway(CARRIER_2, 180)
    office.receive(call("0301234567"))
    assert 408 not in office.advance(29).statuses
    office.advance(2)
    assert office.advance(31).reply.status == 408


def test_a_cancelled_call_does_not_go_to_the_second_carrier(office: Simulation) -> None:
    office.gateway(CARRIER_1, 180)
    office.receive(call("0301234567"))
    cancelled = office.receive(call("0301234567", "101", "CANCEL"))
    assert [sent.method for sent in cancelled.requests] == ["CANCEL", "ACK"]
    assert sorted(cancelled.statuses) == [200, 487]


def test_who_has_no_credit_does_not_get_out(office: Simulation) -> None:
    assert office.receive(call("0301234567", "102")).reply.status == 402


def test_without_the_rating_service_nobody_gets_out(office: Simulation) -> None:
    office.answers.urls.clear()
    asked = office.receive(call("0301234567"))
    assert asked.reply.status == 503
    assert [(lookup.kind, lookup.answered) for lookup in asked.lookups] == [("http", False)]


def test_the_credit_is_a_number_in_the_script(office: Simulation) -> None:
    """One route by itself: $var and $avp can be given before and looked at after."""
    asked = office.run("outside", call("0301234567"))
    assert asked.value("$var(cents)") == 250
    assert asked.value("$avp(number)") == "0301234567"
    assert asked.exited


def test_a_relay_that_is_not_possible_is_answered(office: Simulation) -> None:
    office.gateway(CARRIER_1, "unreachable")
    office.gateway(CARRIER_2, "unreachable")
    assert office.receive(call("0301234567")).reply.status in (477, 500)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (call("nobody"), 404),
        (call("101", "102", "MESSAGE"), 405),
        (call("101", "102", "INVITE", "Max-Forwards: 0"), 483),
    ],
)
def test_what_the_office_does_not_do_is_refused(office: Simulation, message: str, status: int) -> None:
    assert office.receive(message).reply.status == status


def test_a_whole_call_from_invite_to_bye(office: Simulation) -> None:
    office.receive(call("0301234567"))
    [answer] = office.advance(3.1).replies
    to = answer.header("To")
    route = answer.header("Record-Route")
    for method, number in (("ACK", 1), ("BYE", 2)):
        passed = office.receive(f"""
            {method} sip:{CARRIER_1} SIP/2.0
            Via: SIP/2.0/UDP 192.0.2.101:5060;branch=z9hG4bK{method}
            Route: {route}
            From: <sip:101@127.0.0.1>;tag=a1
            To: {to}
            Call-ID: 101-0301234567
            CSeq: {number} {method}
            Max-Forwards: 70
        """)
        assert passed.relayed.to == CARRIER_1
    assert passed.statuses == [200]
    stray = call("101", "102", "BYE").replace("To: <sip:101@127.0.0.1>", "To: <sip:101@127.0.0.1>;tag=x")
    assert office.receive(stray).reply.status == 404


def test_what_the_office_counts(office: Simulation) -> None:
    office.receive(call("999"))
    assert office.statistic("core:rcv_requests") == 1
