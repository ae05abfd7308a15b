"""auth: challenges, nonces, and who is let in (RFC 7616, RFC 8760, RFC 3261 §22)."""

from __future__ import annotations

import asyncio
import logging
from itertools import product
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.auth import Auth
from opensipspy.modules.auth.api import ALGORITHM_NAMES, AuthApi
from opensipspy.modules.auth.nonce import TEXT_LENGTH, Nonces
from opensipspy.script.declare import VariableDecl
from opensipspy.script.run import Run

REALM = "example.com"
SECRET = "0123456789abcdef0123456789abcdef"


def loaded(**params: Any) -> tuple[FakeCore, Auth]:
    core = FakeCore()
    for name in ("$var", "$avp"):
        core.catalogue.add_variable(
            VariableDecl(
                name,
                "core",
                get=lambda run, name, index: run.vars.get(name),
                set=lambda run, name, index, value: run.vars.__setitem__(name, value),
                name_arg=True,
                writable=True,
            )
        )
    auth = core.add(Auth(username_spec="$var(user)", password_spec="$var(password)", calculate_ha1=1, **params))
    asyncio.run(auth.start())
    return core, auth


def argument(core: FakeCore, index: int, text: str) -> Any:
    """What the compiler makes of an argument of a challenge."""
    fixup = core.catalogue.functions["www_challenge"].params[index].fixup
    assert fixup is not None
    return fixup(text)


def challenged(
    core: FakeCore, qop: str = "auth", algorithms: str = "", kind: str = "www", run: Run | None = None
) -> list[sip.Credentials]:
    """The challenges in the reply to a request, strongest first."""
    run = run or make_run(request("REGISTER", "sip:example.com", to="<sip:alice@example.com>"), core=core)
    arguments = [argument(core, 1, qop), argument(core, 2, algorithms)]
    assert core.call(f"{kind}_challenge", run, "", *arguments) == 0
    lines = core.replies[-1].headers.split("\r\n")[:-1]
    return [sip.parse_credentials(line.partition(": ")[2]) for line in lines]


def answer(
    challenge: sip.Credentials,
    password: str = "zanzibar",
    *,
    username: str = "alice",
    qop: str = "auth",
    method: str = "REGISTER",
    body: str = "",
    header: str = "Authorization",
    algorithm: str | None = None,
    response: str | None = None,
) -> str:
    """A REGISTER with the response to a challenge."""
    credentials = sip.Credentials()
    credentials.username = username
    credentials.realm = challenge.realm
    credentials.nonce = challenge.nonce
    credentials.uri = "sip:example.com"
    credentials.algorithm = challenge.algorithm if algorithm is None else algorithm
    if qop:
        credentials.qop, credentials.nc, credentials.cnonce = qop, "00000001", "0a4f113b"
    ha1 = sip.digest.ha1(username, challenge.realm, password, credentials.algorithm)
    credentials.response = (
        response
        if response is not None
        else sip.digest.response(
            ha1,
            method,
            credentials.uri,
            credentials.nonce,
            credentials.qop,
            credentials.nc,
            credentials.cnonce,
            credentials.algorithm,
            body.encode(),
        )
    )
    line = f"{header}: {sip.digest.authorization(credentials)}"
    return request(method, "sip:example.com", to="<sip:alice@example.com>", headers=line, body=body)


def authorize(
    core: FakeCore, text: str, function: str = "pv_www_authorize", password: str = "zanzibar"
) -> tuple[int, Run]:
    run = make_run(text, core=core)
    run.vars.update(user="alice", password=password)
    return core.call(function, run, ""), run


# --- challenges


def test_a_challenge_is_a_401_with_everything_a_client_needs() -> None:
    """RFC 3261 §22.4: Digest with realm, nonce, algorithm and qop; the script ends."""
    core, _ = loaded()
    (challenge,) = challenged(core, "auth,auth-int")
    assert (core.replies[0].code, core.replies[0].reason) == (401, "Unauthorized")
    assert core.replies[0].headers.startswith("WWW-Authenticate: Digest ")
    assert (challenge.realm, challenge.qop, challenge.algorithm) == (REALM, "auth,auth-int", "MD5")
    assert challenge.param("stale") is None


