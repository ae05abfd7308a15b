"""sipmsgops: what the functions find in a message, and what leaves on the wire after them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, make_var, reply, request
from opensipspy.modules.sipmsgops import SipMsgOps
from opensipspy.modules.sipmsgops.sdp import Session
from opensipspy.script.kinds import ONREPLY
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Branch, Run

SDP = (
    "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8 97 98 101\r\n"
    "a=rtpmap:97 speex/8000\r\na=fmtp:97 mode=1\r\na=rtpmap:98 speex/16000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n"
    "m=video 4002 RTP/SAVP 31\r\na=rtpmap:31 H261/90000\r\n"
)
SDP_HEADER = "Content-Type: application/sdp"


def core_with_module() -> FakeCore:
    core = FakeCore()
    core.add(SipMsgOps())
    return core


def call(function: str, run: Run, *args: Any) -> int:
    """Call a function as a script with constant arguments does: what has a fixup goes through it."""
    core = core_with_module()
    params = core.catalogue.functions[function].params
    ready = [p.fixup(a) if p.fixup is not None and a is not None else a for p, a in zip(params, args, strict=False)]
    result: int = core.call(function, run, *ready)
    return result


def wire(run: Run) -> str:
    socket = run.msg.socket
    if run.msg.is_request:
        return sip.build_request(run.msg, run.edits, run.ruri, "SIP/2.0/UDP h;branch=z9hG4bKx", socket).decode()
    return sip.build_forwarded_reply(run.msg, run.edits, socket).decode()


def body_of(run: Run) -> str:
    head, _, body = wire(run).partition("\r\n\r\n")
    (length,) = [line for line in head.split("\r\n") if line.lower().startswith("content-length")]
    assert int(length.partition(":")[2]) == len(body.encode())
    return body


def with_sdp(body: str = SDP) -> Run:
    return make_run(request(headers=SDP_HEADER, body=body))


# --- asking


@pytest.mark.parametrize(
    ("names", "method", "expected"),
    [
        ("INVITE", "INVITE", 1),
        ("invite", "INVITE", 1),
        ("ACK|BYE", "BYE", 1),
        ("ACK|BYE", "INVITE", -1),
        ("PING", "PING", 1),
        ("PONG|ACK", "PING", -1),
        ("SUBSCRIBE|PUBLISH|NOTIFY|REFER|PRACK|UPDATE|INFO|MESSAGE|OPTIONS|REGISTER", "PUBLISH", 1),
    ],
)
def test_methods(names: str, method: str, expected: int) -> None:
    """The manual: one method or a list of them, known or not."""
    assert call("is_method", make_run(request(method)), names) == expected


def test_the_method_of_a_reply_is_that_of_its_cseq() -> None:
    """The manual: for replies, the method field of CSeq is tested."""
    run = make_run(reply(method="BYE"), ONREPLY)
    assert (call("is_method", run, "BYE"), call("is_method", run, "INVITE")) == (1, -1)


def test_a_list_of_methods_without_a_method_is_found_at_load() -> None:
    """A typing error in a constant is a finding, not a quiet false."""
    with pytest.raises(ValueError, match="INVITE"):
        call("is_method", make_run(request()), "INVITE||ACK")


@pytest.mark.parametrize(("to", "expected"), [("<sip:b@x>", -1), ("<sip:b@x>;tag=1", 1), ("sip:b@x;tag=1", 1)])
def test_to_tags(to: str, expected: int) -> None:
    """RFC 3261 §12.2: a To tag makes a request part of a dialog; without brackets it is the header's, too (§20)."""
    assert call("has_totag", make_run(request(to=to))) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("From", 1), ("f", 1), ("X-one", 1), ("s", 1), ("Subject", 1), ("X-Two", -1), ("Route", -1)]
)
def test_headers_are_found_by_any_spelling(name: str, expected: int) -> None:
    """RFC 3261 §7.3.3: compact forms and case make no difference."""
    assert call("is_present_hf", make_run(request(headers="x-ONE: 1\r\ns: hello")), name) == expected


