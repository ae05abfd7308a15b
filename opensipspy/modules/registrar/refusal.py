"""Why a REGISTER is not accepted, with the answer that it gets."""

from __future__ import annotations

from typing import Final

SERVICE_UNAVAILABLE: Final = (503, "Service Unavailable")


class Refusal(Exception):
    """The request changes nothing. detail: one line for the P-Registrar-Error header. headers: further lines."""

    def __init__(self, status: int, reason: str, detail: str, headers: str = "") -> None:
        super().__init__(f"{status} {reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = headers


def bad_request(detail: str) -> Refusal:
    return Refusal(400, "Bad Request", detail)
