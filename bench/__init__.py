"""Measures CPU time per call: `python -m bench --help`."""
