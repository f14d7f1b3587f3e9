"""Our hyperparameters in RL Zoo's own format: python -m agents.rl_zoo --algo ppo --out ppo.yml

Then:  python -m rl_zoo3.train --algo ppo --env GlassTennis-v1 --gym-packages glass_gym --conf-file ppo.yml

RL Zoo has one file an algorithm, one entry an id, and steps single environments in turn: what our batched worlds alone
understand (`stagger`) is left out, and a step of 64 rows takes as long as 64 steps of one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from agents.options import HYPERPARAMETERS, AgentError, hyperparameters
from glass_gym.policy import ALGORITHMS, CLASSES


def entry(settings: dict[str, Any], obs_type: str) -> dict[str, Any]:
    """RL Zoo's entry for one of ours.

    RL Zoo names wrappers by their path and evaluates `policy_kwargs` and `replay_buffer_class` as Python.
    """
    out = dict(settings)
    kwargs = {key: value for key, value in out.get("env_kwargs", {}).items() if key != "stagger"}
    out["env_kwargs"] = kwargs | {"obs_type": obs_type}
    if wrappers := out.pop("env_wrapper", None):
        out["env_wrapper"] = [f"glass_gym.wrappers.{name}" for name in wrappers]
    parts = []
    for key, value in out.pop("policy_kwargs", {}).items():
        known = isinstance(value, str) and value in CLASSES
        written = f"__import__('importlib').import_module({CLASSES[value]!r}).{value}" if known else repr(value)
        parts.append(f"{key}={written}")
    if parts:
        out["policy_kwargs"] = f"dict({', '.join(parts)})"
    return out


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    import yaml

    p = argparse.ArgumentParser(
        "python -m agents.rl_zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--algo", default="ppo", choices=list(ALGORITHMS), help="algorithm (default: ppo)")
    p.add_argument("--obs-type", choices=("frame", "position", "dict"), default="frame", help="default: frame")
    p.add_argument("--out", type=Path, required=True, help="the file for RL Zoo's --conf-file")
    arguments = p.parse_args(argv)
    entries = {}
    with HYPERPARAMETERS.open() as source:
        ids = [id for id in yaml.safe_load(source) if not id.startswith(".")]
    for id in ids:
        try:
            settings = hyperparameters(id, arguments.algo, arguments.obs_type)
        except AgentError:
            continue  # this id has no such entry
        entries[id] = entry(settings, arguments.obs_type)
    if not entries:
        print(f"error: {HYPERPARAMETERS} has no {arguments.algo} on {arguments.obs_type}", file=sys.stderr)
        return 1
    # no aliases between entries: what RL Zoo changes in one must not change another
    text = "".join(yaml.safe_dump({id: settings}, sort_keys=False) for id, settings in entries.items())
    try:
        arguments.out.write_text(text)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{arguments.out}: {', '.join(entries)}\npython -m rl_zoo3.train --algo {arguments.algo} "
        f"--env {next(iter(entries))} --gym-packages glass_gym --conf-file {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
