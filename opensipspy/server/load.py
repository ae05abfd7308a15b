"""From a script's path to everything that it names: modules with their parameters, the catalogue, the compiled routes.

All findings of one script are collected, module by module and line by line, before the start is given up.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from opensipspy import script as language
from opensipspy import sip
from opensipspy.cachedb import CacheDbDriver
from opensipspy.db import DbDriver
from opensipspy.module import Module, ModuleLoadError, ParamError, find_module, module_names
from opensipspy.module.describe import describe
from opensipspy.script import kinds
from opensipspy.script.core import build_catalogue
from opensipspy.script.declare import Catalogue
from opensipspy.script.errors import ERROR, WARNING, Finding, ScriptErrors, has_errors, in_order, silenced
from opensipspy.script.names import (
    IN_CORE,
    MODULES,
    known_module,
    missing_parameter,
    module_not_provided,
    removed_module,
    removed_parameter,
)
from opensipspy.script.probes import compile_watched
from opensipspy.script.program import BadRecipe, Program
from opensipspy.server.blacklists import DNS, Blacklists
from opensipspy.server.errors import LoadError
from opensipspy.server.listening import Listen, listening_protocol, parse_listen, plan
from opensipspy.server.options import Options
from opensipspy.server.services import Services

CACHE_FOLDER: Final = "opensipspy"
# What the module contract says of a name that the module does not have.
NO_PARAMETER: Final = "no such parameter"


class Reloaded:
    """The routes of a script that was read again, and what its author should know."""

    def __init__(self, program: Program, warnings: list[str]) -> None:
        self.program = program
        self.warnings = warnings


class Loaded:
    """A checked and compiled script with its modules, ready to become a server.

    globals: the script's global parameters. modules: instances by name, in the order of loadmodule.
    """

    def __init__(
        self, script: Any, program: Program, catalogue: Catalogue, services: Services, modules: dict[str, Module]
    ) -> None:
        self.script = script
        self.globals: Any = script.globals
        self.program = program
        self.catalogue = catalogue
        self.services = services
        self.modules = modules
        self.warnings: list[str] = []
        self.findings: list[Finding] = []

    def in_order(self) -> list[Module]:
        """The modules so that each comes after those that it requires or wants; else as the script loads them."""
        ordered: list[Module] = []
        placed: set[str] = set()

        def place(module: Module) -> None:
            if module.name in placed:
                return
            placed.add(module.name)
            for name in (*module.requires, *module.wants):
                if name in self.modules:
                    place(self.modules[name])
            ordered.append(module)

        for module in self.modules.values():
            if isinstance(module, DbDriver):
                place(module)
        for module in self.modules.values():
            if isinstance(module, CacheDbDriver):
                place(module)
        for module in self.modules.values():
            place(module)
        return ordered

    def listen(self, options: Options) -> list[Listen]:
        """The listening points that the command line asks for, else the script."""
        if options.listen:
            return [parse_listen(text) for text in options.listen]
        found = []
        for line in self.globals.sockets:
            for port in line.ports or (0,):
                found.append(
                    Listen(
                        listening_protocol(line.proto),
                        line.host,
                        port,
                        advertised_address=line.as_host,
                        advertised_port=line.as_port,
                        tag=line.tag,
                        subdomains=bool(line.options.get("accept_subdomain")),
                        options=line.options,
                    )
                )
        return found

    def ports(self) -> dict[int, int]:
        """Protocol -> default port, of the protocols whose module is loaded."""
        return {
            getattr(module, "protocol"): getattr(module, "default_port")  # noqa: B009 - what proto_* modules offer
            for module in self.modules.values()
            if hasattr(module, "protocol") and hasattr(module, "default_port")
        }

    def check_listen(self, options: Options) -> None:
        """Raise ListenError for a `-l` value that cannot be meant or that no loaded module serves."""
        if options.listen:
            plan(self.listen(options), self.ports())

    def aliases(self) -> list[tuple[int, str, int, bool]]:
        """(protocol, host, port, whether subdomains count too) of the script's aliases; 0 for any."""
        return [(sip.proto_number(a.proto), a.host, a.port, a.accept_subdomain) for a in self.globals.aliases]

    def reload(self, options: Options) -> Reloaded:
        """The script's routes as the file has them now, for the modules that are loaded. Raises LoadError."""
        flags = self.catalogue.flags
        kept = flags.snapshot()
        try:
            script = language.parse_script(options.script, options.preprocessor, options.text)
            findings = list(script.findings) + language.check(script, self.catalogue)
            findings += self._missing_routes(script)
            if has_errors(findings):
                raise ScriptErrors(findings, script.file_lines)
            program = compiled(options, script, self.catalogue)
        except (ScriptErrors, OSError, UnicodeDecodeError) as error:
            flags.restore(kept)
            raise LoadError(explain(error, options.script)) from error
        warnings = [ScriptErrors(findings, script.file_lines).render()] if findings else []
        if self._differs(script):
            warnings.append(
                f"{options.script}: only routes are loaded again; what has changed among global parameters, "
                "loadmodule and modparam takes effect at the next start"
            )
        return Reloaded(program, warnings)

    def _missing_routes(self, script: Any) -> list[Finding]:
        """Routes that modules were told of by name at the start, and that the new script does not have any more."""
        there = {(block.kind, block.name) for block in script.blocks}
        place = script.blocks[0].pos if script.blocks else None
        if place is None:
            return []
        return [
            _finding(place, f"module {module.name} uses {kinds.kind_keyword(kind)}[{name}], which is missing")
            for module in self.modules.values()
            for kind, name in module.routes_used()
            if (kind, name) not in there
        ]

    def _differs(self, script: Any) -> bool:
        """Whether more than routes has changed since the start."""
        now, then = script, self.script
        return (
            _given(now.globals) != _given(then.globals)
            or [line.name for line in now.loadmodules] != [line.name for line in then.loadmodules]
            or [(m.module, m.name, m.value) for m in now.modparams]
            != [(m.module, m.name, m.value) for m in then.modparams]
        )


