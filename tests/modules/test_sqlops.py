"""sqlops: statements, structured queries and AVPs of users, called from scripts against an SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module import ParamError
from opensipspy.modules.sqlops import USR_PREFERENCES, Sqlops
from opensipspy.modules.sqlops.parse import Scheme, columns_of, filter_of, numbered_url, row_of
from opensipspy.server.errors import LoadError
from opensipspy.server.simulation import Simulation

MESSAGE = """
    MESSAGE sip:bob@example.org SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKm1
    From: <sip:{user}@example.com>;tag=1
    To: <sip:bob@example.org>
    Call-ID: m1
    CSeq: 1 MESSAGE
    Max-Forwards: 70
"""
PEOPLE = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT UNIQUE, age INTEGER, size DOUBLE, note TEXT, picture BLOB);
INSERT INTO people VALUES (1, 'anna', 31, 1.75, NULL, x'00ff'), (2, 'bert', 3000000000, 2, 'it''s', NULL),
    (3, 'carl', 7, 0.1, 'last', NULL);
"""

Play = Callable[..., list[str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "test.sqlite"
    asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [USR_PREFERENCES]))
    connection = sqlite3.connect(path)
    connection.executescript(PEOPLE)
    connection.close()
    return path


@pytest.fixture
def play(tmp_path: Path, file: Path) -> Play:
    """Runs the statements of a route for one request; returns what xlog() printed as "@ ..." and errors of sqlops."""

    def run(body: str, *, params: str = "", routes: str = "", user: str = "alice") -> list[str]:
        path = tmp_path / "opensips.cfg"
        path.write_text(
            f"""
log_level=3
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "db_sqlite.so"
loadmodule "sqlops.so"
modparam("sqlops", "db_url", "sqlite:{file}")
{params}
route {{ {body} }}
{routes}
""",
            encoding="utf-8",
        )
        with Simulation(str(path)) as site:
            site.receive(MESSAGE.replace("{user}", user))
            return [
                line.partition("@ ")[2] if "@ " in line else line
                for line in site.log
                if "sqlops" in line or "@ " in line
            ]

    return run


def rows(file: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(file)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# --- hostile JSON


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "x\\ud83d"])
def test_half_a_character_in_json_holds_nothing_up(play: Play, file: Path, text: str) -> None:
    """A peer may put the escape into a body (RFC 8259 §8.2): the function fails, and the next statement is done."""
    got = play(f"""
        sql_insert("people", '[{{"name":"{text}"}}]');
        xlog("@ $rc\\n");
        sql_select('["id"]', "people", '[{{"name":"{text}"}}]', , "$avp(x)");
        xlog("@ $rc\\n");
        sql_insert("people", '[{{"name":"dora"}}]');
        xlog("@ $rc\\n");
    """)
    assert [line for line in got if "sqlops" not in line] == ["-1", "-1", "1"]
    assert len([line for line in got if "sqlops" in line]) == 2
    assert rows(file, "SELECT name FROM people WHERE id > 3") == [("dora",)]


def test_a_filter_that_is_empty_is_not_every_row(play: Play, file: Path) -> None:
    """Left out it is every row; an empty text is no JSON."""
    got = play("""
        $var(empty) = "";
        sql_delete("people", $var(empty));
        $var(a) = $rc;
        sql_update('[{"age":1}]', "people", $var(empty));
        $var(b) = $rc;
        sql_select('["age"]', "people", "", , "$avp(age)");
        xlog("@ $var(a) $var(b) $rc\\n");
    """)
    assert [line for line in got if "sqlops" not in line] == ["-1 -1 -1"]
    assert rows(file, "SELECT age FROM people ORDER BY id") == [(31,), (3000000000,), (7,)]


def test_what_a_variable_holds_is_not_expanded(play: Play) -> None:
    """A dollar sign that a caller sends stays one."""
    got = play("""
        $var(secret) = "anna";
        $var(filter) = '[{"name":"' + "$" + 'var(secret)"}]';
        sql_select('["age"]', "people", $var(filter), , "$avp(age)");
        xlog("@ $rc $var(filter)\\n");
    """)
    assert got == ['-2 [{"name":"$var(secret)"}]']


