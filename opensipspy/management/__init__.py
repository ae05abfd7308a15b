"""Management commands: registry and JSON-RPC 2.0."""