@pytest.mark.parametrize(("wanted", "expected"), [("id", 1), ("USER", 1), ("critical", 1), ("none", -1)])
def test_privacy(wanted: str, expected: int) -> None:
    """RFC 3323 §4.2: values are separated by semicolons."""
    assert call("is_privacy", make_run(request(headers="Privacy: ID;user ; critical")), wanted) == expected


def test_unknown_privacy_types_are_found_at_load() -> None:
    """The types of the IANA registry are known."""
    with pytest.raises(ValueError, match="secret"):
        call("is_privacy", make_run(request()), "secret")


# --- adding and removing


def test_headers_are_added_at_their_places() -> None:
    """The manual: at the end, at the start, after and before another header."""
    run = make_run(request(headers="Call-ID: x\r\nSubject: s"))
    assert call("append_hf", run, "X-End: 1\r\n") == 1
    assert call("append_hf", run, "X-After: 2\r\n", "Call-ID") == 1
    assert call("insert_hf", run, "X-Before: 3\r\n", "i") == 1
    assert call("insert_hf", run, "X-Start: 4") == 1
    assert call("append_hf", run, "X-Nowhere: 5\r\n", "P-None") == 1
    assert call("append_urihf", run, "CC-Diversion: ", "\r\n") == 1
    text = wire(run)
    assert "\r\nX-Before: 3\r\nCall-ID: x\r\nX-After: 2\r\nSubject: s\r\n" in text
    assert text.index("X-Start: 4\r\n") < text.index("192.0.2.10")
    assert "\r\nX-End: 1\r\nX-Nowhere: 5\r\nCC-Diversion: sip:bob@example.org\r\n\r\n" in text


@pytest.mark.parametrize("text", ["", "\r\n", "X: 1\r\n\r\nbody", "\r\nX: 1", "X: 1\n\nY: 2", "X: \0"])
def test_a_text_cannot_end_the_headers(text: str) -> None:
    """An empty line would make a body of the rest of the headers."""
    run = make_run(request())
    before = wire(run)
    assert call("append_hf", run, text) == -1
    assert call("insert_hf", run, text) == -1
    assert wire(run) == before


def test_branch_headers_stay_in_their_branch() -> None:
    """The manual: changes in a branch route are for that branch."""
    run = make_run(request())
    one, two = (run.for_branch(Branch("sip:x@192.0.2.9"), index) for index in (0, 1))
    call("append_hf", one, "X-Branch: 1\r\n")
    assert "X-Branch" in wire(one)
    assert "X-Branch" not in wire(two)


def test_all_headers_of_a_name_are_removed() -> None:
    """The manual: every one of them; false when there is none."""
    run = make_run(request(headers="X-A: 1\r\nSubject: s\r\nx-a: 2\r\nX-AB: 3\r\nX-B: folded\r\n value"))
    assert call("remove_hf", run, "X-a") == 1
    assert call("remove_hf", run, "X-b") == 1
    assert call("remove_hf", run, "Organization") == -1
    text = wire(run)
    assert "Subject: s\r\nX-AB: 3\r\n" in text
    assert "folded" not in text
    assert "X-A:" not in text


def test_headers_are_removed_by_pattern() -> None:
    """The manual: POSIX expressions and shell patterns on names."""
    run = make_run(request(headers="X-g1: 1\r\nX-Billing-Price: 2\r\nY: 3"))
    core = core_with_module()
    assert core.call("remove_hf_re", run, Pattern("^X-g.*[0-9]$")) == 1
    assert core.call("remove_hf_re", run, Pattern("^Z")) == -1
    assert call("remove_hf_glob", run, "x-billing*") == 1
    assert call("remove_hf_glob", run, "x-[!b]z") == -1
    text = wire(run)
    assert "X-" not in text
    assert "Y: 3\r\n" in text


def test_headers_and_a_body_for_replies() -> None:
    """The manual: they go into every reply made here; the last body counts; Date is RFC 3261 §20.17."""
    run = make_run(request())
    assert call("append_to_reply", run, "Foo: bar\r\n") == 1
    assert call("append_to_reply", run, "a\r\n\r\nb") == -1
    assert call("append_time", run) == 1
    call("append_body_to_reply", run, "one")
    call("append_body_to_reply", run, "two")
    assert run.reply_edits == ["Foo: bar\r\n", "Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"]
    assert run.ctx["reply_body"] == b"two"


