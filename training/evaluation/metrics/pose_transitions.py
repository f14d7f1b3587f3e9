"""Do poses follow one another as in real video? Held arrows against held-out clips, and the codes that swing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.model.library import LibraryLMA, wrapped
from glass_gym.tensors.geometry import crop_windows

from .evaluation import Evaluation

POSES = 24  # Clusters of real silhouettes.
SEARCH_PX = 2  # Largest offset between a drawn silhouette and a real one, px.
HELD = 12  # Steps of a held arrow, if the ground has room for them.
ROWS = 256  # Walks; each start is used several times, because codes are drawn from the prior.
LEAST = 10  # Poses with fewer transitions than this are not compared.
TURNS = (-10, -4, -1.5, 1.5, 4, 10)  # Bounds of the bins of turns, degrees a step.
SWING_STEPS = 3  # A code swings if a swing is seen within this many steps.


class PoseClusters:
    """`count` clusters of the silhouettes of real layers (N, 4, s, s); the pose of a layer is its nearest cluster."""

    def __init__(self, layers: Tensor, count: int = POSES, seed: int = 0):
        from sklearn.cluster import KMeans

        masks = (layers[:, 3] > 0.5).float().flatten(1).numpy()
        found = KMeans(min(count, len(masks)), n_init=3, random_state=seed).fit(masks)
        self.centres = torch.from_numpy(found.cluster_centers_).float()

    def __call__(self, layers: Tensor) -> np.ndarray:
        """Layers (B, 4, s, s) -> the nearest cluster (B,), at the best offset within SEARCH_PX px."""
        side = layers.shape[-1]
        padded = F.pad((layers[:, 3:] > 0.5).float(), (SEARCH_PX,) * 4)
        best = torch.full((len(layers), len(self.centres)), torch.inf)
        for y in range(2 * SEARCH_PX + 1):
            for x in range(2 * SEARCH_PX + 1):
                moved = padded[:, 0, y : y + side, x : x + side].flatten(1)
                best = torch.minimum(best, torch.cdist(moved, self.centres))
        return best.argmin(1).numpy()


def pose_transitions(e: Evaluation) -> dict[str, Any]:
    """p(next pose | pose) under held arrows against held-out clips; how agents turn, if their heading is taken out; how
    codes swing, if the source labels swings."""
    layers = _windows(e, e.clips.layers.flatten(0, 1), e.clips.positions.flatten(0, 1))
    clusters = PoseClusters(layers)
    real = clusters(layers).reshape(e.clips.layers.shape[:2])
    moves = e.clips.shifts.numpy()
    count = len(clusters.centres)
    out: dict[str, Any] = {"clusters": count}
    least = 0.5 * e.world.step[0]
    distances = []
    for name, sign in (("right", 1), ("left", -1)):
        start = e.probe.start_at(_with_room(e, sign))
        start = start.rows(torch.arange(ROWS) % len(start))
        held = [start, *e.probe.hold(start, [name] * HELD, e.seed)]
        drawn = np.stack([clusters(_windows(e, s.layer, s.position)) for s in held], 1)  # (rows, HELD + 1)
        went = torch.stack([s.position[:, 0] for s in held], 1).diff(dim=1).numpy()
        walks = sign * went > least  # not at the edge of the ground, where the agent stops
        goes = sign * moves[..., 0] > least
        before, after = real[:, :-1][goes], real[:, 1:][goes]
        made = _transitions(drawn[:, :-1][walks], drawn[:, 1:][walks], count)
        distances.append(total_variation(made, _transitions(before, after, count)))
        halves = (_transitions(before[i::2], after[i::2], count) for i in (0, 1))
        walked = [poses[steps] for poses, steps in zip(drawn[:, 1:], walks, strict=True) if steps.any()]
        counts = np.array([np.bincount(poses, minlength=count) for poses in walked])
        out[name] = {
            "real_steps": int(goes.sum()),
            "distinct_poses": float((counts > 0).sum(1).mean()) if walked else None,
            "share_of_the_commonest": float((counts.max(1) / counts.sum(1)).mean()) if walked else None,
            "next_pose_total_variation": distances[-1],
            "of_two_halves_of_the_real_steps": total_variation(*halves),
        }
    known = [d for d in distances if d is not None]
    out["next_pose_total_variation"] = float(np.mean(known)) if known else None
    if e.world.config.heading:
        out["turn_total_variation"] = _turn_variation(e)
    if "swing" in e.store.labels:
        frames = np.asarray(e.clips.starts)[:, None] + np.arange(real.shape[1])
        out["swing"] = _swings(e, clusters, real, e.store.labels["swing"][frames].astype(bool))
    return out


def _turn_variation(e: Evaluation) -> float | None:
    """Total variation of the turns a step, in the bins of TURNS: under held arrows of all directions, against the steps
    of held-out clips in which the agent goes."""
    lma, clips = e.model.lma, e.clips
    assert isinstance(lma, LibraryLMA)
    _, heading = lma.observe(clips.layers.flatten(0, 1))
    real = wrapped(heading.unflatten(0, clips.layers.shape[:2]).diff(dim=1))
    goes = (clips.shifts.abs() > 0.5 * torch.tensor(e.world.step)).any(-1)
    made = []
    for name in e.probe.table.shift_names:
        if name != "stay":
            states = [e.probe.start, *e.probe.hold(e.probe.start, [name] * HELD, e.seed)]
            headings = [h for s in states if (h := e.probe.simulator.agent_heading(s)) is not None]
            made.append(wrapped(torch.stack(headings).diff(dim=0)).flatten())
    counts = [np.histogram(x.rad2deg(), [-np.inf, *TURNS, np.inf])[0] for x in (torch.cat(made), real[goes])]
    return total_variation(*(c[None] for c in counts))


def _with_room(e: Evaluation, sign: int) -> float:
    """The column, px, at which a held arrow starts: the middle, or further back if the ground would end too early."""
    middle = e.probe.simulator.width / 2
    left, _, right, _ = e.probe.simulator.ground
    ahead = right - middle if sign > 0 else middle - left
    missing = max(0.0, HELD * e.world.step[0] - ahead)
    return float(np.clip(middle - sign * missing, min(left, middle), max(right, middle)))


def _windows(e: Evaluation, layers: Tensor, position: Tensor) -> Tensor:
    """Windows (B, 4, s, s) of layers (B, 4, h, w) around positions (B, 2) px."""
    if e.model.lma.view.follows:
        return layers
    side = e.world.config.window
    return crop_windows(layers, position.long() - side // 2, side)


def total_variation(made: np.ndarray, real: np.ndarray) -> float | None:
    """Total variation, in [0, 1], of p(next | pose) between two tables of counts (P, P), averaged over the real poses;
    None if no pose occurs often enough in both."""
    both = (made.sum(1) >= LEAST) & (real.sum(1) >= LEAST)
    if not both.any():
        return None
    p, q = (t[both] / t[both].sum(1, keepdims=True) for t in (made, real))
    return float(np.average(0.5 * np.abs(p - q).sum(1), weights=real[both].sum(1)))


def _transitions(before: np.ndarray, after: np.ndarray, count: int) -> np.ndarray:
    table = np.zeros((count, count))
    np.add.at(table, (before, after), 1)
    return table


def _swings(e: Evaluation, clusters: PoseClusters, real: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """Poses that are mostly labelled as swings, and the share of the starts that reach one, by code."""
    swings = [k for k in np.unique(real) if label[real == k].mean() > 0.5]
    by_code = []
    for code in range(e.world.config.codes):
        seen = np.zeros(len(e.probe.start), bool)
        for state in e.probe.hold(e.probe.start, ["stay"] * SWING_STEPS, code=code):
            seen |= np.isin(clusters(_windows(e, state.layer, state.position)), swings)
        by_code.append(float(seen.mean()))
    return {"real_share": float(label.mean()), "poses": len(swings), "starts_by_code": by_code, "best": max(by_code)}
