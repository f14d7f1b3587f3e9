"""The commands. Each is imported when it runs, so that Ctrl-C while torch is loaded, seconds, ends it quietly, too."""

from __future__ import annotations

import functools
import importlib
import sys


def run(module: str) -> int:
    """Run `main` of a module; returns the exit status: 130 after Ctrl-C."""
    try:
        return importlib.import_module(module).main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


bench = functools.partial(run, "glass_gym.tools.bench")
demo = functools.partial(run, "glass_gym.tools.demo")
evaluate = functools.partial(run, "glass_gym.training.evaluation.evaluate")
export = functools.partial(run, "glass_gym.export.command")
play = functools.partial(run, "glass_gym.play.play")
train = functools.partial(run, "glass_gym.training.train")
