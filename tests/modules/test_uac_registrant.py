"""uac_registrant: registrations at other servers, their states, and when they are renewed (RFC 3261 §10.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.db import Database
from opensipspy.management import MiError
from opensipspy.module import ParamError
from opensipspy.modules.clusterer import Clusterer
from opensipspy.modules.proto_bin import ProtoBin
from opensipspy.modules.uac_auth import UacAuth
from opensipspy.modules.uac_registrant import REGISTRANT_TABLE, UacRegistrant
from opensipspy.modules.uac_registrant.record import Details, Registrant
from opensipspy.sip import Message, Socket, digest
from tests.modules.asynchronous import in_loop
from tests.modules.databases import database_with
from tests.modules.tm_bench import TmBench

URL = "sqlite:registrants"
REGISTRAR = "sip:192.0.2.50:5060"
KEY = {"aor": "sip:alice@provider.example", "contact": "sip:alice@198.51.100.1", "registrar": REGISTRAR}
ROW: dict[str, Any] = {
    "aor": KEY["aor"],
    "binding_URI": KEY["contact"],
    "registrar": REGISTRAR,
    "username": "alice",
    "password": "s3cret",
    "expiry": 600,
    "state": 0,
}


class Bench(TmBench):
    """A server that registers; a test plays the registrar."""

    def __init__(self, database: Database, **params: Any) -> None:
        super().__init__()
        self.database = database
        self.core.databases[URL] = database
        self.core.add(UacAuth())
        self.cluster: Clusterer | None = None
        if params.get("enable_clustering"):
            door = self.core.add(ProtoBin())
            door.opened(Socket(sip.PROTO_BIN, "127.0.0.1", 5555))
            mine = "cluster_id=1,url=bin:127.0.0.1:5555"
            self.cluster = self.core.add(Clusterer(my_node_id=1, db_mode=0, my_node_info=[mine]))
        self.module = self.core.add(UacRegistrant(db_url=URL, **params))
        self.heard: list[str] = []
        for name in (event.name for event in UacRegistrant.events()):
            self.core.events.listen(name, lambda name, params: self.heard.append(name.removeprefix("E_REGISTRANT_")))

    async def sent(self, seconds: float = 0.0) -> list[Message]:
        """The requests that leave while the clock goes on."""
        self.core.advance(seconds)
        await self.rest()
        return self.take()

    async def rest(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def reply(self, request: Message, status: int, headers: str = "") -> list[Message]:
        """The registrar answers; the requests that leave then."""
        self.answer(request, status, headers=headers)
        await self.rest()
        return self.take()

    async def state(self, **key: str) -> str:
        listed = await self.core.mi_call("uac_registrant:list", key or KEY)
        return str(listed["Registrant"]["state"]).removesuffix("_STATE")

    async def due_in(self) -> float:
        return self.module._records[KEY["aor"], KEY["contact"], KEY["registrar"]].due_at - self.core.time()


@asynccontextmanager
async def bench(*rows: dict[str, Any], **params: Any) -> AsyncIterator[Bench]:
    async with database_with(REGISTRANT_TABLE) as database:
        for row in rows:
            await database.insert("registrant", {**ROW, **row})
        made = Bench(database, **{"timer_interval": 10, "hash_size": 0, **params})
        if made.cluster is not None:
            await made.cluster.launch()
        await made.module.launch()
        try:
            yield made
        finally:
            await made.module.shutdown()
            made.tm.flow.close()


def contact(expires: int = 600, uri: str = KEY["contact"]) -> str:
    return f"Contact: <{uri}>;expires={expires}\r\n"


CHALLENGE = digest.challenge("provider.example", "n1", algorithm="SHA-256")


@in_loop
async def test_register_with_credentials() -> None:
    """RFC 3261 §10.2, §22.2: REGISTER, 401, REGISTER with credentials and the next CSeq, 200."""
    async with bench({"third_party_registrant": "sip:boss@provider.example", "binding_params": ";x=1"}) as server:
        assert await server.state() == "NOT_REGISTERED"
        assert await server.sent(9.9) == []
        (first,) = await server.sent(0.2)
        assert (first.method, first.ruri) == ("REGISTER", REGISTRAR)
        assert (first.to.uri, first.from_.uri) == (KEY["aor"], "sip:boss@provider.example")
        assert first.contacts[0].uri == KEY["contact"]
        assert (first.contacts[0].param("x"), first.contacts[0].expires) == ("1", 600)
        assert await server.state() == "REGISTERING"
        (second,) = await server.reply(first, 401, f"WWW-Authenticate: {CHALLENGE}\r\n")
        assert await server.state() == "AUTHENTICATING"
        (credentials,) = second.credentials(sip.H_AUTHORIZATION)
        ha1 = digest.ha1("alice", "provider.example", "s3cret", "SHA-256")
        assert digest.verify(credentials, ha1, "REGISTER")
        assert credentials.uri == REGISTRAR
        assert (second.call_id, second.cseq_number) == (first.call_id, first.cseq_number + 1)
        # RFC 3261 §8.1.3.5: the From of the request that was challenged, tag included.
        assert second.from_tag == first.from_tag != ""
        assert await server.reply(second, 200, contact(300)) == []
        assert await server.state() == "REGISTERED"
        assert server.heard == ["REGISTERING", "AUTHENTICATING", "REGISTERED"]
        listed = await server.core.mi_call("uac_registrant:list")
        assert listed["Records"][0]["expires"] == 300
        assert listed["Records"][0]["ip"] == "192.0.2.50"
        assert "s3cret" not in str(listed)
        group = server.core.status.group("uac_registrant")
        assert group is not None
        (identifier,) = group.values()
        assert identifier.name == f"aor={KEY['aor']};contact={KEY['contact']};registrar={REGISTRAR}"
        assert identifier.ready
        assert [text for _, text in identifier.reports] == [
            "created with state NOT_REGISTERED_STATE",
            "state changed to REGISTERING_STATE",
            "state changed to AUTHENTICATING_STATE",
            "state changed to REGISTERED_STATE",
        ]


@pytest.mark.parametrize(
    ("percentage", "granted", "after", "before"), [(100, 600, 580, 600), (50, 600, 290, 301), (100, 8, 5, 8)]
)
@in_loop
async def test_renewed_in_time(percentage: int, granted: int, after: float, before: float) -> None:
    """RFC 3261 §10.2.4: refreshed before the registration runs out, with the time that the registrar gave.

    A time that is shorter than the timer's turn is kept, too.
    """
    async with bench({}, reregister_expiry_percentage=percentage) as server:
        (first,) = await server.sent(10)
        await server.reply(first, 200, contact(granted))
        start = server.core.clock
        again: list[Message] = []
        while not again and server.core.clock < start + 700:
            again = await server.sent(1)
        assert after <= server.core.clock - start <= before
        assert again[0].call_id == first.call_id
        assert again[0].cseq_number == first.cseq_number + 1


@in_loop
async def test_a_registration_is_found_among_others() -> None:
    """RFC 3261 §10.2.4: the reply lists all bindings; ours is found by comparing URIs (§19.1.4)."""
    async with bench({}) as server:
        (first,) = await server.sent(10)
        await server.reply(first, 200, contact(50, "sip:other@192.0.2.9") + contact(400, "sip:alice@198.51.100.1;x=y"))
        assert 399 < await server.due_in() <= 400
    async with bench({}) as server:
        (first,) = await server.sent(10)
        await server.reply(first, 200, f"Contact: <{KEY['contact']}>\r\nExpires: 333\r\n")
        assert 332 < await server.due_in() <= 333


@in_loop
async def test_interval_too_brief() -> None:
    """RFC 3261 §10.2.8: 423 with Min-Expires: again with that time; without one it is an error."""
    async with bench({}) as server:
        (first,) = await server.sent(10)
        (second,) = await server.reply(first, 423, "Min-Expires: 3600\r\n")
        assert second.contacts[0].expires == 3600
        await server.reply(second, 200, contact(3600))
        assert await server.state() == "REGISTERED"
    async with bench({}) as server:
        (first,) = await server.sent(10)
        assert await server.reply(first, 423) == []
        assert await server.state() == "REGISTRAR_ERROR"


@pytest.mark.parametrize(
    ("status", "headers", "state"),
    [
        (403, "", "REGISTRAR_ERROR"),
        (503, "", "REGISTRAR_ERROR"),
        (302, "Contact: <sip:elsewhere.example>\r\n", "REGISTRAR_ERROR"),
        (408, "", "REGISTER_TIMEOUT"),
        (401, "", "INTERNAL_ERROR"),
        (401, "WWW-Authenticate: Digest nonsense\r\n", "INTERNAL_ERROR"),
        (200, "", "INTERNAL_ERROR"),
        (200, "Contact: <<<\r\n", "INTERNAL_ERROR"),
        (600, "", "REGISTRAR_ERROR"),
    ],
)
@in_loop
async def test_failures_are_tried_again(status: int, headers: str, state: str) -> None:
    """The manual: failure_retry_interval seconds after a failure the registration is taken up again."""
    async with bench({}, failure_retry_interval=45) as server:
        (first,) = await server.sent(10)
        await server.reply(first, status, headers)
        assert await server.state() == state
        assert server.heard[-1] == state
        start = server.core.clock
        again: list[Message] = []
        while not again and server.core.clock < start + 100:
            again = await server.sent(1)
        assert 44 <= server.core.clock - start <= 56


@in_loop
async def test_retry_after_is_respected() -> None:
    """RFC 3261 §20.33: not before the time that the registrar names."""
    async with bench({}, failure_retry_interval=45) as server:
        (first,) = await server.sent(10)
        await server.reply(first, 503, "Retry-After: 500 (maintenance);duration=20\r\n")
        assert 499 < await server.due_in() <= 500


@in_loop
async def test_no_answer() -> None:
    """RFC 3261 §17.1.2.2 timer F: the state is REGISTER_TIMEOUT, the next try comes after the registration's time."""
    async with bench({}) as server:
        (first,) = await server.sent(10)
        resent = [msg for msg in await server.sent(40) if msg.method == "REGISTER"]
        assert {msg.cseq_number for msg in resent} == {first.cseq_number}
        await server.rest()
        assert await server.state() == "REGISTER_TIMEOUT"
        assert 560 < await server.due_in() <= 600