@pytest.mark.parametrize(
    ("status", "code", "reason", "expected"),
    [
        (603, 404, "Not Found", 1),
        (180, 183, "Progress", 1),
        (180, 200, "OK", -1),
        (200, 404, "No", -1),
        (404, 200, "OK", -1),
        (404, 700, "x", -1),
        (404, 99, "x", -1),
        (404, 410, "a\r\nX: y", -1),
    ],
)
def test_the_status_of_a_reply(status: int, code: int, reason: str, expected: int) -> None:
    """The manual: the class of provisional and positive replies stays."""
    run = make_run(reply(status, "Was"), ONREPLY)
    assert call("change_reply_status", run, code, reason) == expected
    changed = f"SIP/2.0 {code} {reason}\r\n" if expected > 0 else f"SIP/2.0 {status} Was\r\n"
    assert wire(run).startswith(changed)
    assert run.msg.status == (code if expected > 0 else status)


# --- option lists


def test_options_are_listed_added_and_removed() -> None:
    """The manual: on the first header, on all headers, several times; an empty list goes."""
    run = make_run(request(headers="Supported: 100rel , timer,timer\r\nk: path\r\nRequire: 100rel"))
    assert call("list_hdr_has_option", run, "Supported", "100REL") == 1
    assert call("list_hdr_has_option", run, "k", "path") == 1
    assert call("list_hdr_has_option", run, "Supported", "outbound") == -1
    assert call("list_hdr_add_option", run, "Supported", "outbound") == 1
    assert call("list_hdr_has_option", run, "Supported", "outbound") == 1
    assert call("list_hdr_remove_option", run, "Supported", "timer") == 1
    assert call("list_hdr_remove_option", run, "Supported", "path") == 1
    assert call("list_hdr_remove_option", run, "Require", "100rel") == 1
    assert call("list_hdr_remove_option", run, "Require", "100rel") == -1
    assert call("list_hdr_add_option", run, "Unsupported", "x") == -1
    text = wire(run)
    assert "Supported: 100rel, timer, outbound\r\n" in text
    assert "k:" not in text
    assert "Require" not in text


def test_option_lists_of_a_branch_are_its_own() -> None:
    """What a branch route adds is not seen by the next branch."""
    run = make_run(request(headers="Supported: timer"))
    call("list_hdr_add_option", run, "Supported", "path")
    one, two = (run.for_branch(Branch("sip:x@192.0.2.9"), index) for index in (0, 1))
    call("list_hdr_add_option", one, "Supported", "gruu")
    assert call("list_hdr_has_option", two, "Supported", "gruu") == -1
    assert "Supported: timer, path, gruu\r\n" in wire(one)
    assert "Supported: timer, path\r\n" in wire(two)


# --- taking apart


def test_headers_by_pattern_into_variables() -> None:
    """The manual: names and values in parallel; false when nothing matches."""
    run = make_run(request(headers="X-A: 1\r\nx-b: 2\r\nY: 3"))
    got: dict[str, list[Any]] = {"n": [], "v": []}
    names, values = make_var("n"), make_var("v")
    names.set = lambda run, value: got["n"].append(value)
    values.set = lambda run, value: got["v"].append(value)
    assert call("get_glob_headers_values", run, "X-*", names, values) == 1
    assert got == {"n": ["X-A", "x-b"], "v": ["1", "2"]}
    assert call("get_glob_headers_values", run, "Q*", names, values) == -1


def test_a_message_as_json() -> None:
    """The manual: first line, headers with lists of values, body; bytes that are no UTF-8 do not break it."""
    data = request(headers="X: a\r\nX: b\r\nY: caf").encode().replace(b"caf", b"caf\xe9")
    run = make_run(data)
    assert call("sip_to_json", run, make_var("j")) == 1
    shown = json.loads(str(run.vars["j"]).encode())
    assert shown["first_line"] == "INVITE sip:bob@example.org SIP/2.0"
    assert shown["headers"]["X"] == ["a", "b"]
    assert shown["headers"]["Y"] == ["caf\ufffd"]
    assert "body" not in shown


# --- URIs


