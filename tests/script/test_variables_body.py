"""Bodies and SDP in variables (manual: Script-CoreVar, $rb, $cT, $sdp*; RFC 2046 §5.1, RFC 4566)."""

from __future__ import annotations

import pytest

from opensipspy.script import bodies
from opensipspy.script.varsyntax import VariableError
from tests.script.fakes import INVITE, SDP, Bench

ISUP = "\x01\x02isup"
MULTIPART = (
    "--unique-boundary-1\r\n"
    "Content-Type: application/sdp\r\n"
    "\r\n" + SDP + "\r\n"
    "--unique-boundary-1\r\n"
    "Content-Type: application/isup;version=nxv3\r\n"
    "Content-Disposition: signal\r\n"
    "\r\n" + ISUP + "\r\n"
    "--unique-boundary-1--\r\n"
)


def multipart_bench() -> Bench:
    head = INVITE[: INVITE.index("Content-Type:")]
    return Bench(
        f'{head}Content-Type: multipart/mixed;boundary="unique-boundary-1"\r\n'
        f"Content-Length: {len(MULTIPART)}\r\n\r\n{MULTIPART}"
    )


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("$rb", MULTIPART),
        ("$(rb[0])", SDP),
        ("$(rb[1])", ISUP),
        ("$(rb[-1])", ISUP),
        ("$(rb[2])", None),
        ("$(rb[-3])", None),
        ("$rb(application/sdp)", SDP),
        ("$rb(Application/ISUP)", ISUP),
        ("$(rb(application/isup)[-1])", ISUP),
        ("$(rb(application/isup)[1])", None),
        ("$cT", 'multipart/mixed;boundary="unique-boundary-1"'),
        ("$(cT[0])", "application/sdp"),
        ("$(cT[-1])", "application/isup;version=nxv3"),
        ("$(cT[2])", None),
        (
            "$(cT[*])",
            'multipart/mixed;boundary="unique-boundary-1", application/sdp, application/isup;version=nxv3',
        ),
        ("$sdp", SDP),
    ],
)
def test_a_multipart_body_shows_its_parts(variable: str, expected: object) -> None:
    assert multipart_bench().read(variable) == expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("$sdp.line(a=)", "a=rtpmap:101 telephone-event/8000"),
        ("$sdp.line(a=[0])", "a=rtpmap:101 telephone-event/8000"),
        ("$sdp.line(a=ptime[1])", "a=ptime:40"),
        ("$sdp.line(a=[100])", None),
        ("$sdp.line([0])", "v=0"),
        ("$sdp.line([10])", "a=ptime:40"),
        ("$sdp.line([11])", None),
        ("$sdp.line(m=audio/[0])", "audio"),
        ("$sdp.line(m=audio/[1])", "27292"),
        ("$sdp.line(m=audio/[2])", "RTP/AVP"),
        ("$sdp.line(m=audio/[6])", "101"),
        ("$sdp.line(m=audio/[7])", None),
        ("$sdp.line(m=audio/RTP)", "RTP/AVP"),
        ("$sdp.line(m=audio/RTP\\/AVP)", "RTP/AVP"),
        ("$sdp.line(m=audio/RTP\\/AVP[0])", "RTP/AVP"),
        ("$sdp.line(m=audio/RTP\\/AVP[1])", None),
        ("$sdp.line(m=audio/RTQ)", None),
        ("$sdp.line(M=AUDIO/rtp)", "RTP/AVP"),
        ("$sdp.stream(/a=ptime)", "a=ptime:20"),
        ("$sdp.stream([1]/a=ptime)", "a=ptime:40"),
        ("$sdp.stream(video/a=ptime)", "a=ptime:40"),
        ("$sdp.stream(v/a=ptime)", "a=ptime:40"),
        ("$sdp.stream(audio[1]/a=ptime)", None),
        ("$sdp.stream(video/a=fmtp:97/packetization-mode=)", "packetization-mode=1"),
        ("$sdp.stream(video/[1])", "a=fmtp:97 profile-level-id=42e01f;packetization-mode=1"),
        ("$sdp.session(c=)", "c=IN IP4 192.0.2.1"),
        ("$sdp.session(c=/[2])", "192.0.2.1"),
        ("$sdp.session(a=ptime)", None),
        ("$sdp.stream.idx(video/a=fmtp/packetization-mode=)", 9),
        ("$sdp.stream.idx(video/a=ptime)", 10),
        ("$sdp.stream.idx(text)", None),
    ],
)
def test_sdp_is_read_by_path(variable: str, expected: object) -> None:
    assert Bench().read(variable) == expected


