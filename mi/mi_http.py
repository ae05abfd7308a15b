"""Management commands as JSON-RPC 2.0 over HTTP POST, through the server of the `httpd` module."""

from __future__ import annotations

from opensipspy.module import Param
from opensipspy.module.door import MiDoor
from opensipspy.module.http import HttpdApi, HttpRequest, HttpResponse


class MiHttp(MiDoor):
    """Management commands as JSON-RPC over HTTP."""

    requires = ("httpd",)

    root = Param(str, "mi", "Path that the commands are posted to.")

    async def start(self) -> None:
        await super().start()
        # A look-up by an abstract class, nothing is constructed.
        httpd = self.core.api("httpd", HttpdApi)  # type: ignore[type-abstract]
        httpd.mount(self.root, self.respond, self.name)

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """200 with the response or the error, 202 for a notification, 405 for all but POST, 404 below the root."""
        if request.path.strip("/") != self.root.strip("/"):
            return HttpResponse(404, b"nothing is served here\n")
        if request.method != "POST":
            return HttpResponse(405, b"commands are posted\n", headers={"Allow": "POST"})
        answer = await self.answer(request.body)
        if answer is None:
            return HttpResponse(202)
        return HttpResponse(200, answer, "application/json")
