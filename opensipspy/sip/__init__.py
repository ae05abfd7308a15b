"""SIP messages: bytes to Message and back (RFC 3261), without input or output."""
