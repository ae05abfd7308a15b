"""Names that scripts for OpenSIPS 1.x to 3.x use and OpenSIPS 4 does not have any more, with what to write instead."""

from __future__ import annotations

from typing import Final

# name -> what to write now. Nothing here may be a name of OpenSIPS 4, and every function named must be one.
GLOBALS: Final = {
    "listen": "socket=proto:address:port",
    "port": "the port of each socket=proto:address:port",
    "children": "udp_workers=N",
    "tcp_children": "tcp_workers=N",
    "log_facility": "syslog_facility=LOG_LOCAL0",
    "log_stderror": "stderror_enabled=yes|no and syslog_enabled=yes|no",
    "log_name": 'syslog_name="..."',
    "debug": "log_level=N",
    "fork": "debug_mode=yes, or the flag -F",
    "disable_tcp": 'leave out loadmodule "proto_tcp.so"',
    "disable_tls": 'leave out loadmodule "proto_tls.so"',
    "user": "the flag -u",
    "uid": "the flag -u",
    "group": "the flag -g",
    "gid": "the flag -g",
    "avp_aliases": "named AVPs: $avp(name)",
    "tls_certificate": "module tls_mgm",
    "tls_private_key": "module tls_mgm",
    "tls_ca_list": "module tls_mgm",
    "tls_method": "module tls_mgm",
    "tls_verify_client": "module tls_mgm",
    "rpm_mem_file": "restart_persistency_cache_file",
    "rpm_mem_size": "restart_persistency_size",
}

FUNCTIONS: Final = {
    "append_branch": "append_msg_branch(uri)",
    "avp_db_query": "sql_query() of module sqlops",
    "avp_db_load": "sql_avp_load() of module sqlops",
    "avp_db_store": "sql_avp_store() of module sqlops",
    "avp_db_delete": "sql_avp_delete() of module sqlops",
    "avp_check": "a comparison",
    "avp_copy": "an assignment",
    "avp_op": "an assignment with an operator",
    "avp_subst": "the transformation {re.subst,...}",
    "avp_delete": "$avp(name) := NULL",
    "is_avp_set": "$avp(name) != NULL",
    "check_to": "a comparison of $tU with $au",
    "check_from": "a comparison of $fU with $au",
    "db_check_to": "db_does_uri_exist() and db_get_auth_id() of module auth_db, or a comparison of $tU with $au",
    "db_check_from": "db_does_uri_exist() and db_get_auth_id() of module auth_db, or a comparison of $fU with $au",
    "sl_reply": "send_reply(code, reason)",
    "rewritehost": "$rd = ...",
    "rewriteport": "$rp = ...",
    "rewriteuser": "$rU = ...",
    "rewriteuri": "$ru = ...",
    "rewritehostport": "$rd = ... and $rp = ...",
    "force_rtp_proxy": "rtpproxy_engage() or rtpproxy_offer() and rtpproxy_answer()",
    "unforce_rtp_proxy": "rtpproxy_unforce()",
    "allow_trusted": "check_address() of module permissions",
    "allow_address": "check_address() of module permissions",
    "allow_source_address": "check_source_address() of module permissions",
}  # fmt: skip

MODULES: Final = {
    "avpops": "sqlops; AVPs themselves are part of the core",
    "uri": "auth_db and sipmsgops",
    "uri_db": "auth_db",
    "mi_json": "mi_http",
    "siptrace": "tracer",
    "event_route": "nothing: event_route is part of the core",
    "xlog": "nothing: xlog() is part of the core",
    "localcache": "cachedb_local",
    "auth_radius": "auth_aaa",
    "auth_diameter": "auth_aaa",
}


def _told(what: str, name: str, now: str | None) -> tuple[str, str] | None:
    return None if now is None else (f"OpenSIPS 4 has no {what} {name} any more", f"now: {now}")


def removed_global(name: str) -> tuple[str, str] | None:
    """(message, hint) for a global parameter of older versions, None for any other name."""
    return _told("global parameter", name, GLOBALS.get(name))


def removed_function(name: str) -> tuple[str, str] | None:
    """(message, hint) for a function of older versions."""
    return _told("function", f"{name}()", FUNCTIONS.get(name))


def removed_module(name: str) -> tuple[str, str] | None:
    """(message, hint) for a module of older versions."""
    return _told("module", name, MODULES.get(name))
