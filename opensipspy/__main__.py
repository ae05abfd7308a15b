"""`python -m opensipspy`."""

import sys

from opensipspy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
