"""`opensipspy debug -f opensips.cfg`: the server in the foreground, with a debug adapter for editors.

The same as `opensipspy -F -E --debug-adapter 127.0.0.1:4711 -f opensips.cfg`; further flags are the server's own.
"""

from __future__ import annotations

import argparse
from typing import Final

from opensipspy.cli.run import main

SUMMARY = "start the SIP server so that an editor can hold calls at lines of the script"
LISTEN: Final = "127.0.0.1:4711"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--script", required=True, help="the routing script")
    parser.add_argument(
        "--listen",
        default=LISTEN,
        metavar="ADDRESS:PORT",
        help="where the debug adapter listens: a loopback address, or unix:PATH (default %(default)s)",
    )
    parser.add_argument("--wait", action="store_true", help="start when a debugger has connected")
    parser.add_argument(
        "flags", nargs=argparse.REMAINDER, metavar="-- FLAGS", help="flags of the server, see `opensipspy -h`"
    )


def run(args: argparse.Namespace) -> int:
    flags = args.flags[1:] if args.flags[:1] == ["--"] else args.flags
    wait = ["--debug-wait"] if args.wait else []
    return main(["-F", "-E", "-f", args.script, "--debug-adapter", args.listen, *wait, *flags])
