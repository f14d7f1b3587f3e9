"""Hostile and unlucky input, made by the thousand: python -m tests.fuzz --inputs 2000 --seed 0 --out runs/fuzz

A third are files of every kind that is read (bits flipped, cut off, overwritten, lengthened, two of them spliced), a
third headers of worlds, policies and stores with values that hypothesis makes up, a third options and arguments. A
child process takes them one by one. Whatever is read has to be of use (a world is stepped), or to be refused by the
project's own error for that kind of file, in less than a minute and a GB. OUT gets fuzz.json; every other outcome is
listed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT = 60
"""Seconds that an input may take."""
MOST = 1 << 30
"""Bytes that an input may take."""
KINDS = ("files", "headers", "options")


@dataclass
class Target:
    """A kind of file.

    Attributes:
        path: a good one.
        part: the file in it that is changed, where it is a folder.
        read: reads and uses one.
        errors: how it may refuse.
    """

    path: Path
    part: str
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]


def targets(root: Path) -> dict[str, Target]:
    """Good files of every kind, small."""
    import imageio.v3 as iio
    import torch
    from PIL import Image
    from stable_baselines3 import PPO

    from agents.options import AgentError, hyperparameters
    from glass_gym.model.glass import build_glass, build_lma
    from glass_gym.policy import PolicyError, load_policy, save_policy
    from glass_gym.sb3 import GlassVecEnv
    from glass_gym.worlds.checkpoint import CheckpointError, save_world
    from glass_gym.worlds.pictures import read_picture
    from tests import videos
    from tests.conftest import TINY, block_video, world_of
    from training.config import LoopConfig, TrainConfig
    from training.core.distributed import Distributed
    from training.core.run import Run, RunError
    from training.core.trainer import Trainer, TrainingError, read_state
    from training.data.reader import open_video
    from training.data.store import DataError, Store, StoreWriter

    torch.manual_seed(0)
    world = world_of(build_glass(TINY).eval())
    made = {"world": save_world(root / "world.safetensors", world)}
    env = GlassVecEnv("Glass-v0", 2, checkpoint=world, obs_type="position")
    made["policy"] = save_policy(
        root / "policy.safetensors", PPO("MlpPolicy", env, policy_kwargs={"net_arch": [8]}), "ppo"
    )
    frames, masks, position = block_video(0, 12)
    for name in ("index", "frames", "masks", "labels"):
        made[name] = root / f"store-{name}"
        writer = StoreWriter(made[name], 32, 48, 1.0, "blocks")
        for split in ("train", "val", "test"):
            writer.add(split, split, frames, masks, position=position)
        writer.close()
    trainer = Trainer(build_lma(TINY), root / "lma.pt", LoopConfig(device="cpu", bf16=False))
    trainer.save("pose", 3, None)
    made["state"] = trainer.state_file
    made["choices"] = root / "run"
    run = Run(TrainConfig(data="x", out=made["choices"]), Distributed("cpu"))
    with contextlib.redirect_stdout(io.StringIO()):
        run.choose("gma.theta", 0.03, "for a test")
        run.choose("window", 16, "for a test")
    for suffix in ("png", "jpg", "bmp", "gif"):
        made[suffix] = root / f"frame.{suffix}"
        Image.fromarray(frames[0]).save(made[suffix])
    for suffix, codec in (("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")):
        made[suffix] = root / f"video.{suffix}"
        videos.film(made[suffix], frames, codec)
    made["film"] = root / "film.gif"
    iio.imwrite(made["film"], frames, duration=100)
    made["hyperparameters"] = root / "hyperparams.yml"
    settings = "{n_timesteps: 5, policy_kwargs: 'dict(net_arch=[8])', env_kwargs: {}}"
    made["hyperparameters"].write_text(f"Glass-v0: {settings}\n", encoding="utf-8")

    def whole(path: Path) -> None:
        store = Store(path)
        for video in store.videos:
            assert store.frames[video.start : video.start + video.length].shape[1:] == (store.height, store.width, 3)
            if store.has_masks:
                store.masks(video.start, video.start + video.length)
        store.labels  # noqa: B018

    def film(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            for frame in open_video(path).read():
                assert frame.pixels.dtype == np.uint8 and frame.pixels.ndim == 3

    readers: dict[str, tuple[str, Callable, tuple]] = {
        "world": ("", play, (CheckpointError,)),
        "policy": ("", load_policy, (PolicyError,)),
        "index": ("index.json", whole, (DataError,)),
        "frames": ("frames.npy", whole, (DataError,)),
        "masks": ("masks.npy", whole, (DataError,)),
        "labels": ("labels.npz", whole, (DataError,)),
        "state": ("", lambda path: read_state(path, torch.device("cpu")), (TrainingError,)),
        "choices": (
            "choices.json",
            lambda path: Run(TrainConfig(data="x", out=path), Distributed("cpu")).config,
            (RunError,),
        ),
        "hyperparameters": ("", lambda path: hyperparameters("Glass-v0", "ppo", "frame", file=path), (AgentError,)),
        "film": ("", film, (DataError,)),
    }
    readers |= {kind: ("", read_picture, (ValueError,)) for kind in ("png", "jpg", "bmp", "gif")}
    readers |= {kind: ("", film, (DataError,)) for kind in ("mp4", "avi", "webm")}
    return {name: Target(made[name], *readers[name]) for name in made}


def play(path: Path) -> None:
    """What was read as a world is one."""
    import gymnasium as gym

    import glass_gym  # noqa: F401

    env = gym.make("Glass-v0", checkpoint=path, obs_type="dict", render_mode="rgb_array", disable_env_checker=True)
    env.reset(seed=0)
    for _ in range(3):
        observation, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(observation["position"]).all() and np.isfinite(reward)
        assert env.unwrapped.render().size
    env.close()


def damage(raw: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """A file as disks, networks and attackers leave it."""
    data = bytearray(raw)
    size = len(data)
    match int(rng.integers(6)):
        case 0:
            for place in rng.integers(0, size, int(rng.integers(1, 9))):
                data[place] ^= 1 << int(rng.integers(8))
        case 1:
            del data[int(rng.integers(size)) :]
        case 2:
            start = int(rng.integers(size))
            length = int(rng.integers(1, max(2, size // 4)))
            data[start : start + length] = rng.bytes(length) if rng.random() < 0.5 else bytes(length)
        case 3:
            start = int(rng.integers(size))
            data[start:start] = rng.bytes(int(rng.integers(1, 4096)))
        case 4:
            data = data[: int(rng.integers(size))] + other[int(rng.integers(len(other))) :]
        case 5:  # in the first bytes are what says how long the rest is
            for place in rng.integers(0, min(size, 256), int(rng.integers(1, 4))):
                data[place] = int(rng.integers(256))
    return bytes(data)


def files(count: int, seed: int, root: Path, first: int):
    """Damaged files, one after the other."""
    known = targets(root)
    names = sorted(known)
    for index in range(first, count):
        rng = np.random.default_rng([seed, index])
        name = names[index % len(names)]
        target = known[name]
        good = target.path / target.part if target.part else target.path
        peer = known[names[int(rng.integers(len(names)))]]
        other = (peer.path / peer.part if peer.part else peer.path).read_bytes()
        bad = root / f"bad-{good.name}"
        if target.part:
            bad = root / "bad"
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(target.path, bad)
        (bad / target.part if target.part else bad).write_bytes(damage(good.read_bytes(), rng, other))
        yield name, lambda target=target, bad=bad: target.read(bad), target.errors


def made_up(count: int, seed: int, strategy: Any) -> list[Any]:
    """`count` values of a hypothesis strategy."""
    import hypothesis
    from hypothesis import given, settings

    values: list[Any] = []

    @hypothesis.seed(seed)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @given(strategy)
    def keep(value):
        values.append(value)

    keep()
    return values


def anything():
    """Whatever JSON can say, and more."""
    from hypothesis import strategies as st

    numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 10**30, 2**31, 2**63, 1e308, 4096, 5000]))
    plain = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=30), st.just("x" * 5000))
    nested = st.recursive(plain, lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part))
    deep = st.integers(1, 3000).map(lambda n: json.loads("[" * min(n, 900) + "]" * min(n, 900)))
    return st.one_of(plain, nested, deep)


def headers(count: int, seed: int, root: Path, first: int):
    """Good headers with values that are made up, in files that are whole otherwise."""
    from hypothesis import strategies as st
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    known = targets(root)
    goods = {}
    for name, key in (("world", "glass"), ("policy", "glass_policy")):
        with safe_open(known[name].path, "pt") as file:
            goods[name] = json.loads(file.metadata()[key]), load_file(known[name].path), key
    goods["index"] = json.loads((known["index"].path / "index.json").read_text(encoding="utf-8")), None, ""
    places = {name: list(paths(header)) for name, (header, _, _) in goods.items()}
    which = st.sampled_from([(name, path) for name in goods for path in places[name]])
    changes = made_up(count, seed, st.tuples(which, anything(), st.booleans()))
    for (name, path), value, away in changes[first:]:
        header, tensors, key = goods[name]
        text = json.dumps(changed(header, path, value, away))
        target = known[name]
        bad = root / f"bad-header-{target.path.name}"
        if tensors is None:
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(target.path, bad)
            (bad / "index.json").write_text(text, encoding="utf-8")
        else:
            save_file(tensors, bad, {key: text})
        yield f"{name} {'.'.join(map(str, path))}", lambda target=target, bad=bad: target.read(bad), target.errors


def paths(value: Any, before: tuple = ()):
    """Places in a header."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*before, key)
        yield from paths(part, (*before, key))


