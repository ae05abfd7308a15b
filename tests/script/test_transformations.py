"""Every transformation with the manual's examples (Script-Tran), its NULL cases and hostile input."""

from __future__ import annotations

import pytest

from opensipspy.script.varsyntax import VariableError
from tests.script.fakes import SDP, Bench

NAMES = '"first" <sip:first@opensips.example>;tag=dat43h;private=yes, "second" <sip:second@opensips.example>'
URI = (
    "sip:alice:pw@atlanta.example:5080"
    ";transport=tls;ttl=15;user=phone;maddr=239.1.1.1;method=BYE;lr;r2=on;x=1?Subject=hi"
)
VIA = "SIP/2.0/TCP host.example:5066;branch=z9hG4bKx;rport=5099;received=192.0.2.3;ob"


@pytest.mark.parametrize(
    ("value", "transformation", "expected"),
    [
        # lengths, numbers
        ("abc", "s.len", 3),
        ("é", "s.len", 2),
        ("", "s.len", 0),
        (485, "s.len", 3),
        ("ÉA", "s.tolower", "Éa"),
        ("éa", "s.toupper", "éA"),
        ("2868.12 sec", "s.int", 2868),
        ("-7x", "s.int", -7),
        ("none", "s.int", 0),
        (" 12", "s.int", 0),
        (5, "s.int", 5),
        ("255", "s.dec2hex", "ff"),
        (255, "s.dec2hex", "ff"),
        ("-1", "s.dec2hex", "ffffffff"),
        ("12a", "s.dec2hex", None),
        ("ff", "s.hex2dec", 255),
        ("0xFF", "s.hex2dec", 255),
        ("xyz", "s.hex2dec", None),
        ("", "s.hex2dec", 0),
        ("Thu, 13 Jun 2024 12:48:00 GMT", "s.date2unix", 1718282880),
        ("Thu, 31 Feb 2024 12:48:00 GMT", "s.date2unix", None),
        ("tomorrow", "s.date2unix", None),
        # digests
        ("abc", "s.md5", "900150983cd24fb0d6963f7d28e17f72"),
        ("abc", "s.crc32", "3403398717"),
        ("abc", "s.sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("abc", "s.sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        ("abc", "s.sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abc",
            "s.sha384",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            "abc",
            "s.sha512",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
        # RFC 2202 test case 2 and RFC 4231 test case 2: key "Jefe"
        ("what do ya want for nothing?", "s.sha1_hmac,Jefe", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (
            "what do ya want for nothing?",
            "s.sha256_hmac,Jefe",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            "what do ya want for nothing?",
            "s.sha224_hmac,Jefe",
            "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
        ),
        (
            "what do ya want for nothing?",
            "s.sha384_hmac,Jefe",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            "what do ya want for nothing?",
            "s.sha512_hmac,Jefe",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        # parts
        ("onetwothree", "s.reverse", "eerhtowteno"),
        ("abcd", "s.substr,1,0", "bcd"),
        ("abcd", "s.substr,0,2", "ab"),
        ("abcd", "s.substr,-1,0", "d"),
        ("abcd", "s.substr,1,100", "bcd"),
        ("abcd", "s.substr,0,-1", "abc"),
        ("abcd", "s.substr,3,-2", None),
        ("abcd", "s.substr,9,0", None),
        ("abcd", "s.substr,-9,0", None),
        ("", "s.substr,0,0", None),
        ("12,34,56", "s.select,1,,", "34"),
        ("12,34,56", "s.select,-2,,", "34"),
        ("12,,56", "s.select,1,,", ""),
        ("a:b", "s.select,1,:", "b"),
        ("a:b", "s.select,7,:", None),
        ("a:b", "s.select,-3,:", None),
        ("", "s.select,0,:", ""),
        ("onetwothreeone", "s.index, one", 0),
        ("onetwothreeone", "s.index,one,3", 11),
        ("onetwothreeone", "s.index,one,-11", 11),
        ("onetwothreeone", "s.index,one,-25", 11),
        ("onetwothreeone", "s.index,nine", None),
        ("onetwothreeone", "s.index,one,99", None),
        ("onetwothreeone", "s.rindex,one", 11),
        ("onetwothreeone", "s.rindex,one,-3", 11),
        ("onetwothreeone", "s.rindex,one,11", 11),
        ("onetwothreeone", "s.rindex,one,-4", 0),
        ("onetwothreeone", "s.rindex,nine", None),
        ("485", "s.fill.left, 0, 3", "485"),
        ("485", "s.fill.left, 0, 6", "000485"),
        ("485", "s.fill.left, abc, 8", "bcabc485"),
        (485, "s.fill.right,0,6", "485000"),
        (485, "s.fill.right,abc,8", "485abcab"),
        ("485", "s.fill.right,0,999999999", None),
        ("transformation", "s.width,14", "transformation"),
        ("transformation", "s.width,16", "transformation  "),
        ("transformation", "s.width,9", "transform"),
        ("x", "s.width,-1", None),
        ("x", "s.width,0", None),
        ("\t \n input string  \r  ", "s.trim", "input string"),
        ("\t \n input string  \r  ", "s.trimr", "\t \n input string"),
        ("\t \n input string  \r  ", "s.triml", "input string  \r  "),
        ("AbÉ", "s.tolower", "abÉ"),
        ("aBé", "s.toupper", "ABé"),
        # encodings
        ("ab\n", "s.encode.hexa", "61620a"),
        ("61620A", "s.decode.hexa", "ab\n"),
        ("616", "s.decode.hexa", "a"),
        ("zz", "s.decode.hexa", None),
        ("\x02\x03\x04\x05!@#%^&*", "s.b64encode", "AgMEBSFAIyVeJio="),
        ("AgMEBSFAIyVeJio=", "s.b64decode", "\x02\x03\x04\x05!@#%^&*"),
        ("YWJj***", "s.b64decode", "abc"),
        ("", "s.b64decode", ""),
        ("abcd", "s.xor,key", "\n\a\x1a\x0f"),
        ('it\'s "x" \\', "s.escape.common", 'it\\\'s \\"x\\" \\\\'),
        ('it\\\'s \\"x\\" \\\\', "s.unescape.common", 'it\'s "x" \\'),
        ("a b@c", "s.escape.user", "a%20b%40c"),
        ("a%20b%40c", "s.unescape.user", "a b@c"),
        ("a%2", "s.unescape.user", None),
        ("a%zz", "s.unescape.user", None),
        ("a%00b", "s.unescape.user", None),
        ("a\nb", "s.escape.user", None),
        ("a;b=c", "s.escape.param", "a%3bb%3dc"),
        ("a%3bb", "s.unescape.param", "a;b"),
        ("Hello, $var(who)! $$", "s.eval", "Hello, client! $"),
        ("$nosuchthing", "s.eval", None),
        # {uri.*}
        (URI, "uri.user", "alice"),
        (URI, "uri.passwd", "pw"),
        (URI, "uri.host", "atlanta.example"),
        (URI, "uri.domain", "atlanta.example"),
        (URI, "uri.port", 5080),
        (URI, "uri.params", "transport=tls;ttl=15;user=phone;maddr=239.1.1.1;method=BYE;lr;r2=on;x=1"),
        (URI, "uri.param,x", "1"),
        (URI, "uri.param,X", "1"),
        (URI, "uri.param,nope", None),
        (URI, "uri.param,lr", ""),
        (URI, "uri.headers", "Subject=hi"),
        (URI, "uri.transport", "tls"),
        (URI, "uri.ttl", "15"),
        (URI, "uri.uparam", "phone"),
        (URI, "uri.maddr", "239.1.1.1"),
        (URI, "uri.method", "BYE"),
        (URI, "uri.lr", None),
        (URI, "uri.r2", "on"),
        (URI, "uri.schema", "sip"),
        ("sip:h", "uri.port", None),
        ("sip:h", "uri.user", None),
        ("not a uri", "uri.host", None),
        ("", "uri.host", None),
        # {via.*}
        (VIA, "via.name", "SIP"),
        (VIA, "via.version", "2.0"),
        (VIA, "via.transport", "TCP"),
        (VIA, "via.host", "host.example"),
        (VIA, "via.domain", "host.example"),
        (VIA, "via.port", 5066),
        (VIA, "via.params", "branch=z9hG4bKx;rport=5099;received=192.0.2.3;ob"),
        (VIA, "via.param,received", "192.0.2.3"),
        (VIA, "via.param,ob", ""),
        (VIA, "via.param,nope", None),
        (VIA, "via.branch", "z9hG4bKx"),
        (VIA, "via.received", "192.0.2.3"),
        (VIA, "via.rport", "5099"),
        (VIA, "via.comment", None),
        ("garbage", "via.host", None),
        # {param.*}
        ("a=1;b=2;c=3", "param.value,c", "3"),
        ("a=1;b=2;c=3", "param.value,d", None),
        ("a=0;b=2;ob;c=3", "param.exist,ob", 1),
        ("a=0;b=2;ob;c=3", "param.exist,a", 1),
        ("a=0;b=2;ob;c=3", "param.exists,foo", 0),
        ("a=1;b=2;c=3", "param.valueat,1", "2"),
        ("a=1;b=2;c=3", "param.valueat,-1", "3"),
        ("a=1;b=2;c=3", "param.valueat,3", None),
        ("a=1;b=2;c=3", "param.name,1", "b"),
        ("a=1;b=2;c=3", "param.count", 3),
        ("", "param.count", None),
        ('a="x;y";b', "param.value,a", "x;y"),
        # {nameaddr.*}
        ('"test" <sip:test@opensips.example>', "nameaddr.name", '"test"'),
        ('"test" <sip:test@opensips.example>', "nameaddr.uri", "sip:test@opensips.example"),
        ('"test" <sip:test@opensips.example>', "nameaddr.len", 34),
        ('"X Y" <sip:a@b:5070;t=1>;tag=z', "nameaddr.len", 24),
        (NAMES, "nameaddr.0.name", '"first"'),
        (NAMES, "nameaddr.1.name", '"second"'),
        (NAMES, "nameaddr.-1.name", '"second"'),
        (NAMES, "nameaddr.2.name", None),
        (NAMES, "nameaddr.$var(one).uri", "sip:second@opensips.example"),
        (NAMES, "nameaddr.param,tag", "dat43h"),
        (NAMES, "nameaddr.0.param,private", "yes"),
        (NAMES, "nameaddr.1.param,tag", None),
        (NAMES, "nameaddr.params", "tag=dat43h;private=yes"),
        ("<<<", "nameaddr.uri", None),
        # {ip.*}
        ("194.168.4.134", "ip.isip", 1),
        ("194.168.4.134.1", "ip.isip", 0),
        ("194.168.4.134", "ip.isip4", 1),
        ("194.168.4.134", "ip.isip6", 0),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "ip.isip6", 1),
        ("[2001:db8::1]", "ip.isip6", 1),
        ("194.168.4.134", "ip.pton}{ip.ntop", "194.168.4.134"),
        ("194.168.4.134", "ip.pton}{ip.family", "INET"),
        ("2001:db8::1", "ip.pton}{ip.family", "INET6"),
        ("2001:db8::1", "ip.pton}{ip.ntop", "2001:DB8:0:0:0:0:0:1"),
        ("abc", "ip.ntop", None),
        ("abc", "ip.pton", None),
        ("10.10.0.77", "ip.matches,10.10.0.1/24", 1),
        ("10.10.1.77", "ip.matches,10.10.0.1/24", 0),
        ("2001:db8::1", "ip.matches,10.10.0.1/24", None),
        ("10.10.0.1", "ip.matches,nonsense", None),
        ("172.20.1.1", "ip.isprivate", 1),
        ("100.64.0.1", "ip.isprivate", 1),
        ("127.0.0.1", "ip.isprivate", 1),
        ("8.8.8.8", "ip.isprivate", 0),
        ("fe80::1", "ip.isprivate", 0),
        ("host", "ip.isprivate", 0),
        ("opensips.example", "ip.resolve", "192.0.2.44"),
        ("opensips.example", "ip.resolve4", "192.0.2.44"),
        ("opensips.example", "ip.resolve6", None),
        ("192.0.2.1", "ip.resolve", "192.0.2.1"),
        # {csv.*}
        ("a,b,c", "csv.count", 3),
        ("", "csv.count", None),
        ("a,b,c", "csv.value,2", "c"),
        ("a,b,c", "csv.value,-1", "c"),
        ("a,b,c", "csv.value,3", None),
        ('a,"b,c",d', "csv.value,1", '"b,c"'),
        # {sdp.*}: lines and streams count from 0
        (SDP, "sdp.line,a,1", "a=ptime:20"),
        (SDP, "sdp.line,m", "m=audio 27292 RTP/AVP 9 8 0 101"),
        (SDP, "sdp.line,m,9", None),
        (SDP, "sdp.stream,audio", SDP[SDP.index("m=audio") : SDP.index("m=video")]),
        (SDP, "sdp.stream,-1", SDP[SDP.index("m=video") :]),
        (SDP, "sdp.stream,text", None),
        (SDP, "sdp.stream-delete,video", SDP[: SDP.index("m=video")]),
        (SDP, "sdp.stream-delete,0", SDP[: SDP.index("m=audio")] + SDP[SDP.index("m=video") :]),
        (SDP, "sdp.stream-delete,7", None),
        ("", "sdp.line,v", None),
        # {re.subst}
        ("abc", "re.subst,/a/A/g", "Abc"),
        ("abab", "re.subst,/b/B/g", "aBaB"),
        ("abab", "re.subst,/B/x/i", "axab"),
        ("abab", "re.subst,/B/x/", "abab"),
        ("sip:bob@host", "re.subst,/^sip:([^@]+)@(.*)$/\\2-\\1/", "host-bob"),
        ("aaaa", "re.subst,/a{2}/b/g", "bb"),
        ("one\ntwo", "re.subst,/^t.*$/T/", "one\nT"),
        ("one\ntwo", "re.subst,/e.t/-/s", "on-wo"),
        ("abc", "re.subst,$var(reg)", "Abc"),
        ("abc", "re.subst,$var(bad)", None),
        ("abc", "re.subst,/x", None),
        # chains, with a variable argument made by a variable
        ("a=1;b=22;c=333", "param.value,$(var(v){param.name,1})}{s.len", 2),
        ("a=1;b=22;c=333", "param.value,$var(unset)", None),
        ("abcd", "s.substr,$var(one),0", "bcd"),
        ("abcd", "s.substr,$var(who),0", None),
    ],
)
def test_a_value_becomes(value: str | int, transformation: str, expected: object) -> None:
    bench = Bench()
    bench.run.vars.update({"v": value, "who": "client", "one": 1, "reg": "/a/A/g", "bad": "/(/x/"})
    assert bench.read(f"$(var(v){{{transformation}}})") == expected


@pytest.mark.parametrize("name", sorted(Bench().catalogue.transformations))
def test_null_stays_null(name: str) -> None:
    """Every transformation takes NULL, so that a chain can follow one that found nothing."""
    bench = Bench()
    decl = bench.catalogue.transformation(name)
    assert decl is not None
    params = decl.params[1:] if decl.cls == "nameaddr" else decl.params
    args = "".join(",1" if kind.startswith("number") else ",x" for kind in params)
    assert bench.read(f"$(var(null){{{name}{args}}})") is None


@pytest.mark.parametrize("name", sorted(Bench().catalogue.transformations))
@pytest.mark.parametrize(
    "value",
    [
        "",
        "\x00",
        "%",
        "\udcff\udcfe",
        "9" * 400,
        "(" * 2000,
        '"',
        "<",
        "[",
        ",;=",
        "sip:[",
        "m=\r\n",
        "-2147483648",
        -1,
    ],
)
def test_hostile_values_raise_nothing(name: str, value: str | int) -> None:
    bench = Bench()
    bench.run.vars["v"] = value
    decl = bench.catalogue.transformation(name)
    assert decl is not None
    params = decl.params[1:] if decl.cls == "nameaddr" else decl.params
    args = "".join(",$var(n)" if kind.startswith("number") else ",$var(t)" for kind in params)
    read = bench.spec(f"$(var(v){{{name}{args}}})").reader()
    for number in (0, -1, -2147483648, 2147483647):
        for text in ("", "x", "(", "[", "\\", "/(a*)*b/\\9/g", "/a/", "//x/g"):
            bench.run.vars.update({"n": number, "t": text})
            read(bench.run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$(var(x){s.lenn})", "unknown transformation {s.lenn}"),
        ("$(var(x){nosuch.one})", "unknown transformation {nosuch.one}"),
        ("$(var(x){s.substr,1})", "needs 2 parameters"),
        ("$(var(x){s.len,1})", "takes no parameters"),
        ("$(var(x){s.substr,a,b})", "'a' is not a number"),
        ("$(var(x){s.select,1,ab})", "one character"),
        ("$(var(x){s.len)", "'}' is missing"),
        ("$(var(x){s.substr,99999999999,0})", "too large"),
    ],
)
def test_a_misused_transformation_is_found_at_load(text: str, message: str) -> None:
    with pytest.raises(VariableError, match=message.replace("{", r"\{").replace("}", r"\}")):
        Bench().spec(text)


def test_the_nearest_transformation_is_suggested() -> None:
    with pytest.raises(VariableError) as caught:
        Bench().spec("$(var(x){s.tolowr})")
    assert "s.tolower" in caught.value.hint
    assert (caught.value.start, caught.value.end) == (9, 17)


@pytest.mark.parametrize("expression", ["/b*/X/", "/^/>/", "/a|/X/g"])
def test_a_substitution_of_nothing_gives_null(expression: str) -> None:
    """As in OpenSIPS: neither what matches the empty text nor the empty text itself is worth a replacement."""
    bench = Bench()
    bench.write("$var(v)", "aabbc")
    assert bench.read(f"$(var(v){{re.subst,{expression}}})") is None
    bench.write("$var(v)", "")
    assert bench.read("$(var(v){re.subst,/a/b/})") is None