def test_a_proxy_challenge_is_a_407() -> None:
    """RFC 3261 §22.3: proxies ask with 407 and Proxy-Authenticate, for the domain of From."""
    core, _ = loaded()
    run = make_run(request(from_="<sip:bob@one.example>;tag=1", to="<sip:x@two.example>"), core=core)
    (challenge,) = challenged(core, "", kind="proxy", run=run)
    assert core.replies[0].code == 407
    assert core.replies[0].headers.startswith("Proxy-Authenticate: ")
    assert (challenge.realm, challenge.qop) == ("one.example", "")


def test_stronger_algorithms_come_first() -> None:
    """RFC 8760 §2.4: the order is the server's preference, the strongest first."""
    core, _ = loaded()
    found = challenged(core, algorithms="MD5, sha-256,SHA-512-256-sess")
    assert [one.algorithm for one in found] == ["SHA-512-256-sess", "SHA-256", "MD5"]
    assert len({one.nonce for one in found}) == 3


@pytest.mark.parametrize(("index", "text"), [(1, "auth-xx"), (2, "sha-1")])
def test_unknown_words_are_found_at_load(index: int, text: str) -> None:
    """A typing error is told with the words there are."""
    core, _ = loaded()
    with pytest.raises(ValueError, match=text):
        argument(core, index, text)


def test_the_realm_prefix_is_taken_off() -> None:
    """The manual: sip.example.com counts as example.com."""
    core, _ = loaded(realm_prefix="sip.")
    run = make_run(request(from_="<sip:a@sip.example.com>;tag=1"), core=core)
    assert challenged(core, kind="proxy", run=run)[0].realm == REALM


@pytest.mark.parametrize("realm", ['a"b', "back\\slash"])
def test_a_realm_is_quoted(realm: str) -> None:
    """RFC 3261 §25.1: quotes and backslashes in a quoted string are escaped."""
    core, _ = loaded()
    core.call("www_challenge", make_run(request(), core=core), realm)
    assert sip.parse_credentials(core.replies[0].headers.strip().partition(": ")[2]).realm == realm


# --- responses


@pytest.mark.parametrize(
    ("algorithm", "qop"),
    [
        *product(ALGORITHM_NAMES, ("auth", "auth-int")),
        # A session key needs a cnonce, which comes with qop only.
        *((name, "") for name in ALGORITHM_NAMES if not name.endswith("-sess")),
    ],
)
def test_the_right_password_is_let_in(algorithm: str, qop: str) -> None:
    """RFC 7616 §3.4.1 and RFC 8760, each algorithm with and without qop."""
    core, auth = loaded()
    (challenge,) = challenged(core, qop, algorithm)
    code, run = authorize(core, answer(challenge, qop=qop, body="v=0\r\n"))
    assert code == 1
    credentials = auth.authorized(run)
    assert credentials is not None
    assert credentials.username == "alice"


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256-sess"])
def test_a_wrong_password_is_never_let_in(algorithm: str) -> None:
    """The manual: -2 for a valid user with a wrong password."""
    core, auth = loaded()
    for wrong in ("", "Zanzibar", "zanzibar "):
        (challenge,) = challenged(core, "auth", algorithm)
        code, run = authorize(core, answer(challenge, wrong))
        assert code == -2
        assert auth.authorized(run) is None


@pytest.mark.parametrize("response", ["0" * 32, "f" * 64, "x", "é" * 16, "ñ" * 32])
def test_a_made_up_response_is_never_let_in(response: str) -> None:
    """Whatever stands in response: it is compared, nothing else."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    assert authorize(core, answer(challenge, response=response))[0] == -2


def test_no_password_is_no_password() -> None:
    """An empty or NULL password lets nobody in, not even with the response for an empty one."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    assert authorize(core, answer(challenge, ""), password="")[0] == -2


def test_a_stored_hash_does_as_well() -> None:
    """calculate_ha1=0: the variable holds HA1, in upper case too."""
    core, auth = loaded()
    auth.calculate_ha1 = 0
    (challenge,) = challenged(core)
    ha1 = sip.digest.ha1("alice", REALM, "zanzibar").upper()
    assert authorize(core, answer(challenge), password=ha1)[0] == 1


