"""Control error, presence and drift of a simulator over long play.

All is measured on composed frames, by a detector that does not see the simulator's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import Simulator, WorldState
from glass_gym.worlds.action_space import ActionTable
from glass_gym.worlds.checkpoint import World

from ...core.progress import each
from ...data.detection import Detections, Detector
from ...data.sources import source_of
from ...data.store import Store, Video
from ...gma.perceptual import VggFeatures
from .held_out import finite
from .poses import PoseMatcher, matcher_of

if TYPE_CHECKING:
    from .evaluation import Evaluation

STEPS = (1, 10, 50, 100, 200)  # Steps of random play at which figures are reported; the curves have more.
CURVE = (1, 2, 5, 10, 15, 25, 35, 50, 65, 80, 100, 120, 140, 160, 180, 200)
PICTURED = (50, 200)  # Steps of random play whose frames are kept for pictures.


@dataclass
class SimulatorProbe:
    """A world, its actions and start states, and the detectors that measure its frames."""

    world: World
    simulator: Simulator
    table: ActionTable
    start: WorldState  # a row for each start frame
    detector: Detector
    context: np.ndarray | None  # of the detector, a row for each start frame
    matcher: PoseMatcher | None  # finds positions by templates
    features: VggFeatures | None = None

    @classmethod
    def build(cls, world: World, store: Store, features: VggFeatures | None = None) -> SimulatorProbe:
        """The detector of the store's source; start states from the world's start frames."""
        simulator = Simulator(world.model, "cpu", ground=world.ground)
        detector = source_of(store).detector(store, world)
        backgrounds = None if world.start_backgrounds is None else torch.from_numpy(world.start_backgrounds)
        start = simulator.start(torch.from_numpy(world.start_frames), background=backgrounds)
        context = detector.context(world.start_frames)
        matcher = matcher_of(store, world.config.window)
        return cls(world, simulator, world.action_table(), start, detector, context, matcher, features)

    def detect(self, state: WorldState, rows: np.ndarray) -> Detections:
        """Detections on the composed frames; `rows` are the start frames' indices."""
        frames = self.simulator.frames(state).numpy()
        return self.detector(frames, None if self.context is None else self.context[rows])

    def position(self, found: Detections) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions (B, 2) px and the best template's IoU (B,); without templates the centre of mass, and None."""
        return (found.centroid, None) if self.matcher is None else self.matcher(found.largest)

    def plausible(self, found: Detections) -> np.ndarray:
        """(B,) bool: exactly one agent, of plausible size."""
        low, high = self.detector.plausible
        return (found.pieces == 1) & (found.area >= low) & (found.area <= high)

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        """Distance of images (B, 3 or 4, h, w): of VGG-HED features if there are weights, else mean squared colour."""
        a, b = a[:, :3].float(), b[:, :3].float()
        if self.features is None:
            return (a - b).square().mean((1, 2, 3)).numpy()
        parts = []
        for x, y in zip(a.split(32), b.split(32), strict=True):
            maps = zip(self.features(x), self.features(y), strict=True)
            parts.append(torch.stack([(p - q).abs().mean((1, 2, 3)) for p, q in maps]).mean(0))
        return torch.cat(parts).numpy()

    def play(self, state: WorldState, steps: int, seed: int) -> Iterator[WorldState]:
        """The states after each of `steps` independent random actions."""
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            state = self.simulator.step(state, *self.random_actions(rng, len(state)))
            yield state

    def random_actions(self, rng: np.random.Generator, rows: int) -> tuple[Tensor, Tensor]:
        """Independent actions of rows: shifts (rows, 2) px and codes (rows,) int64."""
        action = np.stack([rng.integers(n, size=rows) for n in self.table.nvec], 1)
        return torch.from_numpy(self.table.shifts[action[:, 0]]), torch.from_numpy(action[:, 1])

    def hold(
        self, state: WorldState, arrows: Sequence[str], seed: int = 0, code: int | None = None
    ) -> list[WorldState]:
        """The states after each of the held arrows (names of shifts), all with local action `code`. None: as in the
        player, drawn from the prior; without a prior, the usual code of the shift."""
        rng = np.random.default_rng(seed)
        states = []
        for name in arrows:
            index = self.table.shift_names.index(name)
            shift = torch.from_numpy(self.table.shifts[[index]]).expand(len(state), 2)
            codes = torch.full((len(state),), self.table.usual_codes[index] if code is None else code)
            if code is None and self.simulator.has_prior:
                until = self.simulator.code_prior(state, shift[:, None])[:, 0].double().cumsum(1)
                codes = (until < torch.from_numpy(rng.random((len(state), 1)))).sum(1).clamp(max=until.shape[1] - 1)
            state = self.simulator.step(state, shift, codes)
            states.append(state)
        return states

    def start_at(self, x: float) -> WorldState:
        """All start states, moved to column `x` px."""
        position = self.start.position.clone()
        position[:, 0] = x
        return self.simulator.place(self.start, position)

    def silhouettes(self, state: WorldState) -> np.ndarray:
        """Where the agents are drawn: (B, H, W) bool."""
        white, blank = state.layer[:, 3:].repeat(1, 4, 1, 1), torch.zeros_like(state.background)
        return (self.world.model.lma.view.draw(white, blank, state.position)[:, 0] > 127).numpy()


