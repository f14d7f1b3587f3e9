"""GlassConfig: the sizes of all networks of a model, in one frozen dataclass that checks itself.

There are two architectures: ``"pose"`` (the default, our own; :mod:`glass_gym.model.pose_model`) and ``"paper"``
(Davtyan & Favaro, ECCV 2022; :mod:`glass_gym.model.paper`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

ARCHITECTURES = ("pose", "paper")
DRAWINGS = ("painted", "stored", "turned")
LARGEST_LIBRARY = 1 << 30  # Bytes.
LARGEST = 4096  # Largest side of a frame, px, and most channels of a layer.
RANGES = {
    "foreground_range": (1, LARGEST // 2),
    "background_range": (1, LARGEST // 2),
    "codes": (1, 1024),
    "poses": (2, 1 << 16),
    "prior_channels": (0, LARGEST),
    "hole_margin": (0, 64),
    "gma_scale": (1, 32),
    "window_scale": (1, 32),
}
"""Smallest and largest value of an integer field; of the others 1 and LARGEST."""


@dataclass(frozen=True)
class GlassConfig:
    """Sizes of a GLASS model. All lengths are in pixels.

    Attributes:
        architecture: ``"pose"`` or ``"paper"``.
        height, width: size of a frame; multiples of 8 times `gma_scale`, at least 32.
        gma_scale: GMA's networks see frames reduced by this factor. Ranges of shifts are in px of these.
        window: side, as LMA sees it, of the square window around the agent; a multiple of 8, at least 16.
        window_scale: LMA sees windows reduced by this factor: a window covers `window` times `window_scale` px of a
            frame.
        agent_radius: half the agent's size. The agent's position is the centre of mass of the densest square of this
            half size in the mask.
        foreground_range, background_range: largest shift along an axis that P_f, P_b can report, px of GMA's frames.
        codes: K, the number of local actions.
        quantiser: name of A's quantiser, a key of :data:`glass_gym.model.quantise.QUANTISERS`.
        mask_channels: channels of the first layer of M.
        feature_channels: channels of E's output (without the attention map).
        compressed_channels: channels of C's output (``paper`` only).
        hidden: channels of the RNN's state.
        decoder_channels: width of D.
        psi_channels: size of psi, the vectors that A's bilinear chain compares.
        bilinear_channels: size of the outputs of the chain's first three bilinear maps.
        code_channels: size of a code vector, a row of A's codebook.
        action_channels: size of the embeddings of global and local action (``paper`` only).
        poses: P, the number of poses in the pose codebook (``pose`` only).
        prior_channels: width of the prior over local actions; 0: the model has no prior (``pose`` only).
        hole_margin: px by which the mask is dilated before N inpaints it.
        decoder_position: D also gets the agent's position, so that it can draw agents that the frame's edge cuts off
            (``pose`` only).
        background_plate: N copies pixels of a stored background plate, for footage of one place by a static camera
            (``pose`` only).
        drawing: ``"painted"``: D draws the agent. ``"stored"``: it is drawn from `poses` stored windows of the footage.
            ``"turned"``: its heading is taken out of these. The latter two ``pose`` only.

    Raises:
        ValueError: a value is out of range; the message names the fix.
    """

    architecture: str = "pose"
    height: int = 96
    width: int = 160
    window: int = 32
    agent_radius: int = 12
    foreground_range: int = 12
    background_range: int = 4
    codes: int = 4
    quantiser: str = "cosine"
    mask_channels: int = 32
    feature_channels: int = 64
    compressed_channels: int = 32
    hidden: int = 64
    decoder_channels: int = 64
    psi_channels: int = 64
    bilinear_channels: int = 64
    code_channels: int = 16
    action_channels: int = 64
    poses: int = 256
    prior_channels: int = 0
    hole_margin: int = 0
    decoder_position: bool = False
    background_plate: bool = False
    gma_scale: int = 1
    window_scale: int = 1
    drawing: str = "painted"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = RANGES.get(field.name, (1, LARGEST))
            if field.type == "int" and not (type(value) is int and least <= value <= most):
                raise ValueError(f"{field.name} must be a whole number from {least} to {most}, got {value!r}")
            if field.type == "bool" and type(value) is not bool:
                raise ValueError(f"{field.name} must be true or false, got {value!r}")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        unit = 8 * self.gma_scale
        if self.height % unit or self.width % unit or min(self.height, self.width) < 32 * self.gma_scale:
            raise ValueError(
                f"frame size must be multiples of {unit} and at least {4 * unit}, got {self.height}x{self.width}; "
                "pad, crop or resize the clips"
            )
        if self.architecture == "paper" and (self.height % 16 or self.width % 16):
            raise ValueError(
                f"the paper's networks need a frame in multiples of 16, got {self.height}x{self.width}; crop or resize "
                "the clips, or use architecture='pose'"
            )
        if self.window % 8 or not 16 <= self.window <= max(self.height, self.width):
            raise ValueError(f"window must be a multiple of 8 between 16 and the frame, got {self.window}")
        if self.architecture == "paper" and max(self.gma_scale, self.window_scale) > 1:
            raise ValueError("the paper's networks see whole frames as they are: gma_scale and window_scale must be 1")
        if self.drawing not in DRAWINGS:
            raise ValueError(f"drawing must be one of {', '.join(DRAWINGS)}, got {self.drawing!r}")
        if self.library and (self.architecture != "pose" or 4 * self.poses * self.window**2 > LARGEST_LIBRARY):
            raise ValueError(
                f"a library of {self.poses} windows of {self.window} px needs architecture 'pose', and at most "
                f"{LARGEST_LIBRARY:,} bytes; use fewer poses"
            )

    @property
    def library(self) -> bool:
        """Whether the agent is drawn from stored windows."""
        return self.drawing != "painted"

    @property
    def heading(self) -> bool:
        """Whether its heading is taken out of them."""
        return self.drawing == "turned"

    @classmethod
    def pose(cls, height: int = 96, width: int = 160, **changes: Any) -> GlassConfig:
        """The default architecture, the pose model."""
        return cls(height=height, width=width, **changes)

    @classmethod
    def paper(cls, height: int = 96, width: int = 128, codes: int = 6, **changes: Any) -> GlassConfig:
        """The paper's architecture, with the layer sizes of its appendix; height and width in multiples of 16 px."""
        published: dict[str, Any] = {
            "architecture": "paper",
            "mask_channels": 64,
            "foreground_range": 32,
            "background_range": 32,
            "quantiser": "plain",
            "compressed_channels": 8,  # in its Tennis model 16
            "hidden": 32,  # in its Tennis model 64
            "decoder_channels": 128,
            "bilinear_channels": 128,
            "action_channels": 8,
        }
        return cls(height=height, width=width, codes=codes, **(published | changes))

    def replace(self, **changes: Any) -> GlassConfig:
        """A copy with some fields changed; the result is checked."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for the header of a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GlassConfig:
        """The inverse of :meth:`to_dict`; ValueError: a field is unknown, or a value out of range."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown model settings {sorted(unknown)}; written by a newer glass_gym? upgrade it")
        return cls(**values)


PRESETS = {"pose": GlassConfig.pose, "paper": GlassConfig.paper}  # Architecture -> function that makes its config.


def preset(name: str, height: int, width: int, **changes: Any) -> GlassConfig:
    """The config of an architecture, for frames of height x width px; ValueError: unknown, or out of range."""
    if name not in PRESETS:
        raise ValueError(f"no preset called {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name](height, width, **changes)
