"""`python -m cse` is `cse`."""

import sys

from cse.cli import main

sys.exit(main())