HOSTILE = [
    'x","id":"1',
    'x"},{"age":"99',
    'x", "name":"anna',
    r'x\","id":"1',
    "a\\",
    'say "hi"',
    "it's",
    "{}[]:,",
    r"\ud800",
    r"\u0061nna",
    "$ru $var(secret) $$",
]


def subject(text: str) -> str:
    """What makes `play` send a Subject."""
    return f"alice@example.com>;tag=1\r\n    Subject: {text}\r\n    X-Rest: <sip:b"


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_caller_sends_stays_in_its_string_of_json(play: Play, file: Path, text: str) -> None:
    """The manual's own way to write a filter, '[{"username": "$tu"}]': no header adds a column or a condition."""
    got = play(
        """
        $var(secret) = "anna";
        sql_insert("people", '[{"note":"$hdr(Subject)"},{"age":$(hdr(Subject){s.len})},{"name":"$fU: $hdr(Subject)"}]');
        xlog("@ $rc\n");
        sql_replace("people", '[{"id":9},{"note":"$hdr(Subject)"}]');
        xlog("@ $rc\n");
        sql_update('[{"size": 2}, {"note":"$(hdr(Subject){s.escape.common})"}]', "people",
            '[{"note":"$hdr(Subject)"},{"id":{">":"$var(three)"}}]');
        xlog("@ $rc\n");
        sql_select('["age"]', "people", '[{"note":"$hdr(Subject)"},{"id":{">":3}},{"age":{">":0}}]', , "$avp(age)");
        xlog("@ $rc $(avp(age)[0])\n");
        sql_select_one('["age"]', "people", '[{"note":"$(hdr(Subject){s.escape.common})"},{"id":4}]',
            "id", "$var(age)");
        xlog("@ $rc $var(age)\n");
        sql_delete("people", '[{"name":"$hdr(Subject)"}]');
        xlog("@ $rc\n");
        """.replace("$var(three)", "3"),
        user=subject(text),
    )
    assert got == ["1", "1", "1", f"1 {len(text)}", f"1 {len(text)}", "1"]
    changed = rows(file, "SELECT note, age, name, size FROM people WHERE id > 3 ORDER BY id")
    assert changed == [(text, len(text), f"alice: {text}", 2), (text, None, None, 2)]
    assert rows(file, "SELECT name, age, size FROM people WHERE id < 4 ORDER BY id") == [
        ("anna", 31, 1.75),
        ("bert", 3000000000, 2),
        ("carl", 7, 0.1),
    ]


@pytest.mark.parametrize(
    "text", ['"x", "age": 1', '{"!=": 0}', '0}, {"id": {"!=": 0}', "1]", "alice", "", "[1]", '"x', '0}, {"id":{"!="']
)
def test_outside_of_quotes_a_value_is_a_number_or_a_string_of_json(play: Play, file: Path, text: str) -> None:
    """An operator or another member would make another filter of it."""
    got = play(
        """
        sql_delete("people", '[{"id":$var(x)}]');
        $var(a) = $rc;
        sql_delete("people", '[{"id":{"=" : $var(x) }}]');
        $var(b) = $rc;
        sql_update('[{"age": $var(x)}]', "people", '[{"id":1}]');
        $var(c) = $rc;
        sql_delete("people", '[{$var(x):5}]');
        xlog("@ $var(a) $var(b) $var(c) $rc\n");
        """.replace("$var(x)", "$(hdr(Subject){s.substr,1,0})"),
        user=subject("-" + text),
    )
    assert [line for line in got if "sqlops" not in line] == ["-1 -1 -1 -1"]
    refused = [line for line in got if "sqlops" in line]
    assert len(refused) == 4
    assert all("is outside quotes and" in line or "NULL" in line for line in refused)
    assert len(rows(file, "SELECT id FROM people")) == 3


