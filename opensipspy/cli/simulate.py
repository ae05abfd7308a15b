"""`opensipspy simulate -f opensips.cfg message.sip`: one message through the script, with no network and no waiting.

Prints the lines of the script that ran, what was logged and what would have been sent. With `--advance` the clock then
moves on, so that retransmissions and time-outs show too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from opensipspy.server.errors import LoadError
from opensipspy.server.simulation import Sent, Simulation, Step

SUMMARY = "run one message through a script and show the path it takes"
MAX_MESSAGE_BYTES = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--script", required=True, help="the routing script")
    parser.add_argument(
        "messages", nargs="+", metavar="MESSAGE", help="files with a SIP message each, - for standard input"
    )
    parser.add_argument("--source", default="udp:192.0.2.1:5060", help="where they come from (default %(default)s)")
    parser.add_argument("--to", default="", metavar="SOCKET", help="the listening socket, such as udp:127.0.0.1:5060")
    parser.add_argument("--advance", type=float, default=0.0, metavar="S", help="then let so many seconds pass")
    parser.add_argument("--whole", action="store_true", help="show whole messages, not their first lines only")
    parser.add_argument("-p", "--preprocessor", default="", help="filter the script through this command")


def run(args: argparse.Namespace) -> int:
    try:
        packets = [(name, read(name)) for name in args.messages]
        with Simulation(args.script, preprocessor=args.preprocessor) as site:
            for name, packet in packets:
                print(f"== {name} from {args.source}")
                logged = len(site.log)
                del site.steps[:]
                sent = site.receive(packet, args.source, args.to, trace=True)
                print("\n".join(path(site.steps, site.loaded.script.file_lines)))
                report(sent, site.log[logged:], args.whole)
            if args.advance > 0:
                print(f"== {args.advance:g} s later")
                logged = len(site.log)
                report(site.advance(args.advance), site.log[logged:], args.whole)
    except LoadError as error:
        print(error.text, file=sys.stderr)
        return 1
    except (OSError, ValueError, LookupError) as error:
        print(f"opensipspy simulate: {error}", file=sys.stderr)
        return 1
    return 0


def read(name: str) -> str:
    """The message of a file. Raises OSError, ValueError."""
    data = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1) if name == "-" else Path(name).read_bytes()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{name} is longer than {MAX_MESSAGE_BYTES} bytes")
    return data.decode("utf-8", "surrogateescape")


def path(steps: list[Step], lines_of: object) -> list[str]:
    """The lines that ran, with the route where it changes."""
    shown: list[str] = []
    route = ""
    for step in steps:
        if step.route != route:
            route = step.route
            shown.append(f"  {route}")
        source = lines_of(step.file)  # type: ignore[operator]
        text = source[step.line - 1].strip() if 0 < step.line <= len(source) else ""
        shown.append(f"  {step.line:5}  {text}")
    return shown or ["  no line of the script ran"]


def report(sent: list[Sent], log: list[str], whole: bool) -> None:
    """What was logged, and what left."""
    for line in log:
        print(f"  log    {line}")
    for message in sent:
        print(f"  send   {message.at_s:8.3f} s  {message.socket.text} -> {message.peer.text}  {message.first_line}")
        if whole:
            print("\n".join("         " + line for line in message.text.split("\r\n")))
    if not sent:
        print("  send   nothing")
