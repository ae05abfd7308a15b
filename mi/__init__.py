"""Management doors, one a file."""
