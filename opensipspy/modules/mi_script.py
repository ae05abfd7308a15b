"""mi_script: management commands as a script function."""

from __future__ import annotations

import json
from typing import Annotated, Final

from opensipspy.management import Json, MiError
from opensipspy.management.registry import METHOD_NOT_FOUND
from opensipspy.module import WritableVar, script_function
from opensipspy.module.door import MiDoor
from opensipspy.script.run import Run, VarRef

NO_COMMAND: Final = -1
BAD_PARAMS: Final = -2
INTERNAL: Final = -3
ARRAY: Final = "__array("
MAX_PARAMS: Final = 1000
"""Values that one command may get."""

AvpVar = Annotated[VarRef | None, WritableVar("avp")]


class MiScript(MiDoor):
    """Run management commands from the script.

    A command that takes long suspends the script that called it and nothing else.
    """

    name = "mi_script"

    @script_function(async_ok=True)
    async def mi(
        self,
        run: Run,
        command: str,
        ret_var: Annotated[VarRef | None, WritableVar()] = None,
        params_avp: AvpVar = None,
        vals_avp: AvpVar = None,
    ) -> int:
        """Run a command; what it answers is written as JSON, or the text of its error.

        command: its name, then values separated by blanks. params_avp: the values in place of those, the first one
        added first; with vals_avp it holds the names that belong to these values. `__array(a b)` is an array. Returns
        1; minus the code of the command's error; -1 no such command, -2 parameters that cannot be used, -3 no JSON.
        """
        method, *inline = (command or "").split()[: MAX_PARAMS + 1] or [""]
        try:
            params = self._params(run, inline, params_avp, vals_avp)
        except ValueError as error:
            self.core.log.error("mi(): %.100s: %s", method, error)
            return _told(run, ret_var, str(error), BAD_PARAMS)
        code, answer, text = await self.core.wait(self._call(method, params))
        self._trace(method, params, answer)
        return _told(run, ret_var, text, code)

    async def _call(self, method: str, params: Json) -> tuple[int, Json, str]:
        """(what the script gets, what is traced, text for the variable). Never raises."""
        try:
            result = await self.core.mi.call(method, params)
        except MiError as error:
            shown: dict[str, Json] = {"code": error.code, "message": error.message}
            if error.code == METHOD_NOT_FOUND:
                self.core.log.error("mi(): there is no command %.100s", method)
                return NO_COMMAND, {"error": shown}, error.message
            return -abs(error.code) or INTERNAL, {"error": shown}, error.message
        try:
            if self.pretty_printing:
                text = json.dumps(result, indent=4, ensure_ascii=False)
            else:
                text = json.dumps(result, separators=(",", ":"), ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            self.core.log.error("mi(): the answer of %s is no JSON: %s", method, error)
            return INTERNAL, {"error": {"code": INTERNAL, "message": "no JSON"}}, "the answer is no JSON"
        return 1, {"result": result}, text

    @staticmethod
    def _params(run: Run, inline: list[str], names: VarRef | None, values: VarRef | None) -> Json:
        """What the command gets: a list of values, or an object; raises ValueError."""
        if names is None:
            # Values alone can only be meant to stand one after the other.
            names, values = values, None
        if names is None:
            return inline
        first = _stack(run, names)
        if values is None:
            return first
        second = _stack(run, values)
        if len(first) > len(second):
            raise ValueError(f"{len(first)} names, but {len(second)} values")
        return dict(zip(first, map(_value, second), strict=False))


def _stack(run: Run, var: VarRef) -> list[str]:
    """The values of an AVP as texts, the first one added first."""
    if not var.name:
        raise ValueError(f"{var.text}: the AVP needs a name without variables in it")
    found = run.avps.get(var.name, [])
    if len(found) > MAX_PARAMS:
        raise ValueError(f"more than {MAX_PARAMS} values")
    return ["" if value is None else str(value) for value in found]


def _value(text: str) -> Json:
    if text.startswith(ARRAY) and text.endswith(")"):
        return text[len(ARRAY) : -1].split()
    return text


def _told(run: Run, var: VarRef | None, text: str, code: int) -> int:
    if var is not None:
        var.set(run, text)
    return code
