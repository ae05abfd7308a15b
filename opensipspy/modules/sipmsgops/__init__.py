"""Operations on SIP messages: headers, methods, bodies, codecs, the Request-URI, and whether a message is well formed.

The received message stays as it is: functions that change something note it in `run.edits`, so a header that was added
is seen on the wire and not by is_present_hf(). Bodies are the exception that the manual makes: what codec_delete()
took out is gone for the next codec_exists(). `body.body_now` is the body with the changes made so far.
"""

from __future__ import annotations

from opensipspy.module import Module

from .bodies import BodyFunctions
from .headers import HeaderFunctions
from .uris import UriFunctions
from .validate import ValidateFunctions


class SipMsgOps(HeaderFunctions, UriFunctions, BodyFunctions, ValidateFunctions, Module):
    """Look at and change messages at SIP level."""

    name = "sipmsgops"
