"""json: variables that hold JSON values (RFC 8259) and reach into them by path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Annotated, Any, Final, NoReturn

from opensipspy.module import Module, Param, WritableVar, script_function, variable
from opensipspy.script.run import INDEX_ALL, Index, Run, Value, VarRef

APPEND: Final = object()
"""The step `[]`."""
MISSING: Final = object()
"""What a path that leads nowhere gives."""
VIEW: Final = "json.values"
"""Key in `run.ctx`: the values that this message has set."""
MAX_TEXT: Final = 4 * 1024 * 1024
"""Characters of a JSON text that is read or written."""
MAX_NAMES: Final = 10_000
"""Variables kept from one message to the next."""
MAX_DEPTH: Final = 100
"""Objects and arrays inside each other."""
MAX_STEPS: Final = 100
"""Keys and indexes in a path."""
INT32: Final = 0x7FFFFFFF

Step = object
"""A key (str), an index (int) or APPEND."""


class Path:
    """The parsed text in `$json(...)`: a name, the steps down from it and what of the end is iterated over."""

    __slots__ = ("name", "part", "steps", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.part = ""
        for part in (".keys", ".values"):
            if text.endswith(part):
                self.part = part[1:]
                text = text[: -len(part)]
        end = min((at for at in (text.find("/"), text.find("[")) if at >= 0), default=len(text))
        self.name = text[:end]
        if not self.name:
            raise ValueError("the name of the JSON variable is missing")
        self.steps: tuple[Step, ...] = tuple(_steps(text, end))
        if len(self.steps) > MAX_STEPS:
            raise ValueError(f"a path has at most {MAX_STEPS} keys and indexes")


def _steps(text: str, at: int) -> Iterator[Step]:
    while at < len(text):
        if text[at] == "/":
            end = min((i for i in (text.find("/", at + 1), text.find("[", at + 1)) if i >= 0), default=len(text))
            if end == at + 1:
                raise ValueError("a key is missing after /")
            yield text[at + 1 : end]
            at = end
            continue
        if text[at] != "[":
            raise ValueError(f"/ or [ is missing before {text[at:]!r}")
        close = text.find("]", at)
        if close < 0:
            raise ValueError("] is missing")
        inside = text[at + 1 : close]
        if not inside:
            yield APPEND
        else:
            digits = inside.removeprefix("-")
            if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
                raise ValueError(f"[{inside}] is no index")
            yield int(inside)
        at = close + 1


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def read_json(text: str) -> Any:
    """The value of a JSON text; raises ValueError, also for one that is too long or too deep."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"more than {MAX_TEXT} characters")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("too deep") from None
    if depth(value) > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} objects and arrays inside each other")
    return value


def depth(value: Any) -> int:
    """How many objects and arrays stand inside each other, without recursion; stops counting above MAX_DEPTH."""
    level, found = [value], 0
    while found <= MAX_DEPTH:
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            break
        found += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return found


def _string(text: str, slashes: bool) -> str:
    written = json.dumps(text, ensure_ascii=False)
    return written.replace("/", "\\/") if slashes else written


def spaced(value: Any) -> str:
    """`{ "a": [ 1, 2 ] }`: one line with blanks, as OpenSIPS writes `$json`."""
    if isinstance(value, dict):
        inside = ", ".join(f"{_string(k, True)}: {spaced(v)}" for k, v in value.items())
        return "{ " + inside + " }" if inside else "{ }"
    if isinstance(value, list):
        return "[ " + ", ".join(map(spaced, value)) + " ]" if value else "[ ]"
    return _string(value, True) if isinstance(value, str) else json.dumps(value)


def compact(value: Any, slashes: bool = True) -> str:
    """No blanks; `slashes`: `/` is written as `\\/`."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(k, slashes)}:{compact(v, slashes)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(compact(v, slashes) for v in value) + "]"
    return _string(value, slashes) if isinstance(value, str) else json.dumps(value)


def pretty(value: Any, indent: str = "") -> str:
    """One member a line, two blanks deeper at each level."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        lines = (f"{deeper}{_string(k, True)}:{pretty(v, deeper)}" for k, v in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(deeper + pretty(v, deeper) for v in value) + f"\n{indent}]"
    return compact(value)