def changed(header: Any, path: tuple, value: Any, away: bool) -> Any:
    """A copy with another value at a place, or without it."""
    copy = json.loads(json.dumps(header))
    part = copy
    for key in path[:-1]:
        part = part[key]
    if away and isinstance(part, dict):
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return copy


def options(count: int, seed: int, root: Path, first: int):
    """Arguments of environments, options of commands and entries of hyperparams.yml that are made up."""
    from hypothesis import strategies as st

    from agents.options import AgentError, checked
    from glass_gym.env.env import GlassEnv
    from glass_gym.env.vector_env import GlassVectorEnv
    from training.config import TrainConfig
    from training.core.options import check_options

    world = targets(root)["world"].path
    arguments = (
        "num_envs obs_type task draw_target position_from shifts shift_scale frame_size channels_first device "
        "precision reward target_radius target_margin target terminate_on_arrival render_mode max_episode_steps "
        "output stagger autoreset_mode"
    ).split()
    which = st.one_of(
        st.tuples(st.just("make"), st.sampled_from(arguments)),
        st.tuples(st.just("seed"), st.just("")),
        st.tuples(st.just("action"), st.just("")),
        st.tuples(st.just("start_frame"), st.just("")),
        st.tuples(st.just("target"), st.just("")),
        st.tuples(st.just("reset_mask"), st.just("")),
        st.tuples(st.just("settings"), st.sampled_from(["n_timesteps", "n_envs", "env_wrapper", "env_kwargs", "x"])),
        st.tuples(st.just("option"), st.sampled_from(list(numbers_of(TrainConfig(data="x"))))),
    )
    envs = GlassVectorEnv(world, 2)
    envs.reset(seed=0)
    env = GlassEnv(world)
    env.reset(seed=0)

    def use(kind: str, name: Any, value: Any) -> None:
        match kind:
            case "make":
                made = GlassVectorEnv(world, **{"num_envs": 2, name: value})
                made.reset(seed=0)
                made.step(made.action_space.sample())
            case "seed":
                envs.reset(seed=value)
            case "action":
                env.step(value)
            case "settings":
                checked({"n_timesteps": 5, name: value})
            case "option":
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    check_options(with_option(TrainConfig(data="x"), name, value))
            case _:
                envs.reset(options={kind: value})

    import gymnasium as gym

    errors = (ValueError, AgentError, gym.error.Error)
    changes = made_up(count, seed, st.tuples(which, anything()))
    for (kind, name), value in changes[first:]:
        # a TypeError says which argument has another type, as in Python; anywhere else it is a slip of ours
        allowed = (*errors, TypeError) if kind == "make" else errors
        yield f"{kind} {name} {str(value)[:60]!r}", lambda k=kind, n=name, v=value: use(k, n, v), allowed


