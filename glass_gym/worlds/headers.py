"""Headers of files: one table of fields, types and ranges for each kind of file (worlds, policies, clip stores).

Files can come from anywhere. A header is checked completely before its values are used, and before memory is allocated
for them.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

LONGEST = 16 << 20  # Most bytes of a header.
LARGEST = 4096  # Most px of a side of a frame, and most start frames.


def _printable(text: str) -> str:
    """Text that is shown in terminals, windows and pages: no control characters, no marks that reorder letters."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("printable characters are expected, and no space at either end")
    return text


Pixels = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
CodeName = Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_printable)]
Step = Annotated[float, Field(ge=0, le=LARGEST)]
Facts = dict[Name, JsonValue]


class Header(BaseModel):
    """Base class of the tables. Types are strict ("3" is no number), numbers finite, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class Version(Header):
    """The format version, which is read first: the other fields of another version may differ."""

    format_version: Annotated[int, Field(ge=1)]


class WorldHeader(Version):
    """Header of a world checkpoint (:mod:`glass_gym.worlds.checkpoint`)."""

    config: dict[Name, bool | int | float | str | None]
    step: tuple[Step, Step]
    code_names: Annotated[list[CodeName], Field(min_length=1, max_length=1024)]
    usual_codes: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=9)] = []
    pixel_aspect: Annotated[float, Field(ge=0.1, le=10)]
    statistics: Facts
    provenance: Facts
    start_frames_shape: tuple[Pixels, Pixels, Pixels, Annotated[int, Field(ge=3, le=3)]]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class PolicyHeader(Version):
    """Header of a policy's file (:mod:`glass_gym.policy`)."""

    algorithm: Name
    provenance: Facts
    policy: Name
    arguments: Facts
    observation_space: Facts
    action_space: Facts


class StoredVideo(Header):
    """A video in a clip store's index. Its name becomes a folder where the store is written out."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\\\x00.][^/\\\x00]*$")]
    split: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[\w-]+$")]
    start: Count
    length: Annotated[int, Field(ge=1, le=1 << 40)]
    file: Annotated[str, Field(max_length=200)] = ""


class StoreFormat(Header):
    """Format and version of a clip store, which are read first."""

    format: Name
    version: Annotated[int, Field(ge=1)] = 1


class StoreIndex(StoreFormat):
    """Index of a clip store (`training/data/store.py`)."""

    height: Pixels
    width: Pixels
    pixel_aspect: Annotated[float, Field(ge=0.1, le=10)]
    source: Annotated[str, Field(max_length=4096)] = ""
    kind: Annotated[str, Field(max_length=200)] = ""
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    reader: Annotated[str, Field(max_length=200)] = ""
    scale: Annotated[int, Field(ge=1, le=32)] = 1
    videos: Annotated[list[StoredVideo], Field(min_length=1)]


Kind = TypeVar("Kind", bound=Header)


def read_header(text: str | bytes, kind: type[Kind]) -> Kind:
    """Parse and check a header, JSON; ValueError: too long, or a field is wrong (named in one line)."""
    if len(text) > LONGEST:
        raise ValueError(f"a header of {len(text)} bytes is longer than {LONGEST}")
    try:
        header = kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the header"
        what = "" if first["type"] in ("missing", "json_invalid") else f" is {first['input']!r:.60}:"
        raise ValueError(f"{where}{what} {first['msg'][:200]}") from None
    for name in kind.model_fields:
        _check_finite(name, getattr(header, name))
    return header


def _check_finite(name: str, value: Any) -> None:
    """Check numbers that are nested in free-form fields, which the table does not check."""
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError(f"{name} holds {part}: numbers must be finite")
        if isinstance(part, (list, tuple)):
            todo.extend(part)
        elif isinstance(part, dict):
            todo.extend(part.values())
