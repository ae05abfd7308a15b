"""`opensipspy check`: what is wrong with a script, found the way the server finds it and without starting anything."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from opensipspy.script.errors import ERROR, Finding, render
from opensipspy.server.errors import LoadError
from opensipspy.server.load import examine
from opensipspy.server.options import Options

SUMMARY: Final = "find the mistakes of a routing script"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scripts", nargs="+", metavar="FILE", help="routing script, - for standard input")
    parser.add_argument("--json", action="store_true", help="print a JSON list of findings")
    parser.add_argument("--strict", action="store_true", help="fail for warnings too")
    parser.add_argument("-p", dest="preprocessor", metavar="COMMAND", default="", help="preprocess the script, e.g. m4")


def run(args: argparse.Namespace) -> int:
    """0 when all scripts are good, 1 when one is not."""
    told: list[dict[str, Any]] = []
    failed = False
    for path in args.scripts:
        options = Options()
        options.script, options.preprocessor = path, args.preprocessor
        try:
            findings, source = examine(options)
        except LoadError as error:
            failed = True
            told.append(_unreadable(path, str(error)))
            if not args.json:
                print(error, file=sys.stderr)
            continue
        failed = failed or any(finding.severity == ERROR or args.strict for finding in findings)
        told += [finding.as_dict() for finding in findings]
        if not args.json:
            print(_text(path, findings, render(findings, source)))
    if args.json:
        print(json.dumps(told, indent=1))
    return int(failed)


def _text(path: str, findings: list[Finding], rendered: str) -> str:
    return rendered if findings else f"{path}: the script is valid"


def _unreadable(path: str, message: str) -> dict[str, Any]:
    """A script without lines to point at, in the shape of a finding."""
    place = {"file": path, "line": 1, "column": 1, "end_line": 1, "end_column": 1}
    return {**place, "severity": ERROR, "code": "unreadable", "message": message, "hint": ""}
