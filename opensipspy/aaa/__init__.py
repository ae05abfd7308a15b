"""AAA servers (RADIUS, Diameter): what modules ask of them, whatever the protocol."""

from .client import AaaClient, AaaDriver, AaaError, AaaReply, AaaValue, Attributes, Ticket, open_client
from .sip_avp import sip_avps
from .values import VALUES

__all__ = [
    "VALUES",
    "AaaClient",
    "AaaDriver",
    "AaaError",
    "AaaReply",
    "AaaValue",
    "Attributes",
    "Ticket",
    "open_client",
    "sip_avps",
]
