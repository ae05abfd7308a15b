"""Route kinds: what a route block runs for, as bits, so that "allowed in" is one mask."""

from typing import Final

REQUEST: Final = 1
FAILURE: Final = 2
ONREPLY: Final = 4
BRANCH: Final = 8
ERROR: Final = 16
LOCAL: Final = 32
STARTUP: Final = 64
TIMER: Final = 128
EVENT: Final = 256
ALL: Final = 511

# Bit -> (the word of the catalogue, the keyword of the script).
_NAMES: Final = {
    REQUEST: ("request", "route"),
    FAILURE: ("failure", "failure_route"),
    ONREPLY: ("onreply", "onreply_route"),
    BRANCH: ("branch", "branch_route"),
    ERROR: ("error", "error_route"),
    LOCAL: ("local", "local_route"),
    STARTUP: ("startup", "startup_route"),
    TIMER: ("timer", "timer_route"),
    EVENT: ("event", "event_route"),
}

KINDS: Final = tuple(_NAMES)


def kind_name(kind: int) -> str:
    """The catalogue's word for one kind: "request", "failure", ... "event"."""
    return _NAMES[kind][0]


def kind_keyword(kind: int) -> str:
    """The word that opens a block of this kind in a script: "route", "failure_route", ..."""
    return _NAMES[kind][1]


def kind_bit(name: str) -> int:
    """The bit for a catalogue word or a script keyword; 0 when there is no such kind."""
    for bit, names in _NAMES.items():
        if name in names:
            return bit
    return 0


def kind_names(mask: int) -> list[str]:
    """The catalogue's words for every kind in a mask, in the catalogue's order."""
    return [names[0] for bit, names in _NAMES.items() if mask & bit]