@in_loop
async def test_wrong_credentials() -> None:
    """RFC 3261 §22.1: refused credentials are not tried again at once, a stale nonce is answered."""
    async with bench({}) as server:
        (first,) = await server.sent(10)
        (second,) = await server.reply(first, 401, f"WWW-Authenticate: {CHALLENGE}\r\n")
        stale = digest.challenge("provider.example", "n2", algorithm="SHA-256", stale=True)
        (third,) = await server.reply(second, 401, f"WWW-Authenticate: {stale}\r\n")
        assert third.credentials(sip.H_AUTHORIZATION)[0].nonce == "n2"
        assert await server.reply(third, 401, f"WWW-Authenticate: {CHALLENGE}\r\n") == []
        assert await server.state() == "WRONG_CREDENTIALS"
    async with bench({"password": None}) as server:
        (first,) = await server.sent(10)
        assert await server.reply(first, 401, f"WWW-Authenticate: {CHALLENGE}\r\n") == []
        assert await server.state() == "WRONG_CREDENTIALS"


@in_loop
async def test_a_proxy_and_the_registrar_ask() -> None:
    """RFC 3261 §22.3: both kinds of credentials in one request."""
    async with bench({"proxy": "sip:192.0.2.99:5080"}) as server:
        (first,) = await server.sent(10)
        assert (first.source.address, first.source.port) == ("192.0.2.99", 5080)
        assert first.ruri == REGISTRAR
        (second,) = await server.reply(first, 407, f"Proxy-Authenticate: {digest.challenge('edge', 'n')}\r\n")
        (third,) = await server.reply(second, 401, f"WWW-Authenticate: {CHALLENGE}\r\n")
        assert third.credentials(sip.H_PROXY_AUTHORIZATION)[0].realm == "edge"
        assert third.credentials(sip.H_AUTHORIZATION)[0].realm == "provider.example"


