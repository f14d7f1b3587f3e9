"""Files of earlier versions: their configs and weights in today's words.

Version 1 had a switch for every experiment in its config, and other names for some modules.
"""

from __future__ import annotations

from typing import Any, TypeVar

FORMAT_VERSION = 2
"""Of world checkpoints and training states."""

Value = TypeVar("Value")

_LEAN_1 = {
    "mask_net": "unet",
    "foreground_shift": "correlation",
    "background_shift": "correlation",
    "inpaint_net": "unet",
    "view": "agent",
    "norm": "group",
    "dynamics": "residual",
    "directions": "bilinear",
    "quantiser": "ema",
    "variability": False,
    "action_input": "joint",
    "modulated": True,
    "gated_copy": False,
    "skip": True,
    "action_view": "shape",
    "joint_attention": True,
}
_PAPER_1 = _LEAN_1 | {
    "mask_net": "paper",
    "foreground_shift": "regressor",
    "background_shift": "regressor",
    "inpaint_net": "paper",
    "view": "whole",
    "norm": "batch",
    "dynamics": "paper",
    "quantiser": "plain",
    "skip": False,
    "action_view": "colour",
}
_QUANTISERS_1 = {"ema": "cosine", "plain": "plain"}
_RENAMED_1 = (
    (("dynamics.enter.",), "enter", "stem"),
    (("dynamics.leave.",), "leave", "head"),
    (("dynamics.hear", "decoder.hear"), "hear", "norm"),
)


def upgrade_config(values: dict[str, Any], version: int) -> dict[str, Any]:
    """A config as `version` wrote it -> one for :meth:`GlassConfig.from_dict`.

    Returns:
        today's fields.

    Raises:
        ValueError: a combination of switches that only an experiment had.
    """
    if version >= 2:
        return values
    paper = values.get("dynamics") == "paper"
    switches = dict(_PAPER_1 if paper else _LEAN_1)
    if paper:  # it was always separate there, whatever the switch said
        switches.pop("action_input")
    others = {key: values[key] for key, usual in switches.items() if key in values and values[key] != usual}
    if others:
        raise ValueError(
            f"an experiment of version 1 with {others}; today such parts live in training/ablations. Train it again"
        )
    dropped = {*_LEAN_1, "mask_bias"}
    kept = {key: value for key, value in values.items() if key not in dropped}
    return kept | {
        "architecture": "paper" if paper else "lean",
        "quantiser": _QUANTISERS_1[values.get("quantiser", switches["quantiser"])],
    }


def upgrade_weights(tensors: dict[str, Value], version: int) -> dict[str, Value]:
    """A state dict as `version` named its entries -> today's names."""
    if version >= 2:
        return tensors
    return {_renamed(key): value for key, value in tensors.items()}


def _renamed(key: str) -> str:
    for prefixes, old, new in _RENAMED_1:
        if key.startswith(prefixes):
            key = key.replace(old, new, 1)
    return key.replace(".says.", ".affine.")