def test_another_user_is_invalid() -> None:
    """The manual: -1 when the authentication user does not exist."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    assert authorize(core, answer(challenge, username="mallory"))[0] == -1


@pytest.mark.parametrize(
    "header",
    [
        "",
        'Authorization: Digest username="alice", realm="other.example", nonce="x", uri="sip:x", response="y"',
        "Authorization: Basic YTpi",
        "Authorization:",
        "Authorization: ??? x=",
        'Proxy-Authorization: Digest username="alice", realm="example.com", nonce="x", uri="sip:x", response="y"',
        'Authorization: Digest username="a", realm="example.com", nonce="x", uri="x", response="y", algorithm=SHA-1',
    ],
    ids=["none", "other realm", "other scheme", "empty", "no scheme", "other header", "unknown algorithm"],
)
def test_no_credentials(header: str) -> None:
    """The manual: -4 when no credentials for the realm are in the request."""
    core, _ = loaded()
    text = request("REGISTER", "sip:example.com", to="<sip:alice@example.com>", headers=header)
    assert authorize(core, text)[0] == -4


@pytest.mark.parametrize(
    "value",
    [
        'Digest username="alice", realm="example.com", nonce="x", uri="sip:x"',
        'Digest username="", realm="example.com", nonce="x", uri="sip:x", response="y"',
        'Digest username="alice", realm="example.com", uri="sip:x", response="y"',
        'Digest username="alice", realm="example.com", nonce="x", uri="sip:x", response="y", qop=auth, nc=00000001',
        'Digest username="alice", realm="example.com", nonce="x", uri="sip:x", response="y", qop=auth, cnonce="1"',
        'Digest username="alice", username="bob", realm="example.com"',
        'Digest username="alice, realm="example.com"',
        "Digest ,,,=",
    ],
)
def test_broken_credentials_are_a_bad_request(value: str) -> None:
    """RFC 7616 §3.4: 400 when a parameter is improper or missing; no challenge would help such a client."""
    core, _ = loaded()
    text = request("REGISTER", "sip:example.com", to="<sip:alice@example.com>", headers=f"Authorization: {value}")
    assert authorize(core, text)[0] == 0
    assert [(reply.code, reply.reason) for reply in core.replies] == [(400, "Bad Request")]


def test_endless_credentials_are_an_error() -> None:
    """The manual: -5, and no exception, for what cannot be used."""
    core, _ = loaded()
    value = f'Digest username="{"a" * 2000}", realm="example.com", nonce="x", uri="sip:x", response="y"'
    text = request("REGISTER", "sip:example.com", to="<sip:alice@example.com>", headers=f"Authorization: {value}")
    assert authorize(core, text)[0] == -5


def test_the_script_sees_the_credentials_that_were_right() -> None:
    """$au is whose password was checked, not who is named in other headers that a peer puts before those."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    other = 'Digest username="victim", realm="other.example", nonce="x", uri="sip:x", response="y"'
    first = "Call-ID:"
    for header in (f"Authorization: {other}", f"Proxy-Authorization: {other}"):
        (challenge,) = challenged(core)
        text = answer(challenge).replace(first, f"{header}\r\n{first}", 1)
        code, run = authorize(core, text)
        assert code == 1
        message, shown = run.ctx["core.credentials"]
        assert message is run.msg
        assert shown.user == "alice"


@pytest.mark.parametrize("method", ["ACK", "CANCEL"])
def test_ack_and_cancel_cannot_be_challenged(method: str) -> None:
    """RFC 3261 §22.1: neither is asked for credentials."""
    core, _ = loaded()
    assert authorize(core, request(method), "pv_proxy_authorize")[0] == 1


# --- nonces


def test_a_nonce_is_good_for_one_request() -> None:
    """The manual: a response that was overheard lets nobody in; the next challenge says stale."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    assert authorize(core, answer(challenge))[0] == 1
    code, run = authorize(core, answer(challenge))
    assert code == -3
    (again,) = challenged(core, run=run)
    assert again.param("stale") == "true"
    assert authorize(core, answer(again))[0] == 1


def test_a_wrong_password_does_not_use_the_nonce_up() -> None:
    """Only what was let in is remembered: nobody fills the memory without a password."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    assert authorize(core, answer(challenge, "wrong"))[0] == -2
    assert authorize(core, answer(challenge))[0] == 1


