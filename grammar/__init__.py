"""The grammar of the routing script."""
