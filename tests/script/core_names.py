"""The names of the script language of OpenSIPS 4.x: what has to be there, and to be tested, item by item."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# loadmodule and modparam are among the global parameters.
GLOBALS: Final = _words(
    """
    abort_on_assert advertised_address advertised_port alias auto_aliases auto_scaling_cycle auto_scaling_profile
    check_via chroot db_default_url db_max_async_connections db_version_table debug_mode disable_503_translation
    disable_core_dump disable_dns_blacklist disable_dns_failover disable_stateless_fwd dns dns_retr_no
    dns_retr_time dns_servers_no dns_try_ipv6 dns_try_naptr dns_use_search_list dst_blacklist enable_asserts
    event_pkg_threshold event_shm_threshold exec_dns_threshold exec_msg_threshold loadmodule log_event_enabled
    log_event_level_filter log_json_buf_size log_level log_msg_buf_size log_prefix log_stdout max_while_loops
    maxbuffer mcast_loopback mcast_ttl mem-group mem_warming mem_warming_pattern_file mem_warming_percentage
    memdump memlog mhomed modparam mpath open_files_limit pi_framework poll_method pv_print_buf_size
    query_buffer_size query_flush_time restart_persistency_cache_file restart_persistency_size rev_dns
    server_header server_signature shm_hash_split_percentage shm_memlog_size shm_secondary_hash_size sip_warning
    socket stderror_enabled stderror_level_filter stderror_log_format syslog_enabled syslog_facility
    syslog_level_filter syslog_log_format syslog_name tcp_accept_aliases tcp_connect_timeout
    tcp_connection_lifetime tcp_keepalive tcp_keepcount tcp_keepidle tcp_keepinterval tcp_max_connections
    tcp_max_msg_time tcp_no_new_conn_bflag tcp_no_new_conn_rplflag tcp_socket_backlog tcp_threads tcp_threshold
    tcp_workers timer_workers tos udp_workers user_agent_header wdir worker_reactor_timeout xlog_buf_size
    xlog_force_color xlog_level xlog_print_level
    """
)
FUNCTIONS: Final = _words(
    """
    add_blacklist_rule add_local_rport append_branch_old append_msg_branch avp_print cache_add cache_counter_fetch
    cache_fetch cache_raw_query cache_remove cache_store cache_sub check_blacklist_rule construct_uri
    del_blacklist_rule force_rport force_send_socket force_tcp_alias forward get_timestamp is_myself isbflagset
    isdsturiset isflagset move_msg_branch next_branches prefix pv_printf raise_event remove_msg_branch resetbflag
    resetdsturi resetflag revert_uri script_trace send serialize_branches set_advertised_address
    set_advertised_port set_via_handling setbflag setdsturi setflag sethost sethostport setport seturi setuser
    setuserpass socket_belongs_to_bond sr_check_status strip strip_tail subscribe_event swap_msg_branches
    tcp_close_conn unuse_blacklist use_blacklist
    """
)
VARIABLES: Final = _words(
    """
    $$ $ad $adu $ai $an $ar $argv $Au $aU $au $auth.alg $auth.cnonce $auth.nc $auth.nonce $auth.opaque $auth.qop
    $auth.resp $avp $bf $branch $branch.flag $C $cfg_file $cfg_line $challenge.algorithm $challenge.ck
    $challenge.ik $challenge.nonce $challenge.opaque $challenge.qop $challenge.realm $ci $cl $cs $cT $ct
    $ct.fields $dd $di $dip $dir $dP $dp $ds $du $duri $err.class $err.info $err.level $err.rcode $err.rreason $fd
    $fn $from $from.domain $from.user $ft $fU $fu $hdr $hdr_name $hdrcnt $log_level $mb $mf $mi $ml $msg.branch
    $msg.branch.attr $msg.branch.duri $msg.branch.flag $msg.branch.flags $msg.branch.last_idx $msg.branch.path
    $msg.branch.q $msg.branch.socket $msg.branch.uri $msg.flag $msg.is_request $msg.type $od $oP $op $oU $ou $ouri
    $param $path $pd $pn $pp $proxy_protocol $pU $pu $rb $rc $rd $re $retcode $return $rm $route $route.name
    $route.type $rP $rp $rr $rs $rt $rU $ru $ru_q $ruri $ruri.domain $ruri.user $sdp $sdp.line $sdp.session
    $sdp.stream $sdp.stream.idx $si $socket_in $socket_out $sp $src_ip $td $Tf $time $tn $to $to.domain $to.user
    $TS $Ts $Tsm $tt $tU $tu $ua $var $xlog_level
    """
)
TRANSFORMATIONS: Final = _words(
    """
    s.b64decode s.b64encode s.crc32 s.date2unix s.dec2hex s.decode.hexa s.encode.hexa s.escape.common
    s.escape.param s.escape.user s.eval s.fill.left s.fill.right s.hex2dec s.index s.int s.len s.md5 s.reverse
    s.rindex s.select s.sha1 s.sha1_hmac s.sha224 s.sha224_hmac s.sha256 s.sha256_hmac s.sha384 s.sha384_hmac
    s.sha512 s.sha512_hmac s.substr s.tolower s.toupper s.trim s.triml s.trimr s.unescape.common s.unescape.param
    s.unescape.user s.width s.xor uri.domain uri.headers uri.host uri.lr uri.maddr uri.method uri.param uri.params
    uri.passwd uri.port uri.r2 uri.schema uri.transport uri.ttl uri.uparam uri.user via.branch via.comment
    via.domain via.host via.name via.param via.params via.port via.received via.rport via.transport via.version
    param.count param.exist param.exists param.name param.value param.valueat nameaddr.len nameaddr.name
    nameaddr.param nameaddr.params nameaddr.uri ip.family ip.isip ip.isip4 ip.isip6 ip.isprivate ip.matches
    ip.ntop ip.pton ip.resolve ip.resolve4 ip.resolve6 csv.count csv.value sdp.line sdp.stream sdp.stream-delete
    re.subst
    """
)
COMMANDS: Final = _words(
    """
    blacklists:add_rule blacklists:check blacklists:check_all blacklists:del_rule blacklists:list cache:fetch
    cache:remove cache:store core:arg core:help core:kill core:log_level core:log_level_filter core:log_mute_state
    core:pi_list core:pi_reload core:profiling_proc core:ps core:pwd core:reload_routes core:uptime core:version
    core:which core:xlog_level evi:list evi:raise evi:subscribe evi:subscribers mem:pkg_dump mem:rpm_dump
    mem:shm_check mem:shm_dump statistics:get statistics:list statistics:reset statistics:reset_all
    status_report:get status_report:identifiers status_report:reports status_report:status tcp:close tcp:list
    """
)
EVENTS: Final = _words(
    """
    E_CORE_LOG E_CORE_PKG_THRESHOLD E_CORE_PROC_AUTO_SCALE E_CORE_SHM_THRESHOLD E_CORE_SR_STATUS_CHANGED
    E_CORE_TCP_DISCONNECT E_CORE_THRESHOLD E_PROFILING_PROC E_PROFILING_SCRIPT
    """
)
# But those that have the name of a process in theirs.
STATISTICS: Final = _words(
    """
    cdb_slow_queries cdb_total_queries bad_URIs_rcvd bad_msg_hdr drop_replies drop_requests err_replies
    err_requests fwd_replies fwd_requests rcv_replies rcv_requests slow_messages timestamp dns_slow_queries
    dns_total_queries load load-all load10m load10m-all load1m load1m-all processes_number waiting_tcp waiting_tls
    waiting_udp rpm_fragments rpm_free_size rpm_max_used_size rpm_real_used_size rpm_total_size rpm_used_size
    fragments free_size max_used_size real_used_size total_size used_size sql_slow_queries sql_total_queries
    """
)
