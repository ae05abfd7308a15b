"""`opensipspy simulate -f opensips.cfg message.sip`: messages through the script, with no network and no waiting.

Prints the lines of the script that ran with the values of their conditions, what was asked outside with the answers,
what was logged and what would have been sent. With `--advance` the clock then moves on, so that retransmissions and
time-outs show too. See docs/simulate.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from opensipspy.script.run import Run
from opensipspy.server import journal as noted
from opensipspy.server.answers import AnswersError
from opensipspy.server.console import shown
from opensipspy.server.errors import LoadError, StartError
from opensipspy.server.simulation import NO_NETWORK, Outcome, Sent, Simulation, wire

SUMMARY = "run messages through a script in memory and show the path they take"
MAX_MESSAGE_BYTES: Final = 1 << 20
# What leaves the process, as Python's audit hooks name it.
LEAVING: Final = frozenset(
    {
        "socket.connect",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "subprocess.Popen",
        "os.system",
    }
)
# Resolvers in C, which no hook sees; the libraries that would like them have another way.
RESOLVERS: Final = frozenset({"pycares", "aiodns"})


class Packet:
    """A message of a file. Lines before it may say `# from udp:192.0.2.9:5060`, `# to udp:127.0.0.1:5060` and `# after
    2.5` (seconds after the message before)."""

    def __init__(self, name: str, data: bytes, source: str, to: str) -> None:
        self.name = name
        self.source = source
        self.to = to
        self.after_s = 0.0
        while data.startswith(b"#"):
            line, _, data = data.partition(b"\n")
            word, _, value = line.decode("utf-8", "replace").strip("# \t\r").partition(" ")
            if word == "from":
                self.source = value.strip()
            elif word == "to":
                self.to = value.strip()
            elif word == "after":
                try:
                    self.after_s = float(value)
                except ValueError:
                    raise ValueError(f"{name}: `# after` takes a number of seconds, not {value.strip()!r}") from None
        if not data.strip():
            raise ValueError(f"{name}: there is no message in it")
        self.data = data if b"\r\n" in data else wire(data.decode("utf-8", "surrogateescape"))

    @property
    def first_line(self) -> str:
        return self.data.partition(b"\r\n")[0].decode("utf-8", "replace")

    @property
    def status(self) -> int:
        """Of a reply that leaves its headers to us: one without Via; 0 for any other message."""
        words = self.first_line.split(None, 2)
        if len(words) < 2 or words[0] != "SIP/2.0" or not words[1].isdigit():
            return 0
        return 0 if b"\nvia:" in self.data.lower() or b"\nv:" in self.data.lower() else int(words[1])


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--script", required=True, help="the routing script")
    parser.add_argument(
        "messages",
        nargs="+",
        metavar="MESSAGE",
        help="files with a SIP message each, in order, - for standard input; a reply without Via answers the last "
        "request that was sent",
    )
    parser.add_argument("--source", default="udp:192.0.2.1:5060", help="where they come from (default %(default)s)")
    parser.add_argument("--to", default="", metavar="SOCKET", help="the listening socket, such as udp:127.0.0.1:5060")
    parser.add_argument("--answers", metavar="FILE", help="what databases, DNS, HTTP and gateways say (JSON or TOML)")
    parser.add_argument("--route", metavar="NAME", help="run only route[NAME], not the steps before it")
    parser.add_argument("--advance", type=float, default=0.0, metavar="S", help="then let so many seconds pass")
    parser.add_argument(
        "--full", "--whole", action="store_true", help="show whole messages, not their first lines only"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--network", action="store_true", help="let modules reach real back-ends (never SIP peers)")
    parser.add_argument("-o", dest="arguments", action="append", default=[], metavar="NAME=VALUE", help="$argv(NAME)")
    parser.add_argument("-p", "--preprocessor", default="", help="filter the script through this command")


def run(args: argparse.Namespace) -> int:
    try:
        if args.script != "-":
            # The checker's findings are for what is in a script, not for one that is not there.
            Path(args.script).open("rb").close()
        given = dict(argument(pair) for pair in args.arguments)
        packets = [Packet(name, read(name), args.source, args.to) for name in args.messages]
        simulation = Simulation(
            args.script,
            preprocessor=args.preprocessor,
            arguments=given,
            answers=args.answers,
            network=args.network,
        )
        if not args.network:
            stay_inside()
        with simulation as site:
            show = JsonReport(site) if args.json else TextReport(site, args.full)
            for packet in packets:
                if packet.after_s > 0:
                    show.later(packet.after_s, site.advance(packet.after_s))
                show.message(packet, arrive(site, packet, args.route))
            if args.advance > 0:
                show.later(args.advance, site.advance(args.advance))
            show.end()
        sys.stdout.flush()
    except LoadError as error:
        print(error.text, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has seen enough; nothing more is to be written at the end of the process either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, LookupError, StartError, AnswersError) as error:
        name = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        reason = (
            (error.strerror or str(error))
            if isinstance(error, OSError)
            else str(error.args[0] if error.args else error)
        )
        print(f"opensipspy simulate: {name}{reason}", file=sys.stderr)
        return 1
    return 0


def argument(pair: str) -> tuple[str, str]:
    """NAME=VALUE. Raises ValueError."""
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise ValueError(f"-o takes NAME=VALUE, not {pair!r}")
    return name, value


def arrive(site: Simulation, packet: Packet, route: str | None) -> Outcome:
    if route is not None:
        return site.run(route, packet.data, source=packet.source, to=packet.to)
    if packet.status:
        asked = [sent for sent in site.sent if sent.is_request and sent.method not in ("ACK", "CANCEL")]
        if not asked:
            raise ValueError(f"{packet.name}: a reply without Via answers the last request, and none has been sent")
        head, _, body = packet.data.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        reason = " ".join(lines[0].split()[2:])
        headers = "".join(f"{line}\r\n" for line in lines[1:] if line)
        return site.reply_to(asked[-1], packet.status, reason, headers, body.decode("utf-8", "surrogateescape"))
    return site.receive(packet.data, packet.source, packet.to)


def read(name: str) -> bytes:
    """The octets of a file. Raises OSError, ValueError."""
    data = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1) if name == "-" else Path(name).read_bytes()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{name} is longer than {MAX_MESSAGE_BYTES} bytes")
    return data


def stay_inside() -> None:
    """Refuse from now on whatever would leave this process, from any library."""

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event in LEAVING:
            raise ConnectionRefusedError(111, NO_NETWORK)
        if event == "import" and args[0] in RESOLVERS:
            raise ImportError(NO_NETWORK)

    sys.addaudithook(refuse)


class TextReport:
    """For people."""

    def __init__(self, site: Simulation, full: bool) -> None:
        self._site = site
        self._full = full
        # What modules load at their start is not these messages' business.
        self._began = len(site.lookups)

    def message(self, packet: Packet, outcome: Outcome) -> None:
        print(f"== {packet.name}: {packet.first_line}  from {packet.source}")
        self._show(outcome)
        if not outcome.lines:
            print("  no line of the script ran")
        for sent in outcome.requests:
            for line in edits(packet.data, sent):
                print(f"  edit     {line}")
        if outcome.run is not None and not packet.status:
            print("  state    " + "\n           ".join(state_lines(outcome.run, self._site)))

    def later(self, seconds: float, outcome: Outcome) -> None:
        print(f"== {seconds:g} s later")
        self._show(outcome)

    def _show(self, outcome: Outcome) -> None:
        lines = noted.render(outcome.entries, self._site.lines_of, self._site.options.script)
        print("\n".join(lines) if lines else "  nothing happened")
        if not outcome:
            print("  nothing was sent")
        if self._full:
            for sent in outcome:
                print(f"  -- {sent.socket.text} -> {sent.peer.text} at {sent.at_s:.3f} s")
                print("\n".join("  | " + line for line in sent.text.rstrip("\r\n").split("\r\n")))

    def end(self) -> None:
        unanswered = [lookup for lookup in self._site.lookups[self._began :] if not lookup.answered]
        if unanswered:
            told = dict.fromkeys(f"{each.kind} {noted.clip(each.question)}" for each in unanswered)
            print("== not answered: " + "; ".join(told))


class JsonReport:
    """For programs: one object with everything."""

    def __init__(self, site: Simulation) -> None:
        self._site = site
        self._messages: list[dict[str, Any]] = []

    def message(self, packet: Packet, outcome: Outcome) -> None:
        made = {"file": packet.name, "first_line": packet.first_line, "source": packet.source, **self._of(outcome)}
        made["edits"] = [line for sent in outcome.requests for line in edits(packet.data, sent)]
        made["state"] = state(outcome.run, self._site) if outcome.run is not None else None
        self._messages.append(made)

    def later(self, seconds: float, outcome: Outcome) -> None:
        self._messages.append({"advanced_s": seconds, **self._of(outcome)})

    def _of(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "journal": [entry.as_dict() for entry in outcome.entries],
            "sent": [
                {"at_s": round(s.at_s, 6), "from": s.socket.text, "to": s.peer.text, "message": clean(s.text)}
                for s in outcome
            ],
            "lookups": [lookup._asdict() for lookup in outcome.lookups],
            "log": outcome.log,
        }

    def end(self) -> None:
        json.dump({"script": self._site.options.script, "steps": self._messages}, sys.stdout, indent=2)
        print()


def clean(text: str) -> str:
    """Octets that are no UTF-8 do not belong into JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def edits(received: bytes, sent: Sent) -> list[str]:
    """What a copy that left has otherwise than the message had when it came: "- line" and "+ line"."""
    before = received.partition(b"\r\n\r\n")
    after = sent.data.partition(b"\r\n\r\n")
    try:
        if sip_call_id(before[0]) != sip_call_id(after[0]):
            return []
    except ValueError:
        return []
    old = before[0].decode("utf-8", "replace").split("\r\n")
    new = after[0].decode("utf-8", "replace").split("\r\n")
    gone, come = list(old), []
    for line in new:
        if line in gone:
            gone.remove(line)
        else:
            come.append(line)
    found = [f"- {line}" for line in gone] + [f"+ {line}" for line in come]
    if before[2] != after[2]:
        found.append(f"body: {len(before[2])} -> {len(after[2])} bytes")
    return found