@pytest.mark.parametrize(
    ("ruri", "param", "value", "expected"),
    [
        ("sip:b@x;user=phone", "user", "phone", 1),
        ("sip:b@x;USER=Phone?h=1", "user", "phone", 1),
        ("sip:b@x;user=phone", "user", None, -1),
        ("sip:b@x;lr", "lr", None, 1),
        ("sip:b;lr@x", "lr", None, -1),
        ("sip:b@x?lr=1", "lr", None, -1),
    ],
)
def test_parameters_of_the_request_uri(ruri: str, param: str, value: str | None, expected: int) -> None:
    """The manual: without a value the parameter has to have none."""
    assert call("ruri_has_param", make_run(request(ruri=ruri)), param, value) == expected


def test_parameters_are_added_and_deleted() -> None:
    """RFC 3261 §19.1.1: parameters stand before headers, and not in the user part."""
    run = make_run(request(ruri="sip:b;x=1@h:5062;a=1;Nat=no;c?s=1"))
    assert call("ruri_add_param", run, "d=2") == 1
    assert run.ruri == "sip:b;x=1@h:5062;a=1;Nat=no;c;d=2?s=1"
    assert call("ruri_del_param", run, "nat") == 1
    assert call("ruri_del_param", run, "x") == -1
    assert call("ruri_add_param", run, "e>\r\nX: 1") == -1
    assert call("ruri_add_param", run, "") == -1
    assert run.ruri == "sip:b;x=1@h:5062;a=1;c;d=2?s=1"


def test_a_telephone_number_becomes_a_sip_uri() -> None:
    """RFC 3261 §19.1.6: the number is the user part, user=phone is added; sip: URIs stay."""
    run = make_run(request(ruri="tel:+358-555-1234567;ext=12"))
    assert call("ruri_tel2sip", run) == 1
    assert run.ruri == "sip:+358-555-1234567;ext=12@example.com;user=phone"
    assert call("ruri_tel2sip", run) == 1
    assert run.ruri.startswith("sip:")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("sip:+358401@x", 1), ("sip:358401@x", -1), ("sip:+1@x", -1), ("sip:+1234567890123456@x", -1), ("<", -1)],
)
def test_telephone_numbers(uri: str, expected: int) -> None:
    """ITU-T E.164: a plus and up to 15 digits."""
    assert call("is_uri_user_e164", make_run(request()), uri) == expected


# --- bodies


MULTIPART = (
    "preamble\r\n--sep\r\nContent-Type: application/sdp\r\n\r\n" + SDP + "\r\n--sep\r\n"
    "Content-Type: application/isup;version=nxv3\r\nContent-Disposition: signal\r\n\r\n\x01\x02\r\n--sep--\r\n"
)


def multipart() -> Run:
    return make_run(request(headers='Content-Type: multipart/mixed; boundary="sep"', body=MULTIPART))


@pytest.mark.parametrize("function", ["has_body", "has_body_part"])
def test_bodies_by_type(function: str) -> None:
    """The manual: any body, one of a type, or one part of a type."""
    assert call(function, make_run(request())) == -1
    assert call(function, with_sdp()) == 1
    assert call(function, with_sdp(), "Application/SDP") == 1
    assert call(function, with_sdp(), "text/plain") == -1
    assert call(function, multipart(), "application/isup") == 1
    assert call(function, multipart(), "multipart/mixed") == 1
    with pytest.raises(ValueError, match="sdp"):
        call(function, with_sdp(), "sdp")


def test_removing_parts() -> None:
    """The manual: by type, all but a type, or the whole body; Content-Type and Content-Length follow."""
    run = multipart()
    assert call("remove_body_part", run, "application/isup") == 1
    assert "\x01" not in body_of(run)
    assert call("has_body_part", run, "application/isup") == -1
    assert call("remove_body_part", run, "application/isup") == -1
    run = multipart()
    assert call("remove_body_part", run, "application/sdp", "revert") == 1
    assert call("has_body_part", run, "application/sdp") == 1
    assert call("has_body_part", run, "application/isup") == -1
    run = with_sdp()
    assert call("remove_body_part", run) == 1
    assert body_of(run) == ""
    assert "Content-Type" not in wire(run)
    assert call("has_body", run) == -1
    assert call("remove_body_part", run) == -1


