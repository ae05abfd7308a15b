"""Two small phones and a ladder diagram: what `opensipspy demo` shows a newcomer."""

from .ladder import Ladder
from .phone import Phone

__all__ = ["Ladder", "Phone"]
