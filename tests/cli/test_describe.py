"""What the command line tells about modules: JSON in the catalogue's shape, text, manual pages, new modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli import doc
from opensipspy.cli.main import main
from opensipspy.module import module_names

MODULE_FIELDS = {
    "module", "exported_name", "kind", "functions", "internal_api", "documented_only_functions", "params",
    "documented_only_params", "mi_commands", "events", "pseudo_variables", "statistics", "depends_on",
    "transformations", "processes", "status_report_groups", "routes_used", "db_tables",
}  # fmt: skip


def described(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    assert main(["describe", "--json", *names]) == 0
    return {entry["module"]: entry for entry in json.loads(capsys.readouterr().out)}


def test_a_module_is_described_in_the_shape_of_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    found = described(capsys, "mi_fifo", "httpd.so", "maxfwd")
    assert set(found) == {"mi_fifo", "httpd", "maxfwd"}
    assert set(found["maxfwd"]) == MODULE_FIELDS
    assert found["maxfwd"]["functions"][0] == {
        "name": "is_maxfwd_lt",
        "params": [{"name": "max_value", "type": "int", "optional": False}],
        "routes": ["request", "failure", "branch"],
        "async": False,
    }
    params = {p["name"]: p for p in found["mi_fifo"]["params"]}
    assert params["fifo_mode"] == {"name": "fifo_mode", "type": "int", "default": 432}
    assert params["fifo_user"]["type"] == "string|int"
    command = found["httpd"]["mi_commands"][0]
    assert command == {"name": "httpd:list_root_path", "aliases": ["httpd_list_root_path"], "params": [[]]}


def test_without_a_name_everything_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    found = described(capsys)
    assert "core" in found
    assert len(found) == len(module_names()) + 1
    commands = {command["name"] for command in found["core"]["mi"]}
    assert {"core:uptime", "core:which", "statistics:get", "evi:subscribe", "status_report:get"} <= commands
    log_level = next(p for p in found["core"]["global_parameters"] if p["name"] == "log_level")
    assert log_level == {"name": "log_level", "type": "int", "default": 2}
    assert {f["name"] for f in found["core"]["functions"]} > {"forward", "setflag"}
    assert "rcv_requests" in {s["name"] for s in found["core"]["statistics"]["core"]}


def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "httpd"]) == 0
    text = capsys.readouterr().out
    assert "### `port` (int, default 8888)" in text
    assert "Also known as `httpd_list_root_path`" in text
    assert main(["describe"]) == 0
    assert "httpd: HTTP server for other modules." in capsys.readouterr().out


def test_an_unknown_module_is_told_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "mi_fifi"]) == 1
    assert "did you mean mi_fifo?" in capsys.readouterr().err


def test_manual_pages_are_written_to_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doc", "mi_fifo", "maxfwd", "-o", str(tmp_path / "out")]) == 0
    assert "# mi_fifo" in (tmp_path / "out" / "mi_fifo.md").read_text()
    page = (tmp_path / "out" / "maxfwd.md").read_text()
    assert "### `mf_process_maxfwd_header(max_value)`" in page
    assert "Allowed in: request." in page
    assert "[maxfwd](maxfwd.md)" in (tmp_path / "out" / "index.md").read_text()
    assert main(["doc"]) == 2
    assert main(["doc", "nosuch"]) == 1
    assert doc.SUMMARY


def test_each_module_has_a_purpose_and_each_name_a_text(tmp_path: Path) -> None:
    """The manual is printed from the declarations: an empty text would be an empty page."""
    assert main(["doc", "--all", "-o", str(tmp_path)]) == 0
    empty = []
    for page in tmp_path.glob("*.md"):
        text = page.read_text()
        if "No description." in text:
            empty.append(f"{page.stem}: no docstring")
        parts = text.split("\n### ")
        empty += [f"{page.stem}: {p.splitlines()[0]}" for p in parts[1:] if len(p.split("\n\n", 1)[-1].strip()) < 3]
    assert not empty


def test_a_new_module_passes_its_own_test(tmp_path: Path) -> None:
    assert main(["new-module", "greeter", "-o", str(tmp_path)]) == 0
    code = compile((tmp_path / "test_greeter.py").read_text(), str(tmp_path / "test_greeter.py"), "exec")
    names: dict[str, Any] = {"__file__": str(tmp_path / "test_greeter.py"), "__name__": "test_greeter"}
    exec(code, names)
    names["test_a_name_is_greeted_and_counted"]()


@pytest.mark.parametrize(("name", "status"), [("tm", 1), ("1st", 2), ("class", 2), ("_x", 2), ("a-b", 2)])
def test_a_bad_name_for_a_new_module_is_refused(tmp_path: Path, name: str, status: int) -> None:
    assert main(["new-module", name, "-o", str(tmp_path)]) == status
    assert not list(tmp_path.iterdir())


def test_a_new_module_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    assert main(["new-module", "mine", "-o", str(tmp_path)]) == 1
    assert (tmp_path / "mine.py").read_text() == "precious"