def written(variable: str, value: str | int | None) -> list[str]:
    """The lines that differ after a write, "-old" and "+new"."""
    bench = Bench()
    bench.write(variable, value)
    new = bodies.sdp(bench.run)
    assert new is not None
    old_lines, new_lines = SDP.splitlines(), new.splitlines()
    assert new.endswith("\r\n")
    return [f"-{line}" for line in old_lines if line not in new_lines] + [
        f"+{line}" for line in new_lines if line not in old_lines
    ]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("$sdp.line(c=)", "c=IN IP4 203.0.113.9", ["-c=IN IP4 192.0.2.1", "+c=IN IP4 203.0.113.9"]),
        ("$sdp.line(c=)", None, ["-c=IN IP4 192.0.2.1"]),
        ("$sdp.session(c=/[2])", "10.0.0.9", ["-c=IN IP4 192.0.2.1", "+c=IN IP4 10.0.0.9"]),
        ("$sdp.line(m=audio/RTP)", None, ["-m=audio 27292 RTP/AVP 9 8 0 101", "+m=audio 27292 9 8 0 101"]),
        ("$sdp.stream(video/a=ptime)", None, ["-a=ptime:40"]),
        (
            "$sdp.stream(video/a=fmtp:97/packetization-mode=)",
            0,
            [
                "-a=fmtp:97 profile-level-id=42e01f;packetization-mode=1",
                "+a=fmtp:97 profile-level-id=42e01f;packetization-mode=0",
            ],
        ),
        (
            "$sdp.stream(audio/a=rtpmap:101/telephone-event\\/)",
            "16000",
            ["-a=rtpmap:101 telephone-event/8000", "+a=rtpmap:101 telephone-event/16000"],
        ),
        ("$(sdp.line(t=)[insert])", "b=AS:64", ["+b=AS:64"]),
        ("$(sdp.line([10])[insertAfter])", "a=last", ["+a=last"]),
        ("$(sdp.line([11])[insert])", "a=last", ["+a=last"]),
        ("$sdp.line(x=)", "x=new", []),
        ("$sdp.line(a=ptime)", "a=evil\r\nm=audio 1", []),
    ],
)
def test_sdp_is_written_by_path(variable: str, value: str | int | None, expected: list[str]) -> None:
    assert written(variable, value) == expected


def test_inserted_lines_stand_where_they_were_put() -> None:
    bench = Bench()
    bench.write("$(sdp.stream(video/a=ptime)[insert])", "a=sendonly")
    lines = (bodies.sdp(bench.run) or "").splitlines()
    assert lines[-2:] == ["a=sendonly", "a=ptime:40"]


def test_a_whole_sdp_is_replaced_inside_its_multipart() -> None:
    bench = multipart_bench()
    bench.write("$sdp", "v=0\r\ns=short\r\n")
    body = bodies.current_body(bench.run).decode()
    assert body == MULTIPART.replace(SDP, "v=0\r\ns=short\r\n")
    assert bench.read("$sdp.line(s=)") == "s=short"


def test_sdp_null_takes_the_body_away() -> None:
    bench = Bench()
    bench.write("$sdp", None)
    assert bodies.current_body(bench.run) == b""
    assert bench.read("$sdp") is None
    assert bench.read("$rb") == SDP


def test_what_is_no_sdp_is_refused() -> None:
    bench = Bench()
    bench.write("$sdp", "hello")
    assert bench.read("$sdp") == SDP
    assert "v=" in bench.log


def test_a_message_without_a_body_gets_one() -> None:
    head = INVITE[: INVITE.index("Content-Type:")]
    bench = Bench(f"{head}Content-Length: 0\r\n\r\n")
    assert bench.read("$sdp.line(c=)") is None
    bench.write("$sdp", SDP)
    assert bench.read("$sdp.line(v=)") == "v=0"


@pytest.mark.parametrize("text", ["$sdp.line(a=[x])", "$sdp.line(a/b/c)", "$sdp.stream(a/b/c/d)", "$rb(text)"])
def test_a_bad_path_is_found_at_load(text: str) -> None:
    with pytest.raises(VariableError):
        Bench().spec(text)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "--b",
        "--b\r\n",
        "--b--",
        "--b\r\n\r\n",
        "--b\r\nContent-Type",
        "--b\r\nContent-Type: x\r\n\r\n--b",
        "\n--b\n--b",
    ],
)
def test_broken_multiparts_raise_nothing(body: str) -> None:
    """A boundary that never comes back, or comes too early, leaves parts out."""
    for part in bodies.parts("multipart/mixed;boundary=b", body.encode()):
        assert 0 <= part.start <= part.end <= len(body)
