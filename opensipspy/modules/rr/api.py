"""What the rr module offers to other modules: parameters of our Record-Route, and of our Route when it comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from opensipspy.script.run import Run

RouteCallback = Callable[[Run, str], None]
"""Called with the run and the URI parameters, each with its leading `;`, of our own Route header."""


class RrApi(ABC):
    """Record-Route parameters for modules that keep something in the dialog's route set."""

    @abstractmethod
    def on_loose_route(self, callback: RouteCallback) -> None:
        """Call `callback(run, params)` each time loose_route() found our own address on the way."""

    @abstractmethod
    def add_param(self, run: Run, param: str) -> bool:
        """Add ";name=value" to the Record-Route URI of this request; False when it is not of that form."""

    @abstractmethod
    def put_param(self, run: Run, param: str) -> bool:
        """As add_param(), in place of a parameter of that name that was added before."""

    @abstractmethod
    def has_from_tag(self) -> bool:
        """Whether Record-Route carries the From tag: without it nobody knows the direction of a request."""

    @abstractmethod
    def route_params(self, run: Run) -> str:
        """The parameters of our Route URI, "" before loose_route() or when there was none."""

    @abstractmethod
    def route_param(self, run: Run, name: str) -> str | None:
        """One parameter of our Route URI: "" when it has no value, None when it is absent."""

    @abstractmethod
    def is_upstream(self, run: Run) -> bool:
        """Whether the request runs from callee to caller, by the `ftag` parameter; False when that is unknown."""