def test_adding_parts() -> None:
    """The manual: the first part is the body; with a second one it becomes multipart (RFC 2046 §5.1)."""
    run = make_run(request())
    assert call("add_body_part", run, "Hello", "text/plain") == 1
    assert body_of(run) == "Hello"
    assert "Content-Type: text/plain\r\n" in wire(run)
    assert call("add_body_part", run, "more", "text/html", "X-Part: 1\r\n") == 1
    text = wire(run)
    boundary = text.partition('boundary="')[2].partition('"')[0]
    assert body_of(run) == (
        f"--{boundary}\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
        f"--{boundary}\r\nContent-Type: text/html\r\nX-Part: 1\r\n\r\nmore\r\n--{boundary}--\r\n"
    )
    assert call("add_body_part", run, "x", "text/plain\r\nX: 1") == -1
    assert call("add_body_part", run, "x", "text/plain", "X: 1\r\n\r\nY") == -1


def test_the_changed_body_in_a_variable() -> None:
    """The manual: with all changes so far; the message is not affected."""
    run = multipart()
    call("codec_delete", run, "speex")
    assert call("get_updated_body_part", run, "application/sdp", make_var("b")) == 1
    assert "speex" not in str(run.vars["b"])
    assert str(run.vars["b"]).startswith("v=0\r\n")
    assert call("get_updated_body_part", run, None, make_var("b")) == 1
    assert str(run.vars["b"]) == body_of(run)
    assert call("get_updated_body_part", make_run(request()), None, make_var("b")) == -1


# --- codecs and streams


@pytest.mark.parametrize(
    ("name", "clock", "expected"),
    [
        ("SPEEX", None, 1),
        ("speex", "16000", 1),
        ("speex", "32000", -1),
        ("PCMU", "8000", 1),
        ("GSM", None, -1),
        ("h261", None, 1),
    ],
)
def test_codecs_are_found(name: str, clock: str | None, expected: int) -> None:
    """The manual: in every stream, without regard to case; RFC 3551 names the static payload types."""
    assert call("codec_exists", with_sdp(), name, clock) == expected


def test_a_deleted_codec_takes_its_attributes_along() -> None:
    """The manual: from the m= line and from the attributes; the next function sees it gone."""
    run = with_sdp()
    assert call("codec_delete", run, "speex", "8000") == 1
    assert call("codec_exists", run, "speex", "8000") == -1
    assert call("codec_delete", run, "speex", "8000") == -1
    body = body_of(run)
    assert "m=audio 4000 RTP/AVP 0 8 98 101\r\n" in body
    assert "fmtp:97" not in body
    assert body == SDP.replace(" 97", "", 1).replace("a=rtpmap:97 speex/8000\r\na=fmtp:97 mode=1\r\n", "")


def test_a_stream_without_codecs_is_refused() -> None:
    """RFC 3264 §6: port 0 refuses a stream; RFC 8866 §5.14 wants a format in the m= line still."""
    run = with_sdp()
    assert call("codec_delete", run, "H261") == 1
    assert "m=video 0 RTP/SAVP 31\r\n" in body_of(run)


def test_codecs_are_moved_in_their_order() -> None:
    """The manual's example: back, delete, front, keeping the order of those that move."""
    run = with_sdp()
    assert call("codec_move_down", run, "speex", "8000") == 1
    assert call("codec_delete", run, "PCMU", "8000") == 1
    assert call("codec_move_up", run, "speex") == 1
    assert "m=audio 4000 RTP/AVP 98 97 8 101\r\n" in body_of(run)
    assert call("codec_move_up", run, "GSM") == -1


def test_codecs_by_expression() -> None:
    """The manual: the same with POSIX expressions."""
    core = core_with_module()
    run = with_sdp()
    assert core.call("codec_exists_re", run, Pattern("sp[a-z]*")) == 1
    assert core.call("codec_move_up_re", run, Pattern("^telephone")) == 1
    assert core.call("codec_move_down_re", run, Pattern("PCM")) == 1
    assert "m=audio 4000 RTP/AVP 101 97 98 0 8\r\n" in body_of(run)
    assert core.call("codec_delete_re", run, Pattern("PCMA|PCMU")) == 1
    assert "m=audio 4000 RTP/AVP 101 97 98\r\n" in body_of(run)
    assert core.call("codec_delete_except_re", run, Pattern("speex|H261")) == 1
    assert "m=audio 4000 RTP/AVP 97 98\r\n" in body_of(run)
    assert core.call("codec_delete_except_re", run, Pattern("speex|H261")) == -1


