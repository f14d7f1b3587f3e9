"""The simulator as an instrument: do its frames still mean something after a long walk?

Everything is measured on composed frames by a detector that knows nothing of the simulator's bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from glass_gym.action_space import ActionTable
from glass_gym.checkpoint import World
from glass_gym.glass import blend_windows
from glass_gym.simulator import Simulator, WorldState
from training import sheets
from training.data.store import Store, frames_to_tensor
from training.metrics.detection import MaskDetector, TennisDetector
from training.metrics.held_out import finite
from training.metrics.poses import PoseMatcher, matcher_of, true_positions

STEPS = (1, 10, 50, 100, 200)
"""Steps of random play at which figures are reported; the curves have more."""
CURVE = (1, 2, 5, 10, 15, 25, 35, 50, 65, 80, 100, 120, 140, 160, 180, 200)


@dataclass
class Instrument:
    """A world, its start states, and the detectors that look at its frames."""

    world: World
    simulator: Simulator
    table: ActionTable
    start: WorldState
    detector: object
    sides: np.ndarray | None
    matcher: PoseMatcher | None
    features: object = None

    @classmethod
    def build(cls, world: World, store: Store, features=None) -> Instrument:
        """Detectors from the store; start states from the world's start frames."""
        simulator = Simulator(world.model, "cpu")
        courts = store.root / "courts.npy"
        if courts.exists():
            detector = TennisDetector(np.load(courts, allow_pickle=False))
            sides = detector.sides(world.start_frames)
        else:
            frames = frames_to_tensor(world.start_frames)
            masks = torch.cat([world.model.mask(part) for part in frames.split(16)])
            detector = MaskDetector(world.model, float((masks > 0.5).float().sum((1, 2, 3)).median()))
            sides = None
        start = simulator.start(torch.from_numpy(world.start_frames))
        matcher = matcher_of(store, world.config.window)
        return cls(
            world, simulator, ActionTable.build(world.step, world.code_names), start, detector, sides, matcher, features
        )  # fmt: skip

    def detect(self, state: WorldState, rows: np.ndarray):
        """Detections on the composed frames; `rows` are the start frames' indices."""
        return self.detector(self.simulator.frames(state).numpy(), None if self.sides is None else self.sides[rows])

    def position(self, found) -> tuple[np.ndarray, np.ndarray | None]:
        """Where the agents stand, px (B, 2), and the best template's IoU (B,); else by centre of mass, and None."""
        return (found.centroid, None) if self.matcher is None else self.matcher(found.largest)

    def plausible(self, found) -> np.ndarray:
        """(B,) bool: exactly one agent, of plausible size."""
        low, high = self.detector.plausible
        return (found.pieces == 1) & (found.area >= low) & (found.area <= high)

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        """Feature distance of layers (B, 4, s, s): VGG-HED where there are weights, else mean squared colour; (B,)."""
        a, b = a[:, :3].float(), b[:, :3].float()
        if self.features is None:
            return (a - b).square().mean((1, 2, 3)).numpy()
        parts = []
        for x, y in zip(a.split(32), b.split(32), strict=True):
            maps = zip(self.features(x), self.features(y), strict=True)
            parts.append(torch.stack([(p - q).abs().mean((1, 2, 3)) for p, q in maps]).mean(0))
        return torch.cat(parts).numpy()


