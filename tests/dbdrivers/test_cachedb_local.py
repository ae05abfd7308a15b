"""cachedb_local: collections, patterns, cleaning, and the file that survives a restart."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import CacheError, InstantCacheDb
from opensipspy.dbdrivers import cachedb_local
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.management import MiError
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request


def loaded(core: FakeCore | None = None, **params: Any) -> tuple[FakeCore, CachedbLocal]:
    core = core or FakeCore()
    return core, core.add(CachedbLocal(**params))


def store_of(core: FakeCore, url: str = "local://") -> InstantCacheDb:
    store = core.cachedb(url)
    assert isinstance(store, InstantCacheDb)
    return store


def test_it_answers_without_being_awaited() -> None:
    core, _ = loaded()
    store = store_of(core)
    store.store_now("a", "1")
    assert store.fetch_now("a") == "1"
    assert store.add_now("a", 2) == 3
    assert store.fetch_counter_now("a") == 3
    assert store.remove_now("a")
    assert store.fetch_now("a") is None
    assert store.operations == 6


def test_collections_are_apart_and_groups_share_them() -> None:
    core, _ = loaded(
        cache_collections="one; two = 5;default=4",
        cachedb_url=["local:///one", "local:group2:///two", "local:again:///two"],
    )
    stores = core.cachedbs
    for name in ("local", "local:group2", "local:again"):
        assert stores.known(name)
    assert not stores.known("local:nobody")
    # The last URL for a name counts: plain "local" is the collection one.
    asyncio.run(stores.named("local").store("key", "in one"))
    assert store_of(core, "local:///one").fetch_now("key") == "in one"
    assert store_of(core, "local:///").fetch_now("key") is None
    asyncio.run(stores.named("local:group2").store("key", "in two"))
    assert asyncio.run(stores.named("local:again").fetch("key")) == "in two"


@pytest.mark.parametrize("text", ["=5", "a=x", "a=99", "a/q", "a=-1"])
def test_bad_collections_are_refused(text: str) -> None:
    with pytest.raises(ParamError):
        CachedbLocal(cache_collections=text)


def test_a_url_of_an_unknown_collection_stops_the_start() -> None:
    _, module = loaded(cachedb_url="local:x:///missing")
    with pytest.raises(CacheError, match="cache_collections"):
        asyncio.run(module.start())


def test_replication_is_said_to_be_missing(caplog: pytest.LogCaptureFixture) -> None:
    _, module = loaded(cache_collections="calls/r = 5")
    with caplog.at_level(logging.WARNING):
        asyncio.run(module.start())
    assert "calls is not replicated" in caplog.text


def test_adding_keeps_the_expiry_unless_a_new_one_is_given() -> None:
    core, _ = loaded()
    store = store_of(core)
    store.add_now("n", 1, 10)
    store.add_now("n", 1)
    core.advance(6)
    store.add_now("n", 1, 10)
    core.advance(6)
    assert store.fetch_counter_now("n") == 3
    core.advance(5)
    assert store.fetch_counter_now("n") is None


def test_cleaning_frees_the_memory() -> None:
    core, module = loaded()
    store = store_of(core)
    for number in range(100):
        store.store_now(f"k{number}", "x" * 100, 5)
    store.store_now("kept", "x")
    used = module._memory.used
    core.advance(6)
    asyncio.run(module.clean())
    assert module._memory.used < used / 50
    assert store.fetch_now("kept") == "x"
    store.remove_now("kept")
    assert module._memory.used == 0


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachedb_local, "MAX_BYTES", 10_000)
    core, _ = loaded()
    store = store_of(core)
    store.store_now("a", "x" * 5000)
    with pytest.raises(CacheError, match="already"):
        store.store_now("b", "x" * 5000)
    store.store_now("a", "short")
    store.store_now("b", "x" * 5000)


def test_counters_fit_into_64_bits() -> None:
    core, _ = loaded()
    store = store_of(core)
    store.store_now("n", str(2**63 - 1))
    with pytest.raises(CacheError):
        store.add_now("n", 1)
    assert store.fetch_counter_now("n") == 2**63 - 1


def test_slow_operations_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    readings = iter(range(100))
    monkeypatch.setattr(cachedb_local.time, "perf_counter", lambda: float(next(readings)))
    core, _ = loaded(exec_threshold=500_000)
    store = store_of(core)
    store.store_now("a", "1")
    assert store.add_now("a", 1) == 2
    assert store.fetch_now("a") == "2"
    assert store.remove_now("a")
    assert store.slow == 4
    assert "fetch took 1000000 us" in caplog.text


def test_keys_are_removed_by_pattern() -> None:
    core, _ = loaded(cache_collections="other")
    run = make_run(request("OPTIONS"), core=core)
    store, other = store_of(core), store_of(core, "local:x:///other")
    for key in ("call_1", "call_2", "call", "CALL_3", "call_x\ny"):
        store.store_now(key, "v")
        other.store_now(key, "v")
    assert core.call("cache_remove_chunk", run, None, "call_*") == 1
    assert [key for key in ("call_1", "call_2", "call", "CALL_3", "call_x\ny") if store.fetch_now(key)] == [
        "call",
        "CALL_3",
    ]
    assert other.fetch_now("call_1") == "v"
    assert core.call("cache_remove_chunk", run, "other", "call_[12]") == 1
    assert other.fetch_now("call_2") is None
    assert other.fetch_now("call_x\ny") == "v"
    assert core.call("cache_remove_chunk", run, "nobody", "*") == -1
    assert core.call("cache_remove_chunk", run, None, "*" * 2000) == -1


def test_management_shows_and_removes_by_pattern() -> None:
    core, _ = loaded(cache_collections="other")
    store = store_of(core)
    store.store_now("a1", "x")
    store.store_now("a2", "y", 1)
    store.store_now("b", "z")

    async def scenario() -> None:
        shown = await core.mi_call("cachedb_local:fetch_chunk", {"glob": "a?"})
        assert shown == {"keys": [{"name": "a1", "value": "x"}, {"name": "a2", "value": "y"}]}
        core.advance(2)
        assert len((await core.mi_call("cache_fetch_chunk", {"glob": "a*"}))["keys"]) == 1
        assert await core.mi_call("cachedb_local:remove_chunk", {"glob": "a*", "collection": "default"}) == "OK"
        assert await core.mi_call("cachedb_local:fetch_chunk", {"glob": "*", "collection": "other"}) == {"keys": []}
        with pytest.raises(MiError):
            await core.mi_call("cachedb_local:fetch_chunk", {"glob": "*", "collection": "nobody"})

    asyncio.run(scenario())
    assert store.fetch_now("a1") is None
    assert store.fetch_now("b") == "z"


# --- over a restart


def restart_core(folder: Path) -> FakeCore:
    return FakeCore(globals={"restart_persistency_cache_file": str(folder / "kept")})


def test_keys_survive_a_restart(tmp_path: Path) -> None:
    wild = b"caf\xe9\n\0".decode("utf-8", "surrogateescape")
    core, module = loaded(restart_core(tmp_path), enable_restart_persistency=1, cache_collections="calls")
    store, calls = store_of(core), store_of(core, "local:x:///calls")
    store.store_now("plain", "value")
    store.store_now(wild, wild)
    store.store_now("short", "x", 5)
    calls.store_now("long", "y", 100)
    asyncio.run(module.stop())
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    later = restart_core(tmp_path)
    later.wall += 10
    _, again = loaded(later, enable_restart_persistency=1, cache_collections="calls")
    asyncio.run(again.start())
    store, calls = store_of(later), store_of(later, "local:x:///calls")
    assert store.fetch_now("plain") == "value"
    assert store.fetch_now(wild) == wild
    assert store.fetch_now("short") is None
    assert calls.fetch_now("long") == "y"
    later.advance(91)
    assert calls.fetch_now("long") is None


def test_cleaning_writes_the_file_so_that_a_crash_loses_little(tmp_path: Path) -> None:
    core, module = loaded(restart_core(tmp_path), enable_restart_persistency=1)
    store_of(core).store_now("a", "1")
    asyncio.run(module.clean())
    [file] = tmp_path.iterdir()
    assert [json.loads(line) for line in file.read_text().splitlines()][1] == ["default", "a", "1", 0]


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04pickle", b"[]\n", b'["opensipspy-cachedb-local", 1]\n{"a": 1}\n', b"\xff\n"]
)
def test_a_file_of_another_kind_is_not_used(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ("kept" + cachedb_local.SUFFIX)).write_bytes(content)
    core, module = loaded(restart_core(tmp_path), enable_restart_persistency=1)
    asyncio.run(module.start())
    assert "is not used" in caplog.text
    assert store_of(core).fetch_now("a") is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    core, module = loaded(restart_core(tmp_path / "missing"), enable_restart_persistency=1)
    asyncio.run(module.start())
    store_of(core).store_now("a", "1")
    asyncio.run(module.stop())
    assert "cannot be written" in caplog.text


def test_a_full_disk_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core, module = loaded(restart_core(tmp_path), enable_restart_persistency=1)
    store_of(core).store_now("a", "1")
    asyncio.run(module.clean())
    [file] = tmp_path.iterdir()
    before = file.read_bytes()
    store_of(core).store_now("b", "2")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cachedb_local.os, "fsync", full)
    asyncio.run(module.clean())
    assert "cannot be written: No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == [file], "no half of a file fills the disk"
    assert file.read_bytes() == before
    monkeypatch.undo()
    asyncio.run(module.stop())
    assert len(file.read_text().splitlines()) == 3