def test_streams() -> None:
    """The manual: by media and transport; a deleted stream goes with its attributes."""
    core = core_with_module()
    run = with_sdp()
    assert core.call("stream_exists", run, Pattern("audio"), Pattern("SAVP")) == -1
    assert core.call("stream_exists", run, Pattern("video"), Pattern("SAVP")) == 1
    assert core.call("stream_delete", run, Pattern("video")) == 1
    assert core.call("stream_exists", run, Pattern("video")) == -1
    assert core.call("stream_delete", run, Pattern("image")) == -1
    assert "H261" not in body_of(run)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), -1),
        (("c=IN IP4 192.0.2.10", "c=IN IP4 0.0.0.0"), 1),
        (("a=ptime:20", "a=sendonly"), 2),
        (("t=0 0", "t=0 0\r\na=inactive"), 2),
        (("a=ptime:20", "a=recvonly"), -1),
        (("m=audio 4000", "m=audio 0"), -1),
    ],
)
def test_hold(change: tuple[str, str], expected: int) -> None:
    """RFC 2543 §B.5: the null address; RFC 3264 §8.4: sendonly or inactive, also for the whole session."""
    assert call("is_audio_on_hold", with_sdp(SDP.replace(*change) if change[0] else SDP)) == expected


def test_one_part_of_many_is_changed() -> None:
    """Other parts leave byte for byte as they came."""
    run = multipart()
    assert call("codec_delete", run, "speex") == 1
    body = body_of(run)
    assert "speex" not in body
    assert "Content-Disposition: signal\r\n\r\n\x01\x02\r\n--sep--" in body


@pytest.mark.parametrize(
    "body", ["", "garbage", "m=", "v=0\r\nm=\r\n", "v=0\r\n" + "a=x\r\n" * 10_000, "v=0\r\nm=audio\r\na=rtpmap:\r\n"]
)
def test_hostile_descriptions(body: str) -> None:
    """Nothing that a peer sends as SDP makes a function fail otherwise than with false."""
    for function in ("codec_exists", "codec_delete", "codec_move_up"):
        assert call(function, with_sdp(body), "speex") == -1
    assert call("is_audio_on_hold", with_sdp(body)) == -1


def test_an_unchanged_description_is_the_same() -> None:
    """What is read is written byte for byte, with either line end."""
    for text in (SDP, SDP.replace("\r\n", "\n"), SDP.rstrip(), SDP + "\r\n"):
        assert Session(text.encode()).content() == text.encode()


EDGES = (
    "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 18 0 96\r\nc=IN IP4 192.0.2.11\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n"
    "m=audio 4010 RTP/AVP 96 18\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:96 opus/48000/2\r\na=rtcp-fb:96 nack\r\n"
    "m=image 4020 udptl t38\r\nc=IN IP4 192.0.2.11\r\n"
)
"""No c= for the session, one codec in two streams, static payload types without rtpmap, a stream without any codec."""


def test_a_codec_of_several_streams_is_found_moved_and_deleted_in_each() -> None:
    run = with_sdp(EDGES)
    assert call("codec_exists", run, "OPUS", "48000") == 1
    assert call("codec_exists", run, "t38") == -1
    assert call("codec_move_up", run, "opus") == 1
    assert [line for line in body_of(run).split("\r\n") if line.startswith("m=")] == [
        "m=audio 4000 RTP/AVP 96 18 0",
        "m=audio 4010 RTP/AVP 96 18",
        "m=image 4020 udptl t38",
    ]
    assert call("codec_delete", run, "opus") == 1
    body = body_of(run)
    assert ":96 " not in body
    assert "m=audio 4000 RTP/AVP 18 0\r\nc=IN IP4 192.0.2.11\r\n" in body
    assert "m=audio 4010 RTP/AVP 18\r\nc=IN IP4 0.0.0.0\r\n" in body