def load(options: Options) -> Loaded:
    """Parse, load, check and compile. Raises LoadError."""
    try:
        if options.script == "-" and options.text is None:
            options.text = sys.stdin.read()
        elif options.script != "-":
            # -w comes later, and a reload must still find the file.
            options.script = os.path.abspath(options.script)
        return _load(options)
    except (ScriptErrors, OSError, UnicodeDecodeError) as error:
        raise LoadError(explain(error, options.script)) from error


def compiled(options: Options, script: Any, catalogue: Catalogue) -> Program:
    """The program of a checked script, for speed or for somebody who watches it."""
    if options.watch is None:
        return language.compile_script(script, catalogue)
    return compile_watched(script, catalogue, options.watch)


def _given(settings: Any) -> dict[str, Any]:
    """The global parameters that a script sets, wherever they stand in it."""
    found = {name: getattr(settings, name.replace("-", "_"), None) for name in sorted(settings.given)}
    found["sockets"] = [tuple(socket._replace(pos=None)) for socket in settings.sockets]
    for several in ("bonds", "aliases", "blacklists", "mpath"):
        found[several] = getattr(settings, several)
    return found


def explain(error: Exception, path: str) -> str:
    """Why a script cannot be loaded, for its author."""
    if isinstance(error, ScriptErrors):
        return error.render()
    if isinstance(error, UnicodeDecodeError):
        return f"{path}: is not UTF-8 text (octet {error.start})"
    return f"{path}: {getattr(error, 'strerror', None) or error}"


def _load(options: Options) -> Loaded:
    cache = language.ProgramCache(cache_folder())
    kept = options.text is None and not options.check_only and options.watch is None
    cached = cache.load(options.script, options.preprocessor) if kept else None
    if cached is not None:
        try:
            return _assemble(options, cached)
        except (ScriptErrors, BadRecipe):
            # A kept program that does not fit any more; the checker tells why, if the script is to blame.
            pass
    try:
        script = language.parse_script(options.script, options.preprocessor, options.text)
    except ScriptErrors as errors:
        if errors.script is None:
            raise
        # What is left of it is checked as well, so that all mistakes come out in one pass.
        script = errors.script
    loaded = _assemble(options, script)
    if options.text is None and options.watch is None:
        cache.store(script, loaded.program, loaded.warnings)
    return loaded


