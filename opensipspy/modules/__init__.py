"""The modules, one file or package each."""