def test_json_that_a_script_builds(play: Play, file: Path) -> None:
    """Numbers, JSON strings, members and the whole JSON may come out of variables."""
    got = play(
        """
        $var(n) = 7;
        $var(name) = '"carl"';
        $var(size) = "0.1";
        $var(key) = '"id"';
        $var(more) = '{"age":' + $var(n) + '},{"name":"carl"}';
        $var(column) = "age";
        $json(o) := '{"id": 3, "name": "carl", "list": ["age", "note"]}';
        sql_select('["id"]', "people", '[{"age":$var(n)},{"name":$var(name)},{"size":$var(size)}]', , "$avp(a)");
        $var(a) = $avp(a);
        sql_select('["id"]', "people", '[$var(more)]', , "$avp(b)");
        $var(b) = $avp(b);
        $var(whole) = '[' + $var(more) + ']';
        sql_select('["id"]', "people", $var(whole), , "$avp(c)");
        $var(c) = $avp(c);
        sql_select('["id"]', "people", "$var(whole)", , "$avp(d)");
        $var(d) = $avp(d);
        sql_select('["$var(column)", "note"]', "people", '[{$var(key): 3}]', , "$avp(e);$avp(f)");
        xlog("@ $var(a) $var(b) $var(c) $var(d) $avp(e) $avp(f)\n");
        sql_select('$json(o/list)', "people", '[{"id":$json(o/id)}, {"name":"$json(o/name)"}]', , "$avp(g);$avp(h)");
        xlog("@ $avp(g) $avp(h)\n");
        $var(quoted) = '[{"note":"' + $(var(its){s.escape.common}) + '"}]';
        sql_select_one('["id"]', "people", $var(quoted), , "$var(i)");
        xlog("@ $var(i)\n");
        sql_update("[{\\"note\\":\\"$var(name)\\"}]", "people", "[{\\"name\\":\\"anna\\"}]");
        xlog("@ $rc\n");
    """.replace("$(var(its)", "$(hdr(Subject)"),
        params='loadmodule "json.so"',
        user=subject("it's"),
    )
    assert got == ["3 3 3 3 7 last", "7 last", "2", "1"]
    assert rows(file, "SELECT note FROM people WHERE id = 1") == [('"carl"',)]


def test_a_filter_that_is_null_is_not_one_that_is_left_out(play: Play, file: Path) -> None:
    """A variable without a value must not mean every row, or every column."""
    got = play("""
        sql_delete("people", $avp(missing));
        $var(a) = $rc;
        sql_delete("people", "$avp(missing)");
        $var(b) = $rc;
        sql_update('[{"age":1}]', "people", $avp(missing));
        $var(c) = $rc;
        sql_update($avp(missing), "people");
        $var(d) = $rc;
        sql_select('["id"]', "people", $avp(missing), , "$avp(id)");
        $var(e) = $rc;
        sql_select($avp(missing), "people", , , "$avp(id)");
        $var(f) = $rc;
        sql_select_one('["id"]', "people", $hdr(X-None), , "$var(id)");
        $var(g) = $rc;
        sql_insert("people", $avp(missing));
        $var(h) = $rc;
        sql_delete("people", '[{"id": $avp(missing)}]');
        $var(i) = $rc;
        sql_delete("people", '[$avp(missing)]');
        xlog("@ $var(a) $var(b) $var(c) $var(d) $var(e) $var(f) $var(g) $var(h) $var(i) $rc\n");
        sql_delete("people", '[{"name": "$avp(missing)"}]');
        sql_update('[{"age":1}]', "people", NULL);
        xlog("@ $rc\n");
    """)
    assert [line for line in got if "sqlops" not in line] == ["-1 -1 -1 -1 -1 -1 -1 -1 -1 -1", "1"]
    refused = [line for line in got if "sqlops" in line]
    assert len(refused) == 10
    assert all("missing) is NULL" in line or "X-None) is NULL" in line for line in refused)
    assert rows(file, "SELECT age FROM people") == [(1,), (1,), (1,)]


