"""The commands. Each is imported when it runs, so that Ctrl-C while torch is loaded, seconds, ends it quietly, too.

They run in UTF-8: in other locales TensorBoard, ONNX Runtime and others refuse paths with letters beyond ASCII.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys


def run(module: str) -> int:
    """Run `main` of a module; returns the exit status: 130 after Ctrl-C."""
    restart_in_utf8()
    try:
        return importlib.import_module(module).main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def restart_in_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if names of files are not UTF-8 here, as under ``LC_ALL=C``."""
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


bench = functools.partial(run, "glass_gym.tools.bench")
decode = functools.partial(run, "glass_gym.training.decoding.command")
demo = functools.partial(run, "glass_gym.tools.demo")
evaluate = functools.partial(run, "glass_gym.training.evaluation.evaluate")
export = functools.partial(run, "glass_gym.export.command")
names = functools.partial(run, "glass_gym.tools.names")
play = functools.partial(run, "glass_gym.play.play")
share = functools.partial(run, "glass_gym.tools.share")
train = functools.partial(run, "glass_gym.training.train")
transfer = functools.partial(run, "glass_gym.training.decoding.transfer")
