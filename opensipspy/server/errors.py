"""Why a server does not start, in words for the operator."""

from __future__ import annotations


class LoadError(Exception):
    """The script is not valid; `text` shows every finding with its line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class StartError(Exception):
    """The script is valid, and the server still cannot start."""
