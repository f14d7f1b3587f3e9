"""Names that were replaced must not come back: the left column of ARCHITECTURE.md's table of names.

Identifiers are read from Python's tokens and split into parts: `_poses_of_each` has the parts poses, of and each. Prose
(comments, strings, docs) is searched by patterns, so that ordinary English is left alone: "behind the agent" is fine,
`behind()` is not. `python tests/test_words.py` prints what is found.
"""

import io
import json
import keyword
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("glass_gym", "training", "agents", "benchmarks", "examples", "tests", "docs")
SUFFIXES = {".py", ".js", ".css", ".html", ".md", ".toml", ".yml", ".svg", ".ipynb"}
ITSELF = Path(__file__).relative_to(ROOT).as_posix()

PARTS = {
    "alike": "label smoothing",
    "behind": "background plate, inpaint_background, background_shift",
    "blind": "action_only_weight",
    "judge": "action_classifier",
    "lean": "(gone)",
    "looks": "appearance",
    "namer": "PoseTeacher",
    "ordinary": "outside_inference_mode",
    "remember": "update_hidden",
    "settle": "refine_position",
    "settled": "refine_position",
    "slim": "distil",
    "taught": "PoseTeacher",
    "token": "pose, or pose index",
    "tokens": "pose, or pose indices",
    "vocabulary": "pose codebook",
    "vocabularies": "pose codebooks",
}
"""A part of an identifier or of a file's name -> what to write instead."""
CHAINS = {
    "draw(n)?_windows": "DecoderCache",
    "frozen_(agent|baseline|iou|layer|mse)": "static baseline",
    "hide_shift": "shift_dropout",
    "hint(s)?_steps": "pseudo_label_steps",
    "in_parts": "iter_batches",
    "long_horizon": "(gone)",
    "look(s)?_again": "make_pseudo_labels",
    "look_behind": "estimate_background",
    "name_rows": "hash_rows",
    "of_each": "logits_per_action",
    "second_look": "pseudo_labels",
    "telling_kinds": "informative_pose_clusters",
    "without_identity": "project_out_identity",
}
"""Successive parts (a pattern) -> what to write instead."""
WHOLE = {
    "REACH": "an option with a unit",
    "Hints": "PseudoLabels",
    "life": "pose_transitions",
    "judge": "action_classifier",
}
"""A whole identifier, also as a string's whole content -> what to write instead."""
METHOD = ("training/config.py", "training/lma/", "glass_gym/model/")
LOCAL = {
    "alone": ("context_free_weight", METHOD),
    "sure": ("prior_kl", METHOD),
    "warm": ("prior_kl_warmup", METHOD),
    "kinds": ("clusters", (*METHOD, "training/poses/")),
    "word": ("pose", (*METHOD, "training/poses/")),
    "words": ("poses", (*METHOD, "training/poses/")),
    "hint": ("pseudo_label", ("training/config.py", "training/gma/")),
    "hints": ("pseudo_labels", ("training/config.py", "training/gma/")),
    "scene": ("background_plate", ("glass_gym/model/", "training/config.py", "training/gma/")),
    "frozen": ("static", ("training/evaluation/", "benchmarks/")),
}
"""A whole identifier -> what to write instead, and where: elsewhere it is an ordinary word."""
ENGLISH = {"alike", "behind", "blind", "in_parts", "looks", "of_each", "ordinary", "remember", "settle", "settled"}
"""Parts and chains that are fine in the name of a test, which is a sentence, and in scripts of the page."""
PROSE = {
    r"(?i)\btoken(s|ise|ised)?\b": "pose",
    r"(?i)\bvocabular(y|ies)\b": "pose codebook",
    r"(?i)\bLooksEncoder\b": "AppearanceEncoder",
    r"(?i)\b(the|its|their|his|her|our|own|whose|same|other|of|by|one|new|first|two|different|\w+'s) looks\b"
    r"(?! (?:like|at|for|up|as|into|the|much|better|right))": "appearance",
    r"(?i)\blooks(,| and) (the )?poses?\b": "appearance",
    r"\bbehind\(|`behind`|\bBehind\b(?=[`(.])|\blook_behind\b": "inpaint_background, BackgroundPlate",
    r"(?i)\bsecond look\b|\blook(s|ed|ing)?( at)? again\b|\ba look at the footage\b": "pseudo-labels, survey",
    r"(?i)\bsecond_look|\blook_again\b|\btelling[ _]kinds\b|\bkinds that tell\b|\bhide_shift\b"
    r"|\bwithout_identity\b": "see the table",
    r"\bNamer\b|\bDrawnWindows\b|\bname_rows\b|\bof_each\b|\bin_parts\b|\bTokenGlass\b|\bHints\b": "see the table",
    r"(?i)\bfrozen[- ](agent|baseline|first|foreground|layer|mse|iou)|\bthe frozen agent|\bover (the )?frozen\b"
    r"|\bfrozen_(mse|iou|\d)": "static baseline",
    r"(?<![\w-])lean\b(?! (on|to|back))": "(gone)",
    r"(?i)\bslim\b|\bslimmed\b": "distil",
    r"(?i)\badversar(y|ial)\b|\blong[- ]horizon\b": "(gone)",
    r"(?<!CartPole)(?<!LunarLander)-v1\b": "-v0",
    r"\bstate\.pt\b": "gma.pt, lma.pt",
    r"--(token|long|prior)\.|--(preset|placed|scene)\b": "the option's name in glass-train --help-all",
    r"--(lma|pose|paper|gma)\.(blind|alone|alike|free|sure|warm|kinds|hide-shift|taught|hint|hint-steps|scene)\b": (
        "the option's name in glass-train --help-all"
    ),
    r"\"(life|judge)\"|`(life|judge)`|\*(life|judge)\*": "pose_transitions, action_classifier",
}
"""Patterns of comments, strings and docs -> what to write instead."""
SESSION_TOKENS = re.compile(
    r"glass_gym/play/(remote\.py|web/.*)|docs/browser\.md|SECURITY\.md|tests/.*test_(remote|web)\.py|tests/browser\.py"
)
"""Files that speak of the tokens of HTTP and of sessions."""
KEYS = re.compile(r"^(life|judge|frozen(_.*)?|.*_frozen(_.*)?)$")
"""Names that results must not have."""


