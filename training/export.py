"""A trained model + its data -> a world: action table, neutral code first, held-out start frames."""

from __future__ import annotations

import copy

import numpy as np
import torch

from glass_gym.action_space import COMPASS, nearest_direction
from glass_gym.checkpoint import World
from glass_gym.glass import Glass, crop_windows
from training.data.store import Store, frames_to_tensor
from training.windows import MARGIN, WindowSet

POOL = 64
DEAD = 0.01
"""Codes below this share of the training steps are left out of a world."""
TWIN = 0.05
"""Codes whose pictures differ by less than this share of what codes usually differ by are one code."""
RARE = 20
"""A direction seen less often than this says nothing about codes."""


@torch.no_grad()
def code_statistics(model: Glass, windows: WindowSet, clips: int = 256, length: int = 16) -> dict[str, np.ndarray]:
    """Inferred codes and shifts of random clips: codes (N,), shifts (N, 2) px, change (N,) of the foreground."""
    rng = np.random.default_rng(0)
    device = next(model.parameters()).device
    side = model.config.window
    length = min(length, int(windows.lengths.max()))
    codes, shifts, change = [], [], []
    for _ in range(clips):
        clip = windows.sample(rng, length)
        layers = clip.layers if windows.whole else crop_windows(clip.layers, torch.full((length, 2), MARGIN), side)
        layers = layers[None].to(device)
        moves = clip.position.diff(dim=0)[None].to(device)
        codes.append(model.infer_codes(layers, moves)[0].cpu())
        shifts.append(moves[0].cpu())
        change.append((layers[0, 1:, :3] - layers[0, :-1, :3]).square().mean((1, 2, 3)).cpu())
    return {"codes": torch.cat(codes).numpy(), "shifts": torch.cat(shifts).numpy(), "change": torch.cat(change).numpy()}


def step_length(shifts: np.ndarray) -> tuple[float, float]:
    """(x, y) px of an ordinary step: the median of the moves along each axis."""
    steps = []
    for axis in range(2):
        moved = np.abs(shifts[:, axis])[np.abs(shifts[:, axis]) >= 1]
        steps.append(float(np.median(moved)) if len(moved) else 1.0)
    return steps[0], steps[1]


def usual_codes(statistics: dict[str, np.ndarray], step: tuple[float, float], codes: int) -> list[int]:
    """For each direction of COMPASS the local action that more than half of its steps have, for keys and demos.

    A diagonal that the data hardly has takes the code of its horizontal part; where no code has a majority it is 0.
    """
    counts = np.zeros((len(COMPASS), codes), int)
    np.add.at(counts, (nearest_direction(statistics["shifts"], step), statistics["codes"]), 1)
    names = list(COMPASS)
    out = []
    for row, name in enumerate(names):
        if counts[row].sum() < RARE and "-" in name:
            row = names.index(name.split("-")[1])
        total = counts[row].sum()
        out.append(int(counts[row].argmax()) if total >= RARE and 2 * counts[row].max() > total else 0)
    return out


def drop_dead_codes(model: Glass, statistics: dict[str, np.ndarray], twins: list[int] = ()) -> tuple[Glass, np.ndarray]:
    """Leave out codes that explain less than DEAD of the steps: an action that nobody ever took says nothing; and
    `twins`, which draw the same as another.

    Returns:
        the model (a copy with a smaller codebook if any is dead), and the codes (K',) that it kept.
    """
    share = np.bincount(statistics["codes"], minlength=model.config.codes) / max(1, len(statistics["codes"]))
    kept = np.setdiff1d(np.flatnonzero(share >= DEAD), twins)
    if len(kept) in (0, model.config.codes):
        return model, np.arange(model.config.codes)
    smaller = copy.deepcopy(model)
    smaller.config = model.config.replace(codes=len(kept))
    _pick_codes(smaller.quantiser, kept.tolist())
    return smaller, kept


