"""The table of registered contacts: in memory, in SQL, or both."""

from .module import Usrloc

__all__ = ["Usrloc"]
