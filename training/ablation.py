"""The rows of the ablation tables, and the tables."""

from __future__ import annotations

from dataclasses import dataclass, field

STEPS = 12
"""Free-running steps of mIoU_RE (the paper's clips have 12 frames)."""


@dataclass(frozen=True)
class Row:
    """One experiment: what differs from the base row."""

    name: str
    table: str
    what: str
    model: dict = field(default_factory=dict)
    gma: dict = field(default_factory=dict)
    lma: dict = field(default_factory=dict)
    preset: str = "lean"
    data: str = "window"
    """LMA rows: "window", "whole" (frames of foregrounds) or "frame" (raw frames, no segmentation)"""


GMA_ROWS = (
    Row("gma-base", "1-2", "all losses, lean()"),
    Row("gma-no-recf", "1-2", "without L_RECF", gma={"rec_f": 0.0}),
    Row("gma-no-recb", "1-2", "without L_RECB", gma={"rec_b": 0.0}),
    Row("gma-no-recj", "1-2", "without L_RECJ", gma={"rec_j": 0.0}),
    Row("gma-no-bin", "1-2", "without L_BIN", gma={"binary": 0.0}),
    Row("gma-no-size", "1-2", "without L_SIZE", gma={"size": 0.0}),
    Row("gma-regressor", "ours", "P_f, P_b as regressors (Fig. 9) instead of correlation",
        {"foreground_shift": "regressor", "background_shift": "regressor"}),
    Row("gma-vgg", "1-2", "with L_VGG", gma={"perceptual": 0.01}),
    Row("gma-paper", "ours", "paper(), with its own loss weights, rate and batch", preset="paper",
        gma={"rec_j": 1.0, "size": 0.1, "binary_ramp": 0, "rate": 4e-4, "batch": 4}),
)  # fmt: skip
LMA_ROWS = (
    Row("lma-base", "3", "lean(), K = 6"),
    Row("lma-plain-directions", "3", "plain directions: psi_{t+1} - psi_t", {"directions": "difference"}),
    Row("lma-gumbel", "3", "Gumbel-softmax instead of vector quantisation", {"quantiser": "gumbel"},
        lma={"continuous": 0}),
    Row("lma-no-modulation", "3", "no modulated convolutions: actions as input channels",
        {"modulated": False}),
    Row("lma-separate", "3", "separate input: shift to the first blocks, code to the others (ours is joint)",
        {"action_input": "separate"}),
    Row("lma-no-recs", "3", "without L_RECS", lma={"rec_s": 0.0}),
    *(Row(f"lma-k{k}", "Fig. 4", f"K = {k}", {"codes": k}) for k in (2, 4, 8, 10, 12)),
    Row("lma-plain-vq", "ours", "plain VQ (trained codebook), no k-means start", {"quantiser": "plain"},
        lma={"continuous": 0}),
    Row("lma-no-continuous", "ours", "EMA codebook from the first step (no k-means start)", lma={"continuous": 0}),
    Row("lma-no-revival", "ours", "EMA codebook without revival of dead codes", lma={"revival": False}),
    Row("lma-entropy", "ours", "with an entropy bonus on the use of codes", lma={"entropy": 0.1}),
    Row("lma-gated-copy", "ours", "with a gated copy of the foreground before", {"gated_copy": True}),
    Row("lma-no-skip", "ours", "without the E-to-D skip", {"skip": False}),
    Row("lma-show-shift", "ours", "the shift is never hidden from the RNN", lma={"hide_shift": 0.0}),
    Row("lma-colour-view", "ours", "A sees colours", {"action_view": "colour"}),
    Row("lma-paper", "ours", "paper(): its networks on whole frames", preset="paper", data="whole",
        lma={"continuous": 0, "cycle": 0.2, "commitment": 0.25, "rec_s": 1.0}),
    Row("lma-centred-paper", "ours", "paper() networks on agent-centred windows",
        {"view": "agent"}, preset="paper", lma={"continuous": 0, "cycle": 0.2, "commitment": 0.25, "rec_s": 1.0}),
    Row("caddy", "CADDY", "no segmentation, soft Gumbel actions, plain directions, action variability",
        {"quantiser": "gumbel", "directions": "difference", "variability": True}, preset="paper", data="frame",
        lma={"continuous": 0, "rec_s": 1.0, "mask_weight": 0.0, "mask": 0.0}),
)  # fmt: skip
ROWS = {row.name: row for row in (*GMA_ROWS, *LMA_ROWS)}


def tables(rows: list[dict]) -> str:
    """Markdown tables of GMA and LMA rows."""
    number = lambda v, f="{:.3f}": "" if v is None else f.format(v)  # noqa: E731
    lines = [
        "| row | what | mIoU | bg error px | fg error px | angle accuracy | steps | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "segmentation" in row:
            back, fore = row["background_shift"], row["foreground_shift_pairwise"]
            lines.append(
                f"| {row['name']} | {row['what']} | {number(row['segmentation']['miou'])} | {number(back['mean'])} | "
                f"{number(fore['mean'])} | {number(fore.get('angle_accuracy'))} | {row['iterations']} | "
                f"{number(row['minutes'], '{:.1f}')} |"
            )
    lines += [
        "", "| row | what | NMI_G | NMI_S | CON | NMI given shift | perplexity | dead | MSE over frozen, step 1 / 12 | "
        "mIoU_RE free 12 | one-step | frozen | steps | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in rows:
        if "nmi_g" in row:
            lines.append(
                f"| {row['name']} | {row['what']} | {number(row['nmi_g'])} | {number(row['nmi_s'])} | "
                f"{number(row['con'])} | {number(row['nmi_given_shift'])} | "
                f"{number(row['usage']['perplexity'], '{:.2f}')} | "
                f"{', '.join(map(str, row['usage']['dead']))} | {number(row['mse_over_frozen_step_1'])} / "
                f"{number(row[f'mse_over_frozen_step_{STEPS}'])} | {number(row['miou_re_free'])} | "
                f"{number(row['miou_re_one_step'])} | {number(row.get('miou_re_frozen'))} | {row['iterations']} | "
                f"{number(row['minutes'], '{:.1f}')} |"
            )
    return "\n".join(lines) + "\n"
