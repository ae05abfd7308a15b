"""mmgeoip: look-ups in a small database file made here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.mmgeoip import MmGeoIp
from opensipspy.script.declare import VarRef
from opensipspy.script.run import Run

pytest.importorskip("maxminddb", reason="the Python package maxminddb is missing")
mmdb_writer = pytest.importorskip("mmdb_writer", reason="the Python package mmdb-writer is missing")
netaddr = pytest.importorskip("netaddr", reason="the Python package netaddr is missing")

BUCHAREST = {
    "city": {"names": {"en": "Bucharest", "de": "Bukarest"}},
    "continent": {"names": {"en": "Europe"}},
    "country": {"iso_code": "RO", "names": {"en": "Romania"}},
    "location": {"latitude": 44.4323, "longitude": 26.1063, "time_zone": "Europe/Bucharest", "metro_code": 7},
    "postal": {"code": "010011"},
    "subdivisions": [{"iso_code": "B", "names": {"en": "Bucuresti"}}],
    "traits": {"is_anycast": True},
}


def write(path: Path, record: dict[str, Any]) -> None:
    writer = mmdb_writer.MMDBWriter(ip_version=6, ipv4_compatible=True)
    writer.insert_network(netaddr.IPSet(["192.0.2.0/24"]), record)
    writer.insert_network(netaddr.IPSet(["2001:db8::/32"]), record)
    new = path.with_suffix(".new")
    writer.to_db_file(str(new))
    os.replace(new, path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "city.mmdb"
    write(path, BUCHAREST)
    return path


class Lab:
    def __init__(self, core: FakeCore, module: MmGeoIp) -> None:
        self.core = core
        self.module = module

    def __call__(self, fields: str | None, source: str | None) -> list[Any] | None:
        """The AVP's values as scripts index them, the top first; None when the look-up failed."""
        run = make_run(request(), core=self.core)
        values: list[Any] = []

        def push(_: Run, value: Any) -> None:
            values.insert(0, value)

        var = VarRef("$avp(x)", "$avp", "x", lambda run: values[0], push, push)
        if self.core.call("mmg_lookup", run, fields, source, var) == 1:
            return values
        assert values == []
        return None


def play(path: Path | str, scenario: Callable[[Lab], Awaitable[None]], **params: Any) -> None:
    async def run() -> None:
        core = FakeCore()
        module = core.add(MmGeoIp(mmgeoip_city_db_path=str(path), **params))
        await module.launch()
        await scenario(Lab(core, module))
        await module.shutdown()

    asyncio.run(run())


@pytest.mark.parametrize("cache", ["STANDARD", "MMAP_CACHE", "MEM_CACHE_CHECK"])
def test_mmg_lookup_puts_the_fields_in_reverse(file: Path, cache: str):
    async def scenario(lookup: Lab) -> None:
        assert lookup("lon:lat", "192.0.2.7") == ["44.432300", "26.106300"]
        assert lookup("continent.names.en:country.iso_code,", "192.0.2.7") == ["RO", "Europe"]
        assert lookup(None, "2001:db8::1") == ["RO"]
        assert lookup("city", "[2001:db8::1]") == ["Bucharest"]

    play(file, scenario, cache_type=cache)


def test_every_short_name_and_separator(file: Path):
    async def scenario(lookup: Lab) -> None:
        assert lookup("cont|cc,reg/rn city:pc dma:tz", "192.0.2.1") == [
            "Europe/Bucharest",
            "7",
            "010011",
            "Bucharest",
            "Bucuresti",
            "B",
            "RO",
            "Europe",
        ]
        assert lookup("subdivisions.0.iso_code city.names.de traits.is_anycast", "192.0.2.1") == [
            "true",
            "Bukarest",
            "B",
        ]

    play(file, scenario)


def test_what_is_not_known_fails_and_puts_nothing(file: Path):
    async def scenario(lookup: Lab) -> None:
        assert lookup("cc", "198.51.100.1") is None
        for field in ("ac", "country", "subdivisions.9.iso_code", "subdivisions.x", "cc:none", ":", "a." * 3000):
            assert lookup(field, "192.0.2.1") is None
        for address in ("", None, "example.org", "192.0.2.1; drop", "1" * 100_000, "192.0.2.256", "\udcff"):
            assert lookup("cc", address) is None

    play(file, scenario)


def test_a_file_that_is_replaced_is_opened_again(file: Path):
    async def scenario(lookup: Lab) -> None:
        write(file, {**BUCHAREST, "country": {"iso_code": "DE"}})
        assert lookup("cc", "192.0.2.1") == ["RO"]
        lookup.core.advance(60)
        await lookup.core.settle()
        assert lookup("cc", "192.0.2.1") == ["DE"]
        broken = file.with_suffix(".broken")
        broken.write_bytes(b"no database")
        os.replace(broken, file)
        lookup.core.advance(60)
        await lookup.core.settle()
        assert lookup("cc", "192.0.2.1") == ["DE"]
        os.unlink(file)
        lookup.core.advance(60)
        await lookup.core.settle()
        assert lookup("cc", "192.0.2.1") == ["DE"]

    play(file, scenario)


def test_a_start_without_a_usable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def nothing(lookup: Lab) -> None:
        raise AssertionError

    with pytest.raises(ParamError, match="has to be set"):
        asyncio.run(FakeCore().add(MmGeoIp()).launch())
    with pytest.raises(StartError, match="cannot be used"):
        play(tmp_path / "none.mmdb", nothing)
    (tmp_path / "bad.mmdb").write_bytes(b"\0" * 5000)
    with pytest.raises(StartError, match="cannot be used"):
        play(tmp_path / "bad.mmdb", nothing)
    with pytest.raises(ParamError, match="MEM_CACHE_CHECK"):
        MmGeoIp(cache_type="NONE")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"opensipspy\[geoip\]"):
        play(tmp_path / "bad.mmdb", nothing)
