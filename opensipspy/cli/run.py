"""`opensipspy -f opensips.cfg`, or `opensipspy run ...`: the server itself, with OpenSIPS's flags."""

from __future__ import annotations

import argparse
import getopt
import os
import platform
import sys
from collections.abc import Sequence
from typing import Final

from opensipspy import __version__
from opensipspy.server.loops import POLL_METHODS
from opensipspy.server.options import Options

SUMMARY = "start the SIP server (the flags of `opensipspy -h`)"

OK: Final = 0
FAILED: Final = 1
USAGE_ERROR: Final = 2

FLAGS: Final = "A:a:b:CcDdEe:Ff:G:g:hik:l:M:m:N:n:o:P:p:Rrs:Tt:u:VvW:w:"
LONG_FLAGS: Final = ("help", "version", "debug-adapter=", "debug-wait")
DEFAULT_SCRIPTS: Final = ("/usr/local/etc/opensips/opensips.cfg", "/etc/opensips/opensips.cfg")

# Flags that are accepted because scripts of operators give them, with what they get instead.
MEMORY_NOTE: Final = "memory is managed by Python"
IGNORED: Final = {
    "-a": MEMORY_NOTE,
    "-e": MEMORY_NOTE,
    "-k": MEMORY_NOTE,
    "-s": MEMORY_NOTE,
    "-M": MEMORY_NOTE,
    "-m": MEMORY_NOTE,
    "-N": "one event loop serves all TCP connections",
    "-n": "one event loop serves all UDP sockets",
    "-i": "modules are found by name, wherever the package lies",
    "-r": "received= always holds the source address",
    "-R": "received= always holds the source address",
}

HELP: Final = """\
usage: opensipspy -f FILE [flags]
       opensipspy COMMAND ...

Start the SIP server with a routing script:
  -f FILE     routing script, - for standard input (default {default})
  -c          check the script and end: 0 when it is good, 1 with the findings when not
  -C          like -c
  -p COMMAND  preprocess the script: COMMAND reads it and writes what is to be used
  -l SOCKET   listen there instead of where the script says; may be repeated
  -A ADDRESS  advertise this address instead of the sockets' own
  -F          stay in the foreground
  -D          debug mode: foreground, log level 4, log to standard error
  -d          one log level more; may be repeated
  -E          log to standard error
  -w FOLDER   working directory
  -t FOLDER   root directory (chroot)
  -u USER     run as this user; sockets are opened before
  -g GROUP    run as this group
  -P FILE     pid file
  -G FILE     process group file
  -o NAME=VALUE  what $argv(NAME) reads; may be repeated
  -b BYTES    receive buffer of the UDP sockets
  -W METHOD   how to wait for packets: epoll (the fastest), poll or select
  -v          drop replies whose topmost Via is not ours
  -V          version
  -h          this help
  --debug-adapter ADDRESS:PORT  let editors hold calls at lines of the script (loopback only; or unix:PATH)
  --debug-wait   start when a debugger has connected
  -a -e -k -s -M -m -N -n -i -r -R   accepted; they mean nothing here

OPENSIPSPY_NAME_SERVERS in the environment names the DNS servers (ADDRESS[:PORT],...) instead of the system's list.

Commands (opensipspy COMMAND -h tells more):
{commands}
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags are read by `main`, as `getopt` reads them."""
    parser.add_argument("flags", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    return main(args.flags)


def main(arguments: Sequence[str]) -> int:
    """Start the server; returns the exit status when it has ended."""
    try:
        given, rest = getopt.gnu_getopt(list(arguments), FLAGS, LONG_FLAGS)
        if rest:
            raise getopt.GetoptError(f"unexpected argument {rest[0]!r}")
        flags = [flag for flag, _ in given]
        if "-h" in flags or "--help" in flags:
            print_help()
            return OK
        if "-V" in flags or "--version" in flags:
            print(version_text())
            return OK
        options = read_flags(given)
    except (getopt.GetoptError, ValueError) as error:
        print(f"opensipspy: {error}. `opensipspy -h` lists the flags.", file=sys.stderr)
        return USAGE_ERROR
    if not options.script:
        print("opensipspy: no script: give one with -f FILE", file=sys.stderr)
        return FAILED
    options.argv = ["opensipspy", *arguments]
    from opensipspy.server.launch import launch

    return launch(options)


def read_flags(given: Sequence[tuple[str, str]]) -> Options:
    """The flags as `Options`; raises ValueError for a value that a flag cannot have."""
    options = Options()
    texts = {
        "-f": "script",
        "-w": "workdir",
        "-t": "chroot",
        "-u": "user",
        "-g": "group",
        "-P": "pid_file",
        "-G": "pgid_file",
        "-p": "preprocessor",
        "-A": "advertised_address",
        "-W": "poll_method",
        "--debug-adapter": "debug_adapter",
    }
    switches = {
        "-F": "foreground",
        "-E": "log_stderr",
        "-D": "debug_mode",
        "-v": "check_via",
        "--debug-wait": "debug_wait",
    }
    for flag, value in given:
        if flag in texts:
            setattr(options, texts[flag], value)
        elif flag in switches:
            setattr(options, switches[flag], True)
        elif flag in ("-c", "-C"):
            options.check_only = max(options.check_only, 1 if flag == "-c" else 2)
        elif flag == "-d":
            options.verbosity += 1
        elif flag == "-l":
            options.listen.append(value)
        elif flag == "-b":
            options.receive_buffer_bytes = number(flag, value)
        elif flag == "-o":
            name, equals, text = value.partition("=")
            if not name or not equals:
                raise ValueError(f"-o takes NAME=VALUE, not {value!r}")
            options.arguments[name] = text
        elif flag == "-T":
            raise ValueError("-T runs the C server's unit tests, which are not here; ours run with `make test`")
        elif flag in IGNORED:
            if flag in ("-M", "-m", "-N", "-n"):
                number(flag, value)
            options.notes.append(f"{flag} has no effect: {IGNORED[flag]}")
    if options.poll_method and options.poll_method not in POLL_METHODS:
        raise ValueError(f"-W takes one of {', '.join(sorted(POLL_METHODS))}, not {options.poll_method!r}")
    if options.debug_wait and not options.debug_adapter:
        raise ValueError("--debug-wait waits for a client of --debug-adapter ADDRESS:PORT, which is missing")
    if not options.script:
        options.script = next((path for path in DEFAULT_SCRIPTS if os.path.exists(path)), "")
    return options


def number(flag: str, value: str) -> int:
    """A positive number; raises ValueError."""
    if not value.isascii() or not value.isdigit() or int(value) <= 0:
        raise ValueError(f"{flag} takes a positive number, not {value!r}")
    return int(value)


def print_help() -> None:
    from opensipspy.cli.main import summaries

    width = max((len(name) for name, _ in summaries()), default=0)
    commands = "\n".join(f"  {name:{width}}  {summary}" for name, summary in summaries())
    print(HELP.format(default=DEFAULT_SCRIPTS[0], commands=commands), end="")


def version_text() -> str:
    system = f"{platform.machine()}/{platform.system().lower()}"
    return f"opensipspy {__version__} ({system}), Python {platform.python_version()}"