@in_loop
async def test_endless_challenges_end() -> None:
    """A registrar that calls every nonce stale is left alone."""
    async with bench({}) as server:
        (request,) = await server.sent(10)
        count = 0
        while True:
            stale = digest.challenge("provider.example", f"n{count}", stale=True)
            left = await server.reply(request, 401, f"WWW-Authenticate: {stale}\r\n")
            if not left:
                break
            (request,) = left
            count += 1
            assert count < 10
        assert await server.state() == "WRONG_CREDENTIALS"


@in_loop
async def test_one_binding_for_one_instance() -> None:
    """The manual: with reg-id and +sip.instance further bindings are removed, then it registers again."""
    params = ';reg-id=1;+sip.instance="<urn:uuid:1>"'
    async with bench({"binding_params": params}) as server:
        (first,) = await server.sent(10)
        (clear,) = await server.reply(first, 200, contact() + contact(50, "sip:old@192.0.2.9"))
        assert clear.contact_star
        assert clear.expires == 0
        (again,) = await server.reply(clear, 200)
        assert again.contacts[0].uri == KEY["contact"]
        await server.reply(again, 200, contact())
        assert await server.state() == "REGISTERED"


@in_loop
async def test_disable_and_enable() -> None:
    """The manual: an unREGISTER at once and then silence; a REGISTER at once; the table follows."""
    async with bench({}) as server:
        (first,) = await server.sent(10)
        await server.reply(first, 200, contact())
        assert await server.core.mi_call("reg_disable", KEY) == "OK"
        (leaving,) = await server.sent()
        assert leaving.contacts[0].expires == 0
        assert await server.state() == "UNREGISTERING"
        (proof,) = await server.reply(leaving, 401, f"WWW-Authenticate: {CHALLENGE}\r\n")
        assert await server.state() == "AUTHENTICATING_UNREGISTER"
        await server.reply(proof, 200)
        assert await server.state() == "NOT_REGISTERED"
        assert await server.database.select("registrant", ["state"]) == [(1,)]
        assert await server.sent(2000) == []
        with pytest.raises(MiError, match="disabled"):
            await server.core.mi_call("reg_force_register", KEY)
        assert await server.core.mi_call("reg_enable", KEY) == "OK"
        (back,) = await server.sent()
        assert back.contacts[0].expires == 600
        assert await server.database.select("registrant", ["state"]) == [(0,)]
        # Disabled while the reply is awaited: it leaves again.
        await server.core.mi_call("reg_disable", KEY)
        (leaving,) = await server.reply(back, 200, contact())
        assert leaving.contacts[0].expires == 0
        assert server.heard[-2:] == ["REGISTERED", "UNREGISTERING"]