def merge(main: Any, patch: Any) -> Any:
    """`patch` over `main`: objects member by member, everything else replaced (null included)."""
    if not isinstance(main, dict) or not isinstance(patch, dict):
        return deepcopy(patch)
    merged = dict(main)
    for key, value in patch.items():
        merged[key] = merge(merged[key], value) if key in merged else deepcopy(value)
    return merged


class Json(Module):
    """Read, build and change JSON values in scripts.

    A value lives until it is replaced or removed. A script that waits keeps the values it has set itself, whatever
    other messages set under the same name meanwhile.
    """

    name = "json"

    enable_long_quoting = Param(int, 0, "Give integers that do not fit into 32 bits as strings.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._values: dict[str, Any] = {}
        self._last_read: Path | None = None

    # --- variables

    @variable("$json", index=True, name_arg=True, parse_name=Path)
    def json(self, run: Run, name: Path, index: Index) -> Value:
        """The value at the path: an integer or a string as it is, anything else as JSON text; NULL when not there."""
        return self._read(run, name, index, spaced)

    @json.setter
    def json_set(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """Put a string or an integer there; NULL removes."""
        self._assign(run, name, value)

    @json.replacer
    def json_parse(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """Put what the JSON text says there."""
        self._parse(run, name, value)

    @variable("$json_pretty", name_arg=True, parse_name=Path)
    def json_pretty(self, run: Run, name: Path, index: Index) -> Value:
        """As `$json`, one member a line."""
        return self._read(run, name, index, pretty)

    @json_pretty.setter
    def json_pretty_set(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """As `$json`."""
        self._assign(run, name, value)

    @json_pretty.replacer
    def json_pretty_parse(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """As `$json`."""
        self._parse(run, name, value)

    @variable("$json_compact", name_arg=True, parse_name=Path)
    def json_compact(self, run: Run, name: Path, index: Index) -> Value:
        """As `$json`, without blanks."""
        return self._read(run, name, index, compact)

    @json_compact.setter
    def json_compact_set(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """As `$json`."""
        self._assign(run, name, value)

    @json_compact.replacer
    def json_compact_parse(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """As `$json`."""
        self._parse(run, name, value)

    @variable("$json_compact_noescape", name_arg=True, parse_name=Path)
    def json_compact_noescape(self, run: Run, name: Path, index: Index) -> Value:
        """As `$json`, without blanks and with `/` as it is."""
        return self._read(run, name, index, lambda value: compact(value, slashes=False))

    @json_compact_noescape.setter
    def json_compact_noescape_set(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """As `$json`."""
        self._assign(run, name, value)

    @json_compact_noescape.replacer
    def json_compact_noescape_parse(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """As `$json`."""
        self._parse(run, name, value)

    # --- functions

    @script_function()
    def json_link(self, run: Run, dest: Annotated[VarRef, WritableVar()], source: VarRef) -> int:
        """Make one place hold the very value of another: a change inside is seen through both.

        Returns -1 when a variable is no `$json`, the source is not there or the link would be a circle.
        """
        to, from_ = self._path_of(run, dest), self._path_of(run, source)
        if to is None or from_ is None:
            return -1
        value = self._find(run, from_.name, from_.steps)
        if value is MISSING:
            self.core.log.warning("json_link(): $json(%s) is not there", from_.text)
            return -1
        return 1 if self._put(run, to, value) else -1

    @script_function()
    def json_merge(
        self, run: Run, main_json_var: str, patch_json_var: str, output_var: Annotated[VarRef, WritableVar("")]
    ) -> int:
        """Write the first JSON text with the members of the second put over its own into a variable.

        Returns -1 when one of them is no JSON.
        """
        try:
            merged = merge(read_json(main_json_var or ""), read_json(patch_json_var or ""))
        except ValueError as error:
            self.core.log.warning("json_merge(): %s", error)
            return -1
        output_var.set(run, compact(merged, slashes=False))
        return 1

    # --- inside

    def _path_of(self, run: Run, var: VarRef) -> Path | None:
        """The path of a `$json` variable, its own variables put in; None for another one."""
        self._last_read = None
        var.get(run)
        return self._last_read

    def _read(self, run: Run, path: Path, index: Index, write: Callable[[Any], str]) -> Value:
        self._last_read = path
        value = self._find(run, path.name, path.steps)
        if value is MISSING:
            return None
        if index is not None or path.part:
            items = _items(value, path.part)
            if index is None or index == INDEX_ALL:
                value = items
            elif isinstance(index, int) and -len(items) <= index < len(items):
                value = items[index]
            else:
                return None
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value) if self.enable_long_quoting and not -INT32 - 1 <= value <= INT32 else value
        try:
            return write(value)
        except RecursionError:
            # Links can make a value deeper than any text that was read.
            self.core.log.warning("$json(%s): too deep to be written", path.text)
            return None

    def _find(self, run: Run, name: str, steps: tuple[Step, ...]) -> Any:
        view = run.ctx.get(VIEW)
        value = view[name] if isinstance(view, dict) and name in view else self._values.get(name, MISSING)
        for step in steps:
            if isinstance(value, dict) and isinstance(step, str):
                value = value.get(step, MISSING)
            elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
                value = value[step]
            else:
                return MISSING
        return value

    def _assign(self, run: Run, path: Path, value: Value) -> None:
        if value is None:
            self._remove(run, path)
        else:
            self._put(run, path, value)

    def _parse(self, run: Run, path: Path, value: Value) -> None:
        if value is None:
            self._remove(run, path)
            return
        try:
            parsed = read_json(value) if isinstance(value, str) else value
        except ValueError as error:
            # The old value must not pass for the new one.
            self.core.log.warning("$json(%s): no JSON: %s", path.text, error)
            self._remove(run, path)
            return
        self._put(run, path, parsed)

    def _put(self, run: Run, path: Path, value: Any) -> bool:
        view = run.ctx.setdefault(VIEW, {})
        assert isinstance(view, dict)
        if not path.steps:
            if path.name not in self._values and len(self._values) >= MAX_NAMES:
                self.core.log.warning("$json(%s): there are %d variables already", path.name, MAX_NAMES)
                return False
            view[path.name] = self._values[path.name] = value
            return True
        holder = self._find(run, path.name, path.steps[:-1])
        step = path.steps[-1]
        if isinstance(value, dict | list) and (_holds(value, holder) or depth(value) + len(path.steps) > MAX_DEPTH):
            self.core.log.warning("$json(%s): the value would be inside itself, or is too deep", path.text)
            return False
        if isinstance(holder, dict) and isinstance(step, str):
            holder[step] = value
        elif isinstance(holder, list) and step is APPEND:
            holder.append(value)
        elif isinstance(holder, list) and isinstance(step, int) and -len(holder) <= step < len(holder):
            holder[step] = value
        elif isinstance(holder, list) and isinstance(step, int) and step == len(holder):
            holder.append(value)
        else:
            self.core.log.info("$json(%s): there is nothing to put a value into", path.text)
            return False
        return True

    def _remove(self, run: Run, path: Path) -> None:
        if not path.steps:
            view = run.ctx.get(VIEW)
            if isinstance(view, dict):
                view.pop(path.name, None)
            self._values.pop(path.name, None)
            return
        holder = self._find(run, path.name, path.steps[:-1])
        step = path.steps[-1]
        if isinstance(holder, dict) and isinstance(step, str):
            holder.pop(step, None)
        elif isinstance(holder, list) and isinstance(step, int) and -len(holder) <= step < len(holder):
            del holder[step]


def _items(value: Any, part: str) -> list[Any]:
    if isinstance(value, dict):
        return list(value) if part == "keys" else list(value.values())
    return value if isinstance(value, list) and part != "keys" else []


def _holds(value: Any, wanted: Any) -> bool:
    """Whether `wanted` is `value` or stands anywhere inside it."""
    left = [value]
    while left:
        at = left.pop()
        if at is wanted:
            return True
        if isinstance(at, dict):
            left.extend(v for v in at.values() if isinstance(v, dict | list))
        elif isinstance(at, list):
            left.extend(v for v in at if isinstance(v, dict | list))
    return False
