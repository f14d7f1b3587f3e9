"""Every size of every network, in one frozen dataclass, checked once.

Two presets of one code: :meth:`GlassConfig.paper` (Davtyan & Favaro, ECCV 2022, faithful) and
:meth:`GlassConfig.lean` (ours, the default: trains in an hour on two cores). They differ only in fields named here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

HOLE = -1.1
"""Value written into the background's hole before inpainting (outside the image range [-1, 1], App. B)."""


@dataclass(frozen=True)
class GlassConfig:
    """Sizes and switches of a GLASS model. Pixel units throughout.

    Attributes:
        height, width: frame size; multiples of 8.
        mask_net: ``"unet"`` (half resolution inside) or ``"paper"`` (M of Fig. 9, residual, full width).
        mask_channels: first width of M.
        mask_bias: bias of M's last layer; -2 starts from "almost all background".
        foreground_shift, background_shift: ``"correlation"`` (FFT, soft-argmax) or ``"regressor"`` (P of Fig. 9).
        foreground_range, background_range: largest shift that P_f, P_b can report, px.
        inpaint_net: ``"unet"`` or ``"paper"``.
        view: ``"agent"`` (E, RNN and D see a window that follows the agent) or ``"whole"`` (the frame, as published).
        window: side of the agent's window, px; a multiple of 8.
        agent_radius: the agent is the densest neighbourhood of the mask of this half size, px.
        norm: ``"group"`` or ``"batch"`` in E, RNN and D.
        feature_channels: channels of E's output (without the attention map).
        compressed_channels: channels of C's output.
        hidden: channels of the RNN's ConvLSTM states at 1/8 (``paper``) or of the state (``lean``).
        dynamics: ``"residual"`` (a residual path round the RNN, every block modulated) or ``"paper"`` (Fig. 10).
        decoder_channels: width of D.
        psi_channels: size of psi, the vectors that A's bilinear chain compares.
        bilinear_channels: widths of the chain's three inner maps.
        code_channels: size of a code vector in the codebook.
        codes: K, the number of local actions.
        directions: how A compares two frames: ``"bilinear"`` (a chain of four bilinear maps, as published) or
            ``"difference"`` (psi_{t+1} - psi_t, as in CADDY).
        quantiser: ``"ema"`` (cosine codebook, moving averages, revival), ``"plain"`` (VQ loss, as published) or
            ``"gumbel"`` (soft Gumbel-softmax over K, as in CADDY).
        variability: with ``"gumbel"``, what a direction holds beyond its code goes to the RNN too (CADDY's action
            variability); zero where only a code is given.
        action_input: ``"joint"`` (every block of a residual RNN hears both actions) or ``"separate"`` (the first two
            the shift, the others the code, as published; ``dynamics="paper"`` is always separate).
        modulated: actions scale (and shift) the channels of the RNN and of D; False: they only enter as input channels.
        gated_copy: D may copy the foreground before, pixel by pixel (residual RNN only).
        action_channels: size of the embedding that modulates the RNN.
        skip: D sees E's half-resolution features of the foreground it starts from, under both actions (ours).
        action_view: what A sees: ``"shape"`` (mask and contrast, without the agent's own colours, so that a code cannot
            say who the agent is) or ``"colour"`` (as published).
        joint_attention: E's extra map multiplies A's input (App. B).
    """

    height: int = 96
    width: int = 160
    mask_net: str = "unet"
    mask_channels: int = 32
    mask_bias: float = -2.0
    foreground_shift: str = "correlation"
    background_shift: str = "correlation"
    foreground_range: int = 12
    background_range: int = 4
    inpaint_net: str = "unet"
    view: str = "agent"
    window: int = 32
    agent_radius: int = 12
    norm: str = "group"
    feature_channels: int = 64
    compressed_channels: int = 32
    hidden: int = 64
    dynamics: str = "residual"
    decoder_channels: int = 64
    psi_channels: int = 64
    bilinear_channels: int = 64
    code_channels: int = 16
    codes: int = 4
    directions: str = "bilinear"
    quantiser: str = "ema"
    variability: bool = False
    action_input: str = "joint"
    modulated: bool = True
    gated_copy: bool = False
    action_channels: int = 64
    skip: bool = True
    action_view: str = "shape"
    joint_attention: bool = True

    def __post_init__(self):
        if self.height % 8 or self.width % 8 or min(self.height, self.width) < 32:
            raise ValueError(
                f"frame size must be multiples of 8 and at least 32, got {self.height}x{self.width}; "
                "pad, crop or resize the clips"
            )
        if self.window % 8 or not 16 <= self.window <= max(self.height, self.width):
            raise ValueError(f"window must be a multiple of 8 between 16 and the frame, got {self.window}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.view == "whole" and self.dynamics != "paper":
            raise ValueError("view='whole' needs dynamics='paper'")
        if self.skip and self.dynamics == "paper":
            raise ValueError("skip=True needs dynamics='residual'")
        if self.gated_copy and self.dynamics == "paper":
            raise ValueError("gated_copy=True needs dynamics='residual'")
        if self.variability and self.quantiser != "gumbel":
            raise ValueError("variability=True needs quantiser='gumbel'")
        if self.codes < 1:
            raise ValueError(f"codes (K) must be at least 1, got {self.codes}")

    @classmethod
    def lean(cls, height: int = 96, width: int = 160, **changes) -> GlassConfig:
        """The default: correlation shifts, half-resolution U-Nets, agent-centred LMA with a residual RNN."""
        return cls(height=height, width=width, **changes)

    @classmethod
    def paper(cls, height: int = 96, width: int = 128, codes: int = 6, tennis: bool = False, **changes) -> GlassConfig:
        """Layer sizes of the paper's appendix; `tennis` takes its wider C (16) and RNN (64)."""
        published = dict(
            mask_net="paper", mask_channels=64, mask_bias=0.0,
            foreground_shift="regressor", background_shift="regressor", foreground_range=32, background_range=32,
            inpaint_net="paper", view="whole", norm="batch",
            compressed_channels=16 if tennis else 8, hidden=64 if tennis else 32,
            dynamics="paper", decoder_channels=128, bilinear_channels=128, quantiser="plain", action_channels=8,
            skip=False, action_view="colour",
        )  # fmt: skip
        return cls(height=height, width=width, codes=codes, **(published | changes))

    def replace(self, **changes) -> GlassConfig:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)

    def to_dict(self) -> dict:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> GlassConfig:
        """The inverse of :meth:`to_dict`; an unknown field is an error that names it."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown model settings {sorted(unknown)}; written by a newer glass_gym? upgrade it")
        return cls(**values)


_CHOICES = {
    "mask_net": ("unet", "paper"),
    "foreground_shift": ("correlation", "regressor"),
    "background_shift": ("correlation", "regressor"),
    "inpaint_net": ("unet", "paper"),
    "view": ("agent", "whole"),
    "norm": ("group", "batch"),
    "dynamics": ("residual", "paper"),
    "quantiser": ("ema", "plain", "gumbel"),
    "directions": ("bilinear", "difference"),
    "action_input": ("joint", "separate"),
    "action_view": ("shape", "colour"),
}

PRESETS = {"lean": GlassConfig.lean, "paper": GlassConfig.paper}


def preset(name: str, height: int, width: int, **changes) -> GlassConfig:
    """A preset by name.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset called {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name](height, width, **changes)