@pytest.mark.parametrize("text", ["$ru", "$var(secret)", "$avp(secret)", "$(avp(secret)[0])", "$fu/username"])
def test_what_a_source_holds_is_not_expanded(play: Play, file: Path, text: str) -> None:
    """A header is the key of a user itself, not the name of a variable with it."""
    connection = sqlite3.connect(file)
    with connection:
        columns = "INSERT INTO usr_preferences (uuid, username, domain, attribute, type, value) VALUES "
        connection.execute(columns + "('theirs', 'alice', 'example.com', 'x', 0, 'secret')")
        connection.execute(columns + "('theirs', 'bob', 'example.org', 'x', 0, 'secret')")
        connection.execute(columns + "(?, '', '', 'x', 0, 'own')", (text,))
    connection.close()
    got = play(
        """
        $var(secret) = "theirs";
        $avp(secret) = "theirs";
        sql_avp_load($hdr(Subject), "$avp(x)");
        xlog("@ $rc $avp(x)\n");
        sql_avp_delete($hdr(Subject), "$avp(x)");
        """,
        user=subject(text),
    )
    expected = "1 own" if "/" not in text else "-1 <null>"
    assert [line for line in got if "sqlops" not in line] == [expected]
    assert rows(file, "SELECT count(*) FROM usr_preferences WHERE value = 'secret'") == [(2,)]


@pytest.mark.parametrize("text", ["$var(target)", "$avp($avp(target))", "$ru", "$(avp(x)[$avp(n)])"])
def test_what_a_name_holds_is_not_expanded(play: Play, text: str) -> None:
    """A variable may give the name of an AVP, but none that depends on other variables or is no AVP."""
    got = play(
        """
        $avp(target) = "admin";
        $var(list) = "$" + "avp(name);$" + "var(age)";
        sql_avp_load("one", $hdr(Subject));
        $var(a) = $rc;
        sql_query_one("SELECT name FROM people", $hdr(Subject));
        $var(b) = $rc;
        sql_query("SELECT name FROM people", $hdr(Subject));
        xlog("@ $var(a) $var(b) $rc $avp(admin) $ru\n");
        sql_query_one("SELECT name, age FROM people WHERE id = 1", $var(list));
        xlog("@ $rc $avp(name) $var(age)\n");
        """,
        user=subject(text),
    )
    found = "1" if text == "$var(target)" else "-1"
    assert [line for line in got if line[:1] in "-1"] == [f"-1 {found} -1 <null> sip:bob@example.org", "1 anna 31"]


# --- raw statements


@pytest.mark.parametrize(
    "text", ["it's hers", "x' OR '1'='1", "x'; DELETE FROM people; --", "\\' OR 1=1 -- ", "$var(secret)"]
)
def test_what_a_caller_sends_stays_in_its_quotes(play: Play, file: Path, text: str) -> None:
    """Unescaped, and escaped as the manual says, for MySQL; the plain form and async() alike."""
    got = play(
        """
        $var(secret) = "anna";
        sql_query("INSERT INTO people (note) VALUES ('$hdr(Subject)')");
        sql_query("INSERT INTO people (note) VALUES ('$(hdr(Subject){s.escape.common})')");
        sql_query_one(
            "SELECT count(*) FROM people WHERE name='$hdr(Subject)' OR note='$(hdr(Subject){s.escape.common})'",
            "$var(found)");
        xlog("@ $rc $var(found)\n");
        async(
            sql_query_one("SELECT count(*) FROM people WHERE name='$hdr(Subject)' OR note='$hdr(Subject)'", "$var(n)"),
            resume);
        """,
        routes='route[resume] { xlog("@ $rc $var(n)\n"); }',
        user=subject(text.rstrip()),
    )
    assert got == ["1 2", "1 2"]
    assert rows(file, "SELECT note FROM people WHERE id > 3") == [(text.rstrip(),)] * 2
    assert len(rows(file, "SELECT id FROM people")) == 5


def test_sql_query_fills_avps_with_the_first_row_on_top(play: Play) -> None:
    """The manual: one AVP for each row, the type from the column, NULL as "<null>"."""
    assert play("""
        sql_query("SELECT name, note, age FROM people ORDER BY id", "$avp(name); $avp(note);$avp(age)");
        xlog("@ $rc $avp(name) $avp(note) $(avp(name)[*]) $(avp(name)[2])\\n");
        $avp(sum) = $(avp(age)[0]) + $(avp(age)[2]);
        xlog("@ $avp(sum)\\n");
    """) == ["1 anna <null> anna, bert, carl carl", "38"]


