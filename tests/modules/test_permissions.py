"""Addresses from a table, in memory, and files of rules."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import pytest

from opensipspy.management import MiError
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.permissions import ADDRESS_TABLE, Permissions
from opensipspy.modules.permissions.addresses import AddressTable, Row, address_number, protocol, wildcard
from opensipspy.modules.permissions.rules import parse_rules
from opensipspy.script.kinds import BRANCH, ONREPLY
from opensipspy.script.run import Branch
from opensipspy.server.simulation import Simulation
from opensipspy.sip import PROTO_TCP, PROTO_UDP, Peer
from tests.modules.tables import URL, House, change, make_tables, play

INSERT = "INSERT INTO address (grp, ip, mask, port, proto, pattern, context_info) VALUES (?, ?, ?, ?, ?, ?, ?)"
ROWS = (
    (1, "192.0.2.1", 32, 5060, "udp", None, "gate one"),
    (1, "192.0.2.0", 24, 0, "any", None, "net one"),
    (2, "10.0.0.0", 8, 0, "tcp", "*.example.com", "ten"),
    (2, "10.1.2.3", 32, 0, "any", None, None),
    (3, "2001:db8::", 32, 0, "any", None, "six"),
    (3, "2001:db8::1", 128, 5061, "tls", None, "six host"),
    (7, "0.0.0.0", 0, 9999, "any", None, "world"),
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "addresses.sqlite"
    make_tables(path, ADDRESS_TABLE)
    change(path, INSERT, ROWS)
    return path


def permissions(**params: Any) -> Permissions:
    return Permissions(db_url=URL, **params)


def udp(text: str) -> int:
    return protocol(text)


@pytest.mark.parametrize(
    ("group", "ip", "port", "proto", "result", "info"),
    [
        (1, "192.0.2.1", 5060, "udp", 1, "gate one"),
        (1, "192.0.2.1", 5070, "udp", 1, "net one"),
        (1, "192.0.2.1", 0, "any", 1, "gate one"),
        (1, "192.0.3.1", 5060, "udp", -1, None),
        (2, "10.200.1.1", 1234, "tcp", 1, "ten"),
        (2, "10.200.1.1", 1234, "udp", -1, None),
        (2, "10.1.2.3", 1, "udp", 1, ""),
        (3, "2001:db8:0:1::5", 1, "udp", 1, "six"),
        (3, "[2001:db8::1]", 5061, "tls", 1, "six host"),
        (3, "2001:DB8:0:0:0:0:0:1", 5060, "udp", 1, "six"),
        (3, "2001:db9::1", 5061, "tls", -1, None),
        (4, "192.0.2.1", 5060, "udp", -2, None),
        (0, "192.0.2.77", 9999, "udp", 1, "net one"),
        (0, "203.0.113.9", 9999, "udp", 1, "world"),
        (0, "203.0.113.9", 9998, "udp", -1, None),
        (1, "not an address", 1, "udp", -1, None),
        (1, "192.0.2.01", 1, "udp", -1, None),
    ],
)
def test_addresses_in_groups(table: Path, group: int, ip: str, port: int, proto: str, result: int, info: str | None):
    async def scenario(house: House) -> None:
        found = house.core.call("check_address", house.run, group, ip, port, protocol(proto), make_var("info"))
        assert found == result
        assert house.run.vars.get("info") == info

    play(table, permissions, scenario)


def test_the_last_of_equal_rows_is_taken(table: Path):
    """As in the C server: of several rows for one address or network that fit, the last of the table."""
    rows = (
        (1, "192.0.2.1", 32, 0, "any", None, "later host"),
        (1, "192.0.2.0", 24, 0, "any", None, "later net"),
        (1, "192.0.2.0", 24, 0, "tcp", None, "last net"),
    )
    change(table, INSERT, rows)

    async def scenario(house: House) -> None:
        for group in (1, 0):
            for ip, proto, info in (
                ("192.0.2.1", "udp", "later host"),
                ("192.0.2.7", "udp", "later net"),
                ("192.0.2.7", "tcp", "last net"),
            ):
                found = house.core.call("check_address", house.run, group, ip, 5060, protocol(proto), make_var("info"))
                assert (found, house.run.vars["info"]) == (1, info)

    play(table, permissions, scenario)


def test_the_source_of_a_message(table: Path):
    async def scenario(house: House) -> None:
        house.new(Peer(PROTO_UDP, "192.0.2.1", 5060))
        assert await house.ask("check_source_address", 1, make_var("info")) == 1
        assert house.run.vars["info"] == "gate one"
        assert await house.ask("get_source_group", make_var("group")) == 1
        assert house.run.vars["group"] == 1
        house.new(Peer(PROTO_TCP, "2001:db8::77", 40000))
        assert await house.ask("get_source_group", make_var("group")) == 1
        assert house.run.vars["group"] == 3
        house.new(Peer(PROTO_TCP, "198.51.100.1", 40000))
        assert await house.ask("check_source_address", 0) == -1
        assert await house.ask("get_source_group", make_var("group")) == -1

    play(table, permissions, scenario)


def test_the_pattern_of_a_row(table: Path):
    """A text is compared with the row's wildcard; where one of the two is missing nothing is compared."""

    async def scenario(house: House) -> None:
        house.new(Peer(PROTO_TCP, "10.9.9.9", 1))
        for text, result in (("a.example.com", 1), ("example.org", -1), (".example.com", -1), (None, 1)):
            assert await house.ask("check_source_address", 2, None, text) == result, text
        house.new(Peer(PROTO_TCP, "192.0.2.4", 1))
        assert await house.ask("check_source_address", 1, None, "anything") == 1

    play(table, permissions, scenario)


