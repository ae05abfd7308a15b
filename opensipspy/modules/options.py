"""Answers OPTIONS requests that ask about this server (RFC 3261 §11.2)."""

from __future__ import annotations

from opensipspy.module import Module, Param, Requires, script_function
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import M_OPTIONS, ParseError, parse_uri


class Options(Module):
    """Answer OPTIONS sent to the server itself with what it is capable of."""

    name = "options"
    requires = (Requires("signaling"),)

    accept = Param(str, "*/*", 'Content of the Accept header; "" leaves it out.')
    accept_encoding = Param(str, "", 'Content of the Accept-Encoding header; "" leaves it out.')
    accept_language = Param(str, "en", 'Content of the Accept-Language header; "" leaves it out.')
    support = Param(str, "", 'Content of the Supported header; "" leaves it out.')

    @script_function(routes=REQUEST)
    def options_reply(self, run: Run) -> int:
        """Answer 200 with the capabilities, for an OPTIONS whose Request-URI has no user part.

        Returns 1 answered, -1 when the request is another one or the answer did not leave.
        """
        if run.msg.method_id != M_OPTIONS:
            return -1
        try:
            if parse_uri(run.ruri).user:
                return -1
        except ParseError:
            return -1
        if self.core.send_reply(run, 200, "OK", self.capabilities()) > 0:
            return 1
        self.core.send_reply(run, 500, "Server Internal Error")
        return -1

    def capabilities(self) -> str:
        """The header lines that tell what the server takes."""
        lines = (
            ("Accept", self.accept),
            ("Accept-Encoding", self.accept_encoding),
            ("Accept-Language", self.accept_language),
            ("Supported", self.support),
        )
        return "".join(f"{name}: {value}\r\n" for name, value in lines if value)
