"""Measure a world: python -m training.evaluate tennis tennis --cache data --out evaluation.json

Everything is measured on held-out videos. Free running means from frame 0, without frame 0; the frozen player (the
first foreground, moved by the same shifts and otherwise unchanged) is the baseline of every LMA figure.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tqdm import tqdm

from glass_gym.action_space import ActionTable
from glass_gym.checkpoint import CheckpointError, World, load_world, resolve
from glass_gym.config import GlassConfig
from glass_gym.glass import Glass, crop_windows
from glass_gym.simulator import Simulator
from glass_gym.tracking import track
from training import sheets
from training.data.clips import open_data
from training.data.store import DataError, Store, frames_to_tensor
from training.metrics.actions import mutual_information, usage
from training.metrics.detection import MaskDetector, TennisDetector
from training.metrics.motion import shift_errors
from training.metrics.segmentation import centroids, iou
from training.trainer import TrainingError, read_state

try:
    import tyro
except ImportError:
    tyro = None

HORIZON = 15


@dataclass
class EvaluateConfig:
    """Measure a world on held-out videos."""

    checkpoint: Annotated[str, tyro.conf.Positional] if tyro else str
    """bundled name, .safetensors file, or a run's state.pt (GMA figures only)"""
    data: Annotated[str, tyro.conf.Positional] if tyro else str
    """as for training: tennis, wsprites, a clip store or a folder of videos"""
    out: Path = Path("evaluation.json")
    """JSON to write; tables in Markdown go beside it (.md), pictures into its folder"""
    cache: Path = Path("data")
    sheets: Path | None = None
    split: str = "test"
    videos: int = 120
    """held-out videos to measure on"""
    rollouts: int = 256
    """random-play rollouts"""
    seed: int = 0


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("evaluation needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(EvaluateConfig, args=argv, prog="python -m training.evaluate", description=__doc__)
    try:
        path = Path(config.checkpoint) if config.checkpoint.endswith(".pt") else resolve(config.checkpoint)
        world = load_state(path) if path.suffix == ".pt" else load_world(path)
        store = open_data(config.data, config.cache, sheets=config.sheets)
        result = evaluate(world, store, config)
    except (CheckpointError, DataError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    result = {"checkpoint_sha256": digest, "command": " ".join(sys.argv[1:]), "seed": config.seed,
              "data": store.source, "split": config.split} | result  # fmt: skip
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=1) + "\n")
    config.out.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))
    print(f"written: {config.out}, {config.out.with_suffix('.md')}, pictures in {config.out.parent}")
    return 0


