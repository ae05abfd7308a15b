"""Findings in SARIF 2.1.0, the form that code hosts and editors read (OASIS, sections 3.13 to 3.30)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from opensipspy.script.errors import Finding

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Iterable[Finding], version: str) -> dict[str, Any]:
    """One run of the checker as a SARIF log; version: of this program."""
    found = list(findings)
    rules = sorted({finding.code for finding in found})
    number = {code: index for index, code in enumerate(rules)}
    driver = {
        "name": "opensipspy",
        "version": version,
        "rules": [{"id": code, "name": "".join(word.title() for word in code.split("-"))} for code in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, number[finding.code]) for finding in found],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, rule: int) -> dict[str, Any]:
    pos = finding.pos
    region: dict[str, int] = {"startLine": max(pos.line, 1), "startColumn": max(pos.col, 1)}
    if pos.end_line:
        region |= {"endLine": pos.end_line, "endColumn": max(pos.end_col, 1)}
    place = {"physicalLocation": {"artifactLocation": {"uri": _uri(pos.file)}, "region": region}}
    text = f"{finding.message} ({finding.hint})" if finding.hint else finding.message
    # The levels are named as our severities: error, warning, note.
    return {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": finding.severity,
        "message": {"text": text},
        "locations": [place],
    }


def _uri(file: str) -> str:
    """A path as a URI: absolute ones with a scheme, others relative to where the check ran."""
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
