"""What other modules use to answer HTTP: they mount a handler at a root path and never see the server behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping


class HttpRequest:
    """One request. path: decoded, with its leading slash. headers: names in lower case, the first of each name.

    peer: the client's address without its port. body: complete, at most `receive_buf_size` bytes.
    """

    __slots__ = ("body", "headers", "method", "path", "peer", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        peer: str,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer


class HttpResponse:
    """What goes back; `headers` beside Content-Type and Content-Length."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = dict(headers or {})


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


class HttpdApi(ABC):
    """The HTTP server of the process."""

    @abstractmethod
    def mount(self, root: str, handler: Handler, owner: str) -> None:
        """Give `handler` all requests for `/root` and below. Raises ValueError when the root is taken or empty."""
