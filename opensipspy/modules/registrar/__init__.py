"""The registrar: REGISTER requests into the table of contacts (RFC 3261 §10.3), and contacts into destinations."""

from .module import Registrar

__all__ = ["Registrar"]
