"""The RFC 3261 and RFC 6026 transaction machines, without input or output."""