def test_an_absent_header_is_no_pattern_left_out(table: Path, tmp_path: Path):
    """NULL fits no row, as in the C server: else a peer need only leave the header out that rows ask for."""
    change(table, INSERT, [(9, "0.0.0.0", 0, 0, "any", "secret*", None)])
    script = tmp_path / "opensips.cfg"
    script.write_text(
        f"""
log_level=3
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "db_sqlite.so"
loadmodule "permissions.so"
modparam("permissions", "db_url", "sqlite:{table}")
route {{
    $var(header) = $hdr(X-Token);
    check_source_address(9);
    $var(without) = $rc;
    check_source_address(9, , $var(header));
    $var(source) = $rc;
    check_address(9, "127.0.0.1", 5060, "udp", , "$hdr(X-Token)");
    xlog("@ $var(without) $var(source) $rc\\n");
}}
"""
    )
    text = request("OPTIONS", "sip:b@127.0.0.1", headers="")
    with Simulation(str(script)) as site:
        for number, header in enumerate(("", "X-Token: secret-1\r\n", "X-Token: other\r\n")):
            site.receive(text.replace("\r\n\r\n", f"\r\n{header}\r\n", 1).replace("z9hG4bK", f"z9hG4bK{number}"))
        seen = [line.partition("@ ")[2].strip() for line in site.log if "@ " in line]
    assert seen == ["1 -1 -1", "1 1 1", "1 -1 -1"]


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("sip:*@a.org", "sip:bob@a.org", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("[ab]1", "b1", True),
        ("[^ab]1", "b1", False),
        ("[!ab]1", "c1", True),
        (r"\*x", "*x", True),
        (r"\*x", "ax", False),
        ("*", ".x", False),
        (".*", ".x", True),
        ("A", "a", False),
        ("a*a*a*a*a*a*a*a*a*a*a*b", "a" * 2000, False),
    ],
)
def test_wildcards(pattern: str, text: str, fits: bool):
    assert (wildcard(pattern).match(text) is not None) == fits


def test_rows_that_no_address_fits_are_skipped(table: Path, caplog: pytest.LogCaptureFixture):
    change(table, "DROP TABLE address")
    change(table, "CREATE TABLE address (id, grp, ip, mask, port, proto, pattern, context_info)")
    bad: list[tuple[object, ...]] = [
        (3, 1, None, 32, 0, "any", None, None),
        (4, 1, "192.0.2.2", 33, 0, "any", None, None),
        (5, -1, "192.0.2.2", 32, 0, "any", None, None),
        (6, 1, "192.0.2.2", 32, 70000, "any", None, None),
        (7, 1, "192.0.2.2", 32, 0, "none", None, None),
        (8, 1, "192.0.2.2", 32, 0, "any", "x" * 300, None),
        (9, "one", "192.0.2.2", 32, 0, "any", None, None),
        (10, 1, "192.0.2.2", 32, 0, "any", None, "x" * 10_000_000),
        (11, 1, "example.com", 32, 0, "any", None, None),
        (12, 1, "192.0.2.3", 32, 0, "ANY", "", 5),
    ]
    change(table, "INSERT INTO address VALUES (?, ?, ?, ?, ?, ?, ?, ?)", bad)

    async def scenario(house: House) -> None:
        assert await house.ask("check_address", 1, "192.0.2.2", 0, 0) == -1
        assert await house.ask("check_address", 1, "192.0.2.3", 0, 0, make_var("info")) == 1
        assert house.run.vars["info"] == "5"

    with caplog.at_level(logging.WARNING):
        play(table, permissions, scenario)
    assert [m for m in caplog.messages if "skipped" in m] == [
        "table address: 9 of 10 rows are skipped; the first: id 3: ip is NULL"
    ]


