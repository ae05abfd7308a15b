"""Rules of the dialplan table, in memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from opensipspy.management import MiError
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore, make_var
from opensipspy.modules.dialplan import DIALPLAN_TABLE, Dialplan
from opensipspy.modules.dialplan.rules import Rules
from opensipspy.script.core import build_catalogue
from opensipspy.script.declare import Catalogue
from tests.modules.tables import URL, House, change, make_tables, play
from tests.script.fakes import FakeServices

INSERT = (
    "INSERT INTO dialplan (dpid, pr, match_op, match_exp, match_flags, subst_exp, repl_exp, timerec, disabled, attrs)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
ALWAYS, NEVER = "20000101T000000Z", "20000101T000000Z|20000102T000000Z"
ROWS = (
    (1, 0, 1, r"^(0040|\+40|0|40)21[0-9]+", 0, r"^(0040|\+40|0|40)(.+)", r"40\2", None, 0, "national"),
    (1, 5, 1, "^((Germany)|(Germania)|(Deutschland)|(DE))", 0, None, "DE", None, 0, None),
    (1, 0, 1, "^021456[0-9]{5}$", 0, None, None, None, 0, "serviceX"),
    (1, 0, 0, "SIP server", 0, None, "OpenSIPS", None, 0, ""),
    (1, 0, 0, "ÄRGER", 1, None, "trouble", None, 0, None),
    (2, 2, 0, "100", 0, None, "equal", None, 0, None),
    (2, 1, 1, "^1", 0, None, "expression", None, 0, None),
    (2, 1, 0, "11", 0, None, "equal later", None, 0, None),
    (2, 9, 1, "0$", 0, None, "ends", None, 0, None),
    (3, 0, 0, "x", 0, None, "never", NEVER, 0, None),
    (3, 1, 0, "x", 0, None, "always", ALWAYS, 0, None),
    (3, 0, 1, "^y", 0, None, "never", NEVER, 0, None),
    (3, 1, 1, "^y", 0, None, "always", ALWAYS, 0, None),
    (3, 0, 1, "^Z", 1, None, "any case", None, 0, None),
    (3, 0, 0, "off", 0, None, "x", None, 1, None),
    (4, 0, 1, "^(.)(.)?", 0, "^(.)(.)?", r"<\0|\1|\2|\\|\$|$rU|\u|\-", None, 0, None),
    (4, 0, 1, "^q", 0, "^z", "a", None, 0, None),
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "dialplan.sqlite"
    make_tables(path, DIALPLAN_TABLE)
    change(path, INSERT, ROWS)
    return path


def dialplan(**params: Any) -> Dialplan:
    return Dialplan(db_url=URL, **params)


@pytest.mark.parametrize(
    ("dpid", "text", "output", "attrs"),
    [
        (1, "0040211234", "40211234", "national"),
        (1, "+40211", "40211", "national"),
        (1, "0212", "40212", "national"),
        (1, "Deutschland", "DE", ""),
        (1, "deutschland", None, None),
        (1, "SIP server", "OpenSIPS", ""),
        (1, "sip server", None, None),
        (1, "ärger", "trouble", ""),
        (1, "", None, None),
        (1, "0" * 1025, None, None),
        (2, "100", "expression", ""),
        (2, "11", "expression", ""),
        (2, "200", "ends", ""),
        (3, "x", "always", ""),
        (3, "yes", "always", ""),
        (3, "zed", "any case", ""),
        (3, "off", None, None),
        (9, "x", None, None),
    ],
)
def test_translations(table: Path, dpid: int, text: str, output: str | None, attrs: str | None):
    async def scenario(house: House) -> None:
        result = house.core.call("dp_translate", house.run, dpid, text, make_var("out"), make_var("attrs"))
        assert result == (1 if output is not None else -1)
        assert house.run.vars.get("out") == output
        assert house.run.vars.get("attrs") == attrs

    play(table, dialplan, scenario)


def test_a_rule_without_replacement_only_tells_its_attributes(table: Path):
    async def scenario(house: House) -> None:
        change(table, "DELETE FROM dialplan WHERE attrs = 'national'")
        await house.mi("dialplan:reload")
        assert await house.ask("dp_translate", 1, "02145612345", make_var("out"), make_var("attrs")) == 1
        assert house.run.vars == {"attrs": "serviceX"}
        assert await house.ask("dp_translate", 1, "02145612345") == 1

    play(table, dialplan, scenario)


def full_catalogue() -> Catalogue:
    return build_catalogue(FakeServices())


def test_what_a_replacement_may_hold(table: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        house.core.catalogue.variables.update(full_catalogue().variables)
        await house.mi("dialplan:reload")
        house.new(ruri="sip:bob@example.org")
        assert await house.ask("dp_translate", 4, "ab", make_var("out")) == 1
        assert house.run.vars["out"] == r"<ab|a|b|\|$|bob|sip:bob@example.org|-"
        assert await house.ask("dp_translate", 4, "c", make_var("out")) == 1
        assert house.run.vars["out"] == r"<c|c||\|$|bob|sip:bob@example.org|-"
        assert await house.mi("dialplan:translate", dpid="4", input="ab") == {
            "Output": r"<ab|a|b|\|$|||-",
            "ATTRIBUTES": "",
        }

    play(table, dialplan, scenario)


def test_a_rule_whose_two_expressions_disagree_is_not_applied(table: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        change(table, "UPDATE dialplan SET pr = -1 WHERE match_exp = '^q'")
        await house.mi("dialplan:reload")
        assert await house.ask("dp_translate", 4, "q", make_var("out")) == -1

    play(table, dialplan, scenario)
    assert any("is not applied: its match_exp fits and its subst_exp does not" in m for m in caplog.messages)


def test_an_expression_that_takes_too_long_ends_the_translation(table: Path, caplog: pytest.LogCaptureFixture):
    change(table, INSERT, [(5, 0, 1, "^(a|aa)+$", 0, None, "x", None, 0, None)] * 3)

    async def scenario(house: House) -> None:
        assert await house.ask("dp_translate", 5, "a" * 80 + "!") == -1
        assert await house.ask("dp_translate", 5, "aaa") == 1

    play(table, dialplan, scenario)
    assert len([m for m in caplog.messages if "takes too long" in m]) == 1


def test_rows_that_are_no_rules_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "odd.sqlite"
    make_tables(path, DIALPLAN_TABLE)
    change(path, "DROP TABLE dialplan")
    change(
        path,
        "CREATE TABLE dialplan (id, dpid, pr, match_op, match_exp, match_flags, subst_exp, repl_exp, timerec, disabled,"
        " attrs)",
    )
    bad: list[tuple[object, ...]] = [
        (1, 1, 0, 1, "(", 0, None, None, None, 0, None),
        (2, 1, 0, 2, "x", 0, None, None, None, 0, None),
        (3, None, 0, 0, "x", 0, None, None, None, 0, None),
        (4, 1, 0, 0, None, 0, None, None, None, 0, None),
        (5, 1, 0, 0, "", 0, None, None, None, 0, None),
        (6, 1, 0, 1, "x", 0, "(x)", "\\2", None, 0, None),
        (7, 1, 0, 1, "x", 0, "(x", "\\1", None, 0, None),
        (8, 1, 0, 0, "x", 0, None, None, "nonsense", 0, None),
        (9, 1, 0, 0, "x" * 10_000_000, 0, None, None, None, 0, None),
        (10, 1, "first", 0, "x", 0, None, None, None, 0, None),
        (11, 1, None, 0, "good", None, None, "fine", None, 0, None),
        (12, 1, 0, 1, "x", 0, "(x)", "$nosuch", None, 0, None),
    ]
    change(path, f"INSERT INTO dialplan VALUES ({', '.join('?' * 11)})", bad)

    async def scenario(house: House) -> None:
        assert await house.ask("dp_translate", 1, "good", make_var("out")) == 1
        assert await house.ask("dp_translate", 1, "x") == -1
        group = house.core.status.group("dialplan")
        assert group is not None
        assert [text for _, text in group["default"].reports][-1] == "1 rules loaded (11 discarded)"
        assert group["default"].status == 1

    with caplog.at_level(logging.WARNING):
        play(path, dialplan, scenario)
    # In the order of the priority, as the table is read.
    assert len([m for m in caplog.messages if "11 of 12 rows are skipped; the first: id " in m]) == 1


def test_partitions(table: Path):
    make_tables(table, type(DIALPLAN_TABLE)("pstn", 5, DIALPLAN_TABLE.columns))
    change(table, INSERT.replace("dialplan (", "pstn ("), [(1, 0, 0, "1", 0, None, "one", None, 0, None)])

    async def both(house: House) -> None:
        assert await house.ask("dp_translate", 1, "1", make_var("out")) == -1
        assert await house.ask("dp_translate", 1, "1", make_var("out"), None, "pstn") == 1
        assert await house.mi("dialplan:translate", dpid="1", input="1", partition="pstn") == {
            "Output": "one",
            "ATTRIBUTES": "",
        }
        shown = await house.mi("dp_show_partition")
        assert {p["name"]: p["table"] for p in shown["Partitions"]} == {"default": "dialplan", "pstn": "pstn"}
        assert (await house.mi("dialplan:show_partition", partition="pstn"))["Table"] == "pstn"

    play(table, lambda: dialplan(partition="pstn: table_name = pstn"), both)

    async def other_default(house: House) -> None:
        assert await house.ask("dp_translate", 1, "1", make_var("out")) == 1
        shown = await house.mi("dialplan:show_partition")
        assert [p["name"] for p in shown["Partitions"]] == ["pstn"]

    play(table, lambda: dialplan(partition=["pstn: table_name = pstn", "default: pstn"]), other_default)


def test_what_the_commands_refuse(table: Path):
    async def scenario(house: House) -> None:
        for params, error in (
            ({"dpid": "x", "input": "1"}, "Wrong id parameter"),
            ({"dpid": "", "input": "1"}, "Empty id parameter"),
            ({"dpid": "1", "input": ""}, "Empty input parameter"),
            ({"dpid": "77", "input": "1"}, "No information available for dpid"),
            ({"dpid": "1", "input": "nothing"}, "No translation"),
            ({"dpid": "1", "input": "1", "partition": "no"}, "Partition not found"),
        ):
            with pytest.raises(MiError, match=error):
                await house.mi("dialplan:translate", **params)
        for command in ("reload", "show_partition"):
            with pytest.raises(MiError, match=r"Partition [nN]ot [fF]ound"):
                await house.mi(f"dialplan:{command}", partition="no")

    play(table, dialplan, scenario)


def test_a_reload_that_fails_changes_nothing(table: Path):
    async def scenario(house: House) -> None:
        change(table, "DROP TABLE dialplan")
        with pytest.raises(MiError, match="Failed to reload partition default"):
            await house.mi("dp_reload")
        assert await house.ask("dp_translate", 1, "SIP server") == 1
        group = house.core.status.group("dialplan")
        assert group is not None
        assert group["default"].status == 1
        assert group["default"].reports[-1][1] == "DB data loading failed, discarding"

    play(table, dialplan, scenario)


def test_mistakes_in_parameters(table: Path):
    core = FakeCore()
    core.add(dialplan(partition="pstn"))
    fixup = core.catalogue.functions["dp_translate"].params[4].fixup
    assert fixup is not None
    assert fixup("pstn") == "pstn"
    with pytest.raises(ValueError, match="no partition 'psnt'"):
        fixup("psnt")
    with pytest.raises(ParamError):
        Dialplan(partition="pstn: pstn2")

    async def scenario(house: House) -> None:
        raise AssertionError

    with pytest.raises(StartError, match="default partition gone"):
        play(table, lambda: dialplan(partition="default: gone"), scenario)


def test_ten_thousand_rules_give_what_a_scan_gives():
    """The dicts by text and by first characters do not change which rule is taken."""
    rules = Rules(Catalogue())
    rows = [
        (
            n,
            1,
            n * 7919 % 13,
            n % 3 > 0,
            (str(n * 31 % 5000), f"^{n % 97}", f"^(00|\\+){n % 89}[0-9]", f"{n % 1000}$")[n % 4],
            n % 5 == 0,
            None,
            str(n),
            "",
            None,
        )
        for n in range(1, 3001)
    ]
    for row in rows:
        rules.add(row)
    rules.finish()
    plan = rules.plans[1]
    every = sorted(
        {
            rule.id: rule
            for several in (*plan.equal.values(), *plan.caseless.values(), *plan.prefixed.values(), plan.others)
            for rule in several
        }.values(),
        key=lambda rule: rule.order,
    )
    assert len(every) == 3000
    for number in range(0, 5000, 61):
        for text in (str(number), f"00{number}", f"+{number}"):
            fitting = [r for r in every if (r.expression == text if r.is_equal else r.search(text) is not None)]
            assert plan.find(text, 0.0) is (fitting[0] if fitting else None), text
