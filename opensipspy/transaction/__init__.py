"""The RFC 3261 and RFC 6026 transaction machines, without input or output.

`tables` holds the machines, `layer` carries them out, `state` is what is kept, `ident` finds it again, `timers` wakes
it, `best` chooses among final responses.
"""

from .best import best_branch, collected_challenges
from .ident import branch_parameter, call_hash, split_branch
from .layer import (
    ABSORBED,
    COMPLETED_ELSEWHERE,
    DELIVERED,
    FINISHED,
    FORWARD,
    NOTHING,
    ORIGINATOR_CANCEL,
    Hooks,
    TransactionLayer,
)
from .state import (
    CANCELLED,
    DESTROYED,
    EVENTS,
    FAILURE,
    LOCAL_COMPLETED,
    REQUEST_IN,
    RESPONSE_IN,
    RESPONSE_OUT,
    Branch,
    Callback,
    Client,
    Settings,
    Transaction,
)

__all__ = [
    "ABSORBED",
    "CANCELLED",
    "COMPLETED_ELSEWHERE",
    "DELIVERED",
    "DESTROYED",
    "EVENTS",
    "FAILURE",
    "FINISHED",
    "FORWARD",
    "LOCAL_COMPLETED",
    "NOTHING",
    "ORIGINATOR_CANCEL",
    "REQUEST_IN",
    "RESPONSE_IN",
    "RESPONSE_OUT",
    "Branch",
    "Callback",
    "Client",
    "Hooks",
    "Settings",
    "Transaction",
    "TransactionLayer",
    "best_branch",
    "branch_parameter",
    "call_hash",
    "collected_challenges",
    "split_branch",
]