def words_of(name: str) -> list[str]:
    """An identifier or path in lower-case parts: `_decoderCache` -> decoder, cache."""
    parts = re.sub(r"([a-z0-9])([A-Z])|([A-Z]+)([A-Z][a-z])", r"\1\3_\2\4", name)
    return [part.lower() for part in re.split(r"[^A-Za-z0-9]+", parts) if part]


def replacement(name: str, file: str) -> str | None:
    """What to write instead of an identifier; None where it may stay."""
    parts = words_of(name)
    fine = ENGLISH if parts[:1] == ["test"] or not file.endswith(".py") else set()
    for part in parts:
        session = part.startswith("token") and SESSION_TOKENS.fullmatch(file)
        if part in PARTS and part not in fine and not session:
            return PARTS[part]
    chain = "_".join(parts)
    for pattern, instead in CHAINS.items():
        if pattern not in fine and re.search(rf"(?:^|_)(?:{pattern})(?:_|$)", chain):
            return instead
    if name in WHOLE:
        return WHOLE[name]
    instead, where = LOCAL.get(name, ("", ()))
    return instead if where and file.startswith(where) else None


def in_prose(text: str, file: str) -> Iterator[tuple[int, str, str]]:
    """Hits in a text: line from 0, what was found, what to write instead."""
    for pattern, instead in PROSE.items():
        for hit in re.finditer(pattern, text):
            if hit[0].lower().startswith("token") and SESSION_TOKENS.fullmatch(file):
                continue
            yield text.count("\n", 0, hit.start()), hit[0], instead


