"""LMA on held-out clips: free running, one step, reconstruction, local actions, transfer (Tables 3, 5; Figs. 5-18)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from glass_gym.checkpoint import World
from glass_gym.glass import Glass, blend_windows, to_bytes
from glass_gym.networks.shift import translate
from training import sheets
from training.data.store import Store, frames_to_tensor
from training.metrics import instrument, learned
from training.metrics.actions import mutual_information, usage
from training.metrics.held_out import HORIZON, Clips, finite
from training.metrics.images import picture_errors
from training.metrics.instrument import Instrument
from training.metrics.segmentation import iou

STEPS_RE = 12
"""Steps of mIoU_RE (the paper's W-Sprites clips have 12 frames)."""


def roll_out(model: Glass, layers: torch.Tensor, shifts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Clips drawn under their own inferred actions: codes (N, T), free running and one step (N, T, 4, h, w)."""
    found = model.quantise(model.directions(layers, shifts))
    codes, vectors = (x.unflatten(0, shifts.shape[:2]) for x in (found.index, found.vector))
    always = torch.ones(shifts.shape[:2], dtype=torch.bool)
    free, once = (
        torch.stack([d.layer for d in model.rollout(layers, shifts, vectors, teacher)], 1) for teacher in (None, always)
    )
    return codes, free, once


def animate(world: World, clips: Clips, folder: Path) -> tuple[dict, torch.Tensor]:
    """LMA against the frozen player, one-step and free-running, with inferred codes; and the free-running layers."""
    model, layers, shifts = world.model, clips.layers, clips.shifts
    _, free, one_step = roll_out(model, layers, shifts)
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


def reconstruct(
    tool: Instrument, store: Store, clips: Clips, free: torch.Tensor, folder: Path, networks: bool = False
) -> dict:
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
    sheets.save_picture(folder / "reconstruction.png", sheets.grid(rows, scale=1))
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
        "detector": type(tool.detector).__name__, "frames": int(seen.sum()), "add_px": finite(np.mean, distance),
        "add_median_px": finite(np.median, distance),
        "mdr_percent": float(100 * (1 - both.sum() / max(1, seen.sum()))),
    }  # fmt: skip
    if tool.matcher is not None:
        a, b = tool.matcher(found.largest)[0], tool.matcher(wanted.largest)[0]
        apart = np.linalg.norm(a - b, axis=1)
        out["detection"]["add_by_template_px"] = finite(np.nanmean, apart)
    if tool.features is not None:
        sample = np.linspace(0, len(flat) - 1, min(512, len(flat))).astype(int)
        a, b = (learned.pooled_features(tool.features, x[sample]) for x in (flat, true))
        out["vgg_hed_frechet_distance"] = learned.frechet_distance(a, b)
    if networks:
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
