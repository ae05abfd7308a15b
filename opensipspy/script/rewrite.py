"""Old scripts in new words: what `opensipspy check --fix` changes by itself.

Only what means the same afterwards is rewritten: names that got another name, words that became variables, parameters
that were split, numbers that stood in quotes. What needs a decision stays and is told by the checker. Comments and
layout are kept, and a second round changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from opensipspy.script.errors import Finding
from opensipspy.script.layout import Word, words_of
from opensipspy.script.names import IN_CORE, KEYWORDS

GLOBALS: Final[Mapping[str, str]] = {
    "listen": "socket",
    "children": "udp_workers",
    "tcp_children": "tcp_workers",
    "log_facility": "syslog_facility",
    "log_name": "syslog_name",
    "debug": "log_level",
    "xlog_default_level": "xlog_print_level",
    "tcp_listen_backlog": "tcp_socket_backlog",
    "rpm_mem_file": "restart_persistency_cache_file",
    "rpm_mem_size": "restart_persistency_size",
}
# Parameters that say nothing any more.
IDLE_GLOBALS: Final = frozenset({"fork", "disable_tcp", "disable_tls", "avp_aliases", "tcp_parallel_read_on_workers"})
FUNCTIONS: Final[Mapping[str, str]] = {
    "remove_branch": "remove_msg_branch",
    "move_branch": "move_msg_branch",
    "avp_db_query": "sql_query",
    "avp_db_load": "sql_avp_load",
    "avp_db_store": "sql_avp_store",
    "avp_db_delete": "sql_avp_delete",
    "does_uri_exist": "db_does_uri_exist",
    "add_uri_param": "ruri_add_param",
    "del_uri_param": "ruri_del_param",
    "tel2sip": "ruri_tel2sip",
    "engage_rtp_proxy": "rtpproxy_engage",
    "unforce_rtp_proxy": "rtpproxy_unforce",
    "rewritehost": "sethost",
    "rewriteport": "setport",
    "rewriteuser": "setuser",
    "rewriteuri": "seturi",
    "rewritehostport": "sethostport",
    "rewriteuserpass": "setuserpass",
    "seth": "sethost",
    "sethp": "sethostport",
    "setp": "setport",
    "setu": "setuser",
    "setup": "setuserpass",
    "setduri": "setdsturi",
    "isduriset": "isdsturiset",
    "resetduri": "resetdsturi",
    "setbranchflag": "setbflag",
    "isbranchflagset": "isbflagset",
    "resetbranchflag": "resetbflag",
    "add_rport": "force_rport",
    "force_local_rport": "add_local_rport",
    "add_tcp_alias": "force_tcp_alias",
}
MODULES: Final[Mapping[str, str]] = {
    "avpops": "sqlops",
    "mi_json": "mi_http",
    "mi_xmlrpc_ng": "mi_xmlrpc",
    "localcache": "cachedb_local",
    "cpl-c": "cpl_c",
}
PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {
    "tm": {"fr_timer": "fr_timeout", "fr_inv_timer": "fr_inv_timeout"},
    "mi_json": {"mi_http_root": "root"},
    "mi_http": {"mi_http_root": "root"},
    "rtpproxy": {"rtpproxy_tout": "rtpproxy_timeout"},
    "nathelper": {"natping_processes": "natping_partitions"},
    "avpops": {"avp_table": "usr_table"},
}
IDLE_PARAMETERS: Final = frozenset({("rr", "enable_full_lr"), ("acc", "report_ack"), ("permissions", "db_mode")})
# usrloc: db_mode -> working_mode_preset.
_DB_MODES: Final = {
    "0": "single-instance-no-db",
    "1": "single-instance-sql-write-through",
    "2": "single-instance-sql-write-back",
    "3": "sql-only",
}
_VARIABLES: Final = {"Ri": "ip", "Rp": "port", "af": "af", "pr": "proto", "proto": "proto"}
_OLD_VARIABLE: Final = re.compile(r"\$(Ri|Rp|af|proto|pr)(?![A-Za-z0-9_.(])|\$\((Ri|Rp|af|proto|pr)(?=[){])")
_OLD_AVP: Final = re.compile(r"\$(\(?)avp\(s:")
_COMPARISONS: Final = frozenset({"EQ", "NE", "LT", "GT", "LE", "GE", "MATCH", "NOTMATCH"})
_MYSELF: Final = {"uri": "$rd", "from_uri": "$fd", "to_uri": "$td", "src_ip": "$si"}
_AVP: Final = re.compile(r"\$avp\([^()$]+\)")
# Arguments that stood without quotes before 3.0: a host or a socket.
_SOCKET_FUNCTIONS: Final = frozenset({"force_send_socket", "forward", "send"})
_SOCKET: Final = re.compile(r"(?!uri:)[A-Za-z0-9_][\w.:\[\]-]*|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_MISSING_MODULE: Final = re.compile(r'(?:add )?loadmodule "(\w+)\.so"(?: is missing)?')
MODULE_ROUNDS: Final = 4
_NUMBER: Final = re.compile(r"-?[0-9]+")
_ONE_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_.]+(?:\([^()]*\))?|\([^\s\"]*\))")


class Edit(NamedTuple):
    """A part of the text and what stands there instead."""

    start: int
    end: int
    text: str


def rewrite(text: str, path: str, findings: Callable[[str], Sequence[Finding]]) -> str:
    """The script in today's words; the same text when there is nothing to do.

    findings(text): what the checker says of a text; asked once the names are right, for arguments in wrong quotes and
    for modules whose functions are used and which nothing loads.
    """
    crlf = "\r\n" in text
    text = _applied(text.replace("\r\n", "\n"), _renamed(text.replace("\r\n", "\n"), path))
    found = findings(text)
    text = _applied(text, _requoted(text, path, found))
    for _ in range(MODULE_ROUNDS):
        before, text = text, _applied(text, _loaded(text, path, found))
        if text == before:
            break
        # A module may need others.
        found = findings(text)
    return text.replace("\n", "\r\n") if crlf else text


def _applied(text: str, edits: Iterable[Edit]) -> str:
    parts: list[str] = []
    at = 0
    for edit in sorted(edits):
        if edit.start < at:
            continue
        parts += (text[at : edit.start], edit.text)
        at = edit.end
    return "".join([*parts, text[at:]])


def _renamed(text: str, path: str) -> list[Edit]:
    words, _ = words_of(text, path)
    edits: list[Edit] = []
    depth = index = 0
    while index < len(words):
        word = words[index]
        depth += (word.kind == "LBRACE") - (word.kind == "RBRACE")
        follower = words[index + 1] if index + 1 < len(words) else word
        if depth == 0 and follower.kind == "ASSIGN" and index + 2 < len(words):
            _global(text, word, words[index + 2], edits)
            index += 2
            continue
        if word.kind == "LOADMODULE":
            _loadmodule(text, word, follower, edits)
        elif word.kind == "MODPARAM" and len(words) > index + 7:
            _modparam(text, words[index : index + 9], edits)
        elif depth > 0 and word.kind == "ID":
            index += _statement_word(words, index, edits)
        if word.kind in ("VAR", "STRING"):
            _variables(word, edits)
        index += 1
    return edits


def _global(text: str, name: Word, value: Word, edits: list[Edit]) -> None:
    now = GLOBALS.get(name.text)
    if now is not None:
        edits.append(Edit(name.start, name.end, now))
    elif name.text == "log_stderror" and value.kind == "INT":
        yes, no = ("yes", "no") if value.value else ("no", "yes")
        edits.append(Edit(name.start, value.end, f"stderror_enabled={yes}\nsyslog_enabled={no}"))
    elif name.text in IDLE_GLOBALS:
        _commented_out(text, name.start, edits)


def _commented_out(text: str, start: int, edits: list[Edit]) -> None:
    """Make a comment of a line, when the statement is all that stands on it."""
    begin = text.rfind("\n", 0, start) + 1
    if not text[begin:start].strip():
        edits.append(Edit(start, start, "# "))


def _plain(word: Word) -> str:
    return str(word.value).rpartition("/")[2].removesuffix(".so")


def _loadmodule(text: str, keyword: Word, name: Word, edits: list[Edit]) -> None:
    module = _plain(name)
    if module in IN_CORE:
        _commented_out(text, keyword.start, edits)
    elif module in MODULES:
        edits.append(Edit(name.start, name.end, name.text.replace(module, MODULES[module])))


def _modparam(text: str, words: Sequence[Word], edits: list[Edit]) -> None:
    _, _, module, _, name, _, value, close = words[:8]
    if module.kind != "STRING" or name.kind != "STRING" or close.kind != "RPAR":
        return
    old, param = str(module.value), str(name.value)
    if (old, param) in IDLE_PARAMETERS and "\n" not in text[words[0].start : close.end]:
        _commented_out(text, words[0].start, edits)
        return
    if old in MODULES:
        edits.append(Edit(module.start, module.end, f'"{MODULES[old]}"'))
    now = PARAMETERS.get(old, {}).get(param)
    if now is not None:
        edits.append(Edit(name.start, name.end, f'"{now}"'))
    if (old, param) == ("usrloc", "db_mode") and value.text in _DB_MODES:
        edits.append(Edit(name.start, value.end, f'"working_mode_preset", "{_DB_MODES[value.text]}"'))


def _statement_word(words: Sequence[Word], index: int, edits: list[Edit]) -> int:
    """Rewrite what begins with a name inside a block; how many more words were dealt with."""
    word, follower = words[index], words[index + 1]
    name = word.text
    if follower.kind in _COMPARISONS and name in KEYWORDS:
        right = words[index + 2]
        if right.text == "myself":
            if name in _MYSELF and follower.kind in ("EQ", "NE"):
                sign = "!" if follower.kind == "NE" else ""
                edits.append(Edit(word.start, right.end, f'{sign}is_myself("{_MYSELF[name]}")'))
            return 2
        edits.append(Edit(word.start, word.end, KEYWORDS[name]))
        if name == "proto" and right.kind == "ID":
            # `proto==UDP`: the names of protocols are texts now, compared without regard to case.
            edits.append(Edit(right.start, right.end, f'"{right.text.lower()}"'))
        return 0
    if follower.kind != "LPAR":
        return 0
    if name in FUNCTIONS:
        edits.append(Edit(word.start, word.end, FUNCTIONS[name]))
    elif name == "append_branch" and words[index + 2].kind != "RPAR":
        edits.append(Edit(word.start, word.end, "append_msg_branch"))
    elif name in _SOCKET_FUNCTIONS:
        _quoted_socket(words, index, edits)
    elif name in ("is_avp_set", "avp_delete") and words[index + 3].kind == "RPAR":
        return _avp_call(words, index, edits)
    return 0


def _quoted_socket(words: Sequence[Word], index: int, edits: list[Edit]) -> None:
    """`force_send_socket(udp:10.0.0.1:5060)` with its socket in quotes."""
    first = at = index + 2
    while words[at].kind not in ("RPAR", "COMMA", "SEMI", "END"):
        if words[at].kind in ("STRING", "VAR") or (at > first and words[at].start != words[at - 1].end):
            return
        at += 1
    socket = "".join(word.text for word in words[first:at])
    if words[at].kind == "RPAR" and _SOCKET.fullmatch(socket):
        edits.append(Edit(words[first].start, words[at - 1].end, f'"{socket}"'))


def _avp_call(words: Sequence[Word], index: int, edits: list[Edit]) -> int:
    """`is_avp_set("$avp(x)")` and `avp_delete("$avp(x)/g")` as the core says them."""
    word, argument, close = words[index], words[index + 2], words[index + 3]
    avp, _, flags = _OLD_AVP.sub(r"$\1avp(", str(argument.value)).partition("/")
    if not _AVP.fullmatch(avp):
        return 0
    before = words[index - 1]
    if word.text == "avp_delete":
        if flags in ("", "g") and before.kind in ("SEMI", "LBRACE", "RBRACE"):
            edits.append(Edit(word.start, close.end, f"{avp} {':=' if flags else '='} NULL"))
    elif not flags:
        if before.kind == "NOT":
            edits.append(Edit(before.start, close.end, f"{avp} == NULL"))
        elif before.kind in ("LPAR", "AND", "OR"):
            edits.append(Edit(word.start, close.end, f"{avp} != NULL"))
    return 0


def _variables(word: Word, edits: list[Edit]) -> None:
    """Variables by their new names, in the script's text and in strings."""

    def socket(found: re.Match[str]) -> str:
        opening, name = ("$(", found.group(2)) if found.group(2) else ("$", found.group(1))
        return f"{opening}socket_in({_VARIABLES[name]})"

    new = _OLD_AVP.sub(r"$\1avp(", _OLD_VARIABLE.sub(socket, word.text))
    if new != word.text and not any(edit.start <= word.start < edit.end for edit in edits):
        edits.append(Edit(word.start, word.end, new))