def test_without_names_the_avps_are_numbered(play: Play) -> None:
    assert play("""
        sql_query("SELECT name, size FROM people WHERE id = 1");
        xlog("@ $avp(1) $avp(2)\\n");
    """) == ["anna 1.75000000"]


def test_an_empty_result_and_a_mistake_have_their_codes(play: Play) -> None:
    """The manual: -2 for an empty result set, -1 for all other failures."""
    got = play("""
        sql_query("SELECT name FROM people WHERE id = 99", "$avp(x)");
        xlog("@ $rc $avp(x)\\n");
        sql_query("DELETE FROM people WHERE id = 3");
        xlog("@ $rc\\n");
        sql_query("SELEKT");
        xlog("@ $rc\\n");
        sql_query_one("SELECT name, age FROM people", "$var(only)");
        xlog("@ $rc $var(only)\\n");
    """)
    assert [line for line in got if "sqlops" not in line] == ["-2 <null>", "-2", "-1", "-1 <null>"]
    assert sum("sqlops: query:" in line for line in got) == 1
    assert sum("2 columns for 1 variables" in line for line in got) == 1


def test_sql_query_one_writes_any_variable_and_null_as_null(play: Play) -> None:
    """The manual: only the first row, NULL is NULL."""
    assert play("""
        $var(note) = "before";
        sql_query_one("SELECT name, note, age FROM people ORDER BY id", "$var(name);$var(note);$avp(age)");
        if ($var(note) == NULL) { xlog("@ $rc $var(name) $avp(age)\\n"); }
    """) == ["1 anna 31"]


@pytest.mark.parametrize("between", [";", ",", " ", ", ", " ;\t"])
def test_the_variables_of_a_row_may_be_cut_by_commas_and_blanks_too(play: Play, between: str) -> None:
    names = between.join(("$var(name)", "$var(note)", "$avp(age)"))
    assert play(f"""
        sql_query_one("SELECT name, note, age FROM people ORDER BY id", "{names}");
        xlog("@ $rc $var(name) $avp(age)\\n");
    """) == ["1 anna 31"]


def test_async_gives_the_same_result(play: Play) -> None:
    assert play(
        'async(sql_query("SELECT name FROM people ORDER BY id", "$avp(name)"), resume);',
        routes='route[resume] { xlog("@ $rc $(avp(name)[*])\\n"); }',
    ) == ["1 anna, bert, carl"]


def test_large_integers(play: Play) -> None:
    """bigint_to_str: 0 keeps 32 bits of an integer, 1 gives it as a string."""
    body = 'sql_query("SELECT age FROM people WHERE id = 2", "$avp(age)"); xlog("@ $avp(age)\\n");'
    assert play(body) == ["-1294967296"]
    assert play(body, params='modparam("sqlops", "bigint_to_str", 1)') == ["3000000000"]


