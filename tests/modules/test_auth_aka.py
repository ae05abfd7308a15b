"""auth_aka: challenges from authentication vectors and the responses of phones (RFC 3310, RFC 4169)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import pytest

from opensipspy.management.registry import MiError
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.auth import Auth
from opensipspy.modules.auth_aka import AuthAka
from opensipspy.modules.auth_aka.api import AvManager
from opensipspy.modules.auth_aka.vectors import ALGORITHMS, Vector, resync
from opensipspy.script.run import Run
from opensipspy.sip import Credentials, digest
from tests.modules.asynchronous import in_loop

IMPU, IMPI = "sip:alice@ims.test", "alice@ims.test"
# 3GPP TS 35.208 §4.3, test set 1: RAND, then AUTN from SQN xor AK, AMF and MAC-A; RES, CK and IK.
RAND = "23553cbe9637a89d218ae64dae47bf35"
AUTN = "55f328b43577b9b94a9ffac354dfafb3"
RES = "a54211d5e3ba50bf"
CK = "b40ba9a3c58b2a05bbf0d987b21bf8cb"
IK = "f769bcd751044604127672711c6d3441"
NONCE = base64.b64encode(bytes.fromhex(RAND + AUTN)).decode()
AUTS = base64.b64encode(bytes(range(14))).decode()


def password(algorithm: str = "AKAv1-MD5") -> bytes:
    if algorithm.startswith("AKAv1"):
        return bytes.fromhex(RES)
    # RFC 4169 §3.1, with the hash of the algorithm.
    name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[
        algorithm.partition("-")[2].removesuffix("-sess")
    ]
    return base64.b64encode(hmac.new(bytes.fromhex(RES + IK + CK), b"http-digest-akav2-password", name).digest())


def response(algorithm: str = "AKAv1-MD5", secret: bytes | None = None, nc: str = "00000001", qop: str = "auth") -> str:
    """The header of a phone, computed with nothing of the package."""
    base = algorithm.partition("-")[2]
    name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[base.removesuffix("-sess")]

    def h(*parts: bytes) -> bytes:
        return hashlib.new(name, b":".join(parts)).hexdigest().encode()

    key = h(IMPI.encode(), b"ims.test", password(algorithm) if secret is None else secret)
    if base.endswith("-sess"):
        key = h(key, NONCE.encode(), b"c0")
    asked = h(b"REGISTER", b"sip:ims.test")
    if qop == "auth-int":
        asked = h(b"REGISTER", b"sip:ims.test", h(b""))
    answer = h(key, NONCE.encode(), nc.encode(), b"c0", qop.encode(), asked).decode()
    return credentials(f'nonce="{NONCE}", response="{answer}", algorithm={algorithm}, qop={qop}, nc={nc}, cnonce="c0"')


def credentials(rest: str) -> str:
    return f'Authorization: Digest username="{IMPI}", realm="ims.test", uri="sip:ims.test", {rest}\r\n'


FIRST = credentials('nonce="", response=""')


def register(core: FakeCore, headers: str = "", cseq: int = 1) -> Run:
    text = request("REGISTER", "sip:ims.test", headers=headers, from_=f"<{IMPU}>;tag=1", to=f"<{IMPU};x=y>", cseq=cseq)
    return make_run(text, core=core)


class Source(AvManager):
    """An AV manager that gives the vector of the test set, or what `answers` says."""

    def __init__(self, module: AuthAka, answers: str = "vector") -> None:
        self.module = module
        self.answers = answers
        self.asked: list[tuple[str, str, str, bytes | None, tuple[str, ...]]] = []
        module.manage("source", self)

    async def fetch(
        self, realm: str, public_identity: str, private_identity: str, resync: bytes | None, algorithms: Sequence[str]
    ) -> None:
        self.asked.append((realm, public_identity, private_identity, resync, tuple(algorithms)))
        for algorithm in algorithms:
            await asyncio.sleep(0)
            if self.answers == "vector":
                self.module.add(public_identity, private_identity, RAND + AUTN, RES, CK, IK, (algorithm,))
            elif self.answers == "failure":
                self.module.fail(public_identity, private_identity)


async def made(answers: str = "vector", **params: Any) -> tuple[FakeCore, AuthAka, Source]:
    core = FakeCore()
    core.add(Auth())
    module = core.add(AuthAka(default_av_mgm="source", **params))
    await module.launch()
    return core, module, Source(module, answers)


async def challenged(core: FakeCore, *args: Any) -> int:
    result = await core.call("aka_www_challenge", register(core, FIRST), *args)
    await core.settle()
    return int(result)


@in_loop
async def test_a_phone_is_challenged_and_let_in() -> None:
    core, _, source = await made()
    assert core.call("aka_www_authorize", register(core)) == -4
    assert await challenged(core) == 1
    assert source.asked == [("ims.test", IMPU, IMPI, None, ("AKAv1-MD5",))]
    # RFC 3310 §3.2, and CK and IK as 3GPP TS 24.229 §5.4.1.2 has them.
    reply = core.replies[-1]
    assert (reply.code, reply.reason) == (401, "Unauthorized")
    assert reply.headers == (
        f'WWW-Authenticate: Digest realm="ims.test", nonce="{NONCE}", algorithm=AKAv1-MD5, ck="{CK}", ik="{IK}", '
        'qop="auth"\r\n'
    )
    assert core.call("aka_www_authorize", register(core, response())) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_every_algorithm_is_checked(algorithm: str, qop: str) -> None:
    @in_loop
    async def run() -> None:
        core, _, _ = await made(default_algorithm=algorithm, default_qop="auth,auth-int")
        assert await challenged(core) == 1
        assert f"algorithm={algorithm}, " in core.replies[-1].headers
        wrong = response(algorithm, b"guess", qop=qop)
        assert core.call("aka_www_authorize", register(core, wrong)) == -2
        assert core.call("aka_www_authorize", register(core, response(algorithm, qop=qop))) == 1

    run()


@in_loop
async def test_a_response_is_good_once_and_not_for_another_algorithm() -> None:
    core, _, _ = await made()
    assert await challenged(core) == 1
    first = register(core, response())
    assert core.call("aka_www_authorize", first) == 1
    assert core.call("aka_www_authorize", first) == 1
    # RFC 7616 §3.3: the nonce count has to grow.
    assert core.call("aka_www_authorize", register(core, response(), cseq=2)) == -3
    assert core.call("aka_www_authorize", register(core, response(nc="00000002"), cseq=3)) == 1
    assert core.call("aka_www_authorize", register(core, response("AKAv1-SHA-256"), cseq=4)) == -3


@in_loop
async def test_an_unknown_nonce_and_an_old_one() -> None:
    core, module, _ = await made(pending_timeout=5)
    assert core.call("aka_www_authorize", register(core, response())) == -3
    assert await challenged(core) == 1
    core.advance(4)
    assert core.call("aka_www_authorize", register(core, response())) == 1
    core.advance(2)
    assert core.call("aka_www_authorize", register(core, response(nc="00000002"))) == -3
    assert not module._users


@in_loop
async def test_a_phone_whose_sequence_is_ahead_is_challenged_with_new_vectors() -> None:
    """RFC 3310 §3.4, 3GPP TS 33.102 §6.3.5: RAND and AUTS go to the home network."""
    core, _, source = await made()
    lost = credentials(f'nonce="{NONCE}", response="0", algorithm=AKAv1-MD5, auts="{AUTS}"')
    # Nobody makes the home network work without a challenge of ours.
    assert await core.call("aka_www_challenge", register(core, lost)) == -1
    assert not source.asked
    assert await challenged(core) == 1
    assert core.call("aka_www_authorize", register(core, lost)) == -6
    assert await core.call("aka_www_challenge", register(core, lost)) == 1
    assert source.asked[-1][3] == bytes.fromhex(RAND) + bytes(range(14))
    await core.settle()


@pytest.mark.parametrize(("nonce", "auts"), [("!", AUTS), (NONCE, "AAAA"), ("AAAA", AUTS), (NONCE, "ä")])
def test_a_malformed_resynchronisation_is_refused(nonce: str, auts: str) -> None:
    with pytest.raises(ValueError, match=r"auts|base64"):
        resync(nonce, auts)


@in_loop
async def test_no_vector_is_minus_two() -> None:
    core, module, source = await made("failure")
    assert await challenged(core) == -2
    source.answers = "nothing"
    module.sync_timeout = module.async_timeout = 20
    assert await challenged(core) == -2
    assert await challenged(core, "nobody") == -2
    assert not core.replies
    source.answers = "vector"
    assert await challenged(core) == 1


@in_loop
async def test_a_flood_of_users_is_minus_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opensipspy.modules.auth_aka.MAX_USERS", 0)
    core, module, _ = await made()
    assert await challenged(core) == -2
    assert not module._users


@in_loop
async def test_several_algorithms_give_several_headers() -> None:
    core, _, source = await made()
    assert await challenged(core, None, "ims.test", "", ("AKAv2-SHA-256", "AKAv1-MD5")) == 2
    assert source.asked[-1][4] == ("AKAv2-SHA-256", "AKAv1-MD5")
    lines = core.replies[-1].headers.splitlines()
    assert [line.partition("algorithm=")[2].partition(",")[0] for line in lines] == ["AKAv2-SHA-256", "AKAv1-MD5"]
    assert "qop" not in core.replies[-1].headers


@in_loop
async def test_a_proxy_challenges_with_407() -> None:
    core, _, _ = await made()
    run = make_run(request("INVITE", from_=f"<{IMPU}>;tag=1", to="<sip:bob@ims.test>"), core=core)
    assert await core.call("aka_proxy_challenge", run) == 1
    await core.settle()
    assert core.replies[-1].code == 407
    assert core.replies[-1].headers.startswith('Proxy-Authenticate: Digest realm="ims.test", ')
    assert core.call("aka_proxy_authorize", run) == -4
    assert core.call("aka_proxy_authorize", make_run(request("ACK"), core=core)) == 1


@in_loop
async def test_vectors_from_the_script_and_from_management() -> None:
    core, module, source = await made("failure")
    run = register(core, FIRST)
    assert core.call("aka_av_add", run, IMPU, IMPI, RAND + AUTN, RES, CK, IK) == 1
    assert core.call("aka_av_add", run, IMPU, IMPI, "xyz", RES, CK, IK) == -1
    assert await challenged(core) == 1
    assert not source.asked
    assert core.call("aka_www_authorize", register(core, response())) == 1
    assert core.call("aka_av_drop", run, IMPU, IMPI, NONCE) == 1
    assert core.call("aka_www_authorize", register(core, response())) == -3
    names = ("public_identity", "private_identity", "authenticate", "authorize", "confidentiality-key", "integrity-key")
    given = dict(zip(names, (IMPU, IMPI, RAND + AUTN, RES, CK, IK), strict=True))
    assert await core.mi_call("auth_aka:av_add", given) == "OK"
    assert await core.mi_call("auth_aka:av_add", {**given, "algorithms": "AKAv1-MD5"}) == "OK"
    who = {"public_identity": IMPU, "private_identity": IMPI}
    assert await core.mi_call("auth_aka:av_drop", {**who, "authenticate": NONCE}) == "OK"
    with pytest.raises(MiError):
        await core.mi_call("auth_aka:av_drop", {**who, "authenticate": NONCE})
    with pytest.raises(MiError):
        await core.mi_call("auth_aka:av_add", {**given, "algorithms": "MD5"})
    await core.mi_call("auth_aka:av_add", given)
    assert await core.mi_call("auth_aka:av_drop_all", who) == 1
    assert await core.mi_call("auth_aka:av_fail", {**who, "count": 2}) == "OK"
    with pytest.raises(MiError):
        await core.mi_call("auth_aka:av_fail", {"public_identity": "x", "private_identity": "y"})
    assert core.call("aka_av_add", run, IMPU, IMPI, RAND + AUTN, RES, CK, IK) == 1
    count = make_var("n")
    assert core.call("aka_av_drop_all", run, IMPU, IMPI, count) == 1
    assert run.vars["n"] == 1
    assert core.call("aka_av_fail", run, "sip:none@x", "none@x") == -1
    assert len(module._users) == 1


@in_loop
async def test_a_vector_that_nobody_needs_is_forgotten() -> None:
    core, module, _ = await made(unused_timeout=10)
    module.add(IMPU, IMPI, RAND + AUTN, RES, CK, IK)
    core.advance(9)
    assert module._users
    core.advance(2)
    assert not module._users


def test_vectors_show_nothing_of_themselves() -> None:
    vector = Vector(RAND + AUTN, RES, CK, IK, (), 0.0)
    assert repr(vector) == "Vector(unused)"
    for bad in ((RAND, RES, CK, IK), (RAND + AUTN, "", CK, IK), (RAND + AUTN, RES, CK, "secret")):
        with pytest.raises(ValueError, match=r"octets|hexadecimal") as caught:
            Vector(*bad, (), 0.0)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("default_algorithm", "MD5"), ("default_qop", "none"), ("hash_size", 3), ("async_timeout", 0)],
)
def test_wrong_parameters_stop_the_start(name: str, value: object) -> None:
    with pytest.raises(ParamError, match=name):
        asyncio.run(made(**{name: value}))


@in_loop
async def test_credentials_that_are_no_good() -> None:
    core, _, _ = await made()
    assert await challenged(core) == 1
    assert core.call("aka_www_authorize", register(core, "Authorization: Digest realm=\r\n")) in (-4, -5)
    long = credentials(f'nonce="{"n" * 600}", response="0"')
    assert core.call("aka_www_authorize", register(core, long)) == -5
    odd = response().replace("nc=00000001", "nc=zz")
    assert core.call("aka_www_authorize", register(core, odd)) == -2
    unknown = Credentials()
    unknown.qop = "auth-conf"
    assert not Vector(RAND + AUTN, RES, CK, IK, (), 0.0).verify(unknown, "REGISTER", b"")
    assert digest.parse_credentials("Digest a=b").is_digest
