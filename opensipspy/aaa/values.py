"""Named values of attributes, as the dictionaries of OpenSIPS have them for RADIUS and for Diameter."""

from __future__ import annotations

from typing import Final

# By name of the attribute and of the value, both in small letters.
VALUES: Final = {
    "service-type": {
        "call-check": 10,
        "group-check": 12,
        "sip-session": 15,
        "sip-verify-destination": 21,
        "sip-verify-source": 22,
        "sip-caller-avps": 30,
        "sip-callee-avps": 31,
    },
    "acct-status-type": {
        "start": 1,
        "stop": 2,
        "interim-update": 3,
        "alive": 3,
        "accounting-on": 7,
        "accounting-off": 8,
        "failed": 15,
    },
}
