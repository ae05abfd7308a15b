"""Plays scenarios of SIPssert suites, as OpenSIPS's public one, without containers.

A suite is a folder of sets, a set a folder of scenarios. `scenario.yml` lists tasks (the server, SIPp callers and
callees, management checks, programs) and what each waits for; `defines.yml` gives the values of `{{ names }}` and
`config.yml` what tasks of a kind have in common, for the suite and, over it, for the set and the scenario. Here all
addresses of a scenario live in one network namespace of its own, and the paths of containers become paths of a working
copy.

    python -m tests.scenarios.sipssert SUITE/registration/02.db ...

plays scenarios and tells how each ended. With `OPENSIPS` (the C server's program) and `OPENSIPS_MODULES` (the folder of
its modules) in the environment the C server plays them: so a fault of a scenario is told from one of this server.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULE_FOLDERS = ("opensipspy/modules", "dbdrivers", "mi")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0

CLIENT = '''
"""What the suite's checks import: `OpenSIPSMI(conn="http", url=...).execute(command, parameters)`."""
import json, socket, urllib.request

class OpenSIPSMI:
    def __init__(self, conn, **options):
        self.conn, self.options = conn, options

    def execute(self, command, params=None):
        call = {"jsonrpc": "2.0", "id": 1, "method": command}
        if params:
            call["params"] = params
        data = json.dumps(call).encode()
        if self.conn == "http":
            request = urllib.request.Request(self.options["url"], data, {"Content-Type": "application/json"})
            answer = urllib.request.urlopen(request, timeout=10).read()
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
                wire.settimeout(10)
                wire.sendto(data, (self.options["datagram_ip"], int(self.options["datagram_port"])))
                answer = wire.recv(65535)
        answer = json.loads(answer)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]