def evaluate(world: World, store: Store, config: EvaluateConfig) -> dict:
    """All figures as a nested dict."""
    videos = [v for v in store.videos if v.split == config.split and v.length > HORIZON] or [
        v for v in store.videos if v.length > HORIZON
    ]
    if not videos:
        raise DataError(f"{store.root}: no video has the {HORIZON + 1} frames of an evaluation clip")
    videos = videos[:: max(1, len(videos) // config.videos)][: config.videos]
    result: dict = {}
    with torch.inference_mode():
        clips = analyse(world, store, videos, result)
        if not len(world.start_frames):
            return result | {"training_minutes": world.provenance["minutes"]}
        result["lma"] = animate(world, clips, config.out.parent)
        result["codes"] = local_actions(world, clips, config.out.parent)
        result["simulator"] = simulate(world, store, config)
    return result


def load_state(path: Path) -> World:
    """A run's averaged weights, without what only an exported world has."""
    state = read_state(path, torch.device("cpu"))
    model = Glass(GlassConfig.from_dict(json.loads(state["config"])))
    model.load_state_dict(state["average"])
    return World(model.eval(), np.empty((0,)), (1.0, 1.0), (), provenance={"minutes": dict(state["minutes"])})


@dataclass
class Clips:
    """Held-out clips in the agent's window: layers (N, T + 1, 4, s, s), shifts (N, T, 2), masks or None, labels."""

    layers: torch.Tensor
    shifts: torch.Tensor
    true_masks: torch.Tensor | None
    labels: np.ndarray | None
    groups: np.ndarray | None


def analyse(world: World, store: Store, videos, result: dict) -> Clips:
    """GMA figures into `result`, and the clips that LMA is measured on."""
    model, side = world.model, world.config.window
    overlap, around, distance, found, true, pairs_found, background = [], [], [], [], [], [], [[], []]
    layers, shifts, masks, labels, groups = [], [], [], [], []
    pixels = np.zeros(2)
    for video in tqdm(videos, desc="held-out videos", leave=False):
        span = slice(video.start, video.start + video.length)
        frames = frames_to_tensor(store.frames[span])
        raw = torch.cat([model.mask(part) for part in frames.split(64)])
        tracked = track(model, frames)
        moves = tracked.position.diff(dim=0)
        pairs = torch.stack([frames[:-1], frames[1:]], 1)
        pair_masks = torch.stack([raw[:-1], raw[1:]], 1)
        estimate = model.shift_foreground(pairs, pair_masks).numpy()
        corner = tracked.position.long() - side // 2
        window = crop_windows(torch.cat([frames * tracked.masks, tracked.masks], 1), corner, side)
        if store.has_masks:
            truth = store.masks(span.start, span.stop)
            overlap.append(iou((raw[:, 0] > 0.5).numpy(), truth))
            kept = (tracked.masks[:, 0] > 0.5).numpy()
            around.append(iou(kept, truth))
            pixels += [(kept & truth).sum(), (kept | truth).sum()]
            distance.append(np.linalg.norm(centroids(kept) - centroids(truth), axis=1))
            true_window = crop_windows(torch.from_numpy(truth)[:, None].float(), corner, side)
        move = true_shifts(store, video, masks=truth if store.has_masks else None)
        if move is not None:
            found.append(moves.numpy())
            pairs_found.append(estimate)
            true.append(move)
        if "background_shift" in store.labels:
            background[0].append(model.shift_background(pairs, 1 - pair_masks).numpy())
            background[1].append(store.labels["background_shift"][span][:-1])
        for begin in range(0, video.length - HORIZON, HORIZON + 1):
            part = slice(begin, begin + HORIZON + 1)
            layers.append(window[part])
            shifts.append(moves[begin : begin + HORIZON])
            if store.has_masks:
                masks.append(true_window[part])
            if "local_action" in store.labels:
                labels.append(store.labels["local_action"][span][part][1:])
                groups.append(store.labels["character"][span][part][1:])
    if store.has_masks:
        result["segmentation"] = {
            "miou": _mean(overlap), "miou_around_agent": _mean(around),
            "pixel_iou_around_agent": float(pixels[0] / pixels[1]),
            "centroid_distance_px": _finite(np.nanmean, np.concatenate(distance)),
        }  # fmt: skip
    if true:
        result["foreground_shift_pairwise"] = shift_errors(np.concatenate(pairs_found), np.concatenate(true))
        result["foreground_shift_tracked"] = shift_errors(np.concatenate(found), np.concatenate(true))
    if background[0]:
        result["background_shift"] = shift_errors(*(np.concatenate(b) for b in background))
    return Clips(
        torch.stack(layers), torch.stack(shifts), torch.stack(masks) if masks else None,
        np.stack(labels) if labels else None, np.stack(groups) if groups else None,
    )  # fmt: skip


def true_shifts(store: Store, video, masks: np.ndarray | None) -> np.ndarray | None:
    """True shifts (T - 1, 2) px of a video, or None without labels.

    Tennis: the change of the RAM position; where the sprite turns round, its body jumps inside the sprite, and the
    RAM does not say so: these steps are compared with the body's position on the pixels (the mask's head rows).
    """
    span = slice(video.start, video.start + video.length)
    if "foreground_shift" in store.labels:
        return store.labels["foreground_shift"][span][:-1]
    if "position" not in store.labels:
        return None
    position = store.labels["position"][span].astype(np.float64)
    if masks is not None:
        position[:, 0] += np.array([_body_column(m, p) for m, p in zip(masks, position, strict=True)])
    return np.diff(position, axis=0)


def _body_column(mask: np.ndarray, position: np.ndarray) -> float:
    """Where the body stands in a Tennis sprite, px from RAM x: 15 with the racket on the left, 7 on the right.

    Read from the columns of the leg rows: the racket is never that low.
    """
    feet = int(position[1])
    rows = mask[max(0, feet - 9) : feet + 1]
    columns = np.nonzero(rows)[1]
    if not len(columns):
        return 11.0
    return 15.0 if columns.mean() - position[0] > 11 else 7.0


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def animate(world: World, clips: Clips, folder: Path) -> dict:
    """LMA against the frozen player, one-step and free-running, with inferred codes."""
    model, layers, shifts = world.model, clips.layers, clips.shifts
    codes = model.quantise(model.directions(layers, shifts)).vector.unflatten(0, shifts.shape[:2])
    free = torch.stack([d.layer for d in model.rollout(layers, shifts, codes)], 1)
    always = torch.ones(shifts.shape[:2], dtype=torch.bool)
    one_step = torch.stack([d.layer for d in model.rollout(layers, shifts, codes, teacher=always)], 1)
    real, frozen = layers[:, 1:], layers[:, :1].expand(-1, HORIZON, -1, -1, -1)
    out = {"clips": len(layers), "protocol": "free running from frame 0, inferred codes, shifts by the tracker; "
           "frozen = first foreground moved by the same shifts; MSE averaged over clips before any ratio"}  # fmt: skip
    for step in (1, 5, HORIZON):
        at = step - 1
        fixed = _squared(frozen[:, at], real[:, at])
        out[f"step_{step}"] = {
            "foreground_mse": _squared(free[:, at], real[:, at]), "frozen_mse": fixed,
            "ratio": _squared(free[:, at], real[:, at]) / fixed,
            "mask_iou": _window_iou(free[:, at], real[:, at, 3:]),
            "frozen_iou": _window_iou(frozen[:, at], real[:, at, 3:]),
        }  # fmt: skip
        if clips.true_masks is not None:
            truth = clips.true_masks[:, step]
            out[f"step_{step}"] |= {
                "true_mask_iou": _window_iou(free[:, at], truth), "true_frozen_iou": _window_iou(frozen[:, at], truth),
            }  # fmt: skip
    previous = layers[:, :-1]
    out["one_step"] = {
        "foreground_mse": _squared(one_step, real), "copy_mse": _squared(previous, real),
        "mask_iou": _window_iou(one_step.flatten(0, 1), real[:, :, 3:].flatten(0, 1)),
    }  # fmt: skip
    rows = []
    for n in np.linspace(0, len(layers) - 1, 8).astype(int):
        rows.append([sheets.to_picture(x[:3]) for x in layers[n]])
        rows.append([sheets.to_picture(layers[n, 0, :3])] + [sheets.to_picture(x[:3]) for x in free[n]])
    sheets.save_picture(folder / "free_running.png", sheets.grid(rows))
    return out


def _squared(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a[..., :3, :, :] - b[..., :3, :, :]).square().mean())


def _window_iou(layer: torch.Tensor, mask: torch.Tensor) -> float:
    return float(iou((layer[:, 3] > 0.5).numpy(), (mask[:, 0] > 0.5).numpy()).mean())


def local_actions(world: World, clips: Clips, folder: Path) -> dict:
    """Usage on held-out pairs, mutual information with labels, and what each code does to a standing agent."""
    model, count = world.model, world.config.codes
    codes = model.infer_codes(clips.layers, clips.shifts).numpy()
    out = {"usage": usage(codes.ravel(), count)}
    if clips.labels is not None:
        out |= mutual_information(codes.ravel(), clips.labels.ravel(), clips.groups.ravel())
    starts = clips.layers[:: max(1, len(clips.layers) // 64), 0][:64]
    still = torch.zeros(len(starts), 8, 2)
    ends, rows = [], []
    for code in range(count):
        vectors = model.quantiser.embed(torch.full((len(starts) * 8,), code)).unflatten(0, (len(starts), 8))
        drawn = model.rollout(starts[:, None], still, vectors)
        ends.append(drawn[-1].layer)
        for n in (0, len(starts) // 3, 2 * len(starts) // 3):
            rows.append([sheets.to_picture(starts[n, :3])] + [sheets.to_picture(d.layer[n, :3]) for d in drawn])
    effect = [[_squared(a, b) for b in ends] for a in ends]
    out["mse_between_codes_after_8"] = np.round(effect, 5).tolist()
    out["mse_from_start_after_8"] = [round(_squared(end, starts), 5) for end in ends]
    sheets.save_picture(folder / "local_actions.png", sheets.grid(rows))
    return out


def simulate(world: World, store: Store, config: EvaluateConfig) -> dict:
    """Control, presence and control error by a detector on the frames."""
    simulator = Simulator(world.model, "cpu")
    table = ActionTable.build(world.step, world.code_names)
    detector = _detector(world, store)
    pool = torch.from_numpy(world.start_frames)
    state = simulator.start(pool)
    begin = detector(world.start_frames)
    sides = detector.sides(world.start_frames) if hasattr(detector, "sides") else None
    out: dict = {"starts": len(pool), "detector": type(detector).__name__}
    out["right"] = _walk_right(simulator, state, table, detector, begin, sides)
    rng = np.random.default_rng(config.seed)
    rows = np.arange(config.rollouts) % len(pool)
    play = state.rows(torch.from_numpy(rows))
    previous = begin.centroid[rows]
    errors = []
    for step in tqdm(range(1, 51), desc="random play", leave=False):
        action = np.stack([rng.integers(n, size=config.rollouts) for n in table.nvec], 1)
        before = play.position
        play = simulator.step(play, torch.from_numpy(table.shifts[action[:, 0]]), torch.from_numpy(action[:, 1]))
        if step in (1, 10, 50) or step + 1 in (1, 10, 50):
            now = detector(simulator.frames(play).numpy(), None if sides is None else sides[rows])
            if step in (1, 10, 50):
                moved = (play.position - before).numpy()
                errors.append((step, np.linalg.norm(now.centroid - previous - moved, axis=1)))
                good = (now.pieces == 1) & (now.area >= detector.plausible[0]) & (now.area <= detector.plausible[1])
                out[f"present_at_{step}"] = float(good.mean())
            previous = now.centroid
    for step, error in errors:
        valid = error[np.isfinite(error)]
        out[f"control_rmse_px_at_{step}"] = float(np.sqrt((valid**2).mean())) if len(valid) else None
    frames = simulator.frames(play).numpy()
    picture = sheets.grid([list(frames[i : i + 4]) for i in range(0, min(16, len(frames)), 4)], scale=1)
    sheets.save_picture(config.out.parent / "after_50_random_steps.png", picture)
    return out


def _walk_right(simulator, state, table, detector, begin, sides) -> dict:
    """8 steps right with the neutral code: achieved over commanded displacement, where the walk stays in the frame."""
    right = table.shift_names.index("right")
    commanded = 8 * float(table.shifts[right, 0])
    walk = state
    shift = torch.from_numpy(table.shifts[[right]]).expand(len(state), 2)
    for _ in range(8):
        walk = simulator.step(walk, shift, torch.zeros(len(state), dtype=torch.long))
    end = detector(simulator.frames(walk).numpy(), sides)
    inside = (state.position[:, 0] + commanded <= simulator.width - simulator.config.agent_radius).numpy()
    inside &= np.isfinite(begin.centroid[:, 0])
    achieved = (end.centroid - begin.centroid)[inside, 0]
    good = np.abs(achieved - commanded) <= 0.15 * commanded
    return {
        "commanded_px": commanded, "starts_inside": int(inside.sum()),
        "within_15_percent": _finite(np.mean, good * 1.0),
        "achieved_mean_px": _finite(np.nanmean, achieved), "achieved_std_px": _finite(np.nanstd, achieved),
    }  # fmt: skip


def _finite(reduce, values: np.ndarray) -> float | None:
    """A statistic as a float; None where nothing was measured."""
    return float(reduce(values)) if np.isfinite(values).any() else None


def _detector(world: World, store: Store):
    courts = store.root / "courts.npy"
    if courts.exists():
        return TennisDetector(np.load(courts, allow_pickle=False))
    frames = frames_to_tensor(world.start_frames)
    area = float((world.model.mask(frames) > 0.5).float().sum((1, 2, 3)).median())
    return MaskDetector(world.model, area)


def markdown(result: dict, depth: int = 2) -> str:
    """Nested figures as Markdown tables."""
    lines = []
    plain = {k: v for k, v in result.items() if not isinstance(v, dict)}
    if plain:
        lines += ["| what | value |", "|---|---|"]
        lines += [f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in plain.items()]
    for key, value in result.items():
        if isinstance(value, dict):
            lines += ["", f"{'#' * depth} {key}", "", markdown(value, depth + 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
