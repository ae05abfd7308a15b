"""The composition root: the steps of a message."""
