"""The command: python -m training.ablations."""

import sys

from training.ablations.queue import main

sys.exit(main())