@in_loop
async def test_force_register() -> None:
    """The manual: registers again at once; while a reply is awaited nothing more is sent."""
    async with bench({}) as server:
        assert await server.core.mi_call("uac_registrant:force_register", KEY) == "OK"
        (first,) = await server.sent()
        await server.core.mi_call("uac_registrant:force_register", KEY)
        assert await server.sent() == []
        await server.reply(first, 200, contact())
        await server.core.mi_call("uac_registrant:force_register", KEY)
        assert len(await server.sent()) == 1


@in_loop
async def test_reload() -> None:
    """The manual: the table is read again, whole or one row; what is still there keeps its state."""
    async with bench({}, {"aor": "sip:two@provider.example"}) as server:
        for request in await server.sent(10):
            await server.reply(request, 200, contact())
        await server.database.delete("registrant", [("aor", "=", "sip:two@provider.example")])
        await server.database.insert("registrant", {**ROW, "aor": "sip:three@provider.example"})
        assert await server.core.mi_call("reg_reload") == "OK"
        listed = await server.core.mi_call("reg_list")
        assert {(r["AOR"], r["state"]) for r in listed["Records"]} == {
            (KEY["aor"], "REGISTERED_STATE"),
            ("sip:three@provider.example", "NOT_REGISTERED_STATE"),
        }
        await server.database.update("registrant", {"state": 1}, [("aor", "=", KEY["aor"])])
        assert await server.core.mi_call("reg_reload", KEY) == "OK"
        (leaving,) = await server.sent()
        assert leaving.contacts[0].expires == 0
        with pytest.raises(MiError, match="No such registrant in database"):
            await server.core.mi_call("reg_reload", {**KEY, "aor": "sip:nobody@x.example"})


@in_loop
async def test_upsert_and_delete() -> None:
    """The manual: in memory only, without the database."""
    async with bench() as server:
        given: dict[str, Any] = {
            **KEY,
            "proxy": "",
            "third_party_registrant": "",
            "username": "u",
            "password": "p",
            "binding_params": "",
            "expiry": 120,
            "forced_socket": "udp:127.0.0.1:5060",
            "cluster_shtag": "",
            "state": 0,
        }
        assert await server.core.mi_call("uac_registrant:upsert", given) == "OK"
        (request,) = await server.sent(10)
        assert request.contacts[0].expires == 120
        for name, value in (
            ("aor", "nonsense"),
            ("forced_socket", "udp:203.0.113.9:5060"),
            ("binding_params", "x\r\nVia: y"),
            ("cluster_shtag", "tag"),
            ("expiry", -1),
        ):
            with pytest.raises(MiError, match="Bad parameter"):
                await server.core.mi_call("uac_registrant:upsert", {**given, name: value})
        await server.core.mi_call("uac_registrant:delete", KEY)
        assert await server.reply(request, 200, contact()) == []
        with pytest.raises(MiError, match="No such registrant"):
            await server.core.mi_call("uac_registrant:delete", KEY)
        assert await server.core.mi_call("reg_list") == {"Records": []}
        assert not server.core.status.group("uac_registrant")


