"""opensipspy: a SIP server programmed with OpenSIPS 4.x routing scripts."""

__version__ = "0.1.0"
