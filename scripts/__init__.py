"""Routing scripts that come with the server."""
