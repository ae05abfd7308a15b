"""Stateful processing: transactions, forking, failure routes, requests made here."""

from .module import Tm

__all__ = ["Tm"]
