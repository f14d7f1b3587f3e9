"""What the commands of training share: options from the command line, and errors in one line."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .options import COMMON, check_options

Config = TypeVar("Config")


def run_command(
    kind: type[Config], work: Callable[[Config], int], prog: str, description: str, argv: Sequence[str] | None = None
) -> int:
    """Read options, check them, and do the work.

    `--help` shows the options that are marked as common, where some are; `--help-all` shows all.

    Args:
        kind: a dataclass, see :mod:`training.config`.
        work: does it, and returns the exit status.
        prog: name of the command.
        description: for its help.
        argv: default: the process's.

    Returns:
        the exit status: 1 after an error, which is told in one line; 2 if a package is missing.
    """
    try:
        import tyro
    except ImportError:
        print(f"{prog} needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    argv = list(sys.argv[1:] if argv is None else argv)
    shown: Any = kind
    if "--help-all" in argv:
        argv = ["--help"]
    elif {"-h", "--help"} & set(argv) and (short := _with_common_options(kind)) is not kind:
        shown = short
        description += f"\n\nThese are the options that people change; {prog} --help-all shows all of them."
    config = tyro.cli(shown, args=argv, prog=prog, description=description)
    try:
        check_options(config)
        return work(config)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"{prog} needs {error.name}: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, ImportError) as error:  # DataError, TrainingError, CheckpointError among them
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:  # a folder that is full, or may not be written
        print(f"error: {error}; free some space or choose another folder", file=sys.stderr)
    return 1


def _with_common_options(kind: type) -> type:
    """The dataclass with all other options hidden in its help; the dataclass itself, where none is marked."""
    import tyro

    hints = typing.get_type_hints(kind, include_extras=True)
    names = [f.name for f in dataclasses.fields(kind)]
    common = {n for n in names if COMMON in getattr(hints[n], "__metadata__", ())}
    if not common:
        return kind
    positional = {
        n for n in names if tyro.conf.Positional[int].__metadata__[0] in getattr(hints[n], "__metadata__", ())
    }
    hidden = {n: hints[n] if n in common | positional else tyro.conf.Suppress[hints[n]] for n in names}
    return type(
        kind.__name__, (kind,), {"__annotations__": hidden, "__doc__": kind.__doc__, "__module__": kind.__module__}
    )
