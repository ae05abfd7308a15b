"""Old scripts in today's words: what is rewritten means the same, and a second round finds nothing to do."""

from __future__ import annotations

import pytest

from opensipspy.script import Finding, names
from opensipspy.script.globals import PARAMETERS as NOW
from opensipspy.script.known import MODULES as KNOWN
from opensipspy.script.rewrite import FUNCTIONS, GLOBALS, MODULES, PARAMETERS, rewrite
from tests.script.fakes import Bench
from tests.script.lab import Lab


def fixed(text: str) -> str:
    def findings(now: str) -> list[Finding]:
        return Lab().findings(now, "x.cfg")

    new = rewrite(text, "x.cfg", findings)
    assert rewrite(new, "x.cfg", findings) == new
    return new


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("listen=udp:127.0.0.1:5060 # here", "socket=udp:127.0.0.1:5060 # here"),
        ("children=4", "udp_workers=4"),
        ("log_stderror=no", "stderror_enabled=no\nsyslog_enabled=yes"),
        ("log_stderror=yes", "stderror_enabled=yes\nsyslog_enabled=no"),
        ("fork=yes", "# fork=yes"),
        ('loadmodule "xlog.so"', '# loadmodule "xlog.so"'),
        ('loadmodule "/lib/mi_json.so"', 'loadmodule "/lib/mi_http.so"'),
        ('modparam("tm", "fr_timer", 5)', 'modparam("tm", "fr_timeout", 5)'),
        ('modparam("mi_json","mi_http_root","x")', 'modparam("mi_http","root","x")'),
        ('modparam("rr", "enable_full_lr", 1) # old', '# modparam("rr", "enable_full_lr", 1) # old'),
        ('modparam("usrloc", "db_mode", 2)',
         'modparam("usrloc", "working_mode_preset", "single-instance-sql-write-back")'),
        ('route { if (uri==myself) exit; }', 'route { if (is_myself("$rd")) exit; }'),
        ('route { if (from_uri != myself) exit; }', 'route { if (!is_myself("$fd")) exit; }'),
        ('route { if (method=="INVITE" && src_ip==10.0.0.1) exit; }',
         'route { if ($rm=="INVITE" && $si==10.0.0.1) exit; }'),
        ('route { rewritehost("a"); append_branch("sip:b"); }', 'route { sethost("a"); append_msg_branch("sip:b"); }'),
        ("route { append_branch(); }", "route { append_branch(); }"),
        ("route { if (proto==UDP) exit; }", 'route { if ($socket_in(proto)=="udp") exit; }'),
        ('route { if (!is_avp_set("$avp(s:x)")) exit; avp_delete("$avp(x)/g"); }',
         'route { if ($avp(x) == NULL) exit; $avp(x) := NULL; }'),
        ('route { if (is_avp_set("$avp(x)") && note("y")) exit; }',
         'route { if ($avp(x) != NULL && note("y")) exit; }'),
        ('route { xlog("$Ri:$Rp $(proto{s.len}) $Ripe $pr"); }',
         'route { xlog("$socket_in(ip):$socket_in(port) $(socket_in(proto){s.len}) $Ripe $socket_in(proto)"); }'),
        ('route { give("5"); give("$var(x)"); note(7); give("x5"); }',
         'route { give(5); give($var(x)); note("7"); give("x5"); }'),
        ("route { force_send_socket(udp:10.0.0.1:5060); forward([::1]:5060); forward(uri:host); }",
         'route { force_send_socket("udp:10.0.0.1:5060"); forward("[::1]:5060"); forward(uri:host); }'),
        ('route { force_send_socket("udp:a:1"); forward($var(x)); forward(); }',
         'route { force_send_socket("udp:a:1"); forward($var(x)); forward(); }'),
        ("children=4\r\nroute { exit; }\r\n", "udp_workers=4\r\nroute { exit; }\r\n"),
        ('# children=4\nroute { note("listen=1"); }', '# children=4\nroute { note("listen=1"); }'),
    ],
)  # fmt: skip
def test_rewriting(before: str, after: str) -> None:
    assert fixed(before) == after


def test_every_new_name_exists_and_every_old_one_is_gone() -> None:
    functions = {word for words in KNOWN.values() for word in words.split()} | set(Bench().catalogue.functions)
    assert set(FUNCTIONS) <= set(names.FUNCTIONS)
    assert set(FUNCTIONS.values()) <= functions
    assert set(GLOBALS) <= set(names.GLOBALS)
    assert set(GLOBALS.values()) <= set(NOW)
    assert set(MODULES) <= set(names.MODULES)
    assert set(MODULES.values()) <= set(KNOWN)
    for module, params in PARAMETERS.items():
        if module in KNOWN:
            assert set(params) <= set(names.PARAMETERS[module])