def numbers_of(config: Any, before: tuple = ()):
    """Options that are numbers, by their path."""
    import dataclasses

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers_of(value, (*before, field.name))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*before, field.name)


def with_option(config: Any, path: tuple, value: Any) -> Any:
    """A copy of nested dataclasses with another value at a path."""
    import dataclasses

    name, *rest = path
    return dataclasses.replace(config, **{name: with_option(getattr(config, name), rest, value) if rest else value})


def memory() -> int:
    """Peak bytes of this process since :func:`forget_memory`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    return 0


def forget_memory() -> int:
    """Count the peak from here on. Returns the bytes in use."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return memory()


def work(kind: str, count: int, seed: int, first: int, root: str, pipe: Any) -> None:
    """In the child: takes inputs, and tells of each before and after."""
    import torch

    torch.set_num_threads(1)
    make = {"files": files, "headers": headers, "options": options}[kind]
    where = Path(tempfile.mkdtemp(dir=root))
    for name, use, errors in make(count, seed, where, first):
        pipe.send(("begins", name))
        before = forget_memory()
        outcome = "accepted"
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                use()
        except errors as error:
            outcome = "refused" if len(str(error)) > 5 else f"says nothing: {error!r}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
        grown = memory() - before
        pipe.send(("ended", outcome if grown < MOST else f"took {grown >> 20} MB"))
    pipe.send(("done", ""))


