"""`opensipspy check`: what is wrong with a script, found the way the server finds it and without starting anything.

Exit status, for CI: 0 no script has an error (warnings are shown), 1 one has an error or cannot be read, or a warning
with --strict, 2 the command line is wrong. A warning goes away with `--disable RULE`, or in the script with a comment
`# opensipspy: ignore[RULE]` at the end of its line or alone on the line above.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Final

import opensipspy
from opensipspy.cli.fmt import read_script, unified, write_script
from opensipspy.script.errors import ERROR, NOTE, WARNING, Finding, Pos, render
from opensipspy.script.rewrite import rewrite
from opensipspy.script.sarif import sarif
from opensipspy.server.errors import LoadError
from opensipspy.server.load import examine
from opensipspy.server.options import Options

SUMMARY: Final = "find the mistakes of a routing script"
# What the C server refuses to start with and this one only mentions.
FATAL_IN_C: Final = frozenset({"in-core", "no-socket"})
_COLORS: Final = {ERROR: "\x1b[1;31m", WARNING: "\x1b[1;33m", NOTE: "\x1b[1;36m"}
_PLAIN: Final = "\x1b[0m"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scripts", nargs="+", metavar="FILE", help="routing script, - for standard input")
    parser.add_argument("--json", action="store_true", help="print a JSON list of findings")
    parser.add_argument("--sarif", action="store_true", help="print a SARIF 2.1.0 log, for code hosts and editors")
    parser.add_argument("--strict", action="store_true", help="fail for warnings too")
    parser.add_argument(
        "--disable", action="append", default=[], metavar="RULE", help="say nothing of this rule; more than once"
    )
    parser.add_argument("--rules", action="store_true", help="show the name of the rule with each finding")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colours (auto)")
    parser.add_argument("-p", dest="preprocessor", metavar="COMMAND", default="", help="preprocess the script, e.g. m4")
    parser.add_argument(
        "--fix", action="store_true", help="rewrite what older versions said differently, keep FILE.orig"
    )
    parser.add_argument("--diff", action="store_true", help="with --fix: show the changes and write nothing")
    parser.add_argument("--no-orig", action="store_true", help="with --fix: keep no copy of the old file")


def run(args: argparse.Namespace) -> int:
    """0 when all scripts are good, 1 when one is not."""
    told: list[Finding] = []
    failed = False
    texts = not args.json and not args.sarif
    for path in args.scripts:
        text = sys.stdin.read() if path == "-" else None
        try:
            if args.fix:
                text = _fixed(path, text, args)
            findings, source = _examined(path, text, args.preprocessor)
        except (LoadError, OSError) as error:
            failed = True
            reason = f"cannot read {path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            told.append(Finding(Pos(path, 1, 1, 1, 1), ERROR, "unreadable", reason))
            if texts:
                print(reason, file=sys.stderr)
            continue
        findings = _judged(findings, args.strict, frozenset(args.disable))
        failed = failed or any(finding.severity == ERROR or args.strict for finding in findings)
        told += findings
        if texts:
            shown = [f._replace(message=f"{f.message} [{f.code}]") for f in findings] if args.rules else findings
            print(_colored(_text(path, shown, source), args.color))
    if args.sarif:
        print(json.dumps(sarif(told, opensipspy.__version__), indent=1))
    elif args.json:
        print(json.dumps([finding.as_dict() for finding in told], indent=1))
    elif len(args.scripts) > 1:
        print(_summary(len(args.scripts), told))
    return int(failed)


def _examined(path: str, text: str | None, preprocessor: str) -> tuple[list[Finding], Callable[[str], Sequence[str]]]:
    options = Options()
    options.script, options.preprocessor, options.text = path, preprocessor, text
    findings, source = examine(options)
    if path != "-" and not os.path.isabs(path):
        # The server names files by their whole path; who checks one wants it as he gave it.
        whole = os.path.abspath(path)
        findings = [f._replace(pos=f.pos._replace(file=path)) if f.file == whole else f for f in findings]
        return findings, lambda file: source(whole if file == path else file)
    return findings, source


def _judged(findings: Sequence[Finding], strict: bool, disabled: frozenset[str]) -> list[Finding]:
    """The findings with what the options say of them. An error cannot be disabled: the server would not start."""
    kept = [finding for finding in findings if finding.severity == ERROR or finding.code not in disabled]
    if strict:
        return [f._replace(severity=ERROR) if f.code in FATAL_IN_C else f for f in kept]
    return kept


def _fixed(path: str, text: str | None, args: argparse.Namespace) -> str | None:
    """Rewrite a script in its place, or show how; the text that is to be checked then."""
    old = text if text is not None else read_script(path)

    def findings(now: str) -> list[Finding]:
        try:
            return _examined(path, now, args.preprocessor)[0]
        except LoadError:
            return []

    new = rewrite(old, path, findings)
    if args.diff or path == "-":
        print(unified(path, old, new), end="", file=sys.stderr if args.json or args.sarif else sys.stdout)
    elif new != old:
        if not args.no_orig:
            shutil.copy2(path, f"{path}.orig")
        write_script(path, new)
        kept = "" if args.no_orig else f"; the old one is {path}.orig"
        print(f"{path}: rewritten for OpenSIPS 4{kept}", file=sys.stderr)
    return new


def _text(path: str, findings: list[Finding], source: Callable[[str], Sequence[str]]) -> str:
    return render(findings, source) if findings else f"{path}: the script is valid"


def _summary(scripts: int, told: Sequence[Finding]) -> str:
    errors = sum(finding.severity == ERROR for finding in told)
    warnings = sum(finding.severity == WARNING for finding in told)
    return f"{scripts} scripts: {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"


def _colored(text: str, when: str) -> str:
    """Severities and carets in colour, on a terminal or when asked for."""
    if when == "never" or (when == "auto" and (not sys.stdout.isatty() or os.environ.get("NO_COLOR"))):
        return text
    lines: list[str] = []
    color = ""
    for line in text.split("\n"):
        for severity, start in _COLORS.items():
            if f": {severity}: " in line and not line.startswith(" "):
                color = start
                line = line.replace(f"{severity}: ", f"{start}{severity}:{_PLAIN} ", 1)
                break
        if line.startswith("    ") and line.strip() and not line.strip().strip("^"):
            line = f"{color}{line}{_PLAIN}"
        lines.append(line)
    return "\n".join(lines)
