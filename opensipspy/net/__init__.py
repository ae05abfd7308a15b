"""The only SIP sockets."""