def floor(tool: Instrument, store: Store, videos) -> dict:
    """What the detectors say about *real* video, where the truth is known: no model can be measured below this."""
    if tool.matcher is None:
        return {}
    matched, centre = [], []
    for video in videos[:: max(1, len(videos) // 20)]:
        truth = store.masks(video.start, video.start + video.length)
        true = np.diff(true_positions(store, video, truth), axis=0)
        sides = None
        if "colour" in store.labels:
            sides = np.repeat(store.labels["colour"][video.start], video.length)
        found = tool.detector(store.frames[video.start : video.start + video.length], sides)
        matched.append(np.linalg.norm(np.diff(tool.matcher(found.largest)[0], axis=0) - true, axis=1))
        centre.append(np.linalg.norm(np.diff(found.centroid, axis=0) - true, axis=1))
    return {"template": _spread(np.concatenate(matched)), "centre_of_mass": _spread(np.concatenate(centre))}


def _spread(error: np.ndarray) -> dict:
    error = error[np.isfinite(error)]
    if not len(error):
        return {"steps": 0}
    return {
        "rmse_px": float(np.sqrt((error**2).mean())), "p95_px": float(np.percentile(error, 95)),
        "within_half_px": float((error <= 0.5).mean()), "steps": len(error),
    }  # fmt: skip


def random_play(tool: Instrument, rollouts: int, seed: int, folder: Path | None) -> dict:
    """Control error, presence and drift over 200 steps of independent random actions."""
    rng = np.random.default_rng(seed)
    rows = np.arange(rollouts) % len(tool.start)
    play = tool.start.rows(torch.from_numpy(rows))
    before_found = tool.detect(play, rows)
    before_place, _ = tool.position(before_found)
    presence, control, centre, quality, drift = {}, {}, {}, {}, {}
    wanted = set(CURVE)
    for step in tqdm(range(1, max(CURVE) + 1), desc="random play", leave=False):
        action = np.stack([rng.integers(n, size=rollouts) for n in tool.table.nvec], 1)
        before = play.position
        play = tool.simulator.step(
            play, torch.from_numpy(tool.table.shifts[action[:, 0]]), torch.from_numpy(action[:, 1])
        )
        if step not in wanted and step + 1 not in wanted:
            continue
        found = tool.detect(play, rows)
        place, likeness = tool.position(found)
        if step in wanted:
            moved = (play.position - before).numpy()
            centre[step] = np.linalg.norm(found.centroid - before_found.centroid - moved, axis=1)
            control[step] = np.linalg.norm(place - before_place - moved, axis=1)
            presence[step] = float(tool.plausible(found).mean())
            if likeness is not None:
                quality[step] = float(likeness.mean())
            drift[step] = float((play.layer[:, 3].sum((1, 2)) / play.mass.clamp_min(1)).mean())
            if folder is not None and step in (50, 200):
                frames = tool.simulator.frames(play).numpy()
                picture = sheets.grid([list(frames[i : i + 4]) for i in range(0, min(16, len(frames)), 4)], scale=1)
                sheets.save_picture(folder / f"after_{step}_random_steps.png", picture)
        before_found, before_place = found, place
    out = {
        "rollouts": rollouts, "detector": type(tool.detector).__name__,
        "control_by": "template" if tool.matcher else "centre of mass",
        "control": {f"step_{s}": _spread(control[s]) for s in STEPS},
        "control_by_centre_of_mass": {f"step_{s}": _spread(centre[s]) for s in STEPS},
        "present": {f"step_{s}": presence[s] for s in STEPS},
        "curves": {
            "step": list(CURVE), "present": [presence[s] for s in CURVE],
            "control_rmse_px": [_spread(control[s]).get("rmse_px") for s in CURVE],
            "silhouette_iou_with_nearest_real": [quality.get(s) for s in CURVE],
            "mask_mass_over_start": [drift[s] for s in CURVE],
        },
    }  # fmt: skip
    return out


def placed(tool: Instrument, x: float) -> WorldState:
    """All start states, moved to a column from which there is room to walk."""
    position = tool.start.position.clone()
    position[:, 0] = x
    return replace(tool.start, position=position)


def silhouettes(tool: Instrument, state: WorldState) -> np.ndarray:
    """(B, H, W) bool: where the agents are drawn."""
    blank = torch.zeros_like(state.background)
    white = torch.cat([torch.ones_like(state.layer[:, :3]) * state.layer[:, 3:], state.layer[:, 3:]], 1)
    return (blend_windows(white, blank, state.position)[:, 0] > 127).numpy()


def walk_right(tool: Instrument, steps: int = 8) -> dict:
    """Steps right with the neutral code: achieved over commanded displacement, where the walk stays in the frame."""
    rows = np.arange(len(tool.start))
    right = tool.table.shift_names.index("right")
    commanded = steps * float(tool.table.shifts[right, 0])
    begin, _ = tool.position(tool.detect(tool.start, rows))
    walk = go(tool, tool.start, [("right", 0)] * steps)
    end, _ = tool.position(tool.detect(walk, rows))
    inside = (
        tool.start.position[:, 0] + commanded <= tool.simulator.width - tool.simulator.config.agent_radius
    ).numpy()
    inside &= np.isfinite(begin[:, 0])
    achieved = (end - begin)[inside, 0]
    good = np.abs(achieved - commanded) <= 0.15 * commanded
    return {
        "commanded_px": commanded, "starts_inside": int(inside.sum()),
        "within_15_percent": finite(np.mean, good),
        "achieved_mean_px": finite(np.nanmean, achieved), "achieved_std_px": finite(np.nanstd, achieved),
    }  # fmt: skip


def go(tool: Instrument, state: WorldState, actions: list[tuple[str, int]]) -> WorldState:
    for name, code in actions:
        shift = torch.from_numpy(tool.table.shifts[[tool.table.shift_names.index(name)]]).expand(len(state), 2)
        state = tool.simulator.step(state, shift, torch.full((len(state),), code))
    return state


def cycle(tool: Instrument, steps: int = 10) -> dict:
    """Go right n, left n, against standing 2 n steps: how far is the agent from its start frame?"""
    start = placed(tool, float(tool.simulator.config.agent_radius))
    around = go(tool, start, [("right", 0)] * steps + [("left", 0)] * steps)
    stood = go(tool, start, [("stay", 0)] * 2 * steps)
    went, stayed = (tool.distance(x.layer, start.layer) for x in (around, stood))
    return {
        "steps": steps, "measure": "VGG-HED feature distance" if tool.features else "mean squared colour",
        "after_walk": float(went.mean()), "after_standing": float(stayed.mean()),
        "ratio": float(went.mean() / max(1e-9, stayed.mean())),
        "between_agents": float(tool.distance(start.layer, start.layer.roll(1, 0)).mean()),
        "returned_within_px": float((around.position - start.position).abs().max()),
    }  # fmt: skip


def code_effect(tool: Instrument, steps: int = 8) -> dict:
    """Each code n times from every start with zero shift: does the picture change, and does A read the code back?"""
    model, out, ends = tool.world.model, {}, []
    for code, name in enumerate(tool.world.code_names):
        state, layers = tool.start, [tool.start.layer]
        for _ in range(steps):
            state = go(tool, state, [("stay", code)])
            layers.append(state.layer)
        clip = torch.stack(layers, 1)
        read = model.infer_codes(clip, torch.zeros(len(clip), steps, 2))
        ends.append(state.layer)
        change = (clip[:, 1:, :3] - clip[:, :-1, :3]).square().mean((2, 3, 4))
        out[f"{code} {name}"] = {
            "mse_from_start": float((clip[:, -1, :3] - clip[:, 0, :3]).square().mean()),
            "mse_a_step": float(change.mean()), "read_back": float((read == code).float().mean()),
            "silhouette_agreement": _agreement(state.layer),
        }  # fmt: skip
    between = [[float((a[:, :3] - b[:, :3]).square().mean()) for b in ends] for a in ends]
    return {"each": out, "mse_between_codes": np.round(between, 5).tolist()}


def _agreement(layers: torch.Tensor) -> float:
    """Mean IoU of the agents' silhouettes with one another, centres of mass aligned: consistent across agents."""
    masks = layers[:, 3] > 0.5
    side = masks.shape[-1]
    ruler = torch.arange(side, dtype=torch.float32)
    mass = masks.sum((1, 2)).clamp_min(1)
    x = ((masks.sum(1) * ruler).sum(1) / mass - side / 2).floor().long()
    y = ((masks.sum(2) * ruler).sum(1) / mass - side / 2).floor().long()
    moved = torch.stack([m.roll((-int(b), -int(a)), (0, 1)) for m, a, b in zip(masks, x, y, strict=True)]).flatten(1)
    moved = moved.float()
    both = moved @ moved.T
    either = moved.sum(1)[:, None] + moved.sum(1) - both
    return float((both / either.clamp_min(1)).mean())
