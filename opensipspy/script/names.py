"""Names that OpenSIPS 1.x to 3.x scripts use and 4.x does not have any more, with what to write instead."""

from __future__ import annotations

from typing import Final

# name -> (version that removed it, what to write now)
GLOBALS: Final = {
    "listen": ("3.0", "socket=proto:address:port"),
    "port": ("3.0", "the port of each socket=proto:address:port"),
    "children": ("3.0", "udp_workers=N"),
    "tcp_children": ("3.0", "tcp_workers=N"),
    "log_facility": ("3.4", "syslog_facility=LOG_LOCAL0"),
    "log_stderror": ("3.4", "stderror_enabled=yes|no and syslog_enabled=yes|no"),
    "log_name": ("3.4", 'syslog_name="..."'),
    "debug": ("2.2", "log_level=N"),
    "fork": ("2.2", "debug_mode=yes, or the flag -F"),
    "disable_tcp": ("2.1", 'leave out loadmodule "proto_tcp.so"'),
    "disable_tls": ("2.1", 'leave out loadmodule "proto_tls.so"'),
    "disable_sctp": ("2.1", 'leave out loadmodule "proto_sctp.so"'),
    "user": ("3.0", "the flag -u"),
    "uid": ("3.0", "the flag -u"),
    "group": ("3.0", "the flag -g"),
    "gid": ("3.0", "the flag -g"),
    "disable_dns_blocklist": ("1.6", "disable_dns_blacklist"),
    "avp_aliases": ("3.0", "named AVPs: $avp(name)"),
    "tcp_async": ("2.1", 'modparam("proto_tcp", "tcp_async", 1)'),
    "tcp_send_timeout": ("2.1", 'modparam("proto_tcp", "tcp_send_timeout", N)'),
    "tls_certificate": ("2.1", "module tls_mgm"),
    "tls_private_key": ("2.1", "module tls_mgm"),
    "tls_ca_list": ("2.1", "module tls_mgm"),
    "max_while_loop": ("1.5", "max_while_loops"),
    "query_buffer": ("1.7", "query_buffer_size"),
    "sip_max_size": ("1.0", "nothing: sizes are limited by the server"),
    "rpm_mem_file": ("4.0", "restart_persistency_cache_file"),
    "rpm_mem_size": ("4.0", "restart_persistency_size"),
}

FUNCTIONS: Final = {
    "append_branch": ("4.0", "append_msg_branch(uri)"),
    "avp_db_query": ("3.5", "sql_query() of module sqlops"),
    "avp_db_load": ("3.5", "sql_avp_load() of module sqlops"),
    "avp_db_store": ("3.5", "sql_avp_store() of module sqlops"),
    "avp_db_delete": ("3.5", "sql_avp_delete() of module sqlops"),
    "avp_check": ("3.0", "a comparison"),
    "avp_copy": ("3.0", "an assignment"),
    "avp_op": ("3.0", "an assignment with an operator"),
    "avp_subst": ("3.0", "the transformation {re.subst,...}"),
    "is_avp_set": ("3.0", "$avp(name) != NULL"),
    "avp_delete": ("3.0", "$avp(name) := NULL"),
    "db_check_to": ("3.0", "a comparison of $tU with $au"),
    "db_check_from": ("3.0", "a comparison of $fU with $au"),
    "check_to": ("3.0", "a comparison of $tU with $au"),
    "check_from": ("3.0", "a comparison of $fU with $au"),
    "sl_reply": ("1.5", "send_reply(code, reason)"),
    "rewritehost": ("3.0", "$rd = ..."),
    "rewriteport": ("3.0", "$rp = ..."),
    "rewriteuser": ("3.0", "$rU = ..."),
    "rewriteuri": ("3.0", "$ru = ..."),
    "rewritehostport": ("3.0", "$rd and $rp"),
    "revert_uri": ("3.0", "$ru = $ou"),
    "setdsturi": ("3.0", "$du = ..."),
    "resetdsturi": ("3.0", "$du = NULL"),
    "isdsturiset": ("3.0", "$du != NULL"),
    "force_send_socket": ("3.0", '$socket_out = "proto:address:port"'),
    "serialize_branches": ("4.0", "serialize_branches of the branch set: t_relay() after next_branches()"),
    "use_media_proxy": ("1.7", "engage_media_proxy()"),
    "unforce_rtp_proxy": ("2.0", "rtpproxy_unforce()"),
    "force_rtp_proxy": ("2.0", "rtpproxy_engage()"),
    "pv_printf": ("2.0", "an assignment"),
    "search_append": ("4.0", "append_hf() or subst()"),
    "mediaproxy_start": ("1.7", "engage_media_proxy()"),
    "sd_lookup": ("4.0", "speed_dial_lookup()"),
    "allow_trusted": ("1.7", "check_address()"),
    "allow_address": ("1.7", "check_address()"),
    "allow_source_address": ("1.7", "check_source_address()"),
}

MODULES: Final = {
    "avpops": ("3.5", "sqlops; AVPs themselves are part of the core"),
    "uri": ("3.0", "auth_db, sipmsgops"),
    "uri_db": ("1.5", "auth_db"),
    "mi_json": ("3.0", "mi_http"),
    "mi_xmlrpc_ng": ("3.0", "mi_xmlrpc"),
    "siptrace": ("3.3", "tracer"),
    "event_route": ("3.3", "nothing: event_route is part of the core"),
    "xlog": ("1.8", "nothing: xlog() is part of the core"),
    "localcache": ("1.8", "cachedb_local"),
    "memcached": ("1.8", "cachedb_memcached"),
    "nat_helper": ("1.0", "nathelper"),
    "auth_radius": ("1.6", "auth_aaa"),
    "statsd": ("3.0", "prometheus"),
    "closeddial": ("3.0", "dialplan"),
    "seas": ("3.0", "nothing: it was removed"),
    "sms": ("3.0", "proto_smpp"),
    "fraud": ("2.1", "fraud_detection"),
}


def _told(name: str, entry: tuple[str, str] | None, what: str) -> tuple[str, str] | None:
    if entry is None:
        return None
    version, now = entry
    return f"{what} {name} was removed in OpenSIPS {version}", f"now: {now}"


def removed_global(name: str) -> tuple[str, str] | None:
    """(message, hint) for a global parameter of older versions, None for any other name."""
    return _told(name, GLOBALS.get(name), "global parameter")


def removed_function(name: str) -> tuple[str, str] | None:
    """(message, hint) for a function of older versions."""
    return _told(f"{name}()", FUNCTIONS.get(name), "function")


def removed_module(name: str) -> tuple[str, str] | None:
    """(message, hint) for a module of older versions."""
    return _told(name, MODULES.get(name), "module")
