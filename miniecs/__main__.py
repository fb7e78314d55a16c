"""`python -m miniecs`"""

import sys

from miniecs.cli import main

if __name__ == "__main__":
    sys.exit(main())
