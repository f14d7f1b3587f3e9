"""Gymnasium's wrappers over our environments, tried one by one: python -m tests.wrapper_table --out wrappers.json

Single environments and vector ones, each autoreset mode and output; fifteen steps over ends of episodes. A cell says
"works", "over ArrayConversion" (ArrayConversion(envs, torch, numpy) below it works, and takes tensors to the host), or
why the wrapper refuses, in its own words.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import wrappers as single
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector
from tqdm import tqdm

from glass_gym.worlds.checkpoint import World, load_world

MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
FRAME, POSITION, DICT = ({"obs_type": kind} for kind in ("frame", "position", "dict"))


def _noise(scale: int, frame: np.ndarray) -> np.ndarray:
    return frame // scale


def single_wrappers(folder: Path) -> dict[str, tuple[dict, Callable[[gym.Env], gym.Env]]]:
    """By name: the environment's arguments, and how it is wrapped."""
    box = gym.spaces.Box(0, 255, (96, 160, 3), np.uint8)
    size = (48, 80)
    return {
        "AtariPreprocessing": (FRAME, partial(single.AtariPreprocessing, frame_skip=1)),
        "DelayObservation": (FRAME, partial(single.DelayObservation, delay=2)),
        "DtypeObservation": (FRAME, partial(single.DtypeObservation, dtype=np.float32)),
        "DiscretizeObservation": (POSITION, partial(single.DiscretizeObservation, bins=4)),
        "FilterObservation": (DICT, partial(single.FilterObservation, filter_keys=["frame"])),
        "FlattenObservation": (DICT, single.FlattenObservation),
        "FrameStackObservation": (FRAME, partial(single.FrameStackObservation, stack_size=3)),
        "GrayscaleObservation": (FRAME, single.GrayscaleObservation),
        "TransformObservation": (
            FRAME,
            lambda env: single.TransformObservation(env, partial(_noise, 2), box),
        ),
        "MaxAndSkipObservation": (FRAME, partial(single.MaxAndSkipObservation, skip=2)),
        "NormalizeObservation": (POSITION, single.NormalizeObservation),
        "AddRenderObservation": (POSITION, single.AddRenderObservation),
        "ResizeObservation": (FRAME, partial(single.ResizeObservation, shape=size)),
        "ReshapeObservation": (FRAME, partial(single.ReshapeObservation, shape=(96 * 160 * 3,))),
        "RescaleObservation": (
            POSITION,
            lambda env: single.RescaleObservation(env, np.float32(0), np.float32(1)),
        ),
        "TimeAwareObservation": (POSITION, single.TimeAwareObservation),
        "ClipAction": (FRAME, single.ClipAction),
        "DiscretizeAction": (FRAME, partial(single.DiscretizeAction, bins=3)),
        "TransformAction": (FRAME, lambda env: single.TransformAction(env, lambda a: a, env.action_space)),
        "RescaleAction": (FRAME, lambda env: single.RescaleAction(env, np.float32(0), np.float32(1))),
        "StickyAction": (FRAME, partial(single.StickyAction, repeat_action_probability=0.3)),
        "RepeatAction": (FRAME, partial(single.RepeatAction, num_repeats=2)),
        "ClipReward": (FRAME, partial(single.ClipReward, min_reward=-1.0, max_reward=1.0)),
        "TransformReward": (FRAME, partial(single.TransformReward, func=lambda r: 2 * r)),
        "NormalizeReward": (FRAME, single.NormalizeReward),
        "TimeLimit": (FRAME, partial(single.TimeLimit, max_episode_steps=4)),
        "Autoreset": (FRAME, single.Autoreset),
        "PassiveEnvChecker": (FRAME, single.PassiveEnvChecker),
        "OrderEnforcing": (FRAME, single.OrderEnforcing),
        "RecordEpisodeStatistics": (FRAME, single.RecordEpisodeStatistics),
        "AddWhiteNoise": (FRAME, lambda env: single.AddWhiteNoise(single.AddRenderObservation(env), 0.2)),
        "ObstructView": (
            FRAME,
            lambda env: single.ObstructView(single.AddRenderObservation(env), 0.2, 8),
        ),
        "RenderCollection": (FRAME, single.RenderCollection),
        "RecordVideo": (FRAME, partial(single.RecordVideo, video_folder=str(folder))),
        "HumanRendering": (FRAME, single.HumanRendering),
        "ArrayConversion": (FRAME, partial(single.ArrayConversion, env_xp=np, target_xp=torch)),
        "NumpyToTorch": (FRAME, single.NumpyToTorch),
    }


