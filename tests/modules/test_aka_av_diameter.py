"""aka_av_diameter: vectors of a real Diameter peer for auth_aka (3GPP TS 29.228 §6.3, TS 29.229)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.aaa_diameter import AaaDiameter
from opensipspy.modules.aka_av_diameter import AkaAvDiameter
from opensipspy.modules.auth import Auth
from opensipspy.modules.auth_aka import AuthAka
from tests.backends import free_port
from tests.diameter_peers import hss, peer_text, write_files
from tests.modules.asynchronous import in_loop

IMPU, IMPI = "sip:alice@t.test", "alice@t.test"
CHALLENGE = bytes(range(16)).hex() + "00112233445566778899aabbccddeeff"


async def made(url: str | None) -> tuple[FakeCore, AuthAka, AaaDiameter, AkaAvDiameter]:
    core = FakeCore()
    core.add(Auth())
    aka, diameter = core.add(AuthAka()), core.add(AaaDiameter(answer_timeout=3000))
    source = core.add(AkaAvDiameter(aaa_url=url, realm="t.test"))
    for module in (aka, diameter, source):
        await module.launch()
    return core, aka, diameter, source


@in_loop
async def test_vectors_come_from_the_home_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with hss(port):
        _, aka, diameter, source = await made(write_files(tmp_path, peer_text("hss.t.test", port)))
        assert diameter.node is not None
        try:
            await asyncio.wait_for(diameter.node.wait_open("hss.t.test"), 10)
            await source.fetch("t.test", IMPU, IMPI, None, ("AKAv1-MD5", "AKAv2-SHA-256"))
            vectors = aka._users[IMPU, IMPI].vectors
            assert sorted(vector.algorithms for vector in vectors) == [("AKAv1-MD5",), ("AKAv2-SHA-256",)]
            assert vectors[0].response == bytes.fromhex("aabbccdd")
            assert vectors[0].confidentiality_key == "0f" * 16
            # TS 29.229 §6.3.11: a resynchronisation brings another RAND.
            await source.fetch("t.test", IMPU, IMPI, bytes(30), ("AKAv1-MD5",))
            assert vectors[-1].nonce != vectors[0].nonce
            await source.fetch("t.test", "sip:nobody@t.test", "nobody@t.test", None, ("AKAv1-MD5",))
            assert ("sip:nobody@t.test", "nobody@t.test") not in aka._users
            assert "no vectors for nobody@t.test: result 5012" in caplog.text
        finally:
            await diameter.shutdown()
    await source.fetch("t.test", IMPU, IMPI, None, ("AKAv1-MD5",))
    assert "no vectors for alice@t.test: " in caplog.text


@in_loop
async def test_answers_that_hold_no_vector(caplog: pytest.LogCaptureFixture) -> None:
    core = FakeCore()
    aka, source = core.add(AuthAka()), core.add(AkaAvDiameter())
    source._aka = aka
    whole = {
        "3GPP-SIP-Authentication-Scheme": "Digest-AKAv1-MD5",
        "3GPP-SIP-Authenticate": CHALLENGE,
        "3GPP-SIP-Authorization": "aa",
        "Confidentiality-Key": "0f" * 16,
        "Integrity-Key": "f0" * 16,
    }
    for name in whole:
        parts = [{key: value} for key, value in whole.items() if key != name]
        assert source._store(IMPU, IMPI, [{"3GPP-SIP-Auth-Data-Item": parts}]) == 0
    assert source._store(IMPU, IMPI, []) == 0
    assert source._store(IMPU, IMPI, [{"3GPP-SIP-Auth-Data-Item": [{k: v} for k, v in whole.items()]}]) == 1
    assert "aa" not in caplog.text.replace("aa_", "")


@in_loop
async def test_a_url_without_the_command_stops_the_start(tmp_path: Path) -> None:
    write_files(tmp_path, "")
    for url in (None, f"diameter:{tmp_path}/fd.conf", "radius:x"):
        with pytest.raises(ParamError, match="aaa_url"):
            await made(url)