def _assemble(options: Options, script: Any) -> Loaded:
    names = {definition.name for definition in script.globals.blacklists}
    if not script.globals.disable_dns_blacklist:
        names.add(DNS)
    services = Services(int(script.globals.xlog_level), options.arguments, names)
    catalogue = build_catalogue(services)
    findings: list[Finding] = list(script.findings)
    modules = _load_modules(script, findings)
    _set_parameters(script, modules, findings)
    _check_requirements(script, modules, findings)
    for module in modules.values():
        if isinstance(module, CacheDbDriver):
            services.cachedbs.add(module)
        module.declare(catalogue)
    if not script.compiled:
        used = [route for module in modules.values() for route in module.routes_used()]
        findings += language.check(script, catalogue, ModuleOf(script.mpath), _absent(script, modules), used)
        findings += _transports(script, modules)
        findings += _routes_named(script, modules)
        findings = silenced(findings, script.file_lines)
    if has_errors(findings):
        raise ScriptErrors(findings, script.file_lines)
    try:
        Blacklists(lambda: 0.0).define(script.globals.blacklists, dns=False)
    except ValueError as error:
        raise LoadError(f"{options.script}: {error}") from error
    program = compiled(options, script, catalogue)
    loaded = Loaded(script, program, catalogue, services, modules)
    loaded.findings = in_order(findings)
    loaded.warnings = [ScriptErrors(findings, script.file_lines).render()] if findings else []
    if script.compiled:
        loaded.warnings = [*script.warnings, *loaded.warnings]
    return loaded


class ModuleOf:
    """Names the module that has a function. Modules are only looked into when a script calls what it has not loaded."""

    def __init__(self, mpath: Sequence[str]) -> None:
        self._mpath = mpath
        self._modules: dict[str, str] | None = None

    def __call__(self, function: str) -> str:
        """The module's name, "" when no module that can be imported has such a function."""
        if self._modules is None:
            self._modules = {}
            for name in module_names():
                try:
                    cls = find_module(name, self._mpath)
                except ModuleLoadError:
                    continue
                for entry in describe(cls)["functions"]:
                    self._modules.setdefault(entry["name"], cls.name)
        return self._modules.get(function, "")


def examine(options: Options) -> tuple[list[Finding], Callable[[str], Sequence[str]]]:
    """Everything there is to say about a script, and the lines of its files; nothing is started. Raises LoadError."""
    options.check_only = max(options.check_only, 1)
    try:
        loaded = load(options)
    except LoadError as error:
        cause = error.__cause__
        if not isinstance(cause, ScriptErrors):
            raise
        return cause.findings, cause.source
    return loaded.findings, loaded.script.file_lines


