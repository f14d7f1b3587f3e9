"""Worlds and policies on the Hugging Face Hub: one file a repository, and a card that says what it is.

What comes from the Hub is hostile until it is checked: one file of a known name is fetched, after its size was looked
up, and the loaders of worlds and policies read it. No code of a repository is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tabulate import tabulate

from glass_gym.policy import PolicyError, policy_header
from glass_gym.worlds.checkpoint import CheckpointError, World, load_world, resolve
from glass_gym.worlds.checks import to_floats, without_folders

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILES = ("world.safetensors", "policy.safetensors")  # The names under which repositories hold a world, or a policy.
LARGEST = 512 << 20  # Most bytes of a file that is fetched.
TAGS = ("glass-gym", "gymnasium", "reinforcement-learning", "world-model")
FIGURES = {
    "present": "one agent is seen",
    "control": "it moves as commanded",
    "codes_read_back": "the local action is the commanded one",
}
"""Figures of a run's passport.json that cards show, and what they say."""


def from_hub(repo_id: str, revision: str | None = None, api: HfApi | None = None) -> str:
    """Fetch a world or a policy from the Hugging Face Hub, into its cache; what the cache has is not fetched again.

    ``gym.make("Glass-v0", checkpoint=from_hub("user/world"))``, :func:`glass_gym.register_world`,
    :func:`glass_gym.load_world` and :func:`glass_gym.policy.load_policy` take what this returns.

    Args:
        repo_id: "user/name" of a repository that holds world.safetensors or policy.safetensors. Nothing else of it is
            fetched.
        revision: a branch, tag or commit; default: the newest.
        api: with an address or a login of its own; default: those of huggingface_hub.

    Returns:
        the file's path.

    Raises:
        CheckpointError: there is no such repository or file, it has more than LARGEST bytes, or it cannot be fetched.
        ImportError: huggingface_hub is not installed.
    """
    api = api or _api()
    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        name = next((name for name in FILES if name in sizes), None)
        if name is None:
            raise CheckpointError(f"{repo_id}: has no {' or '.join(FILES)}; ask its author to use push_to_hub")
        size = sizes[name]
        if size is None or size > LARGEST:
            raise CheckpointError(f"{repo_id}: {name} has {size} bytes; at most {LARGEST} are fetched")
        path = api.hf_hub_download(repo_id, name, revision=info.sha)
    except CheckpointError:
        raise
    except Exception as error:  # of the Hub, the network, the disk: their classes differ between versions
        raise CheckpointError(f"{repo_id}: cannot be fetched ({_brief(error)})") from None
    if Path(path).stat().st_size != size:
        raise CheckpointError(f"{repo_id}: {name} has not the {size} bytes that the Hub told; delete {path}")
    return path


def push_to_hub(
    file: str | Path,
    repo_id: str,
    licence: str = "",
    films: Sequence[str | Path] = (),
    private: bool = False,
    api: HfApi | None = None,
) -> str:
    """Publish a world or a policy on the Hugging Face Hub, with its card (:func:`card`) as README.md.

    Args:
        file: a world's .safetensors file or bundled name, or the file of :func:`glass_gym.policy.save_policy`.
        repo_id: "user/name"; the repository is made if there is none.
        licence: of the file, by the Hub's name, such as "mit". The footage must allow it: a world holds frames of it.
        films: .gif, .mp4 or .png files that the card shows.
        private: make the repository private, if it is made.
        api: as in :func:`from_hub`; it must be logged in (``hf auth login``).

    Returns:
        the repository's address.

    Raises:
        CheckpointError: the file is no world or policy, two films have one name, or they cannot be published.
        ValueError: there is no such film.
        ImportError: huggingface_hub is not installed.
    """
    api = api or _api()
    from huggingface_hub import CommitOperationAdd

    name = FILES[not isinstance(_read(file), World)]
    text = card(file, repo_id, licence, films)
    files = {name: str(resolve(file)), "README.md": text.encode(), **{Path(f).name: str(f) for f in films}}
    if len(files) < 2 + len(films):
        raise CheckpointError(f"{', '.join(map(str, films))}: films need names that differ; rename one")
    operations = [CommitOperationAdd(path_in_repo=to, path_or_fileobj=content) for to, content in files.items()]
    try:
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message=f"{name} of glass_gym, with its card")
    except Exception as error:
        raise CheckpointError(f"{repo_id}: cannot be published ({_brief(error)}); `hf auth login` first?") from None
    return str(url)


