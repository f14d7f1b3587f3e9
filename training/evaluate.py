"""Measure a world: python -m training.evaluate tennis tennis --cache data --out evaluation.json

Everything is measured on held-out videos. Free running means from frame 0, without frame 0; the frozen player (the
first foreground, moved by the same shifts and otherwise unchanged) is the baseline of every LMA figure. Tables go to
OUT (JSON) and beside it (Markdown), contact sheets and curves into its folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from tqdm import tqdm

from glass_gym.checkpoint import CheckpointError, World, load_world, resolve
from glass_gym.config import GlassConfig
from glass_gym.glass import Glass, blend_windows, crop_windows, to_bytes
from glass_gym.networks.shift import translate
from glass_gym.tracking import track
from training import sheets
from training.data.clips import open_data
from training.data.store import DataError, Store, frames_to_tensor
from training.metrics import instrument, learned
from training.metrics.actions import mutual_information, usage
from training.metrics.images import picture_errors
from training.metrics.instrument import Instrument
from training.metrics.motion import shift_errors
from training.metrics.poses import true_positions
from training.metrics.segmentation import centroids, iou, soft_iou
from training.perceptual import load_features
from training.trainer import TrainingError, read_state

try:
    import tyro
except ImportError:
    tyro = None

HORIZON = 15
"""Steps of a held-out clip (the paper's Tennis clips have 16 frames)."""
STEPS_RE = 12
"""Steps of mIoU_RE (the paper's W-Sprites clips have 12 frames)."""


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
    """W-Sprites: folder of LPC sheets; default: built-in characters"""
    background: Path | None = None
    """W-Sprites: as for training, when its data is not generated yet"""
    split: str = "test"
    videos: int = 120
    """held-out videos to measure on"""
    rollouts: int = 256
    """random-play rollouts"""
    vgg: Path | None = None
    """VGG16 weights (.safetensors): adds feature distances, called VGG-HED"""
    only: tuple[Literal["lma", "video", "codes", "transfer", "simulator"], ...] = ()
    """measure only these parts beside the segmentation; default: all"""
    learned: bool = False
    """add LPIPS and FID (extra `metrics`; downloads their networks)"""
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
        store = open_data(config.data, config.cache, sheets=config.sheets, background=config.background)
        result = evaluate(world, store, config)
    except (CheckpointError, DataError, TrainingError, ImportError, ValueError) as error:
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
    """All figures as a nested dict; sheets are written beside `config.out`."""
    videos = [v for v in store.videos if v.split == config.split and v.length > HORIZON] or [
        v for v in store.videos if v.length > HORIZON
    ]
    if not videos:
        raise DataError(f"{store.root}: no video has the {HORIZON + 1} frames of an evaluation clip")
    videos = videos[:: max(1, len(videos) // config.videos)][: config.videos]
    result: dict = {}
    folder = config.out.parent
    features = load_features(config.vgg, "cpu")
    with torch.inference_mode():
        sheets.save_picture(folder / "layers.png", sheets.layers_sheet(world.model, store, config.split))
        clips = analyse(world, store, videos, result)
        if not len(world.start_frames):
            return result | {"training_minutes": world.provenance["minutes"]}
        tool = Instrument.build(world, store, features)
        wanted = config.only or ("lma", "video", "codes", "transfer", "simulator")
        if "lma" in wanted or "video" in wanted:
            result["lma"], free = animate(world, clips, folder)
        if "video" in wanted:
            result["video"] = reconstruct(tool, store, clips, free, config)
        if "codes" in wanted:
            result["codes"] = local_actions(tool, clips, folder)
        if "transfer" in wanted:
            result["transfer"] = transfer(world, clips, folder)
        if "simulator" in wanted:
            result["simulator"] = simulate(tool, store, videos, config)
    return result


def simulate(tool: Instrument, store: Store, videos, config: EvaluateConfig) -> dict:
    """The simulator as an instrument, with its sheets."""
    folder = config.out.parent
    out = {
        "starts": len(tool.start), "detectors_on_real_video": instrument.floor(tool, store, videos),
        "right": instrument.walk_right(tool), "cycle": instrument.cycle(tool),
        "random_play": instrument.random_play(tool, config.rollouts, config.seed, folder),
    }  # fmt: skip
    sheets.save_picture(folder / "global_actions.png", global_actions(tool))
    sheets.curves(folder / "curves.png", out["random_play"]["curves"])
    return out


def load_state(path: Path) -> World:
    """A run's averaged weights, without what only an exported world has."""
    state = read_state(path, torch.device("cpu"))
    model = Glass(GlassConfig.from_dict(json.loads(state["config"])))
    model.load_state_dict(state["average"])
    return World(model.eval(), np.empty((0,)), (1.0, 1.0), (), provenance={"minutes": dict(state["minutes"])})


@dataclass
class Clips:
    """Held-out clips in the agent's window.

    Attributes:
        layers (N, T + 1, 4, s, s), shifts (N, T, 2) px, positions (N, T + 1, 2) px, starts (N,) frames of the store,
        background (N, T, 2) px, steps of the scene; true_masks in the windows, or None; labels (N, T) and groups
        (N, T), or None; codes, code_shifts, code_labels, code_groups: of every step of the whole videos.
    """

    layers: torch.Tensor
    shifts: torch.Tensor
    positions: torch.Tensor
    starts: np.ndarray
    background: torch.Tensor
    true_masks: torch.Tensor | None
    labels: np.ndarray | None
    groups: np.ndarray | None
    codes: np.ndarray
    code_shifts: np.ndarray
    code_labels: np.ndarray | None
    code_groups: np.ndarray | None


def analyse(world: World, store: Store, videos, result: dict, clips: bool = True) -> Clips | None:
    """GMA figures into `result`, and (with `clips`) the clips that LMA is measured on."""
    model, side = world.model, world.config.window
    found: dict[str, list] = defaultdict(list)
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
        scene = model.shift_background(pairs, 1 - pair_masks)
        corner = tracked.position.long() - side // 2
        truth = store.masks(span.start, span.stop) if store.has_masks else None
        if truth is not None:
            found["iou"].append(iou((raw[:, 0] > 0.5).numpy(), truth))
            found["soft"].append(soft_iou(raw[:, 0].numpy(), truth.astype(np.float32)))
            kept = (tracked.masks[:, 0] > 0.5).numpy()
            found["around"].append(iou(kept, truth))
            pixels += [(kept & truth).sum(), (kept | truth).sum()]
            found["distance"].append(np.linalg.norm(centroids(kept) - centroids(truth), axis=1))
        move = true_shifts(store, video, truth)
        if move is not None:
            found["tracked"].append(moves.numpy())
            found["pairwise"].append(estimate)
            found["true"].append(move)
        if "background_shift" in store.labels:
            found["scene"].append(scene.numpy())
            found["true_scene"].append(store.labels["background_shift"][span][:-1])
        if not clips:
            continue
        window = crop_windows(torch.cat([frames * tracked.masks, tracked.masks], 1), corner, side)
        true_window = None if truth is None else crop_windows(torch.from_numpy(truth)[:, None].float(), corner, side)
        if model.config.view == "agent" and len(world.start_frames):
            found["codes"].append(model.infer_codes(window[None], moves[None])[0].numpy())
            found["code_shifts"].append(moves.numpy())
            if "local_action" in store.labels:
                found["code_labels"].append(store.labels["local_action"][span][1:])
                found["code_groups"].append(store.labels["character"][span][1:])
        for begin in range(0, video.length - HORIZON, HORIZON + 1):
            part, steps = slice(begin, begin + HORIZON + 1), slice(begin, begin + HORIZON)
            found["layers"].append(window[part])
            found["shifts"].append(moves[steps])
            found["positions"].append(tracked.position[part])
            found["starts"].append(span.start + begin)
            found["background"].append(scene[steps])
            if true_window is not None:
                found["masks"].append(true_window[part])
            if "local_action" in store.labels:
                found["labels"].append(store.labels["local_action"][span][part][1:])
                found["groups"].append(store.labels["character"][span][part][1:])
    if store.has_masks:
        result["segmentation"] = {
            "miou": _mean(found["iou"]), "soft_iou": _mean(found["soft"]), "miou_around_agent": _mean(found["around"]),
            "pixel_iou_around_agent": float(pixels[0] / pixels[1]),
            "centroid_distance_px": _finite(np.nanmean, np.concatenate(found["distance"])),
        }  # fmt: skip
    if found["true"]:
        true = np.concatenate(found["true"])
        result["foreground_shift_pairwise"] = shift_errors(np.concatenate(found["pairwise"]), true)
        result["foreground_shift_tracked"] = shift_errors(np.concatenate(found["tracked"]), true)
    if found["scene"]:
        result["background_shift"] = shift_errors(np.concatenate(found["scene"]), np.concatenate(found["true_scene"]))
    if not clips:
        return None
    stack = lambda name: torch.stack(found[name]) if found[name] else None  # noqa: E731
    array = lambda name, join=np.concatenate: join(found[name]) if found[name] else None  # noqa: E731
    return Clips(
        stack("layers"), stack("shifts"), stack("positions"), np.array(found["starts"]), stack("background"),
        stack("masks"), array("labels", np.stack), array("groups", np.stack), array("codes"), array("code_shifts"),
        array("code_labels"), array("code_groups"),
    )  # fmt: skip


def true_shifts(store: Store, video, masks: np.ndarray | None) -> np.ndarray | None:
    """True shifts (T - 1, 2) px of a video from labels, or None without them; see :func:`true_positions`."""
    if "foreground_shift" in store.labels:
        return store.labels["foreground_shift"][video.start : video.start + video.length][:-1]
    if masks is None:
        masks = np.zeros((video.length, store.height, store.width), bool)
    position = true_positions(store, video, masks)
    return None if position is None else np.diff(position, axis=0)


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def animate(world: World, clips: Clips, folder: Path) -> tuple[dict, torch.Tensor]:
    """LMA against the frozen player, one-step and free-running, with inferred codes; and the free-running layers."""
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
    if clips.true_masks is not None:
        truth = clips.true_masks[:, 1 : STEPS_RE + 1].flatten(0, 1)
        out["miou_re"] = {
            "free_running_12": _window_iou(free[:, :STEPS_RE].flatten(0, 1), truth),
            "one_step_12": _window_iou(one_step[:, :STEPS_RE].flatten(0, 1), truth),
            "frozen_12": _window_iou(frozen[:, :STEPS_RE].flatten(0, 1), truth),
            "m_on_real_frames_12": _window_iou(real[:, :STEPS_RE].flatten(0, 1), truth),
        }  # fmt: skip
    rows = []
    for n in np.linspace(0, len(layers) - 1, 8).astype(int):
        rows.append([sheets.to_picture(x[:3]) for x in layers[n]])
        rows.append([sheets.to_picture(layers[n, 0, :3])] + [sheets.to_picture(x[:3]) for x in free[n]])
    sheets.save_picture(folder / "free_running.png", sheets.grid(rows))
    return out, free


def _squared(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a[..., :3, :, :] - b[..., :3, :, :]).square().mean())


def _window_iou(layer: torch.Tensor, mask: torch.Tensor) -> float:
    return float(iou((layer[:, 3] > 0.5).numpy(), (mask[:, 0] > 0.5).numpy()).mean())


def reconstruct(tool: Instrument, store: Store, clips: Clips, free: torch.Tensor, config: EvaluateConfig) -> dict:
    """Whole frames of the clips, free running: the drawn agent over the first background, moved by the estimated
    shifts. Picture errors, and ADD / MDR (Table 5): distance of the detections in real and reconstructed frames, px,
    and the share of real detections that the reconstruction lacks."""
    model, rows = tool.world.model, []
    drawn, real = [], []
    for n, start in enumerate(clips.starts):
        frames = store.frames[start : start + HORIZON + 1]
        first = frames_to_tensor(frames[:1])
        background = model.inpaint(first, model.mask(first)).float()
        total = clips.background[n].cumsum(0)
        if total.abs().max() < 0.25:
            behind = to_bytes(background).expand(HORIZON, -1, -1, -1)
        else:
            behind = to_bytes(translate(background.expand(HORIZON, -1, -1, -1), total, "border"))
        made = blend_windows(free[n], behind, clips.positions[n, 1:]).permute(0, 2, 3, 1).numpy()
        drawn.append(made)
        real.append(np.asarray(frames[1:]))
        if n % max(1, len(clips.starts) // 5) == 0 and len(rows) < 12:
            rows += [list(real[-1][::3]), list(made[::3])]
    drawn, real = np.stack(drawn), np.stack(real)  # (N, T, H, W, 3)
    sheets.save_picture(config.out.parent / "reconstruction.png", sheets.grid(rows, scale=1))
    out: dict = {}
    for step in (1, 5, HORIZON):
        at = step - 1
        out[f"step_{step}"] = picture_errors(drawn[:, at], real[:, at])
        if store.has_masks:
            truth = np.stack([store.masks(s + step, s + step + 1)[0] for s in clips.starts])
            out[f"step_{step}"]["foreground"] = picture_errors(drawn[:, at], real[:, at], truth)
        if tool.features is not None:
            a, b = (torch.from_numpy(x[:, at]).permute(0, 3, 1, 2) / 127.5 - 1 for x in (drawn, real))
            pad = torch.zeros_like(a[:, :1])
            out[f"step_{step}"]["vgg_hed_distance"] = float(
                tool.distance(torch.cat([a, pad], 1), torch.cat([b, pad], 1)).mean()
            )
    flat, true = drawn.reshape(-1, *drawn.shape[2:]), real.reshape(-1, *real.shape[2:])
    sides = None
    if "colour" in store.labels:
        sides = np.repeat(store.labels["colour"][clips.starts], HORIZON)
    found, wanted = tool.detector(flat, sides), tool.detector(true, sides)
    seen = wanted.pieces > 0
    both = seen & (found.pieces > 0)
    distance = np.linalg.norm(found.centroid - wanted.centroid, axis=1)[both]
    out["detection"] = {
        "detector": type(tool.detector).__name__, "frames": int(seen.sum()), "add_px": _finite(np.mean, distance),
        "add_median_px": _finite(np.median, distance),
        "mdr_percent": float(100 * (1 - both.sum() / max(1, seen.sum()))),
    }  # fmt: skip
    if tool.matcher is not None:
        a, b = tool.matcher(found.largest)[0], tool.matcher(wanted.largest)[0]
        apart = np.linalg.norm(a - b, axis=1)
        out["detection"]["add_by_template_px"] = _finite(np.nanmean, apart)
    if tool.features is not None:
        sample = np.linspace(0, len(flat) - 1, min(512, len(flat))).astype(int)
        a, b = (learned.pooled_features(tool.features, x[sample]) for x in (flat, true))
        out["vgg_hed_frechet_distance"] = learned.frechet_distance(a, b)
    if config.learned:
        a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (flat, true))
        out["lpips"] = learned.lpips(a / 127.5 - 1, b / 127.5 - 1)
        out["fid"] = learned.fid(a, b)
    return out


def local_actions(tool: Instrument, clips: Clips, folder: Path) -> dict:
    """Usage on held-out pairs, mutual information with labels, and what each code does to a standing agent."""
    world, model = tool.world, tool.world.model
    out = {"usage": usage(clips.codes, world.config.codes)}
    if clips.code_labels is not None:
        out |= mutual_information(clips.codes, clips.code_labels, clips.code_groups, clips.code_shifts)
    out["effect"] = instrument.code_effect(tool)
    starts = tool.start.layer
    still, rows = torch.zeros(len(starts), 8, 2), []
    for code in range(world.config.codes):
        vectors = model.quantiser.embed(torch.full((len(starts) * 8,), code)).unflatten(0, (len(starts), 8))
        drawn = model.rollout(starts[:, None], still, vectors)
        for n in (0, len(starts) // 3, 2 * len(starts) // 3):
            rows.append([sheets.to_picture(starts[n, :3])] + [sheets.to_picture(d.layer[n, :3]) for d in drawn])
    sheets.save_picture(folder / "local_actions.png", sheets.grid(rows))
    return out


def transfer(world: World, clips: Clips, folder: Path, pairs: int = 64) -> dict:
    """Actions decoded from one clip, played on the first frame of another (Figs. 5, 11, 12): does A read them back?"""
    model = world.model
    count = min(pairs, len(clips.layers))
    donor = clips.layers[:count]
    target = donor.roll(count // 2, 0)
    shifts = clips.shifts[:count]
    z = model.directions(donor, shifts)
    quantised = model.quantise(z)
    codes, vectors = quantised.index.unflatten(0, z.shape[:2]), quantised.vector.unflatten(0, z.shape[:2])
    drawn = torch.stack([d.layer for d in model.rollout(target, shifts, vectors)], 1)
    again = model.infer_codes(torch.cat([target[:, :1], drawn], 1), shifts)
    rows = []
    for n in np.linspace(0, count - 1, min(4, count)).astype(int):
        rows.append([sheets.to_picture(x[:3]) for x in donor[n]])
        rows.append([sheets.to_picture(target[n, 0, :3])] + [sheets.to_picture(x[:3]) for x in drawn[n]])
    sheets.save_picture(folder / "transfer.png", sheets.grid(rows))
    own = model.infer_codes(target, shifts)
    return {
        "pairs": count, "codes_read_back": float((again == codes).float().mean()),
        "codes_of_the_target_before": float((own == codes).float().mean()),
    }  # fmt: skip


def global_actions(tool: Instrument, steps: int = 4) -> np.ndarray:
    """Each direction from a few starts (Figs. 7, 13-15): the agent before in red, after in green."""
    rows = []
    x = tool.simulator.width / 2
    start = instrument.placed(tool, x).rows(torch.linspace(0, len(tool.start) - 1, 4).long())
    begin = tool.simulator.frames(start).numpy()
    for n in range(len(start)):
        rows.append([begin[n]])
    for name in tool.table.shift_names:
        after = instrument.go(tool, start, [(name, 0)] * steps)
        frames = tool.simulator.frames(after).numpy()
        old, new = (instrument.silhouettes(tool, s) for s in (start, after))
        for n in range(len(start)):
            picture = frames[n].astype(np.float32)
            picture[old[n]] = 0.4 * picture[old[n]] + 0.6 * np.array([255, 0, 0])
            picture[new[n]] = 0.6 * picture[new[n]] + 0.4 * np.array([0, 255, 0])
            rows[n].append(picture.astype(np.uint8))
    return sheets.grid(rows, scale=1)


def _finite(reduce, values: np.ndarray) -> float | None:
    """A statistic as a float; None where nothing was measured."""
    return float(reduce(values)) if np.isfinite(values).any() else None


def markdown(result: dict, depth: int = 2) -> str:
    """Nested figures as Markdown tables."""
    lines = []
    plain = {k: v for k, v in result.items() if not isinstance(v, dict)}
    if plain:
        lines += ["| what | value |", "|---|---|"]
        lines += [f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in plain.items()]
    for key, value in result.items():
        if isinstance(value, dict):
            lines += ["", f"{'#' * min(6, depth)} {key}", "", markdown(value, depth + 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