def test_static_payload_types_need_no_rtpmap() -> None:
    """RFC 3551 table 4: 18 is G729 and 0 is PCMU, at 8000 Hz."""
    run = with_sdp(EDGES)
    assert call("codec_move_down", run, "g729", "8000") == 1
    assert "m=audio 4000 RTP/AVP 0 96 18\r\n" in body_of(run)
    assert call("codec_delete_except_re", run, Pattern("PCMU|G729")) == 1
    assert "m=audio 4000 RTP/AVP 0 18\r\n" in body_of(run)
    assert "m=audio 4010 RTP/AVP 18\r\n" in body_of(run)
    assert "m=image 4020 udptl t38\r\n" in body_of(run), "a stream without codecs is left alone"


def test_a_stream_of_its_own_address_is_on_hold_without_one_of_the_session() -> None:
    assert call("is_audio_on_hold", with_sdp(EDGES)) == 1


def with_large(body: str, content_type: str = "application/sdp") -> Run:
    """A message with a body that no peer could have sent."""
    run = make_run(request())
    run.edits.set_body(body.encode("utf-8", "surrogateescape"), content_type)
    return run


CODEC_CALLS = (
    ("codec_exists", "opus"),
    ("codec_exists_re", Pattern("op.*")),
    ("codec_delete", "opus"),
    ("codec_delete_re", Pattern("op.*")),
    ("codec_delete_except_re", Pattern("PCMU")),
    ("codec_move_up", "opus"),
    ("codec_move_up_re", Pattern("op.*")),
    ("codec_move_down", "opus"),
    ("codec_move_down_re", Pattern("op.*")),
    ("stream_exists", Pattern("audio")),
    ("stream_delete", Pattern("audio")),
)


@pytest.mark.parametrize("end", range(0, len(EDGES), 7))
def test_a_description_may_be_cut_anywhere(end: int) -> None:
    """Each function says true or false, and what leaves has its right length."""
    for function, argument in CODEC_CALLS:
        run = with_sdp(EDGES[:end])
        assert call(function, run, argument) in (1, -1)
        body_of(run)
    assert call("is_audio_on_hold", with_sdp(EDGES[:end])) in (1, 2, -1)


@pytest.mark.parametrize(
    "line",
    [
        "m=audio 4000 RTP/AVP " + "96 " * 100_000,
        "m=audio 4000 RTP/AVP " + " ".join(map(str, range(60_000))),
        "a=rtpmap:96 " + "x" * 1_000_000,
        "a=rtpmap:96 opus/48000/2" + "\r\na=fmtp:96 a=b" * 5_000,
        "c=" + "IN " * 100_000,
        "\x00\x01m=\udcff",
        "m=audio 99999999999999999999 RTP/AVP 96",
    ],
    ids=range(7),
)
def test_long_and_odd_lines(line: str) -> None:
    body = f"{EDGES}{line}\r\n"
    for function, argument in CODEC_CALLS:
        assert call(function, with_large(body), argument) in (1, -1)


def test_a_body_of_ten_megabytes_is_handled() -> None:
    """Larger than what the parser lets in, as a script may have set it: time grows with the size and nothing fails."""
    for body in ("v=0\r\n" + "x" * 10_000_000, "v=0\r\n" + "m=audio 1 RTP/AVP 0\r\n" * 4000 + "a=" * 4_000_000):
        for function, argument in (("codec_exists", "PCMU"), ("codec_delete", "PCMU")):
            assert call(function, with_large(body), argument) in (1, -1)
    many = "--sep\r\n\r\nx\r\n" * 700_000
    run = with_large(many, 'multipart/mixed; boundary="sep"')
    assert call("has_body_part", run, "application/sdp") == -1
    assert call("remove_body_part", run, "text/plain") == 1


