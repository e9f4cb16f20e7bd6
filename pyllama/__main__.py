"""`python -m pyllama` is `pyllama`."""

import sys

from .cli.main import main

sys.exit(main())