def test_partitions(table: Path):
    make_tables(table, type(ADDRESS_TABLE)("trunks", 5, ADDRESS_TABLE.columns))
    change(table, INSERT.replace("address (", "trunks ("), [(1, "198.51.100.0", 24, 0, "any", None, "trunk")])

    async def scenario(house: House) -> None:
        house.new(Peer(PROTO_UDP, "198.51.100.7", 5060))
        assert await house.ask("check_source_address", 1) == -1
        assert await house.ask("check_source_address", 1, None, None, "trunks") == 1
        assert await house.ask("get_source_group", make_var("g"), "trunks") == 1
        shown = await house.mi("permissions:subnet_dump")
        assert [p["name"] for p in shown["Partitions"]] == ["default", "trunks"]
        assert await house.mi("permissions:subnet_dump", partition="trunks") == {
            "part": "trunks",
            "Destinations": [
                {
                    "grp": 1,
                    "ip": "198.51.100.0",
                    "mask": "255.255.255.0",
                    "port": 0,
                    "proto": "any",
                    "pattern": "",
                    "context_info": "trunk",
                }
            ],
        }
        for command, refusal in (
            ("address_dump", "404 No such partition"),
            ("subnet_dump", "404 No such partition"),
            ("address_reload", "400 Trusted table reload failed"),
        ):
            with pytest.raises(MiError, match=refusal):
                await house.mi(f"permissions:{command}", partition="nobody")

    play(table, lambda: permissions(partition="trunks: table_name = trunks"), scenario)


def test_a_partition_that_is_not_there_is_found_at_load():
    core = FakeCore()
    core.add(permissions(partition="trunks: table_name = trunks"))
    fixup = core.catalogue.functions["check_source_address"].params[3].fixup
    assert fixup is not None
    assert fixup("trunks") == "trunks"
    assert fixup("default") == "default"
    with pytest.raises(ValueError, match="there is no partition 'tranks'"):
        fixup("tranks")
    proto = core.catalogue.functions["check_address"].params[3].fixup
    assert proto is not None
    with pytest.raises(ValueError, match="is no protocol"):
        proto("carrier pigeon")
    with pytest.raises(ParamError):
        Permissions(partition="x: color=red")


def test_dumps_and_reload(table: Path):
    async def scenario(house: House) -> None:
        hosts = await house.mi("permissions:address_dump")
        assert [(d["grp"], d["ip"], d["mask"], d["proto"]) for d in hosts["Partitions"][0]["Destinations"]] == [
            (1, "192.0.2.1", "32", "udp"),
            (2, "10.1.2.3", "32", "any"),
            (3, "2001:db8::1", "128", "tls"),
        ]
        nets = await house.mi("permissions:subnet_dump")
        assert [(d["ip"], d["mask"]) for d in nets["Partitions"][0]["Destinations"]] == [
            ("192.0.2.0", "255.255.255.0"),
            ("10.0.0.0", "255.0.0.0"),
            ("2001:db8::", "ffff:ffff::"),
            ("0.0.0.0", "0.0.0.0"),
        ]
        change(table, "DELETE FROM address")
        change(table, INSERT, [(5, "203.0.113.1", 32, 0, "any", None, None)])
        assert await house.ask("check_address", 5, "203.0.113.1", 0, 0) == -2
        assert await house.mi("permissions:address_reload") == "OK"
        assert await house.ask("check_address", 5, "203.0.113.1", 0, 0) == 1
        change(table, "DROP TABLE address")
        with pytest.raises(MiError, match="Failed to reload partition default"):
            await house.mi("permissions:address_reload")
        assert await house.ask("check_address", 5, "203.0.113.1", 0, 0) == 1

    play(table, permissions, scenario)


