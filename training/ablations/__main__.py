"""The command: python -m training.ablations."""

import sys

from .queue import main

sys.exit(main())
