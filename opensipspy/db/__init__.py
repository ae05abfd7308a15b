"""The contract of SQL back-ends."""