def sip_call_id(head: bytes) -> bytes:
    """The Call-ID of a message's head. Raises ValueError."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"call-id", b"i"):
            return value.strip()
    raise ValueError("no Call-ID")


def state(run: Run, site: Simulation) -> dict[str, Any]:
    """What the message's run has at its end."""
    flags = site.core.flags
    return {
        "ended_by": "drop" if run.dropped else "exit" if run.exited else "end of the route",
        "request_uri": run.ruri,
        "next_hop": run.dst_uri,
        "branches": [branch.uri for branch in run.branches],
        "message_flags": flags.names("message", run.msg_flags),
        "branch_flags": flags.names("branch", run.branch_flags),
        "variables": {f"$var({name})": value for name, value in sorted(run.vars.items())},
        "avps": {f"$avp({name})": list(reversed(stack)) for name, stack in sorted(run.avps.items())},
        "transaction": run.transaction is not None,
    }


def state_lines(run: Run, site: Simulation) -> list[str]:
    found = state(run, site)
    lines = [f"ended by {found['ended_by']}"]
    if run.msg.is_request:
        lines.append(f"$ru = {shown(run.ruri)}" + (f"  $du = {shown(run.dst_uri)}" if run.dst_uri else ""))
    lines += [f"branch {uri}" for uri in found["branches"]]
    for name in ("message_flags", "branch_flags"):
        if found[name]:
            lines.append(f"{name.replace('_', ' ')}: {' '.join(found[name])}")
    lines += [f"{name} = {shown(value)}" for name, value in found["variables"].items()]
    lines += [f"{name} = {', '.join(map(shown, values))}" for name, values in found["avps"].items()]
    return lines