def vector_wrappers(folder: Path) -> dict[str, tuple[dict, Callable[[gym.vector.VectorEnv], gym.vector.VectorEnv]]]:
    """By name: the environment's arguments, and how it is wrapped."""
    box = gym.spaces.Box(0, 255, (96, 160, 3), np.uint8)
    return {
        "VectorizeTransformObservation": (
            FRAME,
            lambda envs: vector.VectorizeTransformObservation(
                envs, single.TransformObservation, func=partial(_noise, 2), observation_space=box
            ),
        ),
        "VectorizeTransformAction": (
            FRAME,
            lambda envs: vector.VectorizeTransformAction(
                envs, single.TransformAction, func=lambda a: a, action_space=envs.single_action_space
            ),
        ),
        "VectorizeTransformReward": (
            FRAME,
            lambda envs: vector.VectorizeTransformReward(envs, single.TransformReward, func=lambda r: 2 * r),
        ),
        "TransformObservation": (FRAME, lambda envs: vector.TransformObservation(envs, lambda o: o)),
        "FilterObservation": (DICT, partial(vector.FilterObservation, filter_keys=["frame"])),
        "FlattenObservation": (DICT, vector.FlattenObservation),
        "GrayscaleObservation": (FRAME, vector.GrayscaleObservation),
        "ResizeObservation": (FRAME, partial(vector.ResizeObservation, shape=(48, 80))),
        "ReshapeObservation": (FRAME, partial(vector.ReshapeObservation, shape=(96 * 160 * 3,))),
        "RescaleObservation": (
            POSITION,
            lambda envs: vector.RescaleObservation(envs, np.float32(0), np.float32(1)),
        ),
        "DtypeObservation": (FRAME, partial(vector.DtypeObservation, dtype=np.float32)),
        "NormalizeObservation": (POSITION, vector.NormalizeObservation),
        "TransformAction": (FRAME, lambda envs: vector.TransformAction(envs, lambda a: a)),
        "ClipAction": (FRAME, vector.ClipAction),
        "RescaleAction": (FRAME, lambda envs: vector.RescaleAction(envs, np.float32(0), np.float32(1))),
        "TransformReward": (FRAME, lambda envs: vector.TransformReward(envs, lambda r: 2 * r)),
        "ClipReward": (FRAME, partial(vector.ClipReward, min_reward=-1.0, max_reward=1.0)),
        "NormalizeReward": (FRAME, vector.NormalizeReward),
        "RecordEpisodeStatistics": (FRAME, vector.RecordEpisodeStatistics),
        "DictInfoToList": (FRAME, vector.DictInfoToList),
        "RecordVideo": (FRAME, partial(vector.RecordVideo, video_folder=str(folder))),
        "HumanRendering": (FRAME, vector.HumanRendering),
        "ArrayConversion": (FRAME, partial(vector.ArrayConversion, env_xp=np, target_xp=torch)),
        "NumpyToTorch": (FRAME, vector.NumpyToTorch),
    }


OWN = {
    "FlattenAction": lambda w, env: w.FlattenAction(env),
    "GoalObservation": lambda w, env: w.GoalObservation(env),
    "DownscaleFrame": lambda w, env: w.DownscaleFrame(env, (48, 80)),
    "AutoLocalAction": lambda w, env: w.AutoLocalAction(env),
    "TorchEpisodeStatistics": lambda w, env: w.TorchEpisodeStatistics(env),
}
"""Ours, over vectors."""


def play(env: Any, steps: int = 15) -> None:
    """Random actions over the ends of episodes."""
    env.reset(seed=0)
    env.action_space.seed(0)
    over = False
    for _ in range(steps):
        mode = env.metadata.get("autoreset_mode")
        if mode is None and over:
            env.reset()
        if mode == AutoresetMode.DISABLED and np.asarray(over).any():
            env.reset(options={"reset_mask": np.asarray(over)})
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated | truncated


def attempt(make: Callable[[], Any]) -> str:
    """What comes of making and playing: "works", or the error."""
    env = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = make()
            play(env)
    except Exception as error:  # whatever a wrapper raises
        words = " ".join(str(error).split()).replace("|", "/")
        return f"refused: {type(error).__name__} {words[:110]}".strip()
    finally:
        if env is not None:
            env.close()
    return "works"


def single_table(world: World, folder: Path, progress: Callable[[], Any] = lambda: None) -> dict[str, str]:
    """By wrapper: what comes of it."""
    found = {}
    for name, (kwargs, wrap) in single_wrappers(folder).items():
        make = partial(gym.make, "Glass-v0", checkpoint=world, render_mode="rgb_array", max_episode_steps=6, **kwargs)
        found[name] = attempt(lambda make=make, wrap=wrap: wrap(make()))
        progress()
    return found


def vector_table(world: World, folder: Path, progress: Callable[[], Any] = lambda: None) -> dict[str, dict[str, str]]:
    """By wrapper, then by mode and output."""
    from glass_gym.wrappers import vector as ours

    wrappers = vector_wrappers(folder) | {
        f"ours: {name}": (
            {"obs_type": "frame", "draw_target": False} if name == "GoalObservation" else FRAME,
            partial(wrap, ours),
        )
        for name, wrap in OWN.items()
    }
    found: dict[str, dict[str, str]] = {}
    for name, (kwargs, wrap) in wrappers.items():
        found[name] = {}
        for output in ("numpy", "torch"):
            for mode in MODES:
                make = partial(
                    gym.make_vec,
                    "Glass-v0",
                    checkpoint=world,
                    num_envs=3,
                    max_episode_steps=6,
                    render_mode="rgb_array",
                    autoreset_mode=mode,
                    output=output,
                    **kwargs,
                )
                answer = attempt(lambda make=make, wrap=wrap: wrap(make()))
                if answer != "works" and output == "torch":
                    over = attempt(lambda make=make, wrap=wrap: wrap(vector.ArrayConversion(make(), torch, np)))
                    answer = "over ArrayConversion" if over == "works" else answer
                found[name][f"{mode.name}, {output}"] = answer
            progress()
    return found


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = argparse.ArgumentParser("python -m tests.wrapper_table", description=__doc__)
    p.add_argument("--out", type=Path, default=Path("wrappers.json"), help="the results (default: wrappers.json)")
    out = p.parse_args(argv).out
    with tempfile.TemporaryDirectory() as folder, tqdm(unit="wrapper") as bar:
        world, count = load_world("tennis"), lambda: bar.update(1)
        tables = single_table(world, Path(folder), count), vector_table(world, Path(folder), count)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dict(zip(("single", "vector"), tables, strict=True)), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