def in_python(text: str, file: str) -> Iterator[tuple[int, str, str]]:
    """Hits in Python code: line from 1, what was found, what to write instead."""
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    middle = getattr(tokenize, "FSTRING_MIDDLE", -1)
    for at, token in enumerate(tokens):
        line = token.start[0]
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            following = tokens[at + 1].string + tokens[at + 2].string if at + 2 < len(tokens) else ""
            if token.string == "frozen" and following in ("=True", "=False"):  # of a dataclass
                continue
            if instead := replacement(token.string, file):
                yield line, token.string, instead
        elif token.type in (tokenize.STRING, tokenize.COMMENT, middle):
            content = token.string.strip("rbfuRBFU").strip("\"'")
            if token.type == tokenize.STRING and content in WHOLE:
                yield line, token.string, WHOLE[content]
            elif token.type == tokenize.STRING and re.fullmatch(r"\w+", content) and "_" in content:  # a key or a name
                if instead := replacement(content, file):
                    yield line, token.string, instead
            for offset, found, instead in in_prose(token.string, file):
                yield line + offset, found, instead


def in_javascript(text: str, file: str) -> Iterator[tuple[int, str, str]]:
    """Hits in the names of a script or a page."""
    for hit in re.finditer(r"[A-Za-z_$][\w$]*", text):
        if (instead := replacement(hit[0], file)) and hit[0] not in (
            "behind",
            "looks",
            "judge",
            "remember",
            "ordinary",
        ):
            yield text.count("\n", 0, hit.start()) + 1, hit[0], instead


def paths() -> list[Path]:
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    there = [*inside, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml")]
    skipped = ("__pycache__", ".ipynb_checkpoints")
    return sorted(p for p in there if p.is_file() and not any(part in skipped for part in p.parts))


def hits() -> Iterator[str]:
    """`file:line: found -> what to write instead`."""
    for path in paths():
        file = path.relative_to(ROOT).as_posix()
        if file == ITSELF:
            continue
        if instead := replacement(re.sub(r"\W", "_", file), file):
            yield f"{file}: the file's name -> {instead}"
        if path.suffix in SUFFIXES:
            text = path.read_text(encoding="utf-8")
            found = list(in_python(text, file)) if path.suffix == ".py" else []
            if path.suffix != ".py":
                found += [(line + 1, what, instead) for line, what, instead in in_prose(text, file)]
            if path.suffix in (".js", ".html", ".css"):
                found += in_javascript(text, file)
            for line, what, instead in sorted(set(found)):
                yield f"{file}:{line}: {what!r} -> {instead}"
        elif path.suffix == ".json":
            yield from (
                f"{file}: key {key!r}"
                for key in sorted(set(keys(json.loads(path.read_text(encoding="utf-8")))))
                if KEYS.match(key)
            )


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_replaced_names_do_not_come_back():
    found = list(hits())
    assert not found, f"{len(found)} replaced names:\n" + "\n".join(found)


BAD = (
    "tokens(x)",
    "x.vocabulary",
    "f(hint_steps=3)",
    "class TokenGlass: pass",
    "settle_position(x)",
    "def of_each(): pass",
    "out = {'frozen_mse': 1}",
    "e['life']",
    "REACH = 3",
    '"the agent\'s looks"',
    "# a second look at it",
    'x = "GlassTennis-v1"',
    "folder / 'state.pt'",
    '"--lma.alone 0.1"',
)
GOOD = (
    "@dataclass(frozen=True)\nclass A: pass",
    "# what is behind the agent looks like grass",
    "# it looks at the mask, which is sure to be free running and alone",
    "frozenset(x)",
    "reach = 3",
    "# GMA's frozen weights",
    "x.reach(kindness)",
)


@pytest.mark.parametrize("code", BAD)
def test_what_is_found(code):
    assert list(in_python(code + "\n", "training/x.py"))


@pytest.mark.parametrize("code", GOOD)
def test_what_is_left_alone(code):
    assert not list(in_python(code + "\n", "training/x.py"))


if __name__ == "__main__":
    print("\n".join(hits()))
