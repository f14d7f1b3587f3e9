"""The rows of the ablation tables, and the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tabulate import tabulate

from benchmarks.ablations import parts
from glass_gym.model.quantise import PlainQuantiser
from glass_gym.model.view import AgentWindow

STEPS = 12
"""Free-running steps of mIoU_RE (the paper's clips have 12 frames)."""


@dataclass(frozen=True)
class Row:
    """One experiment: what differs from the base row.

    Attributes:
        name: also of its folder; GMA rows begin with "gma".
        table: where the paper has it.
        what: for people.
        config: fields of :class:`GlassConfig`.
        parts: makers of other parts (:func:`glass_gym.model.build.build_glass`).
        gma, lma: options of the stage.
        preset: the architecture.
        data: of LMA rows: "window", "whole" (frames of foregrounds) or "frame" (raw frames, no segmentation).
    """

    name: str
    table: str
    what: str
    config: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Callable[..., Any]] = field(default_factory=dict)
    gma: dict[str, Any] = field(default_factory=dict)
    lma: dict[str, Any] = field(default_factory=dict)
    preset: str = "lean"
    data: str = "window"

    @property
    def switches(self) -> dict[str, Any]:
        """What differs, in words, for the JSON."""
        made = {name: getattr(make, "__name__", None) or str(make) for name, make in self.parts.items()}
        return {"config": self.config, "parts": made, "gma": self.gma, "lma": self.lma, "preset": self.preset}


PAPER_LMA = {"continuous": 0, "cycle": 0.2, "commitment": 0.25, "rec_s": 1.0}
GMA_ROWS = (
    Row("gma-base", "1-2", "all losses, lean()"),
    Row("gma-no-recf", "1-2", "without L_RECF", gma={"rec_f": 0.0}),
    Row("gma-no-recb", "1-2", "without L_RECB", gma={"rec_b": 0.0}),
    Row("gma-no-recj", "1-2", "without L_RECJ", gma={"rec_j": 0.0}),
    Row("gma-no-bin", "1-2", "without L_BIN", gma={"binary": 0.0}),
    Row("gma-no-size", "1-2", "without L_SIZE", gma={"size": 0.0}),
    Row("gma-idle", "ours", "and what the mask covers in vain", gma={"idle": 0.5}),
    Row(
        "gma-regressor",
        "ours",
        "P_f, P_b as regressors (Fig. 9) instead of correlation",
        parts={"shift_foreground": parts.regressor_foreground, "shift_background": parts.regressor_background},
    ),
    Row("gma-vgg", "1-2", "with L_VGG", gma={"perceptual": 0.01}),
    Row(
        "gma-paper",
        "ours",
        "paper(), with its own loss weights, rate and batch",
        preset="paper",
        gma={"rec_j": 1.0, "size": 0.1, "binary_ramp": 0, "rate": 4e-4, "batch": 4},
    ),
)
LMA_ROWS = (
    Row("lma-base", "3", "lean(), K = 6"),
    Row("lma-plain-directions", "3", "plain directions: psi_{t+1} - psi_t", parts={"action": parts.plain_directions}),
    Row(
        "lma-gumbel",
        "3",
        "Gumbel-softmax instead of vector quantisation",
        parts={"quantiser": parts.GumbelQuantiser},
        lma={"continuous": 0},
    ),
    Row(
        "lma-no-modulation",
        "3",
        "no modulated convolutions: actions as input channels",
        parts={"dynamics": parts.unmodulated_dynamics, "decoder": parts.unmodulated_decoder},
    ),
    Row(
        "lma-separate",
        "3",
        "separate input: shift to the first blocks, code to the others (ours is joint)",
        parts={"dynamics": parts.SeparateInput},
    ),
    Row("lma-no-recs", "3", "without L_RECS", lma={"rec_s": 0.0}),
    *(Row(f"lma-k{k}", "Fig. 4", f"K = {k}", {"codes": k}) for k in (2, 4, 8, 10, 12)),
    Row(
        "lma-plain-vq",
        "ours",
        "plain VQ (trained codebook), no k-means start",
        parts={"quantiser": PlainQuantiser},
        lma={"continuous": 0},
    ),
    Row("lma-no-continuous", "ours", "EMA codebook from the first step (no k-means start)", lma={"continuous": 0}),
    Row(
        "lma-no-revival",
        "ours",
        "EMA codebook without revival of dead codes",
        parts={"quantiser": parts.without_revival},
    ),
    Row("lma-entropy", "ours", "with an entropy bonus on the use of codes", parts={"quantiser": parts.EntropyBonus}),
    Row("lma-gated-copy", "ours", "with a gated copy of the foreground before", parts={"decoder": parts.GatedCopy}),
    Row("lma-no-skip", "ours", "without the E-to-D skip", parts={"decoder": parts.NoSkip}),
    Row("lma-show-shift", "ours", "the shift is never hidden from the RNN", lma={"hide_shift": 0.0}),
    Row("lma-colour-view", "ours", "A sees colours", parts={"action": parts.ColourAction}),
    Row("lma-paper", "ours", "paper(): its networks on whole frames", preset="paper", data="whole", lma=PAPER_LMA),
    Row(
        "lma-centred-paper",
        "ours",
        "paper() networks on agent-centred windows",
        parts={"view": AgentWindow, "action": parts.CentredPaperAction},
        preset="paper",
        lma=PAPER_LMA,
    ),
    Row(
        "caddy",
        "CADDY",
        "no segmentation, soft Gumbel actions, plain directions, action variability",
        parts={
            "quantiser": partial(parts.GumbelQuantiser, variability=True),
            "action": parts.plain_paper_directions,
        },
        preset="paper",
        data="frame",
        lma={"continuous": 0, "rec_s": 1.0, "mask_weight": 0.0, "mask": 0.0},
    ),
)
ROWS = {row.name: row for row in (*GMA_ROWS, *LMA_ROWS)}

GMA_COLUMNS = {
    "row": "name",
    "what": "what",
    "mIoU": "segmentation/miou",
    "bg error px": "background_shift/mean",
    "fg error px": "foreground_shift_pairwise/mean",
    "angle accuracy": "foreground_shift_pairwise/angle_accuracy",
    "steps": "iterations",
    "minutes": "minutes",
}
LMA_COLUMNS = {
    "row": "name",
    "what": "what",
    "NMI_G": "nmi_g",
    "NMI_S": "nmi_s",
    "CON": "con",
    "NMI given shift": "nmi_given_shift",
    "perplexity": "usage/perplexity",
    "dead": "usage/dead",
    "MSE over static, step 1": "mse_over_static_step_1",
    f"step {STEPS}": f"mse_over_static_step_{STEPS}",
    f"mIoU_RE free {STEPS}": "miou_re_free",
    "one-step": "miou_re_one_step",
    "static": "miou_re_static",
    "steps": "iterations",
    "minutes": "minutes",
}
DIGITS = {"perplexity": 2, "minutes": 1}


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown tables of measured GMA and LMA rows."""
    kinds = ((GMA_COLUMNS, "segmentation"), (LMA_COLUMNS, "nmi_g"))
    made = []
    for columns, mark in kinds:
        cells = [[_cell(row, path, name) for name, path in columns.items()] for row in rows if mark in row]
        made.append(tabulate(cells, list(columns), tablefmt="github", disable_numparse=True))
    return "\n\n".join(made) + "\n"


def _cell(row: dict[str, Any], path: str, name: str) -> str:
    value: Any = row
    for key in path.split("/"):
        value = None if value is None else value.get(key)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:.{DIGITS.get(name, 3)}f}" if isinstance(value, float) else str(value)