def card(file: str | Path, repo_id: str = "", licence: str = "", films: Iterable[str | Path] = ()) -> str:
    """A card: Markdown that says what a world or policy is, from its header, with front matter for the Hub.

    A world's card also shows what passport.json beside its file says: glass-train writes it.

    Args:
        file: as in :func:`push_to_hub`.
        repo_id: "user/name"; "" if it is not known yet.
        licence: as in :func:`push_to_hub`.
        films: as in :func:`push_to_hub`.

    Returns:
        the text of README.md.

    Raises:
        CheckpointError: the file is no world or policy, or passport.json or its own facts are not as glass-train writes
            them.
    """
    found = _read(file)
    title = repo_id.split("/")[-1] or resolve(file).stem
    front = ["library_name: glass-gym", "pipeline_tag: reinforcement-learning"]
    front += [f"license: {json.dumps(licence)}"] * bool(licence)
    parts = ["\n".join(["---", *front, "tags:", *(f"- {tag}" for tag in TAGS), "---"]), f"# {_cell(title)}"]
    shown = [f"![{Path(film).stem}]({quote(Path(film).name)})" for film in films]
    licence = licence or "not stated: ask the author"
    known = repo_id or "user/name"
    try:
        if isinstance(found, World):
            parts += _about_world(found, known, licence, shown)
        else:
            parts += _about_policy(found, known, licence, shown)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = "what it says of its training, or passport.json beside it, is not as glass-train writes it"
        raise CheckpointError(f"{file}: {what} ({error!r}); train it again, or move passport.json away") from None
    parts.append("The file is data: reading it runs no code, and its sizes are checked before memory is taken.")
    return "\n\n".join(parts) + "\n"


def _about_world(world: World, repo_id: str, licence: str, films: list[str]) -> list[str]:
    config, made = world.config, world.provenance
    table = world.action_table()
    minutes = {stage: float(spent) for stage, spent in dict(made.get("minutes") or {}).items()}
    facts = {
        "Footage": without_folders([str(made.get("data") or "not stated")])[0],
        "Licence": licence,
        "Frames": f"{config.width} x {config.height} px, pixels {world.pixel_aspect:g} times as wide as high",
        "Actions": f"`MultiDiscrete([{len(table.shifts)}, {config.codes}])`: a shift and a local action",
        "Step": f"{world.step[0]:g} px along x, {world.step[1]:g} px along y",
        "Start frames": len(world.start_frames),
        "Model": f"{config.architecture}, {sum(p.numel() for p in world.model.parameters()):,} weights",
        "Training, minutes": ", ".join(f"{stage} {spent:.1f}" for stage, spent in minutes.items()),
        "Made by": f"`glass-train {' '.join(map(str, made.get('argv') or ()))}`, torch {made.get('torch', '?')}",
    }
    counts = to_floats(world.statistics.get("code_share", [])).ravel()
    shares = [f"{count / max(1, counts.sum()):.0%}" for count in counts]
    codes = [(k, name, *shares[k : k + 1]) for k, name in enumerate(world.code_names)]
    use = (
        "```python\n# pip install 'glass-gym[hub]'\nimport gymnasium as gym\nimport glass_gym\n\n"
        f"env = gym.make('Glass-v0', checkpoint=glass_gym.from_hub({repo_id!r}))\n```"
    )
    what = (
        "A world learned from video by [GLASS](https://arxiv.org/abs/2204.06558), as a Gymnasium environment: every "
        "frame is generated, and an action moves the agent by a shift and changes its pose by a local action."
    )
    parts = [what, *films, use, _table(facts.items(), ("", "")), "## Local actions"]
    parts.append(_table(codes, ("code", "name", "share of the footage")[: len(codes[0])]))
    passport = world.file and world.file.with_name("passport.json")
    if passport and passport.is_file():
        found = json.loads(passport.read_bytes())
        marks = [key for key in found if key.startswith("step_")]
        rows = [(what, *(f"{found[mark][key]:.1%}" for mark in marks)) for key, what in FIGURES.items()]
        heads = ("", *(f"after {int(mark.removeprefix('step_')):,} steps" for mark in marks))
        parts += ["## Figures", "Of steps of random play, measured by glass-train:", _table(rows, heads)]
    return parts


def _about_policy(header: dict[str, Any], repo_id: str, licence: str, films: list[str]) -> list[str]:
    facts = {
        "Algorithm": header["algorithm"],
        "Licence": licence,
        "Observes": json.dumps(header["observation_space"])[:300],
        "Acts": json.dumps(header["action_space"])[:300],
        **{key: json.dumps(value)[:300] for key, value in header["provenance"].items()},
    }
    use = (
        "```python\n# pip install 'glass-gym[hub,agents]'\n"
        "import glass_gym\nfrom glass_gym.policy import load_policy\n\n"
        f"policy = load_policy(glass_gym.from_hub({repo_id!r}))\n```"
    )
    return ["A policy for a world of glass_gym.", *films, use, _table(facts.items(), ("", ""))]


def _table(rows: Iterable[Sequence[Any]], headers: Sequence[str]) -> str:
    cells = [[_cell(value) for value in row] for row in rows]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _cell(value: Any) -> str:
    """A value as text that stays in its cell, and is no HTML."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _read(file: str | Path) -> Any:
    """A world, or the header of a policy, from a file; CheckpointError: it is neither, or damaged."""
    try:
        return load_world(file)
    except CheckpointError as error:
        try:
            return policy_header(resolve(file))
        except PolicyError:
            raise error from None


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ImportError("the Hub needs huggingface_hub: pip install 'glass-gym[hub]'") from None
    return HfApi(library_name="glass-gym")
