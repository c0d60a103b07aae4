"""`python -m cse` is `cse`."""

import os
import sys

from cse.cli import main

code = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # A thread of gloo may still release tensors, for which it needs Python: one that is ending would abort.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