def simulator(e: Evaluation) -> dict[str, Any]:
    """Control error, presence and drift of the simulator, and the detectors' own error on real video."""
    return {
        "starts": len(e.probe.start),
        "detectors_on_real_video": detector_noise(e.probe, e.store, e.videos),
        "right": walk_right(e.probe),
        "cycle": cycle(e.probe),
        "random_play": e.play.figures,
    }


def detector_noise(probe: SimulatorProbe, store: Store, videos: Sequence[Video]) -> dict[str, Any]:
    """The detectors' own error on real video with known shifts: the lowest control error that can be measured."""
    if probe.matcher is None:
        return {}
    source = source_of(store)
    matched, centre = [], []
    for video in videos[:: max(1, len(videos) // 20)]:
        span = np.arange(video.start, video.start + video.length)
        true = np.diff(source.positions(store, video, store.masks(span[0], span[-1] + 1)), axis=0)
        found = probe.detector(store.frames[span], source.context(store, span))
        matched.append(np.linalg.norm(np.diff(probe.matcher(found.largest)[0], axis=0) - true, axis=1))
        centre.append(np.linalg.norm(np.diff(found.centroid, axis=0) - true, axis=1))
    return {"template": spread(np.concatenate(matched)), "centre_of_mass": spread(np.concatenate(centre))}


def spread(error: np.ndarray) -> dict[str, float]:
    """Root mean square, 95th percentile and share within half a px of errors (N,) px; those not finite are left out."""
    error = error[np.isfinite(error)]
    if not len(error):
        return {"steps": 0}
    return {
        "rmse_px": float(np.sqrt((error**2).mean())),
        "p95_px": float(np.percentile(error, 95)),
        "within_half_px": float((error <= 0.5).mean()),
        "steps": len(error),
    }


@dataclass
class Play:
    """Random play: control error, presence and drift, and frames (16, H, W, 3) uint8 by step."""

    figures: dict[str, Any]
    frames: dict[int, np.ndarray]


def random_play(probe: SimulatorProbe, rollouts: int, seed: int) -> Play:
    """Control error, presence and drift over 200 steps of independent random actions."""
    rng = np.random.default_rng(seed)
    rows = np.arange(rollouts) % len(probe.start)
    play = probe.start.rows(torch.from_numpy(rows))
    before_found = probe.detect(play, rows)
    before_place, _ = probe.position(before_found)
    seen: dict[int, dict[str, Any]] = {}
    frames: dict[int, np.ndarray] = {}
    for step in each(range(1, max(CURVE) + 1), "random play", "step"):
        shift, code = probe.random_actions(rng, rollouts)
        before = play.position
        moved = (probe.simulator.clamp(before + shift, before) - before).numpy()
        play = probe.simulator.step(play, shift, code)
        if step not in CURVE and step + 1 not in CURVE:
            continue
        found = probe.detect(play, rows)
        place, likeness = probe.position(found)
        if step in CURVE:
            seen[step] = {
                "present": float(probe.plausible(found).mean()),
                "control": spread(np.linalg.norm(place - before_place - moved, axis=1)),
                "centre": spread(np.linalg.norm(found.centroid - before_found.centroid - moved, axis=1)),
                "likeness": None if likeness is None else float(likeness.mean()),
                "mass": float((play.layer[:, 3].sum((1, 2)) / play.mass.clamp_min(1)).mean()),
            }
            if step in PICTURED:
                frames[step] = probe.simulator.frames(play.rows(slice(0, 16))).numpy()
        before_found, before_place = found, place
    figures = {
        "rollouts": rollouts,
        "detector": type(probe.detector).__name__,
        "control_by": "template" if probe.matcher else "centre of mass",
        "control": {f"step_{s}": seen[s]["control"] for s in STEPS},
        "control_by_centre_of_mass": {f"step_{s}": seen[s]["centre"] for s in STEPS},
        "present": {f"step_{s}": seen[s]["present"] for s in STEPS},
        "curves": {
            "step": list(CURVE),
            "present": [seen[s]["present"] for s in CURVE],
            "control_rmse_px": [seen[s]["control"].get("rmse_px") for s in CURVE],
            "silhouette_iou_with_nearest_real": [seen[s]["likeness"] for s in CURVE],
            "mask_mass_over_start": [seen[s]["mass"] for s in CURVE],
        },
    }
    if probe.matcher is not None:
        figures["real_silhouettes"] = len(probe.matcher.templates)
        figures["worst_silhouette_iou"] = min(at["likeness"] for at in seen.values())
    return Play(figures, frames)


def walk_right(probe: SimulatorProbe, steps: int = 8) -> dict[str, Any]:
    """Achieved over commanded displacement of steps right with code 0, from starts with room for the walk."""
    rows = np.arange(len(probe.start))
    right = probe.table.shift_names.index("right")
    commanded = steps * float(probe.table.shifts[right, 0])
    begin, _ = probe.position(probe.detect(probe.start, rows))
    end, _ = probe.position(probe.detect(probe.hold(probe.start, ["right"] * steps, code=0)[-1], rows))
    limit = probe.simulator.width - probe.simulator.config.agent_radius
    inside = (probe.start.position[:, 0] + commanded <= limit).numpy() & np.isfinite(begin[:, 0])
    achieved = (end - begin)[inside, 0]
    good = np.abs(achieved - commanded) <= 0.15 * commanded
    return {
        "commanded_px": commanded,
        "starts_inside": int(inside.sum()),
        "within_15_percent": finite(np.mean, good),
        "achieved_mean_px": finite(np.nanmean, achieved),
        "achieved_std_px": finite(np.nanstd, achieved),
    }


def cycle(probe: SimulatorProbe, steps: int = 10) -> dict[str, Any]:
    """Drift of the picture: distance to the start after n steps right and n left, beside 2 n steps of standing."""
    start = probe.start_at(float(probe.simulator.config.agent_radius))
    around = probe.hold(start, ["right"] * steps + ["left"] * steps, code=0)[-1]
    stood = probe.hold(start, ["stay"] * 2 * steps, code=0)[-1]
    went, stayed = (probe.distance(x.layer, start.layer) for x in (around, stood))
    return {
        "steps": steps,
        "measure": "VGG-HED feature distance" if probe.features else "mean squared colour",
        "after_walk": float(went.mean()),
        "after_standing": float(stayed.mean()),
        "ratio": float(went.mean() / max(1e-9, stayed.mean())),
        "between_agents": float(probe.distance(start.layer, start.layer.roll(1, 0)).mean()),
        "returned_within_px": float((around.position - start.position).abs().max()),
    }