def test_asking_twice_about_one_request() -> None:
    """A script may check the same request again."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    _, run = authorize(core, answer(challenge))
    assert core.call("pv_www_authorize", run, "") == 1


def test_two_requests_at_once_with_one_nonce() -> None:
    """While the password of one is looked up, the other must not slip through."""
    core, auth = loaded()
    (challenge,) = challenged(core)
    runs = [make_run(answer(challenge), core=core) for _ in range(2)]
    attempts = [auth.begin(run, sip.H_AUTHORIZATION, "") for run in runs]
    codes = []
    for run, attempt in zip(runs, attempts, strict=True):
        assert not isinstance(attempt, int)
        codes.append(auth.finish(run, attempt, "zanzibar", plain=True))
    assert codes == [1, -3]


def test_a_nonce_may_be_reused_when_the_check_is_off() -> None:
    """disable_nonce_check: for servers that share one name."""
    core, _ = loaded(disable_nonce_check=1)
    (challenge,) = challenged(core)
    assert [authorize(core, answer(challenge))[0] for _ in range(3)] == [1, 1, 1]


def test_an_old_nonce_is_stale() -> None:
    """nonce_expire: seconds from the challenge to the answer."""
    core, _ = loaded(nonce_expire=15)
    (challenge,) = challenged(core)
    core.advance(14)
    assert authorize(core, answer(challenge))[0] == 1
    (challenge,) = challenged(core)
    core.advance(17)
    assert authorize(core, answer(challenge))[0] == -3


def test_nonces_of_others_are_stale() -> None:
    """A nonce that was not made with our secret, or was changed, counts for nothing."""
    core, _ = loaded()
    other, _ = loaded()
    (foreign,) = challenged(other)
    assert authorize(core, answer(foreign))[0] == -3
    (challenge,) = challenged(core)
    for at in range(0, TEXT_LENGTH, 3):
        flipped = "A" if challenge.nonce[at] != "A" else "B"
        challenge_text = challenge.nonce[:at] + flipped + challenge.nonce[at + 1 :]
        changed = sip.Credentials()
        changed.realm, changed.nonce, changed.algorithm = REALM, challenge_text, "MD5"
        assert authorize(core, answer(changed))[0] == -3


def test_servers_with_one_secret_know_each_others_nonces() -> None:
    """secret: the second server takes the nonce that the first one made."""
    core, _ = loaded(secret=SECRET)
    other, _ = loaded(secret=SECRET)
    (challenge,) = challenged(other)
    assert authorize(core, answer(challenge))[0] == 1


def test_a_weaker_algorithm_than_offered_is_refused() -> None:
    """RFC 8760 §2.4, RFC 7616 §5.7: nobody may take the strong challenge away and have MD5 accepted."""
    core, _ = loaded()
    (challenge,) = challenged(core, algorithms="SHA-256")
    assert authorize(core, answer(challenge, algorithm="MD5"))[0] == -3


def test_a_client_that_knows_no_qop() -> None:
    """RFC 7616 §3.4: clients of RFC 2069 answer without qop where "auth" would do."""
    core, _ = loaded()
    for offered in ("auth", "auth,auth-int"):
        (challenge,) = challenged(core, offered)
        assert authorize(core, answer(challenge, qop=""))[0] == 1


@pytest.mark.parametrize(("offered", "used"), [("auth-int", ""), ("auth", "auth-int"), ("", "auth")])
def test_another_qop_than_offered_is_refused(offered: str, used: str) -> None:
    """RFC 7616 §3.4: the qop is one of those in the challenge."""
    core, _ = loaded()
    (challenge,) = challenged(core, offered)
    assert authorize(core, answer(challenge, qop=used))[0] == -3


def test_used_nonces_are_forgotten_when_they_are_stale() -> None:
    """What is remembered is bounded by two lifetimes, and nothing that is still fresh is forgotten."""
    nonces = Nonces(b"x" * 32)
    texts = [nonces.make(now, now, 0, 1) for now in range(0, 200, 5)]
    for now, text in zip(range(0, 200, 5), texts, strict=True):
        nonce = nonces.read(text)
        assert nonce is not None
        assert nonces.use(nonce, now, 30)
        assert not nonces.use(nonce, now + 1, 30)
        for old in texts[: now // 5]:
            earlier = nonces.read(old)
            assert earlier is not None
            if earlier.is_fresh(now, 30):
                assert nonces.is_used(earlier)
    assert len(nonces._used) + len(nonces._used_before) <= 2 * 35 / 5 + 2


@pytest.mark.parametrize("text", ["", "x", "A" * TEXT_LENGTH, "=" * TEXT_LENGTH, "é" * TEXT_LENGTH, "A" * 100_000])
def test_texts_that_are_no_nonce(text: str) -> None:
    """Whatever a peer sends as nonce is answered with None."""
    assert Nonces(b"x" * 32).read(text) is None


# --- the rest


def test_consumed_credentials_do_not_leave() -> None:
    """The manual: no other hop sees them; other credentials stay."""
    core, _ = loaded()
    (challenge,) = challenged(core)
    text = answer(challenge).replace(
        "Max-Forwards", 'Authorization: Digest realm="other.example", nonce="1"\r\nMax-Forwards'
    )
    code, run = authorize(core, text)
    assert code == 1
    assert core.call("consume_credentials", run) == 1
    left = sip.build_request(run.msg, run.edits, run.ruri, "", run.msg.socket).decode()
    assert "zanzibar" not in left
    assert challenge.nonce not in left
    assert "other.example" in left


def test_nothing_is_consumed_before_it_was_authorized() -> None:
    """The manual: to be called after an authorize function."""
    core, _ = loaded()
    assert core.call("consume_credentials", make_run(request(), core=core)) == -1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<sip:+358401234567@example.com>", 1),
        ("sip:+1@x", 1),
        ("+44123", 1),
        ("sip:358401@x", -1),
        ("sip:+1234567890123456@x", -1),
        ("sip:+12a@x", -1),
        ("<<<", -1),
        (None, -1),
    ],
)
def test_remote_party_id_number(value: str | None, expected: int) -> None:
    """The manual: a plus and up to 15 digits in the user part."""
    core, _ = loaded()
    run = make_run(request(), core=core)
    run.vars["rpid"] = value
    assert core.call("is_rpid_user_e164", run) == expected


def test_remote_party_id_is_added() -> None:
    """The manual: prefix, the AVP, suffix; from the parameters or from the call; nothing without a value."""
    core, _ = loaded(rpid_prefix="<", rpid_suffix=">;screen=yes")
    run = make_run(request(), core=core)
    assert core.call("append_rpid_hf", run) == -1
    run.vars["rpid"] = "sip:+1@x"
    assert core.call("append_rpid_hf", run) == 1
    assert core.call("append_rpid_hf", run, "", ";party=called") == 1
    text = sip.build_request(run.msg, run.edits, run.ruri, "", run.msg.socket).decode()
    assert "Remote-Party-ID: <sip:+1@x>;screen=yes\r\nRemote-Party-ID: sip:+1@x;party=called\r\n" in text


def test_parameters_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    """secret has 32 characters and is shown nowhere; specs are variables."""
    with caplog.at_level(logging.DEBUG), pytest.raises(ParamError) as caught:
        Auth(secret="swordfish")
    assert "swordfish" not in str(caught.value) + caplog.text
    with pytest.raises(ParamError):
        Auth(nonce_expire=0)
    core = FakeCore()
    broken = core.add(Auth(username_spec="$nonsense(x)"))
    with pytest.raises(ParamError, match="username_spec"):
        asyncio.run(broken.start())


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Passwords, hashes and responses stay out of the log."""
    core, auth = loaded(secret=SECRET)
    with caplog.at_level(logging.DEBUG):
        (challenge,) = challenged(core)
        authorize(core, answer(challenge, "wrong"))
        authorize(core, answer(challenge))
        authorize(core, answer(challenge))
    for secret in (SECRET, "zanzibar", sip.digest.ha1("alice", REALM, "zanzibar")):
        assert secret not in caplog.text
    assert core.api("auth", AuthApi) is auth  # type: ignore[type-abstract, comparison-overlap]