def test_without_a_database_there_is_no_partition(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        assert await house.ask("check_source_address", 0) == -1
        assert await house.mi("permissions:address_dump") == {"Partitions": []}
        assert await house.mi("permissions:address_reload") == "OK"

    play(tmp_path / "none", Permissions, scenario)
    assert any("no partition default" in m for m in caplog.messages)


def test_a_table_that_is_not_there_stops_the_start(tmp_path: Path):
    async def scenario(house: House) -> None:
        raise AssertionError

    make_tables(tmp_path / "other", type(ADDRESS_TABLE)("trunks", 5, ADDRESS_TABLE.columns))
    with pytest.raises(StartError, match="opensipspy db"):
        play(tmp_path / "other", permissions, scenario)


def test_reloads_under_load_show_whole_tables_and_give_memory_back(tmp_path: Path):
    """The manual: address_reload replaces the table. Look-ups meanwhile see the old one or the new one, never a mix."""

    def alive() -> int:
        gc.collect()
        return sum(type(found) is Row for found in gc.get_objects())

    path = tmp_path / "addresses.sqlite"
    make_tables(path, ADDRESS_TABLE)
    count, others = 5000, alive()
    change(path, INSERT, [(1, f"10.0.{n >> 8}.{n & 255}", 32, 0, "any", None, "A") for n in range(count)])

    async def scenario(house: House) -> None:
        async def generation() -> set[str]:
            seen = set()
            for n in (0, 1, 499, 500, 2500, count - 1):
                run = house.new()
                address = f"10.0.{n >> 8}.{n & 255}"
                assert await house.ask("check_address", 1, address, 5060, "udp", make_var("info")) == 1
                seen.add(str(run.vars["info"]))
            return seen

        assert await generation() == {"A"}
        for name in "BCDE":
            change(path, "UPDATE address SET context_info = ?", [(name,)])
            reload = asyncio.create_task(house.mi("permissions:address_reload"))
            before = 0
            while not reload.done():
                found = await generation()
                assert len(found) == 1
                before += name not in found
                await asyncio.sleep(0)
            await reload
            assert before, "the old table serves while the new one is read"
            assert await generation() == {name}
        assert alive() == others + count

    play(path, permissions, scenario)


def test_fifty_thousand_rows_answer_as_a_scan_does():
    """Every way to look up agrees with looking at each row in turn."""
    table = AddressTable()
    rows = [
        (
            n,
            f"10.{n % 200}.{n * 7 % 256}.{n * 13 % 256}",
            n % 5 + 1,
            (32, 24, 20, 30)[n % 4],
            n % 3 * 5060,
            "any",
            "",
            "",
        )
        for n in range(5000)
    ]
    for row in rows:
        table.add(row)
    table.finish()
    for n in range(0, 5000, 37):
        address = f"10.{n % 210}.{n * 7 % 256}.{n % 256}"
        number, v6 = address_number(address)
        for group in (0, 1, 4):
            fitting = [
                row
                for row in table.rows
                if group in (0, row.group)
                and number >> (32 - row.length) == row.network >> (32 - row.length)
                and row.fits(5060, 0, None)
            ]
            wanted = min(fitting, key=lambda row: row.order) if fitting else None
            assert table.find(group, address, 5060, 0, None) is wanted
        assert not v6


# --- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "permissions.allow").write_text('# first\n"^sip:boss@" : ALL\nALL : "@local\\.org$"\n')
    (tmp_path / "permissions.deny").write_text("ALL : ALL EXCEPT \"^sip:112@\", '^sip:110@'\n".replace("'", '"'))
    (tmp_path / "register.allow").write_text('ALL : "^sip:phone@10\\."\n')
    (tmp_path / "register.deny").write_text('"@example\\.com" : "10\\."   # gateways\n')
    return tmp_path


def files(folder: Path, **params: Any) -> Permissions:
    return Permissions(
        default_allow_file=f"{folder}/permissions.allow", default_deny_file=f"{folder}/permissions.deny", **params
    )


@pytest.mark.parametrize(
    ("from_", "ruri", "branches", "all_branches", "result"),
    [
        ("<sip:boss@example.com>;tag=1", "sip:00900@pay.example", (), 1, 1),
        ("<sip:a@example.com>;tag=1", "sip:b@local.org;transport=tcp", (), 1, 1),
        ("<sip:a@example.com>;tag=1", "sip:b@LOCAL.org:5070", (), 1, 1),
        ("<sip:a@example.com>;tag=1", "sip:00900@pay.example", (), 1, -1),
        ("<sip:a@example.com>;tag=1", "sip:112@pay.example", (), 1, 1),
        ("<sip:a@example.com>;tag=1", "sip:b@local.org", ("sip:1@pay.example",), 1, -1),
        ("<sip:a@example.com>;tag=1", "sip:b@local.org", ("sip:1@pay.example",), 0, 1),
        ("<sip:a@example.com>;tag=1", "sip:b@local.org", ("sip:c@local.org;x=y", "sip:110@x.org"), 1, 1),
        ("<sip:a@example.com>;tag=1", "sip:b@local.org", ("nonsense",), 1, -1),
    ],
)
def test_routing_by_files(
    folder: Path, from_: str, ruri: str, branches: tuple[str, ...], all_branches: int, result: int
):
    async def scenario(house: House) -> None:
        run = house.new(from_=from_, ruri=ruri)
        run.branches.extend(Branch(uri) for uri in branches)
        assert await house.ask("allow_routing") == result

    play(folder / "none", lambda: files(folder, check_all_branches=all_branches), scenario)


@pytest.mark.parametrize(
    ("to", "contact", "result"),
    [
        ("<sip:a@example.com>", "<sip:a@10.0.0.1>", -1),
        ("<sip:a@example.com>", "<sip:a@192.0.2.1>, <sip:a@10.0.0.1:5070>", -1),
        ("<sip:a@example.com>", "<sip:phone@10.0.0.1;x=1>", 1),
        ("<sip:a@example.org>", "<sip:a@10.0.0.1>", 1),
        ("<sip:a@example.com>", "*", 1),
        ("<sip:a@example.com>", None, 1),
        ("<sip:a@example.com>", "<nonsense>", -1),
    ],
)
def test_registrations_by_files(folder: Path, to: str, contact: str | None, result: int):
    async def scenario(house: House) -> None:
        headers = "" if contact is None else f"Contact: {contact}\r\n"
        house.new(method="REGISTER", to=to, headers=headers)
        register = house.core.catalogue.functions["allow_register"].params[0].fixup
        assert register is not None
        assert await house.ask("allow_register", register(f"{folder}/register")) == result

    play(folder / "none", Permissions, scenario)


def test_other_uris_by_files_and_the_command(folder: Path):
    async def scenario(house: House) -> None:
        fixup = house.core.catalogue.functions["allow_uri"].params[0].fixup
        assert fixup is not None
        rules = fixup(f"{folder}/register")
        house.new()
        assert await house.ask("allow_uri", rules, "sip:x@10.1.1.1") == -1
        assert await house.ask("allow_uri", rules, "sip:x@192.0.2.1") == 1
        assert await house.ask("allow_uri", rules, "x" * 5000) == -1
        asked = {"basename": f"{folder}/register", "uri": "sip:a@example.com", "contact": "sip:x@10.1.1.1"}
        with pytest.raises(MiError, match="403 Forbidden"):
            await house.mi("permissions:allow_uri", **asked)
        assert await house.mi("permissions:allow_uri", **{**asked, "contact": "sip:x@192.0.2.1"}) == "OK"
        for name in asked:
            with pytest.raises(MiError, match="is empty"):
                await house.mi("permissions:allow_uri", **{**asked, name: ""})
        with pytest.raises(MiError, match="Forbidden"):
            await house.mi("permissions:allow_uri", **{**asked, "basename": "unknown"})

    play(folder / "none", Permissions, scenario)


def test_files_that_are_not_there_allow_everything(tmp_path: Path):
    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("allow_routing") == 1
        fixup = house.core.catalogue.functions["allow_uri"].params[0].fixup
        assert fixup is not None
        assert await house.ask("allow_uri", fixup(f"{tmp_path}/nothing"), "sip:x@y") == 1

    play(tmp_path / "none", lambda: files(tmp_path), scenario)


def test_lines_that_are_no_rules_are_left_out(caplog: pytest.LogCaptureFixture):
    text = '# c\n\nALL : ALL\nALL\n: x\n"(" : ALL\nALL : a,,b\n' + "x" * 5000 + ' : ALL\n"a#b" : "c:d" # e\n'
    rules = parse_rules(text, "f")
    assert len(rules) == 2
    assert rules[1].left.takes("xa#by")
    assert rules[1].right.takes("c:d")
    assert [m.partition(" is left out")[0] for m in caplog.messages] == [f"f: line {n}" for n in (4, 5, 6, 7, 8)]


def test_a_rule_that_takes_too_long_denies(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "slow.allow").write_text('ALL : "(a|aa)+$"\n')

    async def scenario(house: House) -> None:
        fixup = house.core.catalogue.functions["allow_uri"].params[0].fixup
        assert fixup is not None
        house.new()
        slow = await house.ask("allow_uri", fixup(f"{tmp_path}/slow"), "sip:" + "a" * 60 + "!")
        assert slow == -1
        assert any("takes too long" in m for m in caplog.messages)

    play(tmp_path / "none", Permissions, scenario)


def test_routes_that_the_functions_are_for():
    core = FakeCore()
    core.add(Permissions())
    functions = core.catalogue.functions
    assert not functions["check_source_address"].routes & ONREPLY
    assert functions["check_source_address"].routes & BRANCH
    assert functions["check_address"].waits == functions["check_source_address"].waits == "no"
    assert make_run(request()).msg.method == "INVITE"
