"""The routing script language: text to bytecode, and the run time of a route."""
