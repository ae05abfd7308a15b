"""A call through the server to a provider who wants other names and credentials, with a phone on each side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opensipspy.sip import digest
from tests.backends import free_port
from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=2
socket=udp:127.0.0.1:@port@
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "uac_auth.so"
loadmodule "uac.so"
modparam("uac_auth", "credential", "trunk:provider.example:s3cret")
modparam("uac", "restore_passwd", "any words")
route {
	if (is_method("ACK") && t_check_trans()) {
		t_relay();
		exit;
	}
	if (is_method("CANCEL")) {
		t_relay();
		exit;
	}
	if (has_totag()) {
		loose_route();
		t_relay();
		exit;
	}
	record_route();
	t_on_branch("hide");
	t_on_failure("challenged");
	$ru = "sip:+4930123@provider.example";
	$du = "sip:127.0.0.1:@provider@";
	t_relay();
}
branch_route[hide] {
	uac_replace_from("Trunk", "sip:trunk@provider.example");
	uac_replace_to( , "sip:+4930123@provider.example");
}
failure_route[challenged] {
	if (t_check_status("407") && uac_auth("MD5,SHA-256")) {
		t_on_branch("hide");
		t_relay();
	}
}
"""


@pytest.fixture
def provider() -> Iterator[Phone]:
    port = free_port()
    phone = Phone("+4930123", ("127.0.0.1", port), domain="provider.example")
    yield phone
    phone.close()


@pytest.fixture
def server(tmp_path: Path, provider: Phone) -> Iterator[ServerProcess]:
    script = tmp_path / "provider.cfg"
    text = SCRIPT.replace("@port@", str(provider.server[1])).replace("@provider@", str(provider.port))
    script.write_text(text, encoding="utf-8")
    process = ServerProcess(script, tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def caller(server: ServerProcess, provider: Phone) -> Iterator[Phone]:
    phone = Phone("alice", provider.server, domain="pbx.example")
    yield phone
    phone.close()


def without_tag(value: str) -> str:
    return value.partition(";tag=")[0]


def test_a_call_to_a_provider(caller: Phone, provider: Phone) -> None:
    """RFC 3261 §12.2, §22.2: each side sees its own names and CSeq numbers all through a challenged call.

    INVITE, 407, INVITE with credentials, 180, 200, ACK, then INFO and BYE of the callee's and the caller's side.
    """
    invite = caller.request("INVITE", "sip:bob@pbx.example", cseq=11, body="v=0\r\n")
    caller.send(invite)
    first = provider.expect("INVITE")
    challenge = digest.challenge("provider.example", "n0nce", algorithm="SHA-256")
    denied = provider.reply(first, 407, "Proxy Authentication Required", tag="c1")
    provider.send(denied.replace("Contact:", f"Proxy-Authenticate: {challenge}\r\nContact:"))
    assert provider.expect("ACK")["CSeq"] == "11 ACK"

    second = provider.expect("INVITE")
    assert second["CSeq"] == "12 INVITE"
    assert second["From"].startswith("Trunk <sip:trunk@provider.example>;tag=")
    assert second["To"] == "<sip:+4930123@provider.example>"
    sent = digest.parse_credentials(second["Proxy-Authorization"])
    assert digest.verify(sent, digest.ha1("trunk", "provider.example", "s3cret", "SHA-256"), "INVITE")
    assert sent.uri == second.request_uri
    assert "alice" not in second.raw.decode().replace(caller.contact, "")

    provider.send(provider.reply(second, 180, "Ringing"))
    ringing = caller.expect(180)
    provider.send(provider.reply(second, 200))
    answered = caller.expect(200)
    for reply in (ringing, answered):
        assert without_tag(reply["From"]) == "<sip:alice@pbx.example>"
        assert without_tag(reply["To"]) == "<sip:bob@pbx.example>"
        assert reply["CSeq"] == "11 INVITE"
    caller.send(caller.ack(answered, invite))
    assert provider.expect("ACK")["CSeq"] == "12 ACK"

    provider.send(provider.callee_request("INFO", second, cseq=900))
    info = caller.expect("INFO")
    assert_names(info, "<sip:bob@pbx.example>", "<sip:alice@pbx.example>")
    assert info["CSeq"] == "900 INFO"
    caller.send(caller.reply(info, 200))
    reply = provider.expect(200)
    assert reply["CSeq"] == "900 INFO"
    assert without_tag(reply["To"]).endswith("<sip:trunk@provider.example>")
    assert without_tag(reply["From"]) == "<sip:+4930123@provider.example>"

    caller.send(caller.in_dialog("BYE", invite, answered, cseq=12))
    bye = provider.expect("BYE")
    assert_names(bye, "<sip:trunk@provider.example>", "<sip:+4930123@provider.example>")
    assert bye["CSeq"] == "13 BYE"
    provider.send(provider.reply(bye, 200))
    over = caller.expect(200)
    assert over["CSeq"] == "12 BYE"
    assert_names(over, "<sip:alice@pbx.example>", "<sip:bob@pbx.example>")


def assert_names(message: Received, from_: str, to: str) -> None:
    assert without_tag(message["From"]).endswith(from_)
    assert without_tag(message["To"]).endswith(to)


def test_a_wrong_password_ends_the_call(caller: Phone, provider: Phone) -> None:
    """RFC 3261 §22.1: the second 407 goes to the caller; a CANCEL after that finds nothing."""
    invite = caller.request("INVITE", "sip:bob@pbx.example")
    caller.send(invite)
    challenge = digest.challenge("provider.example", "n0nce")
    for _ in range(2):
        request = provider.expect("INVITE")
        denied = provider.reply(request, 407, "Proxy Authentication Required", tag="c1")
        provider.send(denied.replace("Contact:", f"Proxy-Authenticate: {challenge}\r\nContact:"))
        provider.expect("ACK")
    final = caller.expect(407)
    assert without_tag(final["From"]) == "<sip:alice@pbx.example>"
    assert final["CSeq"] == "1 INVITE"
    caller.send(caller.ack(final, invite))
    provider.expect_nothing(0.2)
