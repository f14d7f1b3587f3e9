"""Shared by the commands of training: read options from the command line, and print errors in one line."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from glass_gym.commands import restart_in_utf8

from .options import COMMON, check_options

Config = TypeVar("Config")


def run_command(
    kind: type[Config], work: Callable[[Config], int], prog: str, description: str, argv: Sequence[str] | None = None,
    extra: str = "train",
) -> int:  # fmt: skip
    """Parse the options, check their ranges, and run the command.

    `--help` shows only the options marked as :data:`Common <training.core.options.Common>`, if there are any;
    `--help-all` shows all.

    Args:
        kind: dataclass of the options, such as :class:`training.config.TrainConfig`.
        work: the command; takes the options and returns the exit status.
        prog: name of the command.
        description: text of its help.
        argv: the arguments; default: those of the process.
        extra: of the package, that installs all that the command may need.

    Returns:
        the exit status of `work`; 1 after an error, printed in one line; 2 if a package is missing; 130 after Ctrl-C.
    """
    from .trainer import Interrupted, TrainingError

    if argv is None:
        restart_in_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # names of files may have letters that a terminal or a log does not
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        config = _parse(kind, argv, prog, description)
        check_options(config)
        return work(config)
    except (KeyboardInterrupt, Interrupted):
        print("\nstopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"{prog} needs {error.name}: pip install 'glass-gym[{extra}]'", file=sys.stderr)
        return 2
    except (ValueError, ImportError, TrainingError) as error:  # DataError and CheckpointError are ValueErrors
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:  # a folder that is full, or may not be written
        folders = {field.name for field in dataclasses.fields(kind)} & {"cache", "out"}  # pyright: ignore
        another = " or ".join(f"--{name}" for name in sorted(folders, reverse=True))
        problem, fix = error, "free some space"
        if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename:
            problem, fix = f"{error.filename}: a file lies where a folder is to be", "move the file away"
        print(f"error: {problem}; {fix}" + f" or choose another {another}" * bool(folders), file=sys.stderr)
    return 1


def _parse(kind: type[Config], argv: list[str], prog: str, description: str) -> Config:
    """The options; ModuleNotFoundError: tyro is missing."""
    import tyro

    shown: Any = kind
    if "--help-all" in argv:
        argv = ["--help"]
    elif {"-h", "--help"} & set(argv) and (short := _with_common_options(kind)) is not kind:
        shown = short
        description = f"{description.rstrip()}\n\nThese options are changed most often; {prog} --help-all shows all."
    return tyro.cli(shown, args=argv, prog=prog, description=description)


def _with_common_options(kind: type) -> type:
    """A subclass of the dataclass whose help shows only common options; the dataclass itself if none is marked."""
    import tyro

    hints = typing.get_type_hints(kind, include_extras=True)
    marks = {f.name: getattr(hints[f.name], "__metadata__", ()) for f in dataclasses.fields(kind)}
    if not any(COMMON in mark for mark in marks.values()):
        return kind
    shown = {COMMON, tyro.conf.Positional[int].__metadata__[0]}
    hidden = {n: hints[n] if shown & set(mark) else tyro.conf.Suppress[hints[n]] for n, mark in marks.items()}
    members = {"__annotations__": hidden, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)