def test_a_second_database_by_its_number(play: Play, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('there')")
    connection.close()
    assert play(
        """
        sql_query("SELECT a FROM t", "$avp(a)", 2);
        $var(id) = 2;
        sql_query("SELECT a || '!' FROM t", "$avp(b)", $var(id));
        xlog("@ $avp(a) $avp(b)\\n");
        $var(id) = 3;
        sql_query("SELECT a FROM t", "$avp(c)", $var(id));
        xlog("@ $rc\\n");
        """,
        params=f'modparam("sqlops", "db_url", "2 sqlite:{other}")',
    ) == ["there there!", "-1"]


# --- structured statements


def test_sql_select_with_filter_and_order(play: Play) -> None:
    assert play("""
        sql_select('["name","age"]', "people", '[{"id":{">":1}},{"note":{"!=":null}}]', "name", "$avp(n);$avp(a)");
        xlog("@ $rc $(avp(n)[*])\\n");
        sql_select(, "people", '[{"name":"carl"}]');
        xlog("@ $rc $avp(1) $avp(2) $avp(5)\\n");
        sql_select('["name"]', "people", '[{"name":{"LIKE":"%r%"}}]', "id desc", "$avp(like)");
        xlog("@ $(avp(like)[*])\\n");
        sql_select('["name"]', "people", '[{"id":99}]', , "$avp(none)");
        xlog("@ $rc\\n");
    """) == ["1 bert, carl", "1 3 carl last", "carl, bert", "-2"]


def test_sql_select_one(play: Play) -> None:
    assert play("""
        sql_select_one('["name","note"]', "people", '[{"id":1}]', , "$var(name);$var(note)");
        xlog("@ $rc $var(name)\\n");
        sql_select_one('["name"]', "people", "[]", "age", "$var(young)");
        xlog("@ $rc $var(young)\\n");
    """) == ["1 anna", "1 carl"]


def test_writing(play: Play, file: Path) -> None:
    assert (
        play("""
        sql_insert("people", '[{"name":"dora"},{"age":5},{"note":null}]');
        $var(a) = $rc;
        sql_update('[{"age":6},{"note":"$fU"}]', "people", '[{"name":"dora"}]');
        $var(b) = $rc;
        sql_replace("people", '[{"name":"carl"},{"age":8}]');
        $var(c) = $rc;
        sql_delete("people", '[{"age":{"<":8}}]');
        $var(d) = $rc;
        sql_insert("people", '[{"name":"anna"}]');
        xlog("@ $var(a) $var(b) $var(c) $var(d) $rc\\n");
    """)[-1]
        == "1 1 1 1 -1"
    )
    assert rows(file, "SELECT name, age, note FROM people ORDER BY name") == [
        ("anna", 31, None),
        ("bert", 3000000000, "it's"),
        ("carl", 8, None),
    ]
    play('sql_delete("people");')
    assert rows(file, "SELECT * FROM people") == []


@pytest.mark.parametrize("user", ["x%27;DROP%20TABLE%20people--", "%27%20OR%20%271%27=%271", "a\\b"])
def test_what_a_caller_sends_is_a_value_and_nothing_else(play: Play, file: Path, user: str) -> None:
    """Values are bound: quotes in a From user neither end the statement nor widen the filter."""
    got = play(
        """
        $json(filter) := "[{}]";
        $json(filter[0]/name) = $(fU{s.unescape.user});
        sql_select('["id"]', "people", $json(filter), , "$avp(id)");
        xlog("@ $rc $avp(id)\\n");
        sql_delete("people", $json(filter));
        """,
        params='loadmodule "json.so"',
        user=user,
    )
    assert got == ["-2 <null>"]
    assert len(rows(file, "SELECT * FROM people")) == 3


@pytest.mark.parametrize(
    "statement",
    [
        """sql_select('["name; DROP TABLE people"]', "people")""",
        """sql_select('["name"]', "people; DROP TABLE people")""",
        """sql_select('["name"]', "people", '[{"id=1 OR 1":1}]')""",
        """sql_select('["name"]', "people", '[{"id":{"= 1 OR 1 =":1}}]')""",
        """sql_select('["name"]', "people", , "name; DROP TABLE people")""",
        """sql_select('["name"]', "people", '{"id":1}')""",
        """sql_select('["name"]', "people", '[{"id":[1]}]')""",
        """sql_select('["name"]', "people", '[{"id":{}}]')""",
        """sql_select('[1]', "people")""",
        """sql_select('not json', "people")""",
        """sql_insert("people", '[]')""",
        """sql_insert("people", '[{"name":true}]')""",
        """sql_update('[{"name":{"!=":"x"}}]', "people")""",
        """sql_delete("people", '[{"id":{"in":"(1)"}}]')""",
        """sql_replace("people", '[{"no_column":1}]')""",
    ],
)
def test_what_is_no_condition_fails_and_changes_nothing(play: Play, file: Path, statement: str) -> None:
    got = play(f'{statement}; xlog("@ $rc\\n");')
    assert got[-1] == "-1"
    assert sum("sqlops" in line for line in got) == 1
    assert len(rows(file, "SELECT * FROM people")) == 3


# --- AVPs of users


def test_avps_are_stored_loaded_and_deleted(play: Play, file: Path) -> None:
    """A user of a URI has rows by username and domain; the type column tells numbers (bit 0) from texts."""
    play("""
        $avp(color) = "red";
        $avp(color) = "blue";
        $avp(size) = 42;
        sql_avp_store("$fu", "$avp(color)");
        sql_avp_store("$fu", "*");
    """)
    assert rows(file, "SELECT uuid, username, domain, attribute, type, value FROM usr_preferences ORDER BY id") == [
        ("", "alice", "example.com", "color", 0, "red"),
        ("", "alice", "example.com", "color", 0, "blue"),
        ("", "alice", "example.com", "size", 1, "42"),
    ]
    assert play("""
        sql_avp_load("$fu", "*", , "my_");
        $var(next) = $avp(my_size) + 1;
        xlog("@ $rc $(avp(my_color)[*]) $var(next)\\n");
        sql_avp_delete("$fu/username", "$avp(color)");
        sql_avp_load("$fu", "$avp(color)");
        xlog("@ $rc\\n");
        sql_avp_load("$fu", "$avp(size)");
        xlog("@ $rc $avp(size)\\n");
    """) == ["1 blue, red 43", "-1", "1 42"]


def test_what_was_loaded_is_not_stored_again(play: Play, file: Path) -> None:
    got = play("""
        $avp(a) = "1";
        sql_avp_store("key", "$avp(a)");
        xlog("@ $rc\\n");
        sql_avp_store("key", "$avp(a)");
        xlog("@ $rc\\n");
        $avp(a) := NULL;
        sql_avp_load("key", "s");
        $avp(b) = $avp(a);
        sql_avp_store("key", "*");
        xlog("@ $rc $avp(a) $avp(b)\\n");
    """)
    assert got == ["1", "-1", "1 1 1"]
    assert rows(file, "SELECT uuid, attribute, value FROM usr_preferences ORDER BY id") == [
        ("key", "a", "1"),
        ("key", "b", "1"),
    ]


def test_sources(play: Play, file: Path) -> None:
    """The manual: $ru, $fu, $tu and $ou are URIs by themselves, others UUIDs; a part may be asked for."""
    connection = sqlite3.connect(file)
    connection.executemany(
        "INSERT INTO usr_preferences (uuid, username, domain, attribute, value) VALUES (?, ?, ?, ?, ?)",
        [
            ("sip:alice@example.com", "", "", "x", "by uuid"),
            ("", "alice", "example.com", "x", "by uri"),
            ("", "", "example.com", "y", "by domain"),
            ("", "alice", "other", "z", "by username"),
        ],
    )
    connection.commit()
    connection.close()
    assert play("""
        sql_avp_load("$fu", "$avp(x)");
        xlog("@ $(avp(x)[*])\\n");
        $avp(x) := NULL;
        sql_avp_load("$fu/uuid", "$avp(x)");
        xlog("@ $(avp(x)[*])\\n");
        $var(uri) = $fu;
        sql_avp_load("$var(uri)/domain", "$avp(y)");
        sql_avp_load("$var(uri)/username", "$avp(z)");
        $var(name) = "x";
        $avp(x) := NULL;
        sql_avp_load("$var(uri)/uri", "$avp($var(name))");
        xlog("@ $avp(x) $avp(y) $avp(z)\\n");
    """) == ["by uri", "by uuid", "by uri by domain by username"]


def test_a_scheme_reads_another_table(play: Play) -> None:
    assert play(
        """
        sql_avp_load("anna", "$avp(age)/$people");
        $avp(age) = $avp(age) + 1;
        xlog("@ $rc $(avp(age)[*])\\n");
        sql_avp_load("carl", "$avp(note)/$NOTES", , "p_");
        xlog("@ $rc $avp(p_note)\\n");
        sql_avp_load("anna", "$avp(note)/$notes");
        xlog("@ $rc\\n");
        """,
        params="""
modparam("sqlops", "db_scheme", "people: table = people; uuid_col=name; value_col=age; value_type=integer")
modparam("sqlops", "db_scheme", "notes:table=people;uuid_col=name;value_col=note")
""",
    )[:2] == ["1 32, 31", "1 last"]


def test_rows_that_make_no_sense_are_left_out(play: Play, file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.executemany(
        "INSERT INTO usr_preferences (uuid, attribute, type, value) VALUES ('u', ?, ?, ?)",
        [("good", 1, "7"), ("bad", 1, "seven"), ("big", 1, "99999999999"), ("x" * 100, 0, "long"), ("", 0, "none")],
    )
    connection.commit()
    connection.close()
    got = play('sql_avp_load("u", "*"); xlog("@ $rc $avp(good) $avp(bad) $avp(big)\\n");')
    assert got[-1] == "1 7 <null> <null>"
    assert sum("is left out" in line for line in got) == 4


@pytest.mark.parametrize(
    ("source", "name"),
    [("$var(none)", "$avp(a)"), ("$var(text)/username", "$avp(a)"), ("$ru/username", "$avp($var(none))")],
)
def test_a_source_or_a_name_without_value_fails(play: Play, source: str, name: str) -> None:
    assert (
        play(f'$var(text) = "no uri"; $avp(a) = 1; sql_avp_store("{source}", "{name}"); xlog("@ $rc\\n");')[-1] == "-1"
    )


def test_the_table_in_a_name(play: Play, file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE fwd AS SELECT * FROM usr_preferences")
    connection.close()
    play('$avp(a) = "b"; sql_avp_store("k", "$avp(a)/fwd"); sql_avp_load("k", "$avp(a)/fwd");')
    assert rows(file, "SELECT uuid, attribute, value FROM fwd") == [("k", "a", "b")]


# --- what is refused at load


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ('sql_query("SELECT 1", "$var(x)")', "is no AVP"),
        ('sql_query("SELECT 1", "$avp(x) | $avp(y)")', "a variable is expected"),
        ('sql_query("SELECT 1", "x")', "a variable is expected"),
        ('sql_query_one("SELECT 1", "$ci")', "cannot be written"),
        ('sql_query("SELECT 1", , 7)', "no db_url has the number 7"),
        ('sql_avp_load("$fu/person", "$avp(x)")', "person' is none of"),
        ('sql_avp_load("$fu", "x")', "neither"),
        ('sql_avp_load("$fu", "$var(x)")', "not of the form"),
        ('sql_avp_load("$fu", "$avp(x)/$none")', "there is no scheme none"),
        ('sql_avp_store("$fu", "$avp(x)/$none")', "a scheme cannot be used here"),
        ('sql_avp_load("$fu", "$avp(x)/")', "not of the form /table"),
    ],
)
def test_mistakes_are_found_before_the_start(play: Play, call: str, reason: str) -> None:
    with pytest.raises(LoadError) as found:
        play(f"{call};")
    assert reason in str(found.value)


@pytest.mark.parametrize(
    "params",
    [
        {"db_scheme": "x"},
        {"db_scheme": "x:"},
        {"db_scheme": "x:table"},
        {"db_scheme": "x:color=red"},
        {"db_scheme": "x:table=a;table=b"},
        {"db_scheme": "x:value_type=float"},
        {"db_url": "1"},
        {"db_url": "x1"},
    ],
)
def test_parameters_that_cannot_be(params: dict[str, Any]) -> None:
    if params == {"db_url": "x1"}:
        module = Sqlops()
        module.set_param("db_url", "mysql://a")
        with pytest.raises(ParamError, match="twice"):
            module.set_param("db_url", "0 mysql://b")
        return
    with pytest.raises(ParamError):
        Sqlops(**params)


def test_the_parts_of_parameters() -> None:
    assert numbered_url("12  postgres://h/d") == (12, "postgres://h/d")
    assert numbered_url("sqlite:a b") == (0, "sqlite:a b")
    assert columns_of('["a"]') == ["a"]
    assert row_of('[{"a":1},{"b":{"=":null}}]') == {"a": 1, "b": None}
    assert filter_of('[{"a":"x"},{"b":{">=":1.5}}]') == [("a", "=", "x"), ("b", ">=", 1.5)]
    assert Scheme("n:value_type=integer;table=t").integers
    for text in ("[" * 100_000, "[" + "1," * 3000 + "1]", "[NaN]", '["' + "x" * 2_000_000 + '"]'):
        with pytest.raises(ValueError, match=r"JSON|members|names"):
            columns_of(text)
