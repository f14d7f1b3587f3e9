"""Figures as text: numbers, captions and tables for glass-evaluate, report.html and the results page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from tabulate import tabulate

Figures = Mapping[str, Any]  # Nested figures, as :func:`training.evaluation.evaluate.evaluate` returns them.
PLAY = "simulator/random_play"
CAPTIONS = {
    "mIoU of M's masks: whole frame / around the agent": "segmentation/miou|miou_around_agent",
    "background shift error, px: mean / median / max": "background_shift/mean|median|max",
    "foreground shift error of P_f, px: mean / median": "foreground_shift_pairwise/mean|median",
    "foreground shift error of the tracker, px: mean / median": "foreground_shift_tracked/mean|median",
    "angle accuracy of P_f": "foreground_shift_pairwise/angle_accuracy",
    "foreground MSE, free running, over the static baseline's: step 1 / 5 / 15": "lma/step_*/ratio",
    "mIoU_RE over 12 frames: free running / one step / static / M on real frames": "lma/miou_re/*",
    "PSNR, free running, dB: step 1 / 5 / 15": "video/step_*/psnr",
    "foreground PSNR, free running, dB: step 1 / 5 / 15": "video/step_*/foreground/psnr",
    "SSIM, free running: step 1 / 5 / 15": "video/step_*/ssim",
    "VGG-HED distance, free running: step 1 / 5 / 15": "video/step_*/vgg_hed_distance",
    "VGG-HED Frechet distance": "video/vgg_hed_frechet_distance",
    "LPIPS / FID": "video/lpips|fid",
    "ADD, px / MDR, %": "video/detection/add_px|mdr_percent",
    "share of each code": "codes/usage/share",
    "perplexity of the codes": "codes/usage/perplexity",
    "NMI_G / NMI_S / CON / CON beside random groups": "codes/nmi_g|nmi_s|con|con_corrected",
    "NMI given the shift": "codes/nmi_given_shift",
    "each code repeated on the spot: share that A reads back": "codes/effect/each/*/read_back",
    "each code repeated on the spot: IoU of the agents' silhouettes": "codes/effect/each/*/silhouette_agreement",
    "action transfer, codes that A reads back: off the result / off the target's own video": "transfer/codes_*",
    "8 steps right: share of the starts within 15 %": "simulator/right/within_15_percent",
    "distance to the start: 10 right, 10 left / 20 stays / other agents": "simulator/cycle/after_*|between_agents",
    "control error, RMSE px: step 1 / 10 / 50 / 100 / 200": f"{PLAY}/control/*/rmse_px",
    "control error, 95th percentile px: the same steps": f"{PLAY}/control/*/p95_px",
    "control error by centre of mass, RMSE px: the same steps": f"{PLAY}/control_by_centre_of_mass/*/rmse_px",
    "the detector's own error, RMSE px: template / centre of mass": "simulator/detectors_on_real_video/*/rmse_px",
    "present: the same steps": f"{PLAY}/present/*",
    "one agent in long random play: step 100 / 900 / 4,500": "passport/step_*/present",
    "moves as commanded, within half a step: the same steps": "passport/step_*/control",
    "local action that A reads back: the same steps": "passport/step_*/codes_read_back",
    "MSE of the nearest real layer: the same steps": "passport/step_*/nearest_real_mse",
    "blend share: real frames / held arrows / random play": "crispness/blend_share/*/mean",
    "gradient energy over the nearest real: free running / random play": "crispness/gradient_energy/*",
    "accuracy of telling drawn from real windows": "two_sample/accuracy",
    "left of the agent in start frames' backgrounds, over its area: mean / largest": "residue/start_*/mean|largest",
    "left of the agent in inpainted backgrounds, over its area: mean / largest": "residue/inpainted/mean|largest",
    "distinct poses in 12 held steps: right / left": "pose_transitions/*/distinct_poses",
    "share of the most frequent pose: right / left": "pose_transitions/*/share_of_the_commonest",
    "p(next pose), total variation against real steps: right / left": "pose_transitions/*/next_pose_total_variation",
    "the same between two halves of the real steps": "pose_transitions/*/of_two_halves_of_the_real_steps",
    "turns under held arrows, total variation against real steps": "pose_transitions/turn_total_variation",
    "share of the starts that swing within 3 steps, by code": "pose_transitions/swing/starts_by_code",
    "action read by a classifier: real / free running / static": "action_classifier/*/action",
    "direction read by a classifier: real / free running / static": "action_classifier/*/direction",
    "distance to the nearest true picture of the character, of 255: real / random play / turning": "identity/*/mean",
    "nats of the codes: prior / table of shift and code before / of shift / of codes": "prior/nats|table_*|shares",
}
"""What is shown of an evaluation: captions, and where the figures are (:func:`lookup`)."""


def lookup(figures: Figures | None, path: str) -> list[Any]:
    """All figures at a path; a key of it may have alternatives and wildcards, as in "video/step_*/psnr|ssim"."""
    found: list[Any] = [figures]
    for key in path.split("/"):
        trees = [tree for tree in found if isinstance(tree, Mapping)]
        found = [v for tree in trees for part in key.split("|") for k, v in tree.items() if fnmatch(k, part)]
    return found


def value(figures: Figures | None, path: str) -> Any:
    """The figure at a path, or None."""
    return next(iter(lookup(figures, path)), None)


def number(value: Any) -> str:
    """A figure as text: three digits, lists joined by slashes, "-" for what was not measured."""
    if isinstance(value, (list, tuple)):
        return " / ".join(map(number, value)) or "none"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A Markdown table."""
    text = [[number(cell) for cell in row] for row in rows]
    return tabulate(text, headers, tablefmt="github", disable_numparse=True)


def captioned(worlds: Mapping[str, Figures]) -> str:
    """The captioned figures of evaluations as one table with a column for each; captions that none has are left out."""
    rows = []
    for caption, path in CAPTIONS.items():
        cells = [lookup(figures, path) for figures in worlds.values()]
        if any(cells):
            rows.append([caption, *(cell or None for cell in cells)])
    return table(rows, ("figure", *worlds))


def nested(figures: Figures, depth: int = 2) -> str:
    """Nested figures as one table a level, under headings."""
    plain = [(key, figure) for key, figure in figures.items() if not isinstance(figure, Mapping)]
    parts = [table(plain, ("figure", "measured"))] if plain else []
    for key, figure in figures.items():
        if isinstance(figure, Mapping):
            parts += [f"{'#' * min(6, depth)} {key}", nested(figure, depth + 1)]
    return "\n\n".join(parts)


def markdown(figures: Figures) -> str:
    """An evaluation: its captioned figures, then whatever has no caption, such as the parts of metrics of your own."""
    parts = {path.split("/")[0] for path in CAPTIONS.values()}
    rest = {key: figure for key, figure in figures.items() if key not in parts}
    return f"{captioned({'measured': figures})}\n\n{nested(rest)}\n"