@torch.no_grad()
def twin_codes(model: Glass, windows: WindowSet, statistics: dict[str, np.ndarray], steps: int = 8) -> list[int]:
    """Codes that draw the same as a more frequent one: played from 64 real windows on the spot, they end nearer to it
    than TWIN of the mean distance between codes."""
    count, side = model.config.codes, model.config.window
    if windows.whole or count < 2:
        return []
    index = windows.inner(np.random.default_rng(0), 64, side)
    start = crop_windows(windows.layers_at(index), torch.full((len(index), 2), MARGIN), side)
    start = start.to(next(model.parameters()).device)
    still = torch.zeros(len(start), steps, 2, device=start.device)
    ends = []
    for code in range(count):
        vectors = model.quantiser.embed(torch.full((len(start), steps), code, device=start.device).flatten())
        ends.append(model.rollout(start[:, None], still, vectors.unflatten(0, (len(start), steps)))[-1].layer)
    far = torch.stack([torch.stack([(a - b).square().mean() for b in ends]) for a in ends]).cpu().numpy()
    usual = far.sum() / (count * (count - 1))
    kept, twins = [], []
    for code in np.argsort(-np.bincount(statistics["codes"], minlength=count)).tolist():
        same = [k for k in kept if far[code, k] < TWIN * usual]
        (twins if same else kept).append(code)
    return sorted(twins)


def _pick_codes(quantiser: torch.nn.Module, index: list[int]) -> None:
    """Make `index` the quantiser's codes, in this order."""
    rows = quantiser.codebook.detach()[index]
    quantiser.codebook = torch.nn.Parameter(rows) if isinstance(quantiser.codebook, torch.nn.Parameter) else rows
    if hasattr(quantiser, "usage"):
        quantiser.usage = quantiser.usage[index]


def neutral_first(model: Glass, statistics: dict[str, np.ndarray]) -> list[int]:
    """Reorder the codebook in place: code 0 is the one under which the still agent changes least.

    Returns:
        the old index of each new code.
    """
    codes, change = statistics["codes"], statistics["change"]
    still = np.abs(statistics["shifts"]).sum(1) < 0.5
    count = np.bincount(codes, minlength=model.config.codes)
    mean = [change[still & (codes == k)].mean() if (still & (codes == k)).any() else np.inf
            for k in range(model.config.codes)]  # fmt: skip
    frequent = [m if count[k] >= 0.03 * len(codes) else np.inf for k, m in enumerate(mean)]
    first = int(np.argmin(frequent))
    order = [first] + [k for k in np.argsort(-count).tolist() if k != first]
    _pick_codes(model.quantiser, order)
    return order


def start_pool(model: Glass, store: Store, count: int = POOL) -> np.ndarray:
    """Held-out frames (N, H, W, 3) with the agent well inside: spread over the val and test videos."""
    held = [v for v in store.videos if v.split != "train"] or store.videos
    rng = np.random.default_rng(0)
    device = next(model.parameters()).device
    picked = []
    for index in rng.permutation(len(held)):
        video = held[index]
        frame = store.frames[video.start + rng.integers(video.length)]
        image = frames_to_tensor(frame)[None].to(device)
        with torch.no_grad():
            mask = model.mask(image)
        if mask.sum() >= 16:
            picked.append(frame)
        if len(picked) == count:
            break
    if not picked:
        raise ValueError(f"{store.root}: the mask is empty on every held-out frame; train GMA longer or check theta")
    while len(picked) < min(count, 32):  # few held-out videos: more frames of each
        video = held[rng.integers(len(held))]
        picked.append(store.frames[video.start + rng.integers(video.length)])
    return np.stack(picked)


def build_world(model: Glass, store: Store, windows: WindowSet, code_names=None, provenance=None) -> World:
    """Everything a checkpoint holds, measured on the data."""
    statistics = code_statistics(model.eval(), windows)
    total = model.config.codes
    model, kept = drop_dead_codes(model, statistics, twin_codes(model, windows, statistics))
    if len(kept) < len(np.unique(statistics["codes"])):  # the few steps of dropped codes belong to others now
        statistics = code_statistics(model, windows)
    else:
        statistics["codes"] = np.searchsorted(kept, statistics["codes"])
    order = neutral_first(model, statistics)
    names = tuple(code_names or [f"code {k}" if k else "neutral" for k in range(model.config.codes)])
    if len(names) != model.config.codes:
        raise ValueError(
            f"{len(names)} code names for the {model.config.codes} codes that the data uses (of {total}): {names}"
        )
    pool, step = start_pool(model, store), step_length(statistics["shifts"])
    statistics["codes"] = np.argsort(order)[statistics["codes"]]
    return World(
        model, pool, step, names, store.pixel_aspect,
        {"frame_mean": pool.mean((0, 1, 2)).round(2).tolist(), "frame_std": pool.std((0, 1, 2)).round(2).tolist(),
         "code_share": np.bincount(statistics["codes"], minlength=len(names)).tolist(),
         "usual_codes": usual_codes(statistics, step, len(names))},
        provenance or {},
    )  # fmt: skip
