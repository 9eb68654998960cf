"""``python -m plurimask`` is ``plurimask``."""

import sys

from plurimask.cli import main

if __name__ == "__main__":
    sys.exit(main())
