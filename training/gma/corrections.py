"""While GMA trains, options are corrected: theta, P_f's range, how long pseudo-labels are used; footage is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glass_gym.model.gma import GMA

from ..core.progress import each, warn
from ..core.run import Run
from ..data.cuts import CHANGED
from ..data.store import frames_to_tensor
from .stage import GmaStage

PROBES = (200, 350, 500)  # Steps of GMA after which its options are checked.
PROBED = 96  # Number of frame pairs in a check.
FULL, AGREED = 0.7, 0.7
"""theta is too small if masks reach it in more than FULL of the frames, and the IoU with the survey is below AGREED."""
LOST, LONGER = 0.3, 300  # Below the IoU LOST, M has lost the agent, and pseudo-labels are used for LONGER more steps.
EXPLAINED = 0.95  # Where frames change, moved layers should have less than this share of a copy's squared error.
AT_LIMIT = 0.05  # P_f's range is doubled if more than this share of the moves are at its limit.


@torch.no_grad()
def correct_options(run: Run, stage: GmaStage, gma: GMA) -> dict[str, Any]:
    """Compare a GMA under training with the survey's silhouettes, and correct options that were chosen wrongly.

    Options that the user gave stay. Each correction is printed, and a warning if the moved layers explain the next
    frame no better than the frame before does: then M has found no agent, or nothing in the footage moves as one.

    Args:
        run: options and choices; it gets the corrections.
        stage: with the survey's silhouettes as labels, and earlier corrections.
        gma: the averaged model.

    Returns:
        new values of "gma.theta", "foreground_range" and "gma.pseudo_label_steps", as far as they change.
    """
    labels, store = stage.labels, stage.sampler.store
    if labels is None:
        return {}
    theta = None if run.is_given("gma.theta") else stage.config.theta
    rng = np.random.default_rng(0)
    known = dict(zip(labels.frames.tolist(), labels.silhouettes, strict=True))
    ends = {v.start + v.length - 1 for v in store.videos}
    pairs = [n for n in sorted(known) if n + 1 in known and n not in ends]
    if len(pairs) < 8:
        return {}
    device = next(gma.parameters()).device
    index = np.sort(rng.choice(pairs, min(PROBED, len(pairs)), replace=False))
    share, agree, reach, errors = [], [], [], []
    for part in each(np.array_split(index, max(1, len(index) // 16)), "checking the options"):
        frames = np.stack([store.frames[part], store.frames[part + 1]], 1)
        images = frames_to_tensor(frames).to(device)
        motion = gma.analyse_pairs(images)
        masks = motion.masks[:, 0, 0].float()
        bits = np.unpackbits(np.stack([known[n] for n in part]), axis=1, count=store.height * store.width)
        seen = torch.from_numpy(bits.reshape(masks.shape)).to(masks)
        share.append(masks.mean((1, 2)))
        before, after = images.unbind(1)
        changes = ((after - before).abs() > CHANGED / 127.5).any(1, keepdim=True)
        errors.append(torch.stack([(changes * (x - after).square()).sum().cpu() for x in (motion.composed, before)]))
        agree.append((masks * seen).sum((1, 2)) / torch.maximum(masks, seen).sum((1, 2)).clamp(min=1))
        changed = (frames[:, 0] != frames[:, 1]).any(-1).mean((1, 2)) > 0.1 * float(seen.mean())
        reach.append(motion.foreground_shift.abs().amax(1)[torch.from_numpy(changed).to(device)])
    full = float((torch.cat(share) > 0.97 * theta).float().mean()) if theta else 0.0
    agreed = float(torch.cat(agree).median())
    most = gma.config.foreground_range
    at_limit = float((torch.cat(reach) > 0.9 * most).float().mean()) if any(map(len, reach)) else 0.0
    drawn, copied = torch.stack(errors).sum(0).tolist()
    if drawn > EXPLAINED * copied:
        warn(
            f"warning: where frames change, the next one drawn from moved layers has {drawn / copied:.0%} of the error "
            "of a copy of the frame before: M may have found no agent. Look at samples/gma-*.png; --agent chooses it"
        )
    found: dict[str, Any] = {}
    if theta and full > FULL and agreed < AGREED and theta < 0.5:
        why = f"corrected: masks reached theta in {full:.0%} of the frames; IoU with the survey {agreed:.2f}"
        found["gma.theta"] = run.choose("gma.theta", min(0.5, 1.5 * theta), why)
    elif agreed < LOST:
        why = f"corrected: the IoU of M with the survey is {agreed:.2f}"
        name = "gma.pseudo_label_steps"
        found[name] = run.choose(name, stage.pseudo_label_steps + LONGER, why)
    widest = min(store.height, store.width) // 2
    if at_limit > AT_LIMIT and most < widest:
        why = f"corrected: {at_limit:.0%} of the moves were at the limit of {most} px"
        found["foreground_range"] = run.choose("foreground_range", min(2 * most, widest), why)
    return found