@pytest.mark.parametrize(
    ("body", "has"),
    [
        (f"--sep\r\nContent-Type: application/sdp\r\n\r\n{SDP}", 1),
        (f"preamble\r\n--sep\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--sep", 1),
        ("--sep\r\nContent-Type: application/sdp", 1),
        ("--sep", -1),
        ("--sep--", -1),
        ("--sep--\r\n--sep\r\nContent-Type: application/sdp\r\n\r\nv=0", -1),
        ("--other\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--other--", -1),
        ("", -1),
        ("\r\n\r\n", -1),
    ],
    ids=range(9),
)
def test_a_multipart_body_without_its_end(body: str, has: int) -> None:
    """RFC 2046 §5.1.1: a part reaches to the next delimiter, or to the end where that is missing."""
    headers = 'Content-Type: multipart/mixed; boundary="sep"'
    assert call("has_body_part", make_run(request(headers=headers, body=body)), "application/sdp") == has
    for function, *arguments in (
        ("codec_delete", "speex"),
        ("remove_body_part", "application/sdp"),
        ("add_body_part", "x", "text/plain"),
        ("stream_delete", Pattern("video")),
    ):
        run = make_run(request(headers=headers, body=body))
        assert call(function, run, *arguments) in (1, -1)
        body_of(run)


# --- validation


VALID = "Contact: <sip:alice@192.0.2.10>"


@pytest.mark.parametrize(
    ("text", "flags", "code"),
    [
        (request(headers=VALID), "shrftc", 1),
        (request(headers=VALID, without=("Call-ID",)), None, -3),
        (request(headers=VALID, without=("CSeq",)), None, -7),
        (request(headers=VALID, without=("From",)), None, -8),
        (request(headers=VALID, without=("To",)), None, -9),
        (request(headers=VALID, without=("Max-Forwards",)), None, -13),
        (request(headers=VALID, without=("Max-Forwards",)), "m", 1),
        (request(), None, -14),
        (request("BYE"), None, 1),
        (request(headers=VALID + "\r\nPath: <sip:p;lr>"), None, -15),
        (request("REGISTER", headers="Path: <sip:p;lr>"), None, 1),
        (request(headers=VALID, body="x"), None, -21),
        (request(headers=VALID + "\r\n" + SDP_HEADER, body=SDP), "s", 1),
        (request(headers=VALID + "\r\n" + SDP_HEADER, body="v=0\r\nnonsense"), "s", -6),
        (request(headers=VALID + "\r\n" + SDP_HEADER, body="nonsense"), None, 1),
        (request(headers=VALID, to="<sip:b@x"), "t", -22),
        (request(headers=VALID, to="<sip:b@x_y!>"), "t", -22),
        (request(headers=VALID, to="<sip:b^c@x>"), "t", -29),
        (request(headers=VALID, from_="<sip:[::1>;tag=1"), "f", -24),
        (request(headers=VALID, from_="<sip:a^b@x>;tag=1"), "f", -28),
        (request(headers=VALID, ruri="sip:a^b@x"), "r", -27),
        (request(headers="Contact: <sip:x"), "c", -26),
        (request(headers="Contact: *"), "c", -30),
        (request("REGISTER", headers="Contact: *\r\nExpires: 0"), "c", 1),
        (request("REGISTER", headers="Contact: *"), "c", -26),
        (request(headers=VALID + "\r\nExpires: x"), "h", -2),
        (reply(405, "No"), None, -16),
        (reply(423, "No", method="REGISTER"), None, -17),
        (reply(407, "No"), None, -18),
        (reply(420, "No"), None, -19),
        (reply(401, "No"), None, -20),
        (reply(200), None, -14),
        (reply(200, method="BYE"), None, 1),
        (reply(404, "No"), None, 1),
    ],
)
def test_validation(text: str, flags: str | None, code: int) -> None:
    """The manual's codes; what is mandatory is RFC 3261 §8.1.1, §20 and §21.4."""
    run = make_run(text, ONREPLY if text.startswith("SIP/") else 1)
    assert call("sipmsg_validate", run, flags, make_var("why")) == code
    assert bool(run.vars["why"]) is (code != 1)


def test_a_stream_needs_a_length() -> None:
    """RFC 3261 §20.14: over TCP Content-Length is mandatory."""
    tcp = sip.Socket(sip.PROTO_TCP, "192.0.2.1", 5060)
    text = request("BYE").replace("Content-Length: 0\r\n", "")
    assert call("sipmsg_validate", make_run(text, socket=tcp)) == -4
    assert call("sipmsg_validate", make_run(text)) == 1


def test_unknown_flags_are_found_at_load() -> None:
    """The flags of the manual are known."""
    with pytest.raises(ValueError, match='"x"'):
        call("sipmsg_validate", make_run(request()), "sx")
