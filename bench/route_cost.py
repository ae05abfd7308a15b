"""Processor time of a route of 60 statements on one INVITE, as a proxy's script has them: `python -m bench.route_cost`.

A run is made for each message, as in the server; parsing and sending are not in the figure (see `bench.own_time`).
Ends with status 1 when it is above `--limit` microseconds.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from opensipspy.script import kinds
from opensipspy.script.run import Run
from opensipspy.script.tree import Block
from opensipspy.script.walk import statements_of
from opensipspy.server.load import load
from opensipspy.server.options import Options
from opensipspy.sip import PROTO_UDP, Peer, Socket, message, parse_message
from tests.script.fakes import INVITE

STATEMENTS: Final = 60
HEAD: Final = """
log_level=1
xlog_level=1
socket=udp:127.0.0.1:5060
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "sipmsgops.so"
loadmodule "signaling.so"
"""
# What a script of a proxy does for a call: checks, number plans, headers, logging that is turned off.
ROUTE: Final = """
route {
    xlog("L_DBG", "$rm from $fu to $ru ($ci)\\n");
    if (!mf_process_maxfwd_header(10)) exit;
    $var(caller) = $fU;
    $var(callee) = $rU;
    $avp(start) = $Ts;
    if (is_method("REGISTER|PUBLISH")) exit;
    if (has_totag()) $var(kind) = "in";
    else $var(kind) = "new";
    if ($si == "192.0.2.66") exit;
    if ($si == 10.0.0.0/8) $var(inside) = 1;
    else $var(inside) = 0;
    if ($var(callee) =~ "^00[1-9][0-9]+$") $var(plan) = "international";
    else $var(plan) = "national";
    switch ($var(plan)) {
        case "international": $var(price) = 12; break;
        case "national": $var(price) = 3; break;
        default: $var(price) = 0;
    }
    route(LIMITS, $var(caller));
    $var(total) = $var(price) * 60 + 5;
    if ($var(total) > 100 && $var(inside) == 0) setflag("EXPENSIVE");
    if (isflagset("EXPENSIVE")) xlog("L_DBG", "expensive call\\n");
    $avp(gateway) = "gw1";
    $avp(gateway) = "gw2";
    if ($avp(gateway) == NULL) exit;
    if ($hdr(X-Tenant) != NULL) $var(tenant) = $hdr(X-Tenant);
    else $var(tenant) = "default";
    if ($(var(caller){s.len}) > 20) exit;
    $var(prefix) = $(var(callee){s.substr,0,3});
    if ($var(prefix) == "110" || $var(prefix) == "112") route(EMERGENCY);
    if ($ua =~ "friendly-scanner|sipcli") exit;
    remove_hf("X-Internal");
    append_hf("X-Tenant: $var(tenant)\\r\\n");
    setbflag("NAT");
    $du = "sip:192.0.2.20:5080";
    if ($du == NULL) exit;
    xlog("L_DBG", "relay $ci by $avp(gateway) to $du\\n");
    return(1);
}
route[LIMITS] {
    $var(count) = $var(inside) + 1;
    if ($param(1) == "blocked") exit;
    if ($var(count) > 100) exit;
    return(1);
}
route[EMERGENCY] {
    $var(priority) = 1;
    return(1);
}
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.route_cost", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--limit", type=float, default=40.0)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "opensips.cfg"
        path.write_text(HEAD + ROUTE, encoding="utf-8")
        options = Options()
        options.script = str(path)
        loaded = load(options)
    blocks: list[Block] = loaded.script.blocks if not loaded.script.compiled else []
    route = loaded.program.main
    assert route is not None
    own = Socket(PROTO_UDP, "127.0.0.1", 5060)
    text = INVITE.replace("Contact:", "Max-Forwards: 70\r\nContact:", 1).encode()
    caller = Peer(PROTO_UDP, "198.51.100.7", 5099)
    messages = [parse_message(text, caller, own) for _ in range(arguments.messages)]
    program, services = loaded.program, loaded.services
    gc.collect()
    gc.freeze()
    profile = cProfile.Profile() if arguments.profile else None
    if profile is not None:
        profile.enable()
    started = time.process_time_ns()
    for msg in messages:
        run = Run(msg, kinds.REQUEST, program, services)
        if route.fn(run) != 1:
            raise SystemExit("the route ended early")
    took_us = (time.process_time_ns() - started) / len(messages) / 1000
    if profile is not None:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    written = sum(1 for block in blocks for node in statements_of(block.body) if type(node).__name__ in COUNTED)
    form = "plain Python" if message.__file__.endswith(".py") else "compiled"
    print(f"{form}: {took_us:.1f} us for a message through {written or STATEMENTS} statements")
    return 0 if took_us <= arguments.limit else 1


COUNTED: Final = ("Call", "Assign", "If", "While", "For", "Switch", "Exit", "Drop", "Return", "RouteCall", "Log")

if __name__ == "__main__":
    sys.exit(main())
