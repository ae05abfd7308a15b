"""The 200 of a REGISTER: the current bindings (RFC 3261 §10.3 step 8) with their GRUUs (RFC 5627 §5.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opensipspy.modules.usrloc.api import Contact, q_text
from opensipspy.sip import quote


def contact_header(
    contacts: Sequence[Contact],
    now: int,
    received_param: str = "",
    gruus: Callable[[Contact], str] | None = None,
) -> str:
    """The Contact header line with every binding, "" when there is none. gruus: further parameters of a contact."""
    pieces = []
    for contact in contacts:
        text = f"<{contact.uri}>"
        if contact.q >= 0:
            text += f";q={q_text(contact.q)}"
        text += f";expires={max(0, contact.expires - now) if contact.expires else 4294967295}"
        if contact.received and received_param:
            text += f";{received_param}={quote(contact.received)}"
        if contact.sip_instance:
            text += f";+sip.instance={quote(contact.sip_instance)}"
        if gruus is not None:
            text += gruus(contact)
        pieces.append(text)
    return f"Contact: {', '.join(pieces)}\r\n" if pieces else ""