def cache_folder() -> Path:
    """Where compiled scripts are kept between starts."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / CACHE_FOLDER


def _routes_named(script: Any, modules: dict[str, Module]) -> list[Finding]:
    """Parameters of modules that name a route which the script does not have."""
    there = {(block.kind, block.name) for block in script.blocks}
    places = {line.name.rpartition("/")[2].removesuffix(".so"): line.pos for line in script.loadmodules}
    found = []
    for module in modules.values():
        for kind, name in module.routes_used():
            if (kind, name) in there:
                continue
            given = [m.value_pos for m in script.modparams if m.value == name and m.module.lower() == module.name]
            place = given[-1] if given else places.get(module.name)
            if place is not None:
                message = f"module {module.name} uses {kinds.kind_keyword(kind)}[{name}], which is missing"
                found.append(_finding(place, message))
    return found


def _finding(place: Any, message: str, hint: str = "") -> Finding:
    return Finding(place, ERROR, "module", message, hint)


def _load_modules(script: Any, findings: list[Finding]) -> dict[str, Module]:
    modules: dict[str, Module] = {}
    for line in script.loadmodules:
        try:
            cls = find_module(line.name, script.mpath)
        except ModuleLoadError as error:
            findings.append(_not_loaded(line, error))
            continue
        if cls.name in modules:
            continue
        modules[cls.name] = cls()
    return modules


def _not_loaded(line: Any, error: ModuleLoadError) -> Finding:
    """Why a module cannot be loaded; when it is part of the core by now, that is no reason to stop."""
    name = error.name
    old = removed_module(name)
    if name in IN_CORE and old is not None:
        since = f" since OpenSIPS {MODULES[name][1]}"
        return Finding(line.pos, WARNING, "in-core", f"module {name} is part of the core{since}: leave the line out")
    if old is not None:
        return Finding(line.pos, ERROR, "removed", *old)
    left_out = module_not_provided(name)
    if left_out is not None:
        return _finding(line.pos, *left_out)
    if known_module(name):
        reason = f"module {name}: this version does not have it yet"
        return _finding(line.pos, reason, "what the script uses of it is not looked at")
    return _finding(line.pos, f"module {name}: {error.reason}", error.hint)


def _absent(script: Any, modules: dict[str, Module]) -> list[str]:
    """Modules that the script loads and that are not here."""
    names = (line.name.rpartition("/")[2].removesuffix(".so") for line in script.loadmodules)
    return [name for name in names if name not in modules]


def _transports(script: Any, modules: dict[str, Module]) -> list[Finding]:
    """Transports that no socket uses: the C server refuses to start, here they only stay idle."""
    used = {socket.proto for socket in script.globals.sockets}
    found = []
    for line in script.loadmodules:
        name = line.name.rpartition("/")[2].removesuffix(".so")
        proto = name.removeprefix("proto_")
        if name in modules and name.startswith("proto_") and used and proto not in used:
            if getattr(modules[name], "default_port", None) is None:
                continue
            message = f"module {name} is loaded and no socket={proto}:... uses it"
            found.append(Finding(line.pos, WARNING, "no-socket", message, "the C server does not start like this"))
    return found


def _set_parameters(script: Any, modules: dict[str, Module], findings: list[Finding]) -> None:
    for line in script.modparams:
        for module in _named(line.module, modules):
            try:
                module.set_param(line.name, line.value)
            except ParamError as error:
                wrong_name = error.reason == NO_PARAMETER
                place = line.name_pos if wrong_name else line.value_pos
                old = removed_parameter(error.module, error.param) if wrong_name else None
                if old is not None:
                    findings.append(Finding(place, ERROR, "removed", *old))
                    continue
                lacking = missing_parameter(error.module, error.param) if wrong_name else None
                if lacking is not None:
                    findings.append(_finding(place, *lacking))
                    continue
                findings.append(_finding(place, f"{error.module}: {error.param}: {error.reason}", error.hint))
        if not _named(line.module, modules) and not _failed(line.module, findings, script):
            findings.append(
                _finding(line.module_pos, f"module {line.module} is not loaded", f'loadmodule "{line.module}.so"')
            )


def _named(text: str, modules: dict[str, Module]) -> list[Module]:
    """Modules that a modparam line means: one by its name, or several by an expression such as "usrloc|registrar".

    Case does not count, as for the C server.
    """
    if text in modules:
        return [modules[text]]
    try:
        pattern = re.compile(text, re.IGNORECASE)
    except re.error:
        return []
    return [module for name, module in modules.items() if pattern.fullmatch(name)]


def _failed(name: str, findings: list[Finding], script: Any) -> bool:
    """Whether the module was asked for and could not be loaded: one finding for that is enough."""
    wrong = {finding.pos for finding in findings}
    for line in script.loadmodules:
        plain = line.name.rpartition("/")[2].removesuffix(".so")
        meant = name == plain or (any(char in name for char in "|.*[(") and plain in re.split(r"\W+", name))
        if meant and line.pos in wrong:
            return True
    return False


def _check_requirements(script: Any, modules: dict[str, Module], findings: list[Finding]) -> None:
    places = {line.name.rpartition("/")[2].removesuffix(".so"): line.pos for line in script.loadmodules}
    for module in modules.values():
        for needed in module.requires:
            condition = getattr(needed, "param", "")
            if needed in modules or (condition and not module.given(condition)) or _failed(needed, findings, script):
                continue
            place = places.get(module.name)
            if place is not None:
                findings.append(
                    _finding(place, f"module {module.name} needs {needed}", f'loadmodule "{needed}.so" is missing')
                )
