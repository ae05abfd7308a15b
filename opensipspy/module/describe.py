"""A module's declared interface as data, in the shape of the interface catalogue, and as a page of its manual."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from opensipspy.management import CommandDecl
from opensipspy.module.declarations import (
    SPEC,
    CommandSpec,
    Event,
    FunctionSpec,
    Param,
    Requires,
    Stat,
    TransformationSpec,
    members,
    variable,
)
from opensipspy.module.module import Module
from opensipspy.module.signature import function_params, transformation_params
from opensipspy.script.declare import Catalogue, ParamDecl
from opensipspy.script.kinds import ALL, kind_names

Json = Any


def describe(cls: type[Module]) -> dict[str, Json]:
    """The interface of a module class; no instance is made."""
    requires = list(cls.requires)
    own = members(cls)
    return {
        "module": cls.name,
        "exported_name": cls.name,
        "kind": cls.kind,
        "functions": _by_name(
            _function(name, m) for name, m in own if isinstance(getattr(m, SPEC, None), FunctionSpec)
        ),
        "internal_api": [],
        "documented_only_functions": [],
        "params": _by_name(_param(m) for _, m in own if isinstance(m, Param)),
        "documented_only_params": [],
        "mi_commands": _by_name(_command_spec(m) for _, m in own if isinstance(getattr(m, SPEC, None), CommandSpec)),
        "events": _by_name(_event(m.name, [(p.name, p.type) for p in m.params]) for m in _of(own, Event)),
        "pseudo_variables": _by_name(_variable(m) for m in _of(own, variable)),
        "statistics": _by_name(_stat(m, cls.name) for m in _of(own, Stat)),
        "depends_on": {
            "hard": sorted(str(r) for r in requires if not (isinstance(r, Requires) and r.param)),
            "soft": sorted(str(w) for w in cls.wants),
            "by_param": [
                {"param": r.param, "needs": [str(r)]} for r in requires if isinstance(r, Requires) and r.param
            ],
            "documented": sorted(str(r) for r in requires),
        },
        "transformations": _transformations(own),
        "processes": [],
        "status_report_groups": [],
        "routes_used": [],
        "db_tables": sorted(table.name for table in cls.tables),
    }


def _of(own: list[tuple[str, Any]], kind: type) -> list[Any]:
    return [m for _, m in own if isinstance(m, kind)]


def _by_name(entries: Iterable[dict[str, Json]]) -> list[dict[str, Json]]:
    return sorted(entries, key=lambda entry: entry["name"].lower())


def _param_decl(decl: ParamDecl) -> dict[str, Json]:
    entry: dict[str, Json] = {"name": decl.name, "type": decl.type, "optional": decl.optional}
    if decl.static:
        entry["static"] = True
    if decl.no_expand:
        entry["no_expand"] = True
    if decl.must_be:
        entry["must_be"] = decl.must_be
    if decl.flags:
        entry["flags"] = list(decl.flags)
    if decl.key_value_flags:
        entry["key_value_flags"] = list(decl.key_value_flags)
    return entry


def _function(attribute: str, member: Any) -> dict[str, Json]:
    spec: FunctionSpec = getattr(member, SPEC)
    entry: dict[str, Json] = {
        "name": spec.name or attribute.rstrip("_"),
        "params": [_param_decl(p.decl) for p in function_params(member, None)],
        "routes": [] if spec.async_only else kind_names(spec.routes or ALL),
        "async": spec.async_ok,
    }
    if spec.async_only:
        entry["async_only"] = True
    return entry


def _param(param: Param[Any]) -> dict[str, Json]:
    entry: dict[str, Json] = {"name": param.name, "type": param.type_name}
    if not param.repeated:
        entry["default"] = param.default
    if param.unit:
        entry["default_unit"] = param.unit
    if param.func:
        entry["func"] = True
    if param.repeated:
        entry["repeated"] = True
    return entry


def _command(
    name: str, aliases: Iterable[str], params: Iterable[Iterable[str]], types: Mapping[str, str], named: bool
) -> dict[str, Json]:
    entry: dict[str, Json] = {"name": name, "aliases": list(aliases), "params": [list(group) for group in params]}
    mentioned = {p for group in entry["params"] for p in group}
    if mentioned:
        entry["param_types"] = {p: types.get(p, "string") for p in sorted(mentioned)}
    if named:
        entry["named_params_only"] = True
    return entry


def _command_spec(member: Any) -> dict[str, Json]:
    spec: CommandSpec = getattr(member, SPEC)
    return _command(spec.name, spec.aliases, spec.params, spec.types, spec.named_params_only)


def _event(name: str, params: Iterable[tuple[str, str]]) -> dict[str, Json]:
    return {"name": name, "params": [{"name": p, "type": t} if t else {"name": p} for p, t in params]}


def _variable(member: variable) -> dict[str, Json]:
    entry: dict[str, Json] = {
        "name": member.name,
        "index": member.index,
        "name_arg": bool(member.name_arg),
        "writable": member.writable,
    }
    if member.fixed_names:
        entry["fields"] = list(member.fixed_names)
    return entry


def _stat(stat: Stat, module: str) -> dict[str, Json]:
    entry: dict[str, Json] = {"name": stat.name}
    if stat.computed is not None:
        entry["computed"] = True
    if stat.no_reset or stat.computed is not None:
        entry["no_reset"] = True
    if stat.group and stat.group != module:
        entry["group"] = stat.group
    return entry


def _transformation_class(
    by_class: dict[str, list[dict[str, Json]]], cls: str, name: str, kinds: Iterable[str]
) -> None:
    params = [{"kind": kind.rstrip("?"), "optional": kind.endswith("?")} for kind in kinds]
    by_class.setdefault(cls, []).append({"name": f"{cls}.{name}", "params": params})


def _transformations(own: list[tuple[str, Any]]) -> list[dict[str, Json]]:
    by_class: dict[str, list[dict[str, Json]]] = {}
    for _, member in own:
        spec = getattr(member, SPEC, None)
        if isinstance(spec, TransformationSpec):
            cls, _, name = spec.name.partition(".")
            kinds = transformation_params(member) if spec.params is None else spec.params
            _transformation_class(by_class, cls, name, kinds)
    return [{"class": cls, "transformations": entries} for cls, entries in by_class.items()]


def describe_catalogue(
    catalogue: Catalogue,
    *,
    commands: Iterable[CommandDecl] = (),
    events: Iterable[tuple[str, Iterable[tuple[str, str]]]] = (),
    statistics: Mapping[str, Iterable[str]] | None = None,
    global_parameters: Iterable[dict[str, Json]] = (),
) -> dict[str, Json]:
    """The core's interface, in the shape of the catalogue's core file."""
    functions = [
        {
            "name": decl.name,
            "params": [_param_decl(p) for p in decl.params],
            "routes": kind_names(decl.routes),
            "async": decl.async_ok,
        }
        for decl in catalogue.functions.values()
    ]
    variables = [{"name": decl.name, "writable": decl.writable} for decl in catalogue.variables.values()]
    by_class: dict[str, list[dict[str, Json]]] = {}
    for trans in catalogue.transformations.values():
        _transformation_class(by_class, trans.cls, trans.name, trans.params)
    groups = statistics or {}
    return {
        "module": "core",
        "global_parameters": list(global_parameters),
        "functions": _by_name(functions),
        "pseudo_variables": _by_name(variables),
        "transformations": [{"class": cls, "transformations": entries} for cls, entries in by_class.items()],
        "events": _by_name(_event(name, params) for name, params in events),
        "mi": _by_name(_command(c.name, c.aliases, c.params, c.types, c.named_params_only) for c in commands),
        "statistics": {group: [{"name": name} for name in sorted(names)] for group, names in sorted(groups.items())},
    }


# --- the manual


def manual(cls: type[Module]) -> str:
    """The reference page of a module as Markdown, from its declarations and docstrings."""
    shown = describe(cls)
    docs = _docs(cls)
    lines = [f"# {cls.name}", "", inspect.cleandoc(cls.__doc__ or "") or "No description.", ""]
    if shown["depends_on"]["hard"]:
        lines += ["Needs the modules " + ", ".join(f"`{name}`" for name in shown["depends_on"]["hard"]) + ".", ""]
    _section(lines, "Parameters", [_param_text(p, docs) for p in shown["params"]])
    _section(lines, "Functions", [_function_text(f, docs) for f in shown["functions"]])
    _section(lines, "Variables", [_variable_text(v, docs) for v in shown["pseudo_variables"]])
    transformations = [t for group in shown["transformations"] for t in group["transformations"]]
    _section(lines, "Transformations", [_transformation_text(t, docs) for t in transformations])
    _section(lines, "Management commands", [_command_text(c, docs) for c in shown["mi_commands"]])
    _section(lines, "Events", [_event_text(e, docs) for e in shown["events"]])
    _section(lines, "Statistics", [f"### `{s['name']}`\n\n{docs[s['name']]}" for s in shown["statistics"]])
    return "\n".join(lines).rstrip() + "\n"


def _docs(cls: type[Module]) -> dict[str, str]:
    """Declared name -> its text."""
    docs: dict[str, str] = {}
    for attribute, member in members(cls):
        spec = getattr(member, SPEC, None)
        if isinstance(member, Param | Stat | Event):
            docs[member.name] = member.help
        elif isinstance(member, variable):
            docs[member.name] = inspect.cleandoc(member.doc)
        elif isinstance(spec, FunctionSpec):
            docs[spec.name or attribute.rstrip("_")] = inspect.getdoc(member) or ""
        elif isinstance(spec, CommandSpec | TransformationSpec):
            docs[spec.name] = inspect.getdoc(member) or ""
    return docs


def _section(lines: list[str], title: str, entries: list[str]) -> None:
    if entries:
        lines += [f"## {title}", ""]
        for entry in entries:
            lines += [entry.rstrip(), ""]


def _param_text(param: dict[str, Json], docs: dict[str, str]) -> str:
    notes = [param["type"]]
    if param.get("repeated"):
        notes.append("may be set several times")
    if param.get("default") is not None:
        default = param["default"]
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        notes.append(f"default {shown}" + (f" {param['default_unit']}" if "default_unit" in param else ""))
    elif "default_unit" in param:
        notes.append(f"in {param['default_unit']}")
    return f"### `{param['name']}` ({', '.join(notes)})\n\n{docs[param['name']]}"


def _function_text(function: dict[str, Json], docs: dict[str, str]) -> str:
    shown = ", ".join(f"[{p['name']}]" if p["optional"] else p["name"] for p in function["params"])
    lines = [f"### `{function['name']}({shown})`", "", docs[function["name"]], ""]
    for param in function["params"]:
        notes = [param["type"]]
        notes += ["optional"] if param["optional"] else []
        notes += ["a constant"] if param.get("static") else []
        notes += [param["must_be"]] if param.get("must_be") else []
        words = [*param.get("flags", ()), *(f"{key}=..." for key in param.get("key_value_flags", ()))]
        notes += ["of " + ", ".join(f"`{word}`" for word in words)] if words else []
        lines.append(f"- `{param['name']}`: {', '.join(notes)}")
    everywhere = function["routes"] == kind_names(ALL)
    where = "every route" if everywhere else ", ".join(function["routes"]) or "only async() and launch()"
    lines += ["", f"Allowed in: {where}." + (" May be called with async()." if function["async"] else "")]
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1]))


def _variable_text(var: dict[str, Json], docs: dict[str, str]) -> str:
    form = var["name"] + ("(name)" if var["name_arg"] else "")
    form = f"$({form[1:]}[index])" if var["index"] else form
    text = f"### `{form}`\n\n{docs[var['name']]}\n"
    if var.get("fields"):
        text += "\nNames: " + ", ".join(f"`{field}`" for field in var["fields"]) + ".\n"
    return text + ("\nCan be assigned.\n" if var["writable"] else "")


def _transformation_text(trans: dict[str, Json], docs: dict[str, str]) -> str:
    params = "".join("[," + p["kind"] + "]" if p["optional"] else "," + p["kind"] for p in trans["params"])
    return f"### `{{{trans['name']}{params}}}`\n\n{docs[trans['name']]}"


def _command_text(command: dict[str, Json], docs: dict[str, str]) -> str:
    text = f"### `{command['name']}`\n\n{docs[command['name']]}\n"
    if command["aliases"]:
        text += "\nAlso known as " + ", ".join(f"`{alias}`" for alias in command["aliases"]) + ".\n"
    groups = [group for group in command["params"] if group]
    if groups:
        text += "\nParameters: " + "; or ".join(", ".join(f"`{name}`" for name in group) for group in groups) + ".\n"
    return text


def _event_text(event: dict[str, Json], docs: dict[str, str]) -> str:
    params = ", ".join(f"`{p['name']}`" for p in event["params"]) or "none"
    return f"### `{event['name']}`\n\n{docs[event['name']]}\n\nParameters: {params}."