def _requoted(text: str, path: str, findings: Sequence[Finding]) -> list[Edit]:
    """Numbers out of their quotes and into them, where the function's parameter wants it so."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    edits: list[Edit] = []
    for finding in findings:
        pos = finding.pos
        if finding.code != "type" or pos.file != path or pos.end_line not in (0, pos.line):
            continue
        start, end = starts[pos.line - 1] + pos.col - 1, starts[pos.line - 1] + pos.end_col - 1
        word = text[start:end]
        inside = word[1:-1]
        if finding.message.endswith("a number or a variable, not a string"):
            if _NUMBER.fullmatch(inside) or _ONE_VARIABLE.fullmatch(inside):
                edits.append(Edit(start, end, inside))
        elif finding.message.endswith("a string, not a number") and _NUMBER.fullmatch(word):
            edits.append(Edit(start, end, f'"{word}"'))
    return edits


def _loaded(text: str, path: str, findings: Sequence[Finding]) -> list[Edit]:
    """A loadmodule line for each module that is missing, behind the last one there is."""
    missing: dict[str, None] = {}
    for finding in findings:
        found = _MISSING_MODULE.fullmatch(finding.hint)
        if found is not None:
            missing[found.group(1)] = None
    words, _ = words_of(text, path)
    places = [
        follower
        for word, follower in pairwise(words)
        if word.text == "loadmodule" and isinstance(follower.value, str) and follower.text[:1] == '"'
    ]
    if not missing or not places:
        return []
    last = places[-1]
    end = text.find("\n", last.end)
    end = len(text) if end < 0 else end
    folder, slash, _ = str(last.value).rpartition("/")
    return [Edit(end, end, "".join(f'\nloadmodule "{folder}{slash}{module}.so"' for module in missing))]