'''


def expand(text: str, names: Mapping[str, Any]) -> str:
    """`{{ name }}` and `{{ name + 2 }}`; any other expression, as the choice of a container's image, is empty."""

    def value(match: re.Match[str]) -> str:
        found = names.get(match[1])
        if found is None:
            return ""
        return str(int(found) + int(match[2])) if match[2] else str(found)

    return re.sub(r"\{\{.*?\}\}", "''", re.sub(r"\{\{\s*(\w+)\s*(?:\+\s*(\d+)\s*)?\}\}", value, text))


@dataclass
class Task:
    """One row of scenario.yml, with the defaults of its kind."""

    name: str
    kind: str
    options: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    started_at: float | None = None
    ended_at: float | None = None
    log: Path = Path(os.devnull)

    @property
    def is_server(self) -> bool:
        return self.kind in ("opensips", "mysql")

    def conditions(self) -> Iterator[tuple[str, str, float]]:
        """(started, after or healthy; the other task; seconds to wait)."""
        require = self.options.get("require") or []
        for each in require if isinstance(require, list) else [require]:
            if isinstance(each, str):
                yield "after", each, 0.0
                continue
            for event, other in each.items():
                named = {"task": other} if isinstance(other, str) else other
                yield event, named["task"], float(named.get("wait", 0))


@dataclass
class Scenario:
    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def tasks(self) -> list[Task]:
        rows = []
        for row in self.settings["tasks"]:
            options = {**self.defaults.get(row["type"], {}), **row}
            options["keys"] = {**self.defaults.get(row["type"], {}).get("keys", {}), **row.get("keys", {})}
            rows.append(Task(row["name"], row["type"], options))
        return rows

    def modules(self) -> list[str]:
        """What the scripts of the scenario load."""
        found: dict[str, None] = {}
        for script in sorted(self.folder.glob("*.cfg")):
            text = script.read_text(encoding="utf-8")
            found.update(dict.fromkeys(re.findall(r'^\s*loadmodule\s+"([^"]+?)(?:\.so)?"', text, re.MULTILINE)))
        return [Path(name).name for name in found]

    def missing(self) -> str:
        """Why it cannot be played; empty when it can."""
        if "OPENSIPS" not in os.environ:
            absent = [name for name in self.modules() if not has_module(name)]
            if absent:
                return "needs modules that opensipspy does not have: " + ", ".join(absent)
        kinds = {task.kind for task in self.tasks()}
        unknown = kinds - {"opensips", "uac-sipp", "uas-sipp", "opensips-mi", "generic"}
        if unknown:
            return "needs tasks that are not known here: " + ", ".join(sorted(unknown))
        for program in ("unshare", "ip", "sipp", "bash", "sqlite3"):
            if shutil.which(program) is None:
                return f"{program} is not installed"
        return ""


def has_module(name: str) -> bool:
    return any((ROOT / each / name).is_dir() or (ROOT / each / f"{name}.py").exists() for each in MODULE_FOLDERS)


def find(suite: Path) -> list[Scenario]:
    """The scenarios of a suite, of a set or, when it is one itself, the scenario."""
    return [load(path.parent) for path in sorted(suite.rglob("scenario.yml"))]


def load(folder: Path) -> Scenario:
    """Read a scenario and the settings of the folders above it, the nearer the stronger."""
    scenario = Scenario(folder)
    above = [folder.parent.parent, folder.parent, folder]
    for each in above:
        if (each / "defines.yml").exists():
            scenario.names.update(yaml.safe_load((each / "defines.yml").read_text(encoding="utf-8")) or {})

    def read(path: Path) -> dict[str, Any]:
        return yaml.safe_load(expand(path.read_text(encoding="utf-8"), scenario.names)) or {}

    for each in above:
        if (each / "config.yml").exists():
            for kind, options in (read(each / "config.yml").get("defaults") or {}).items():
                scenario.defaults.setdefault(kind, {}).update(options)
    scenario.settings = read(folder / "scenario.yml")
    return scenario


class Play:
    """A scenario, played in the network namespace this process runs in."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        self.home = folder / "home"
        self.tasks = scenario.tasks()
        self.named = {task.name: task for task in self.tasks}

    def prepare(self) -> None:
        """The working copy, with the paths of containers replaced, and every address the tasks speak of."""
        shutil.copytree(self.scenario.folder, self.home)
        (self.folder / "client" / "opensips").mkdir(parents=True)
        (self.folder / "client" / "opensips" / "__init__.py").touch()
        (self.folder / "client" / "opensips" / "mi.py").write_text(CLIENT, encoding="utf-8")
        places = {"/run/opensips": self.folder / "run"}
        for volume in (self.scenario.settings.get("volumes") or {}).values():
            places[volume["bind"]] = self.folder / "volumes" / Path(volume["bind"]).name
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        self.places = {"/home": str(self.home), **{path: str(place) for path, place in places.items()}}
        for path in self.home.rglob("*"):
            if path.suffix in (".cfg", ".sh", ".py"):
                path.write_text(self.local(path.read_text(encoding="utf-8")), encoding="utf-8")
        if "OPENSIPS" in os.environ:
            self.link_modules(Path(os.environ["OPENSIPS_MODULES"]))
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        text = json.dumps([self.scenario.settings, self.scenario.defaults])
        for address in sorted(set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)) | {self.caller_address()}):
            subprocess.run(["ip", "addr", "add", f"{address}/24", "dev", "lo"], check=True)

    def caller_address(self) -> str:
        """A caller that is given no address has one beside the server's, as low as a container would get."""
        return re.sub(r"\d+$", "10", str(self.scenario.names.get("opensips_ip", "192.0.2.1")))

    def local(self, text: str) -> str:
        for path, place in self.places.items():
            text = re.sub(re.escape(path) + r"(?=[/\s\"']|$)", lambda _, place=place: place, text)
        return text

    def link_modules(self, source: Path) -> None:
        modules = self.folder / "modules"
        modules.mkdir()
        for path in source.rglob("*.so"):
            (modules / path.name).symlink_to(path)
        for script in self.home.glob("*.cfg"):
            text = script.read_text(encoding="utf-8")
            script.write_text(re.sub(r'(?m)^(\s*mpath\s*=\s*)".*?"', rf'\1"{modules}/"', text), encoding="utf-8")

    # -- tasks ------------------------------------------------------------------------------------------------------

    def command(self, task: Task) -> list[str]:
        options = task.options
        extra = options.get("args", [])
        arguments = [str(each) for each in extra] if isinstance(extra, list) else shlex.split(str(extra))
        arguments = [self.local(each) for each in arguments]
        if task.kind == "opensips":
            program = (
                [os.environ["OPENSIPS"]] if "OPENSIPS" in os.environ else [sys.executable, "-m", "opensipspy", "-E"]
            )
            sockets = [options["socket"], *options.get("sockets", [])]
            script = str(self.home / options.get("config_file", "opensips.cfg"))
            # A script that names its sockets is listened to.
            named = re.search(r"(?m)^\s*socket\s*=", Path(script).read_text(encoding="utf-8"))
            listen = [] if named else [word for each in sockets for word in ("-l", each)]
            return [*program, "-f", script, "-F", "-w", str(self.folder), *listen, *arguments]
        if task.kind == "opensips-mi":
            return [sys.executable, str(self.home / options["script"]), *arguments]
        if task.kind == "generic":
            return ["bash", *arguments] if arguments[0].endswith(".sh") else arguments
        return [*self.sipp(task), *arguments]

    def sipp(self, task: Task) -> list[str]:
        options = task.options
        command = [
            "sipp",
            "-sf",
            str(self.home / options["config_file"]),
            "-m",
            str(options.get("calls", 1)),
            "-nostdin",
        ]
        command += [
            "-trace_err",
            "-error_file",
            str(task.log) + ".errors",
            "-trace_msg",
            "-message_file",
            str(task.log) + ".sip",
        ]
        command += ["-i", str(options.get("ip") or self.caller_address()), "-p", str(options["port"]).partition("/")[0]]
        command += ["-timeout", str(self.scenario.settings["timeout"]), "-timeout_error"]
        service = options.get("service") or options.get("username")
        for flag, value in (
            ("-s", service),
            ("-au", options.get("username")),
            ("-ap", options.get("password")),
            ("-d", options.get("duration")),
        ):
            if value is not None:
                command += [flag, str(value)]
        keys = dict(options.get("keys") or {})
        caller = options.get("caller") or options.get("username")
        if caller is not None:
            keys["caller"] = caller
        for key, value in keys.items():
            command += ["-key", key, str(value)]
        if task.kind == "uac-sipp":
            proxy = str(options["proxy"])
            remote = str(options.get("remote") or proxy)
            command += [remote] if remote == proxy else ["-rsa", proxy, remote]
        return command

    def start(self, task: Task) -> None:
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "client"), "PYTHONUNBUFFERED": "1"}
        environment["MI_TYPE"] = str(task.options.get("mi_type", "http"))
        environment["MI_IP"] = str(task.options.get("mi_ip", "127.0.0.1"))
        environment["MI_PORT"] = str(task.options.get("mi_port", "8888"))
        task.log = self.folder / (re.sub(r"\W+", "-", task.name) + ".log")
        folder = self.home
        if task.kind == "opensips":
            environment.pop("PYTHONPATH")
            folder = ROOT
        with task.log.open("ab") as log:
            task.process = subprocess.Popen(
                self.command(task), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if task.kind == "opensips":
            self.await_server(task)
        task.started_at = time.monotonic()

    def await_server(self, task: Task) -> None:
        """Until it listens: a container would be given a second or two, whatever the machine."""
        host, _, port = str(task.options["socket"]).partition(":")[2].rpartition(":")
        number = int.from_bytes(bytes(int(each) for each in host.split(".")), sys.byteorder)
        row = f" {number:08X}:{int(port):04X} "
        until = time.monotonic() + START_LIMIT_S
        while True:
            assert task.process is not None
            assert task.process.poll() is None, f"the server ended with {task.process.returncode}"
            assert time.monotonic() < until, "the server does not listen"
            if "OPENSIPS" in os.environ:
                ready = row in Path("/proc/net/udp").read_text(encoding="ascii")
            else:
                ready = b" ready: " in task.log.read_bytes()
            if ready:
                return
            time.sleep(0.05)

    def may_start(self, task: Task) -> bool:
        for event, name, wait in task.conditions():
            other = self.named[name]
            when = other.started_at if event == "started" or other.is_server else other.ended_at
            if when is None or time.monotonic() < when + wait:
                return False
        return True

    def run(self) -> str:
        """Play. Returns what failed; empty when all is well."""
        try:
            self.prepare()
            return self.play() or self.stop_servers()
        except AssertionError as error:
            return str(error)
        finally:
            for task in self.tasks:
                if task.process is not None and task.process.poll() is None:
                    task.process.kill()
                    task.process.wait()

    def play(self) -> str:
        until = time.monotonic() + float(self.scenario.settings["timeout"]) + START_LIMIT_S
        while time.monotonic() < until:
            for task in self.tasks:
                if task.process is None:
                    if self.may_start(task):
                        self.start(task)
                elif task.ended_at is None and task.process.poll() is not None:
                    task.ended_at = time.monotonic()
                    if task.is_server or task.process.returncode != 0:
                        return f"{task.name} ended with {task.process.returncode}"
            if all(task.is_server or task.ended_at is not None for task in self.tasks):
                return ""
            time.sleep(0.02)
        return "not done in time: " + ", ".join(t.name for t in self.tasks if not t.is_server and t.ended_at is None)

    def stop_servers(self) -> str:
        for task in self.tasks:
            if task.is_server and task.process is not None:
                task.process.send_signal(signal.SIGTERM)
                try:
                    status = task.process.wait(STOP_LIMIT_S)
                except subprocess.TimeoutExpired:
                    return f"{task.name} does not end"
                if status != 0:
                    return f"{task.name} ended with {status} when told to stop"
                if b"Traceback" in task.log.read_bytes():
                    return f"{task.name}: a traceback in the log"
        return ""

    def logs(self) -> str:
        """What the tasks wrote, the ends of it."""
        parts = []
        for path in sorted(self.folder.glob("*.log*")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text:
                parts.append(f"--- {path.name}\n{text[-6000:]}")
        return "\n".join(parts)


def namespace() -> list[str] | None:
    """The command that gives a program a network of its own; None when that is not permitted."""
    for command in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        try:
            if (
                subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, timeout=10).returncode
                == 0
            ):
                return command
        except OSError:
            return None
    return None


def play(folder: Path, keep: Path | None = None) -> str:
    """Play a scenario in a namespace of its own. Returns what failed, with the logs; empty when all is well."""
    command = namespace()
    assert command is not None, "network namespaces are not permitted here"
    arguments = [sys.executable, "-m", "tests.scenarios.sipssert", "--inside", str(folder), str(keep or "")]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main(words: Sequence[str]) -> int:
    if words and words[0] == "--inside":
        with tempfile.TemporaryDirectory(prefix="sipssert-") as folder:
            work = Path(words[2]) if words[2:] and words[2] else Path(folder)
            performance = Play(load(Path(words[1])), work)
            failure = performance.run()
            if failure:
                print(failure, performance.logs(), sep="\n")
            return 1 if failure else 0
    failed = 0
    for word in words:
        for scenario in find(Path(word).resolve()):
            reason = scenario.missing()
            outcome = "skipped: " + reason if reason else play(scenario.folder) or "passed"
            failed += outcome != "passed" and not reason
            print(f"{scenario.title}: {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
