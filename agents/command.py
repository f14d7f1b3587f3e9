"""What the commands of agents/ share: their parser, and errors in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym

from glass_gym.commands import restart_in_utf8
from glass_gym.env.window import DisplayError

INSTALL = "pip install -e '.[agents]'"
TRAINED = Path(__file__).with_name("trained")
"""Policies that come with the repository, and what they need to act outside; a folder for each id."""


class Parser(argparse.ArgumentParser):
    """A parser of the process's arguments runs in UTF-8."""

    def parse_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        if args is None:
            restart_in_utf8()
        return super().parse_args(args, namespace)


def make_parser(module: str, description: str, examples: str = "") -> Parser:
    """The parser of ``python -m agents.MODULE``; its help says what to install."""
    return Parser(
        f"python -m agents.{module}",
        description=f"{description}\nIt needs Stable-Baselines3: {INSTALL}",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_command(work: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """Do the work -> the exit status: 1 after an error (in one line), 2 if a package is missing, 130 after Ctrl-C."""
    try:
        return work(arguments) or 0
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"error: this command needs {error.name}: {INSTALL}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError, DisplayError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
