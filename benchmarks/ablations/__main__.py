"""The command: python -m benchmarks.ablations."""

import sys

from benchmarks.ablations.queue import main

sys.exit(main())
