"""`python -m demask_hf` is the command `demask-hf`."""

import sys

from .cli.main import main


sys.exit(main())
