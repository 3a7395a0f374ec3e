"""`python -m formers` is `formers`; torchrun needs it: ``torchrun --nproc-per-node 2 -m formers train ...``."""

import sys

from formers.cli.main import main

sys.exit(main())