def run(kind: str, count: int, seed: int) -> dict[str, Any]:
    """All inputs of a kind.

    Returns:
        how many were accepted and refused, and everything else.
    """
    outcomes: Counter = Counter()
    accepted: Counter = Counter()
    odd: list[str] = []
    done = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as root:
        while True:
            ours, theirs = multiprocessing.Pipe()
            child = multiprocessing.get_context("spawn").Process(
                target=work, args=(kind, count, seed, done, root, theirs)
            )
            child.start()
            theirs.close()
            name, told, over = "", "begins", False
            began = time.monotonic()
            try:
                while not over:
                    if not ours.poll(10 * TIMEOUT if not name else TIMEOUT):
                        raise EOFError("takes too long")
                    told, what = ours.recv()
                    if told == "begins":
                        name, began = what, time.monotonic()
                    elif told == "ended":
                        slowest = max(slowest, time.monotonic() - began)
                        done += 1
                        accepted[name.split()[0]] += what == "accepted"
                        outcomes[what if what in ("accepted", "refused") else "odd"] += 1
                        if what not in ("accepted", "refused"):
                            odd.append(f"{kind} {done - 1} {name}: {what}")
                            print(odd[-1], flush=True)
                    else:
                        over = True
            except EOFError as error:
                child.kill()
                child.join()
                if not name:
                    raise RuntimeError("the child died before its first input") from None
                odd.append(f"{kind} {done} {name}: {error or f'the process died ({child.exitcode})'}")
                print(odd[-1], flush=True)
                outcomes["odd"] += 1
                done += 1
            child.join()
            if over:
                return {**outcomes, "accepted_of": dict(accepted), "slowest_seconds": round(slowest, 2), "listed": odd}


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--only", choices=KINDS)
    arguments = parser.parse_args(argv)
    kinds = [arguments.only] if arguments.only else KINDS
    results = {}
    for index, kind in enumerate(kinds):
        share = (arguments.inputs + index) // len(kinds)
        results[kind] = run(kind, share, arguments.seed)
        print(f"{kind}: {results[kind]}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"inputs": arguments.inputs, "seed": arguments.seed, **results}, indent=1)
    (arguments.out / "fuzz.json").write_text(text + "\n", encoding="utf-8")
    return int(any(result["listed"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
