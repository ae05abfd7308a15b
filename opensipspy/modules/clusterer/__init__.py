"""clusterer: several servers that know of each other, whether they run OpenSIPS or this server."""

from .module import Clusterer

__all__ = ["Clusterer"]
