"""What a module is made of: one class whose members declare everything that scripts and operators can use.

    class MaxFwd(Module):
        "Stop loops with Max-Forwards (RFC 3261 §16.3 step 3)."

        max_limit = Param(int, 256, "Highest Max-Forwards let out.", unit="hops")
        expired = Stat("Requests that had no hop left.")

        @script_function(routes=REQUEST)
        def mf_process_maxfwd_header(self, run: Run, max_value: int) -> int:
            ...

The same declarations give the load-time checks, the manual page, `opensipspy describe` and the management help.
"""

from opensipspy.management import CommandDecl, Counter, MiError

from .annotations import (
    Fixup,
    Flags,
    Named,
    NoExpand,
    Omittable,
    ReplyCode,
    RouteName,
    Static,
    WritableVar,
    between,
)
from .core import CancelHandle, Core, DnsStore, LocateError, Naptr, NoSocketError
from .declarations import (
    BoundEvent,
    Event,
    Param,
    ParamError,
    Requires,
    Stat,
    Timer,
    Wants,
    mi_command,
    script_function,
    transformation,
    variable,
)
from .find import ModuleLoadError, all_modules, find_module, module_names
from .module import Module, StartError
from .signature import DeclarationError
from .target import Target

__all__ = [
    "BoundEvent",
    "CancelHandle",
    "CommandDecl",
    "Core",
    "Counter",
    "DeclarationError",
    "DnsStore",
    "Event",
    "Fixup",
    "Flags",
    "LocateError",
    "MiError",
    "Module",
    "ModuleLoadError",
    "Named",
    "Naptr",
    "NoExpand",
    "NoSocketError",
    "Omittable",
    "Param",
    "ParamError",
    "ReplyCode",
    "Requires",
    "RouteName",
    "StartError",
    "Stat",
    "Static",
    "Target",
    "Timer",
    "Wants",
    "WritableVar",
    "all_modules",
    "between",
    "find_module",
    "mi_command",
    "module_names",
    "script_function",
    "transformation",
    "variable",
]
