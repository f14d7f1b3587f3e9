"""Find out which real controls the actions of a world are: python -m agents.ground --env RealTennis-v0

Plays random controls of the real environment, two hundred steps by default, and reads the frames with the world: how
far the agent moved, and which local action it took. From these pairs it fits the map from (shift, code) to the
controls, and writes it as ground.json beside the policies of the world. `agents.transfer`, `agents.train` and
`agents.enjoy` act through it in the real environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from agents.command import TRAINED, make_parser, run_command
from glass_gym.simulator.simulator import Simulator
from glass_gym.worlds.action_space import ActionTable
from glass_gym.worlds.checkpoint import World, load_world, write_atomically

TRANSITIONS = 200
STEPS = 10  # Steps after a reset; the player of Tennis is free to run for so many.
HOLD = 1 / 3  # Probability of a new random control in a step.
BATCH = 16  # Frames that the world reads at once.


def learned_id(real: str) -> str:
    """The id of the learned world with the task of a real environment: GlassTennis-v0 for RealTennis-v0."""
    return real.replace("Real", "Glass")


def ground_file(real: str) -> Path:
    """Where the bundled map of a real environment is."""
    return TRAINED / learned_id(real) / "ground.json"


@dataclass(frozen=True)
class Ground:
    """The map from a world's actions to controls: linear in the shift and the code.

    Of discrete controls it gives the logits of their probabilities, of continuous ones their mean.

    Attributes:
        table: the world's actions.
        weights: (C, 3 + K), of 1, the shift (x, y) in units of the longest one, and the code, one-hot.
        spread: (C,) standard deviations of continuous controls around their mean; None: controls are discrete.
        low, high: (C,) bounds of continuous controls.
        about: how it was made.
    """

    table: ActionTable
    weights: np.ndarray
    spread: np.ndarray | None
    low: np.ndarray | None
    high: np.ndarray | None
    about: dict[str, Any]

    @classmethod
    def fit(
        cls,
        table: ActionTable,
        shifts: np.ndarray,
        codes: np.ndarray,
        controls: np.ndarray,
        space: gym.Space,
        about: dict[str, Any] | None = None,
    ) -> Ground:
        """Fit the map to labelled transitions.

        Args:
            table: the world's actions.
            shifts: (N, 2) px, as the world reads them.
            codes: (N,), as the world reads them.
            controls: (N,) int of a Discrete space, or (N, C) of a Box.
            space: of the controls.
            about: how they were recorded.

        Raises:
            ValueError: the space is neither, or the controls are all the same.
        """
        from sklearn.linear_model import LogisticRegression, Ridge

        seen = _features(table, shifts, codes)[:, 1:]
        if isinstance(space, gym.spaces.Discrete):
            model = LogisticRegression(C=10.0, max_iter=1000).fit(seen, controls)
            weights = np.full((int(space.n), 1 + seen.shape[1]), 0.0)
            weights[:, 0] = -1e3  # a control that was never tried
            weights[model.classes_] = np.c_[model.intercept_, model.coef_]
            return cls(table, weights, None, None, None, about or {})
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"controls must be Discrete or a Box of numbers, got {space}")
        model = Ridge(alpha=1.0).fit(seen, controls)
        weights = np.c_[model.intercept_, model.coef_]
        spread = (controls - model.predict(seen)).std(0)
        return cls(table, weights, spread, space.low, space.high, about or {})

    def predict(self, shifts: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The probabilities of discrete controls, or the means of continuous ones, (N, C)."""
        out = _features(self.table, shifts, codes) @ self.weights.T
        if self.spread is not None:
            return np.clip(out, self.low, self.high)
        odds = np.exp(out - out.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def control(self, action: Any, rng: np.random.Generator) -> Any:
        """The control for an action (shift index, code): a drawn one if discrete, the mean if continuous."""
        shift, code = (int(v) for v in action)
        predicted = self.predict(self.table.shifts[shift][None], np.array([code]))[0]
        return int(rng.choice(len(predicted), p=predicted)) if self.spread is None else predicted.astype(np.float32)

    def write(self, path: Path) -> Path:
        """Write it as JSON."""
        out: dict[str, Any] = {"about": self.about, "table": asdict(self.table)}
        for name in ("weights", "spread", "low", "high"):
            out[name] = getattr(self, name)
        text = json.dumps(out, default=lambda x: np.asarray(x, float).round(5).tolist())
        write_atomically(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
        return path

    @classmethod
    def read(cls, path: Path) -> Ground:
        """Read a file of :meth:`write`; ValueError: it is missing, damaged or foreign."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            table = data["table"]
            shifts = np.asarray(table.pop("shifts"), np.float32)
            arrays = {
                name: None if data[name] is None else np.asarray(data[name], float)
                for name in ("weights", "spread", "low", "high")
            }
            made = cls(ActionTable(shifts, **{k: tuple(v) for k, v in table.items()}), about=data["about"], **arrays)
            made.predict(shifts[:1], np.zeros(1, int))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: no map to real controls ({error}); make one: python -m agents.ground") from None
        return made


def _features(table: ActionTable, shifts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N, 3 + K): 1, shifts (N, 2) px in units of the longest one, codes (N,) one-hot."""
    unit = np.linalg.norm(table.shifts, axis=1).max()
    return np.c_[np.ones(len(codes)), shifts / unit, np.eye(len(table.code_names))[codes]]


class GroundedActions(gym.ActionWrapper):
    """Lets policies of a world act in a real environment: MultiDiscrete([S, K]) -> the controls of a :class:`Ground`.

    Discrete controls are drawn, with random numbers of the environment's generator.
    """

    def __init__(self, env: gym.Env, ground: Ground):
        super().__init__(env)
        self.ground = ground
        self.action_space = gym.spaces.MultiDiscrete(ground.table.nvec)

    def action(self, action: Any) -> Any:
        """The control for (shift index, code)."""
        return self.ground.control(action, self.env.unwrapped.np_random)


def record(env: gym.Env, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Play random controls -> frames (count / STEPS, STEPS + 1, H, W, 3) uint8, and controls (count / STEPS, STEPS)."""
    rng = np.random.default_rng(seed)
    env.action_space.seed(seed)
    real: Any = env.unwrapped
    frames, controls = [], []
    for episode in tqdm(range(count // STEPS), "random controls", unit="episode"):
        env.reset(seed=seed + episode)
        film, played = [real.picture()], []
        for _ in range(STEPS):
            if not played or rng.random() < HOLD:
                control = env.action_space.sample()
            env.step(control)
            film.append(real.picture())
            played.append(control)
        frames.append(np.stack(film))
        controls.append(np.stack(played))
    return np.stack(frames), np.stack(controls)


@torch.inference_mode()
def read_actions(world: World, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a world reads off films (N, T + 1, H, W, 3) uint8: shifts (N, T, 2) px, codes (N, T)."""
    simulator = Simulator(world.model, ground=world.ground)
    flat = torch.from_numpy(films).flatten(0, 1)
    read = [simulator.start(part) for part in tqdm(flat.split(BATCH), "what the world sees", unit="batch")]
    position = torch.cat([state.position for state in read]).unflatten(0, films.shape[:2])
    layers = torch.cat([state.layer for state in read]).unflatten(0, films.shape[:2])
    shifts = position.diff(dim=1)
    return shifts.cpu().numpy(), simulator.model.lma.infer_codes(layers.float(), shifts).cpu().numpy()


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = make_parser("ground", __doc__)
    add = p.add_argument
    add("--env", default="RealTennis-v0", help="real environment: RealTennis-v0 (default) or RealArm-v0")
    add("--world", help="bundled name or .safetensors file (default: that of the learned id, such as GlassTennis-v0)")
    add("--transitions", type=int, default=TRANSITIONS, help=f"random steps (default: {TRANSITIONS})")
    add("--seed", type=int, default=0, help="seed of the first episode (default: 0)")
    add("--out", type=Path, help="default: ground.json beside the bundled policy of the learned id")
    return run_command(ground, p.parse_args(argv))


def ground(arguments: argparse.Namespace) -> None:
    """Record, read, fit, and write the map; print what it does."""
    if arguments.transitions < 2 * STEPS:
        raise ValueError(f"--transitions must be at least {2 * STEPS}, got {arguments.transitions}")
    name = arguments.world or gym.spec(learned_id(arguments.env)).kwargs["checkpoint"]
    world = load_world(name)
    env = gym.make(f"agents.real:{arguments.env}", grounded=False)
    films, controls = record(env, arguments.transitions, arguments.seed)
    shifts, codes = read_actions(world, films)
    seen = shifts.reshape(-1, 2), codes.reshape(-1), controls.reshape(codes.size, *controls.shape[2:])
    about = {"env": arguments.env, "world": world.name or Path(name).name, "transitions": codes.size}
    about["command"] = " ".join(sys.argv[1:])
    made = Ground.fit(world.action_table(), *seen, env.action_space, about)
    path = made.write(arguments.out or ground_file(arguments.env))
    for line in told(made, getattr(env.unwrapped, "control_names", None)):
        print(line)
    print(f"{path}. Act through it: python -m agents.transfer --env {arguments.env}")


def told(made: Ground, names: tuple[str, ...] | None) -> Iterator[str]:
    """For each shift (averaged over the codes) and for each code (averaged over the shifts) what it does, in words."""
    table = made.table
    shifts, codes = (grid.ravel() for grid in np.meshgrid(*(np.arange(n) for n in table.nvec), indexing="ij"))
    predicted = made.predict(table.shifts[shifts], codes)
    for which, labels in ((shifts, table.shift_names), (codes, table.code_names)):
        for index, label in enumerate(labels):
            mean = predicted[which == index].mean(0)
            if made.spread is not None:
                yield f"  {label}: " + ", ".join(f"{v:+.2f}" for v in mean)
            else:
                best = np.argsort(-mean)[:3]
                yield f"  {label}: " + ", ".join(f"{names[i] if names else i} {mean[i]:.0%}" for i in best)


if __name__ == "__main__":
    sys.exit(main())