@in_loop
async def test_the_node_whose_sharing_tag_is_active_registers() -> None:
    """The manual, enable_clustering: the other nodes are idle."""
    other = "sip:bob@provider.example"
    async with bench({"cluster_shtag": "vip/1"}, {"aor": other}, enable_clustering=1) as server:
        assert server.cluster is not None
        (free,) = await server.sent(25)
        assert free.to.uri == other, "without a tag every node registers"
        with pytest.raises(MiError, match="sharing tag is not active"):
            await server.core.mi_call("uac_registrant:force_register", KEY)
        server.cluster.activate_tag("vip", 1, "test")
        (taken,) = await server.sent(0.1)
        assert taken.to.uri == KEY["aor"], "it is taken over at once"
        await server.reply(taken, 200, contact())
        assert await server.state() == "REGISTERED"
        shown = (await server.core.mi_call("uac_registrant:list", KEY))["Registrant"]
        assert (shown["shtag"], shown["cluster_id"]) == ("vip", 1)
        server.cluster.tag_active_elsewhere("vip", 1, 2)
        assert await server.state() == "NOT_REGISTERED"
        await server.reply(free, 200, contact())
        assert [request.to.uri for request in await server.sent(700) if request.to.uri != other] == []


@in_loop
async def test_a_tag_that_is_lost_while_the_registrar_thinks() -> None:
    async with bench({"cluster_shtag": "vip/1"}, enable_clustering=1) as server:
        assert server.cluster is not None
        server.cluster.activate_tag("vip", 1, "test")
        (request,) = await server.sent(0.1)
        server.cluster.tag_active_elsewhere("vip", 1, 2)
        await server.reply(request, 200, contact())
        assert await server.state() == "NOT_REGISTERED"
        assert await server.sent(700) == []


@in_loop
async def test_without_clustering_what_has_a_tag_rests(caplog: pytest.LogCaptureFixture) -> None:
    async with bench({"cluster_shtag": "vip/1"}, {"aor": "sip:bob@provider.example", "cluster_shtag": "x/1"}) as server:
        assert await server.sent(50) == []
        assert caplog.text.count("enable_clustering only") == 1
    async with database_with(REGISTRANT_TABLE) as database:
        made = Bench(database)
        made.module.enable_clustering = 1
        with pytest.raises(ParamError, match="enable_clustering"):
            await made.module.launch()


@in_loop
async def test_a_thousand_start_without_a_spike() -> None:
    """The manual: buckets are looked at one by one; within a bucket the requests are spread over its time."""
    rows = [{"aor": f"sip:u{n}@provider.example"} for n in range(1000)]
    async with bench(*rows, timer_interval=40, hash_size=2) as server:
        seen: set[str] = set()
        new: list[int] = []
        for _ in range(51):
            before = len(seen)
            seen.update(msg.call_id for msg in await server.sent(1))
            new.append(len(seen) - before)
        assert sum(new) == 1000
        assert max(new) <= 40


@in_loop
async def test_rows_that_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    """One bad row does not keep the others from being used; the log tells of it without the password."""
    bad = {"aor": "sip:x@y\r\nVia: z", "binding_URI": "sip:a@b"}
    async with bench({}, bad, {"aor": "sip:b@b", "forced_socket": "udp:203.0.113.1:5060"}) as server:
        assert [r["AOR"] for r in (await server.core.mi_call("reg_list"))["Records"]] == [KEY["aor"]]
    assert "skipped" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "params",
    [
        {"hash_size": 5, "timer_interval": 31},
        {"reregister_expiry_percentage": 0},
        {"hash_size": 40},
        {"failure_retry_interval": -1},
    ],
)
@in_loop
async def test_parameters_that_cannot_be(params: dict[str, Any]) -> None:
    """The manual: the interval is not below the number of buckets."""
    with pytest.raises(ParamError):
        async with bench(**params):
            pass


@in_loop
async def test_stop_leaves_nothing_running() -> None:
    """Timers and conversations end with the module."""
    async with bench({}) as server:
        await server.sent(10)
        await server.module.shutdown()
        server.tm.flow.close()
        assert server.core.pending_timers == 0


def test_passwords_stay_out_of_texts() -> None:
    """What lands in logs has no secret."""
    details = Details(*KEY.values(), password="s3cret")
    assert "s3cret" not in repr(details)
    assert "s3cret" not in Registrant(details, 2, "id", "tag").identifier
