"""Names that scripts for OpenSIPS 1.x to 3.x use and OpenSIPS 4 does not have any more, with what to write instead.

Each entry is (what to write now, the first release without the name); "" for a release that is not known for certain.
The release is the first one of a series in whose sources the name is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

Old = tuple[str, str]

# Nothing here may be a name of OpenSIPS 4, and every function named must be one.
GLOBALS: Final[Mapping[str, Old]] = {
    "listen": ("socket=proto:address:port", "4.0"),
    "port": ("the port of each socket=proto:address:port", "2.1"),
    "children": ("udp_workers=N", "3.1"),
    "tcp_children": ("tcp_workers=N", "3.1"),
    "log_facility": ("syslog_facility=LOG_LOCAL0", "4.0"),
    "log_stderror": ("stderror_enabled=yes|no and syslog_enabled=yes|no", "4.0"),
    "log_name": ('syslog_name="..."', "4.0"),
    "debug": ("log_level=N", "3.1"),
    "fork": ("nothing instead of fork=yes; debug_mode=yes or the flag -F instead of fork=no", "3.1"),
    "xlog_default_level": ("xlog_print_level=N", "3.0"),
    "disable_tcp": ('leave out loadmodule "proto_tcp.so"', "2.1"),
    "disable_tls": ('leave out loadmodule "proto_tls.so"', "2.1"),
    "user": ("the flag -u", "2.2"),
    "uid": ("the flag -u", "2.2"),
    "group": ("the flag -g", "2.2"),
    "gid": ("the flag -g", "2.2"),
    "avp_aliases": ("nothing: named AVPs need no alias, $avp(name)", "2.2"),
    "tcp_listen_backlog": ("tcp_socket_backlog=N", "3.3"),
    "tcp_async": ('modparam("proto_tcp", "tcp_async", N)', "2.1"),
    "tcp_max_msg_chunks": ('modparam("proto_tcp", "tcp_max_msg_chunks", N)', "2.1"),
    "tcp_parallel_read_on_workers": ("nothing: it has no effect here", "4.0"),
    "tcp_poll_method": ("poll_method", "2.1"),
    "tls_certificate": ("module tls_mgm", "2.1"),
    "tls_private_key": ("module tls_mgm", "2.1"),
    "tls_ca_list": ("module tls_mgm", "2.1"),
    "tls_ca_dir": ("module tls_mgm", "2.1"),
    "tls_ciphers_list": ("module tls_mgm", "2.1"),
    "tls_method": ("module tls_mgm", "2.1"),
    "tls_verify_client": ("module tls_mgm", "2.1"),
    "tls_verify_server": ("module tls_mgm", "2.1"),
    "tls_require_client_certificate": ("module tls_mgm", "2.1"),
    "tls_server_domain": ("module tls_mgm", "2.1"),
    "tls_client_domain": ("module tls_mgm", "2.1"),
    "rpm_mem_file": ("restart_persistency_cache_file", ""),
    "rpm_mem_size": ("restart_persistency_size", ""),
}

FUNCTIONS: Final[Mapping[str, Old]] = {
    "append_branch": ("append_msg_branch(uri)", "3.6"),
    "remove_branch": ("remove_msg_branch(index)", "3.6"),
    "move_branch": ("move_msg_branch(from, to)", "3.6"),
    "swap_branches": ("swap_msg_branches(index, index)", "3.6"),
    "avp_db_query": ("sql_query() of module sqlops", "3.5"),
    "avp_db_load": ("sql_avp_load() of module sqlops", "3.5"),
    "avp_db_store": ("sql_avp_store() of module sqlops", "3.5"),
    "avp_db_delete": ("sql_avp_delete() of module sqlops", "3.5"),
    "avp_check": ("a comparison", "3.5"),
    "avp_copy": ("an assignment", "3.5"),
    "avp_pushto": ("an assignment, as in $ru = $avp(name)", "3.5"),
    "avp_op": ("an assignment with an operator", "3.5"),
    "avp_subst": ("the transformation {re.subst,...}", "3.5"),
    "avp_shuffle": ("nothing of the kind", "3.5"),
    "avp_insert": ("$(avp(name)[index]) = ...", "3.0"),
    "avp_delete": ("$avp(name) := NULL", "3.5"),
    "is_avp_set": ("$avp(name) != NULL", "3.5"),
    "avp_printf": ("an assignment with a string", "3.1"),
    "check_to": ("a comparison of $tU with $au", "3.0"),
    "check_from": ("a comparison of $fU with $au", "3.0"),
    "db_check_to": ("db_is_to_authorized() of module auth_db", "3.0"),
    "db_check_from": ("db_is_from_authorized() of module auth_db", "3.0"),
    "does_uri_exist": ("db_does_uri_exist() of module auth_db", "3.0"),
    "get_auth_id": ("db_get_auth_id() of module auth_db", "3.0"),
    "add_uri_param": ("ruri_add_param() of module sipmsgops", "3.0"),
    "del_uri_param": ("ruri_del_param() of module sipmsgops", "3.0"),
    "uri_param": ("ruri_has_param() of module sipmsgops", "3.0"),
    "tel2sip": ("ruri_tel2sip() of module sipmsgops", "3.0"),
    "is_user": ("a comparison of $au", "3.0"),
    "sip_trace": ("trace(trace_id) of module tracer", "3.0"),
    "exec_msg": ("exec() of module exec", "3.0"),
    "exec_dset": ("exec() of module exec", "3.0"),
    "exec_avp": ("exec() of module exec", "3.0"),
    "exec_getenv": ("exec() of module exec", "3.0"),
    "enum_pv_query": ("enum_query() of module enum", "3.0"),
    "next_routing": ("use_next_gw() of module drouting", "3.0"),
    "to_gw": ("goes_to_gw() of module drouting", "1.7"),
    "from_gw": ("is_from_gw() of module drouting", "1.7"),
    "is_user_in": ("db_is_user_in() or aaa_is_user_in() of module group", "3.3"),
    "get_user_group": ("db_get_user_group() of module group", "3.3"),
    "jwt_authorize": ("jwt_db_authorize() or jwt_script_authorize() of module auth_jwt", "3.3"),
    "diameter_www_authorize": ("aaa_www_authorize() of module auth_aaa", "3.2"),
    "diameter_proxy_authorize": ("aaa_proxy_authorize() of module auth_aaa", "3.2"),
    "radius_www_authorize": ("aaa_www_authorize() of module auth_aaa", "1.6"),
    "radius_proxy_authorize": ("aaa_proxy_authorize() of module auth_aaa", "1.6"),
    "radius_is_user_in": ("aaa_is_user_in() of module group", "1.6"),
    "ds_is_from_list": ("ds_is_in_list() of module dispatcher", "1.6"),
    "add_body": ("add_body_part() of module sipmsgops", "2.3"),
    "strip_body": ("remove_body_part() of module sipmsgops", "2.3"),
    "filter_body": ("remove_body_part() of module sipmsgops", "2.3"),
    "registered": ("is_registered() of module registrar", "2.3"),
    "trace_dialog": ("trace() of module tracer", "2.2"),
    "lb_disable": ("lb_disable_dst() of module load_balancer", "2.1"),
    "force_rtp_proxy": ("rtpproxy_engage() or rtpproxy_offer() and rtpproxy_answer()", "1.7"),
    "engage_rtp_proxy": ("rtpproxy_engage()", "2.3"),
    "unforce_rtp_proxy": ("rtpproxy_unforce()", "2.3"),
    "start_recording": ("rtpproxy_start_recording()", "2.3"),
    "allow_trusted": ("check_address() of module permissions", "1.6"),
    "allow_address": ("check_address() of module permissions", "1.6"),
    "allow_source_address": ("check_source_address() of module permissions", "1.6"),
    "sl_reply": ("send_reply(code, reason)", ""),
    "rewritehost": ('sethost("..."), or $rd = ...', "3.3"),
    "rewriteport": ("setport(...), or $rp = ...", "3.3"),
    "rewriteuser": ('setuser("..."), or $rU = ...', "3.3"),
    "rewriteuri": ('seturi("..."), or $ru = ...', "3.3"),
    "rewritehostport": ('sethostport("..."), or $rd = ... and $rp = ...', "3.3"),
    "rewriteuserpass": ('setuserpass("...")', "3.3"),
    "seth": ("sethost(...)", "3.1"),
    "sethp": ("sethostport(...)", "3.1"),
    "setp": ("setport(...)", "3.1"),
    "setu": ("setuser(...)", "3.1"),
    "setup": ("setuserpass(...)", "3.1"),
    "setduri": ("setdsturi(...)", "3.1"),
    "isduriset": ("isdsturiset()", "3.1"),
    "resetduri": ("resetdsturi()", "3.1"),
    "setbranchflag": ("setbflag(...)", "3.1"),
    "isbranchflagset": ("isbflagset(...)", "3.1"),
    "resetbranchflag": ("resetbflag(...)", "3.1"),
    "add_rport": ("force_rport()", "3.1"),
    "force_local_rport": ("add_local_rport()", "3.1"),
    "add_tcp_alias": ("force_tcp_alias()", "3.1"),
    "setsflag": ('setflag("NAME")', "2.2"),
    "resetsflag": ('resetflag("NAME")', "2.2"),
    "issflagset": ('isflagset("NAME")', "2.2"),
    "setdebug": ("$log_level = N", "2.2"),
}  # fmt: skip

MODULES: Final[Mapping[str, Old]] = {
    "avpops": ("sqlops; AVPs themselves are part of the core", "3.5"),
    "uri": ("auth_db and sipmsgops", "3.0"),
    "uri_db": ("auth_db", "1.6"),
    "uri_radius": ("auth_aaa", "1.6"),
    "mi_json": ("mi_http", "3.0"),
    "mi_xmlrpc_ng": ("mi_xmlrpc", "4.0"),
    "siptrace": ("tracer", "3.0"),
    "event_route": ("nothing: event_route is part of the core", "3.6"),
    "event_jsonrpc": ("event_stream", "3.1"),
    "xlog": ("nothing: xlog() is part of the core", "1.7"),
    "lcr": ("drouting", "1.7"),
    "localcache": ("cachedb_local", "1.8"),
    "memcached": ("cachedb_memcached", "1.8"),
    "perlvdb": ("db_perlvdb", "1.9"),
    "auth_radius": ("auth_aaa", "1.6"),
    "avp_radius": ("aaa_radius", "1.6"),
    "group_radius": ("group", "1.6"),
    "auth_diameter": ("auth_aaa and aaa_diameter", "2.1"),
    "tlsops": ("tls_mgm", "2.1"),
    "cpl-c": ("cpl_c", "2.2"),
    "pdt": ("drouting or dialplan", "2.2"),
    "b2b_logic_xml": ("b2b_logic", "3.3"),
}
# Modules that became part of the core: to load one is a mistake without consequences.
IN_CORE: Final = frozenset({"event_route", "xlog"})

_DO_ACCOUNTING: Final = "do_accounting() in the script"
PARAMETERS: Final[Mapping[str, Mapping[str, Old]]] = {
    "acc": {
        "log_flag": (_DO_ACCOUNTING, "2.2"),
        "log_missed_flag": (_DO_ACCOUNTING, "2.2"),
        "db_flag": (_DO_ACCOUNTING, "2.2"),
        "db_missed_flag": (_DO_ACCOUNTING, "2.2"),
        "evi_flag": (_DO_ACCOUNTING, "2.2"),
        "evi_missed_flag": (_DO_ACCOUNTING, "2.2"),
        "cdr_flag": (_DO_ACCOUNTING, "2.2"),
        "failed_transaction_flag": (_DO_ACCOUNTING, "2.2"),
        "log_extra": ("extra_fields", "2.3"),
        "db_extra": ("extra_fields", "2.3"),
        "aaa_extra": ("extra_fields", "2.3"),
        "evi_extra": ("extra_fields", "2.3"),
        "multi_leg_info": ("leg_fields", "2.3"),
        "report_ack": ("nothing: an ACK is not accounted", "1.7"),
    },
    "b2b_logic": {"script_scenario": ("b2b_logic routes in the script", "3.2")},
    "db_mysql": {"tls_client_domain": ("?tls_domain=NAME in the database URL", "3.0")},
    "dialog": {
        "dlg_flag": ("create_dialog() in the script", "1.7"),
        "bye_on_timeout_flag": ('create_dialog("B") in the script', "1.7"),
        "timeout_avp": ("$DLG_timeout", "1.11"),
    },
    "dispatcher": {
        "list_file": ("the table dispatcher, by db_url", "1.8"),
        "flags": ("the flags of ds_select_dst()", "2.1"),
        "force_dst": ("the flags of ds_select_dst()", "2.1"),
        "use_default": ("the flags of ds_select_dst()", "2.1"),
    },
    "mi_http": {"mi_http_root": ("root", "3.0"), "mi_http_method": ("nothing: every request is a POST", "3.0")},
    "nathelper": {
        "rtpproxy_sock": ("the same parameter of module rtpproxy", "1.7"),
        "rtpproxy_disable_tout": ("the same parameter of module rtpproxy", "1.7"),
        "rtpproxy_retr": ("the same parameter of module rtpproxy", "1.7"),
        "natping_processes": ("natping_partitions", "2.1"),
    },
    "permissions": {
        "trusted_table": ("address_table", "1.6"),
        "db_mode": ("nothing: addresses are always kept in memory", "1.6"),
    },
    "presence": {"server_address": ("contact_user", "3.1")},
    "proto_tls": dict.fromkeys(
        ("certificate", "private_key", "ca_list", "ca_dir", "verify_cert", "require_cert", "tls_method"),
        ("the same parameter of module tls_mgm", "2.2"),
    ),
    "registrar": {
        "append_branches": ("the flag no-branches of lookup()", "1.6"),
        "method_filtering": ("the flag method-filtering of lookup()", "1.6"),
        "use_path": ("the path flags of save()", "1.6"),
        "path_mode": ("the path flags of save()", "1.6"),
        "sock_flag": ("the socket flag of save()", "1.6"),
    },
    "rr": {"enable_full_lr": ("nothing: it is always so", "1.7")},
    "rtpproxy": {"rtpproxy_tout": ("rtpproxy_timeout", "3.3")},
    "tm": {
        "fr_timer": ("fr_timeout", "3.0"),
        "fr_inv_timer": ("fr_inv_timeout", "3.0"),
        "fr_timer_avp": ("$T_fr_timeout", "1.11"),
        "fr_inv_timer_avp": ("$T_fr_inv_timeout", "1.11"),
        "own_timer_proc": ("timer_partitions", "2.1"),
    },
    "uac": {
        "credential": ("the same parameter of module uac_auth", "1.7"),
        "auth_realm_avp": ("the same parameter of module uac_auth", "1.10"),
        "auth_username_avp": ("the same parameter of module uac_auth", "1.10"),
        "auth_password_avp": ("the same parameter of module uac_auth", "1.10"),
        "from_restore_mode": ("restore_mode", "1.6"),
    },
    "usrloc": {"db_mode": ("working_mode_preset", "4.0")},
}  # fmt: skip

VARIABLES: Final[Mapping[str, Old]] = {
    "Ri": ("$socket_in(ip)", "3.3"),
    "Rp": ("$socket_in(port)", "3.3"),
    "af": ("$socket_in(af)", "3.3"),
    "pr": ("$socket_in(proto)", "3.3"),
    "proto": ("$socket_in(proto)", "3.3"),
    "fs": ("$socket_out", "3.3"),
    "br": ("$msg.branch.uri", "1.6"),
    "bR": ("$(msg.branch.uri[*])", "1.6"),
    "bF": ("$bf", "1.10"),
    "mF": ("$mf", "1.10"),
    "sf": ("$mf", "2.2"),
    "sF": ("$mf", "1.10"),
}

# Modules of OpenSIPS 4 that this server will not have: why, and what to use instead.
NOT_PROVIDED: Final[Mapping[str, tuple[str, str]]] = {
    "db_berkeley": (
        "no binding of Berkeley DB 5 is maintained and built for current Python",
        "db_dump writes the tables as text: load them into SQLite (db_sqlite) or dbtext files (db_text)",
    ),
    "db_perlvdb": (
        "its databases are classes in Perl, which this server does not run",
        "db_http asks a program of any language over HTTP; a driver in Python is a module in a folder of mpath",
    ),
}

# Parameters of OpenSIPS 4 that modules here lack, because something that they need is not there: what that is.
_NO_COLLECTOR: Final = "proto_hep sends only here, it listens for nothing"
_OLD_MONGODB: Final = "it is for MongoDB 2.4 to 3.0, which pymongo cannot talk to; later ones know these raw queries"
_NO_REDISEARCH: Final = "maps are kept in sets and hashes of Redis, and nothing here asks RedisJSON or RediSearch"
NOT_HERE: Final[Mapping[str, Mapping[str, str]]] = {
    "cachedb_mongodb": dict.fromkeys(("compat_mode_2.4", "compat_mode_3.0"), _OLD_MONGODB),
    "cachedb_redis": dict.fromkeys(
        ("ftsearch_index_name", "ftsearch_json_mset_expire", "ftsearch_json_prefix", "ftsearch_max_results"),
        _NO_REDISEARCH,
    ),
    "proto_hep": {
        "compressed_payload": "payloads are not compressed, there is no module compression here",
        "hep_max_msg_chunks": _NO_COLLECTOR,
        "hep_port": _NO_COLLECTOR,
    },
}

# Words that stood left of a comparison; all of them went with 2.4.
KEYWORDS: Final[Mapping[str, str]] = {
    "uri": "$ru",
    "from_uri": "$fu",
    "to_uri": "$tu",
    "method": "$rm",
    "status": "$rs",
    "src_ip": "$si",
    "src_port": "$sp",
    "dst_ip": "$socket_in(ip)",
    "dst_port": "$socket_in(port)",
    "proto": "$socket_in(proto)",
    "af": "$socket_in(af)",
}
KEYWORDS_GONE: Final = "2.4"


def _told(what: str, name: str, old: Old | None) -> tuple[str, str] | None:
    if old is None:
        return None
    now, version = old
    since = f"{what} {name} was removed in OpenSIPS {version}"
    return since if version else f"OpenSIPS 4 has no {what} {name} any more", f"now: {now}"


def removed_global(name: str) -> tuple[str, str] | None:
    """(message, hint) for a global parameter of older versions, None for any other name."""
    return _told("global parameter", name, GLOBALS.get(name))


def removed_function(name: str) -> tuple[str, str] | None:
    """(message, hint) for a function of older versions."""
    return _told("function", f"{name}()", FUNCTIONS.get(name))


def removed_module(name: str) -> tuple[str, str] | None:
    """(message, hint) for a module of older versions."""
    return _told("module", name, MODULES.get(name))


def module_not_provided(name: str) -> tuple[str, str] | None:
    """(message, hint) for a module of OpenSIPS 4 that this server leaves out on purpose."""
    found = NOT_PROVIDED.get(name)
    return None if found is None else (f"module {name} is not provided: {found[0]}", found[1])


def removed_parameter(module: str, name: str) -> tuple[str, str] | None:
    """(message, hint) for a parameter of a module that older versions of it had."""
    return _told(f"{module}: parameter", name, PARAMETERS.get(module, {}).get(name))


def missing_parameter(module: str, name: str) -> tuple[str, str] | None:
    """(message, hint) for a parameter of OpenSIPS 4 that cannot have a meaning here yet."""
    reason = NOT_HERE.get(module, {}).get(name)
    return None if reason is None else (f"{module}: parameter {name} does not exist here yet: {reason}", "leave it out")


def removed_variable(name: str) -> tuple[str, str] | None:
    """(message, hint) for a variable of older versions; the name is with or without `$`."""
    bare = name.removeprefix("$")
    return _told("variable", f"${bare}", VARIABLES.get(bare))


def removed_keyword(name: str) -> tuple[str, str] | None:
    """(message, hint) for a word of older versions that stood in comparisons."""
    if name == "myself":
        return _told("word", name, ('is_myself("$rd")', KEYWORDS_GONE))
    now = KEYWORDS.get(name)
    return _told("word", name, None if now is None else (now, KEYWORDS_GONE))


def known_module(name: str) -> bool:
    """Whether OpenSIPS 4 has a module of that name; the table is read only when somebody asks."""
    return name in import_module("opensipspy.script.known").MODULES
