"""The pose model (ours, the default): an agent is an appearance and one of P poses, and LMA predicts the next pose.

With squared error, a model that is unsure between two poses draws their mean, which is blurred. So the pose model
decides first and draws then. Q maps the agent's window to a pose, an entry of a codebook. The RNN predicts the next
pose, trained by cross-entropy. D draws that pose in the appearance of the episode's first window. No drawing is fed
back, so errors do not add up. docs/how-it-works.md has a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.blocks import SLOPE, AdaptiveNorm, BilinearChain, ConvBlock, ModulatedConv, ResBlock, code_mlp
from glass_gym.model.config import GlassConfig
from glass_gym.model.lma import LMA, Drawn, State, masked
from glass_gym.model.quantise import CosineQuantiser, make_quantiser
from glass_gym.model.view import ConnectedWindow

NORM = "group"  # Group normalisation: a row of the result does not depend on the other rows of the batch.
POSE_CHANNELS = 32  # Size of a pose vector, a row of the pose codebook.
OCTAVES = 6  # The RNN's position encoding has wavelengths from twice the frame's side to a sixteenth of it.
DECODER_OCTAVES = 4  # D gets only the longest wavelengths, so that its drawings change smoothly with the position.
SCALE = 4  # Side, px, of a cell of the coarsest feature maps.
FLOW = 4.0  # Px per unit of D's flow.
FAINTEST = 0.2  # Where the first window's mask is below this, copied colours fade to grey.
PRIOR_DROPOUT = 0.3  # Dropout of the prior in training, against overfitting to the training sequences.
SEARCH_PX = 3  # The first window's position is searched within this many px, of the layer, of its first estimate.
OFFSETS = [(x, y) for y in range(-SEARCH_PX, SEARCH_PX + 1) for x in range(-SEARCH_PX, SEARCH_PX + 1)]
"""All whole-pixel offsets (x, y) within SEARCH_PX."""


def make_waves(config: GlassConfig, octaves: int) -> Tensor:
    """The position encoding's angular frequencies along x and y, (2, octaves) radians per px."""
    return torch.tensor([[math.pi * 2.0**i / side for i in range(octaves)] for side in (config.width, config.height)])


def encode_position(position: Tensor, waves: Tensor) -> Tensor:
    """Positions (B, 2) px -> their sines and cosines (B, 4 octaves); zeros where a position is nan (unknown)."""
    phase = (position[:, :, None] * waves).flatten(1)
    return torch.cat([phase.sin(), phase.cos()], 1).nan_to_num(0.0)


def shape_only(layers: Tensor) -> Tensor:
    """Remove the agent's own colours from layers (B, 4, h, w), so that a pose cannot encode identity.

    The luminance is centred on its mean over the agent's pixels, and divided by its standard deviation.

    Returns:
        (B, 4, h, w): the scaled luminance three times, and the mask.
    """
    mask = layers[:, 3:]
    mass = mask.sum((1, 2, 3), keepdim=True).clamp_min(1.0)
    light = layers[:, :3].mean(1, keepdim=True)  # already times the mask
    light = light - mask * (light.sum((1, 2, 3), keepdim=True) / mass)
    spread = (light.square().sum((1, 2, 3), keepdim=True) / mass).sqrt()
    light = light / (spread + 0.25)
    return torch.cat([light.expand(-1, 3, -1, -1), mask], 1)


class PoseEncoder(nn.Module):
    """Q: a window -> the vector of its pose, before quantisation. It sees shape and contrast, not colours."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.feature_channels
        self.net = nn.Sequential(
            ConvBlock(4 * SCALE**2, width, norm=NORM),
            ResBlock(width, 2 * width, down=True, norm=NORM),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, 128),
            nn.LeakyReLU(SLOPE),
            nn.Linear(128, POSE_CHANNELS),
        )
        # without batch statistics, vectors that differ by little collapse to one direction
        self.spread = nn.BatchNorm1d(POSE_CHANNELS, affine=False)

    def forward(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, h, w) -> pose vectors (B, POSE_CHANNELS), float32."""
        shape = shape_only(layers).contiguous(memory_format=torch.channels_last)
        return self.spread(self.net(F.pixel_unshuffle(shape, SCALE)).float()).float()


class AppearanceEncoder(nn.Module):
    """E: the first window -> the agent's appearance, at a quarter of the size.

    The window itself is part of the output, so that D can copy its pixels.
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.feature_channels
        self.net = nn.Sequential(
            ConvBlock(4 * SCALE**2, width, norm=NORM),
            ResBlock(width, width, norm=NORM),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, layer: Tensor) -> Tensor:
        """Layers (B, 4, h, w) -> (B, F + 64, h/4, w/4), float32: F features and 64 channels of the window itself."""
        cells = F.pixel_unshuffle(layer, SCALE).contiguous(memory_format=torch.channels_last)
        return torch.cat([self.net(cells).float(), cells.float()], 1)


class PoseAction(nn.Module):
    """A without its quantiser: the poses of two consecutive frames -> a vector (Sec. 3.2)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        size = config.psi_channels
        self.psi = nn.Sequential(nn.Linear(POSE_CHANNELS, size), nn.LeakyReLU(SLOPE), nn.Linear(size, size))
        self.norm = nn.LayerNorm(size)
        self.chain = BilinearChain(size, config.bilinear_channels, "layer")
        self.mlp = code_mlp(size, config.code_channels)
        self.spread = nn.BatchNorm1d(config.code_channels, affine=False)

    def forward(self, poses: Tensor) -> Tensor:
        """Pose vectors (B, T + 1, POSE_CHANNELS) -> directions (B, T, code_channels), float32."""
        psi = self.norm(self.psi(poses)).float()
        before = psi[:, :-1].flatten(0, 1)
        after = psi[:, 1:].flatten(0, 1)
        return self.spread(self.mlp(self.chain(before, after)).float()).float().unflatten(0, (len(poses), -1))


class PoseDynamics(nn.Module):
    """The RNN: pose, global and local action -> logits of the next pose. Its state has 2 * `hidden` channels."""

    waves: Tensor

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = 2 * config.hidden
        self.pose = nn.Linear(POSE_CHANNELS, width)
        self.cell = nn.GRUCell(width, width)
        self.move = nn.Linear(2, width)
        self.position = nn.Linear(4 * OCTAVES, width)
        self.context = nn.Linear(4 * width, 2 * width)
        self.code = nn.Linear(config.code_channels, 2 * width)
        self.logits = nn.Linear(2 * width, config.poses)
        self.width = width
        self.register_buffer("waves", make_waves(config, OCTAVES), persistent=False)

    def start(self, batch: int, like: Tensor) -> Tensor:
        """The first hidden state: zeros, (B, 2 hidden), on the device of `like`."""
        return like.new_zeros(batch, self.width, dtype=torch.float32)

    def update_hidden(self, pose: Tensor, hidden: Tensor) -> Tensor:
        """Pose vectors (B, POSE_CHANNELS) and hidden state -> the hidden state that includes these poses."""
        return self.cell(F.leaky_relu(self.pose(pose).float(), SLOPE), hidden.float())

    def forward(self, pose: Tensor, hidden: Tensor, shift: Tensor, code: Tensor, position: Tensor) -> Tensor:
        """Predict the next pose. It may depend on the position: the frame's edge can hide a part of the agent.

        Args:
            pose: (B, POSE_CHANNELS), the present pose.
            hidden: (B, 2 hidden), the state that includes it (:meth:`update_hidden`).
            shift: (B, 2), the global action in units of SHIFT_UNIT px.
            code: (B, code_channels), the local action.
            position: (B, 2) px of the window after the step; nan where unknown.

        Returns:
            (B, P) logits, float32.
        """
        return self._logits(self._context(pose, hidden, shift, position) + self.code(code))

    def logits_per_action(self, pose: Tensor, hidden: Tensor, shift: Tensor, codes: Tensor, position: Tensor) -> Tensor:
        """As :meth:`forward`, for each of K local actions (K, code_channels): (B, K, P) logits."""
        return self._logits(self._context(pose, hidden, shift, position)[:, None] + self.code(codes))

    def _context(self, pose: Tensor, hidden: Tensor, shift: Tensor, position: Tensor) -> Tensor:
        where = encode_position(position, self.waves).to(pose.dtype)
        inputs = [self.pose(pose), hidden.to(pose.dtype), self.move(shift), self.position(where)]
        return self.context(torch.cat([x.float() for x in inputs], 1))

    def _logits(self, context: Tensor) -> Tensor:
        return self.logits(F.leaky_relu(context, SLOPE)).float()


class PoseDecoder(nn.Module):
    """D: an appearance and a pose vector -> the foreground.

    Where the first window shows a pixel of the next drawing, D copies it (by a flow), so that stripes, faces and
    letters keep their detail. It paints the other pixels.
    """

    waves: Tensor

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.decoder_channels
        self.grid = config.window // SCALE
        self.maps = 16
        self.uses_position = config.decoder_position
        self.register_buffer("waves", make_waves(config, DECODER_OCTAVES), persistent=False)
        inputs = 2 * POSE_CHANNELS + 4 * DECODER_OCTAVES * config.decoder_position
        self.embed = nn.Sequential(nn.Linear(inputs, 128), nn.LeakyReLU(SLOPE), nn.Linear(128, 128))
        self.style = nn.Linear(config.feature_channels, 128)
        self.map = nn.Linear(128, self.maps * self.grid**2)
        self.stem = nn.Conv2d(config.feature_channels + self.maps, 2 * width, 3, padding=1)
        self.convs = nn.ModuleList(ModulatedConv(2 * width, 2 * width, 128) for _ in range(3))
        self.norms = nn.ModuleList(AdaptiveNorm(2 * width, 128) for _ in range(3))
        fine = 3 * width // 4  # half-resolution maps cost four times as much a channel
        self.up = ConvBlock(2 * width, fine, up=True, norm=NORM)
        self.res = ResBlock(fine, fine, norm=NORM)
        self.features = config.feature_channels
        self.head = nn.Conv2d(fine, 4 * 7, 3, padding=1)  # colours 3, mask 1, flow 2, share that is copied 1
        for parameter in self.head.parameters():  # the flow starts at zero: from a random flow it does not learn
            nn.init.zeros_(parameter[16:24])

    def forward(self, appearance: Tensor, first: Tensor, pose: Tensor, position: Tensor | None) -> Drawn:
        """Draw a pose.

        Args:
            appearance: (B, F + 64, h/4, w/4), E's output for the first window.
            first: (B, POSE_CHANNELS), the pose in the first window.
            pose: (B, POSE_CHANNELS), the pose to draw.
            position: (B, 2) px of the window; None: unknown. Used with `decoder_position` only.

        Returns:
            the foreground.
        """
        features, window = appearance[:, : self.features], appearance[:, self.features :]
        inputs = [pose, first]
        if self.uses_position:
            position = torch.full_like(pose[:, :2], torch.nan) if position is None else position
            inputs.append(encode_position(position, self.waves).to(pose.dtype))
        embedding = self.embed(torch.cat(inputs, 1))
        where = self.map(embedding).unflatten(1, (self.maps, self.grid, self.grid)).to(features.dtype)
        x = self.stem(torch.cat([features, where], 1))
        embedding = embedding + self.style(features.mean((2, 3)))  # the appearance as a whole
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + norm(conv(x, embedding), embedding).to(x.dtype)
        y = self.res(self.up(x))
        full = F.pixel_shuffle(self.head(y), 2).float()  # (B, 7, h, w)
        fetched = warp(F.pixel_shuffle(window, SCALE), FLOW * full[:, 4:6])
        colour = (fetched[:, :3] / fetched[:, 3:].clamp_min(FAINTEST)).clamp(-1, 1)
        copied = torch.sigmoid(full[:, 6:])
        return masked(copied * colour + (1 - copied) * torch.tanh(full[:, :3]), full[:, 3:4])

    @torch.no_grad()
    def sharpen(self, by: float) -> None:
        """Multiply the mask's logits by `by`, in place.

        Trained by squared error, D's mask is the probability of an uncertain pixel; a factor above one makes it decide.
        """
        for parameter in self.head.parameters():
            parameter[12:16] *= by


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Fetch pixels (B, C, H, W) from places flow (B, 2, H, W) px (right, down) away: float32; edges are repeated."""
    height, width = x.shape[2:]
    columns = torch.arange(width, device=x.device)
    rows = torch.arange(height, device=x.device)[:, None]
    at_x = (2 * (columns + flow[:, 0].float()) + 1) / width - 1
    at_y = (2 * (rows + flow[:, 1].float()) + 1) / height - 1
    grid = torch.stack([at_x, at_y], -1)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)


class PosePrior(nn.Module):
    """The prior p(code | state, shift): a small network on the pose and the RNN's state."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.prior_channels
        self.known = nn.Linear(POSE_CHANNELS + 2 * config.hidden, width)
        self.shift = nn.Linear(2, width)
        self.hidden = nn.Linear(width, width)
        self.logits = nn.Linear(width, config.codes)

    def keep(self, index: Sequence[int]) -> None:
        """Keep only the codes in `index`; they are renumbered in this order."""
        kept = nn.Linear(self.logits.in_features, len(index))
        kept.load_state_dict({"weight": self.logits.weight[list(index)], "bias": self.logits.bias[list(index)]})
        self.logits = kept

    def forward(self, pose: Tensor, hidden: Tensor, shifts: Tensor) -> Tensor:
        """Pose, hidden state that includes it, shifts (B, N, 2) in SHIFT_UNIT px -> log p (B, N, K), float32."""
        x = self.known(torch.cat([pose.float(), hidden.float()], 1))[:, None] + self.shift(shifts.float())
        x = F.dropout(F.leaky_relu(x, SLOPE), PRIOR_DROPOUT, self.training)
        x = F.leaky_relu(self.hidden(x), SLOPE)
        return self.logits(x).float().log_softmax(-1)


def make_pose_codebook(config: GlassConfig) -> CosineQuantiser:
    """The pose codebook: P vectors on a sphere. K-means splits clusters by inertia: rare poses get entries too."""
    sizes = config.replace(codes=config.poses, code_channels=POSE_CHANNELS)
    return CosineQuantiser(sizes, dead=0.005 / config.poses, split="biggest_inertia")


class PoseLMA(LMA):
    """The LMA of the pose model: E, Q and its codebook, A, the RNN, D and the prior.

    The state is a tuple of four tensors with one row per agent: the appearance, the pose vector of the first window,
    the present pose vector, and the hidden state before that pose.
    """

    stages = {  # noqa: RUF012
        "pose": ("encoder", "pose_encoder", "pose_codebook", "decoder"),
        "lma": ("action", "quantiser", "dynamics", "prior"),
    }
    encoder: AppearanceEncoder  # E
    pose_encoder: PoseEncoder  # Q
    pose_codebook: CosineQuantiser  # Q's codebook of P poses
    action: PoseAction  # A without its quantiser
    dynamics: PoseDynamics  # the RNN
    decoder: PoseDecoder  # D

    def codebooks(self) -> list[Tensor]:
        """As :meth:`LMA.codebooks`."""
        return [*super().codebooks(), *self.pose_codebook.buffers()]

    def encode_poses(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, h, w) -> pose indices (B,) int64, 0 to P - 1."""
        return self.pose_codebook.logits(self.pose_encoder(layers)).argmax(1)

    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """As :meth:`LMA.directions`. The shifts are not used: the windows have moved with the agent."""
        vectors = self.pose_codebook.embed(self.encode_poses(layers.flatten(0, 1)))
        return self.action(vectors.unflatten(0, layers.shape[:2]))

    def refine_position(self, images: Tensor, masks: Tensor, position: Tensor) -> Tensor:
        """As :meth:`LMA.refine_position`: the offset, within SEARCH_PX, at which D redraws the window best."""
        wide = self.view.cut(images, masks, position, SEARCH_PX)
        errors = torch.stack(list(self.drawing_errors(wide, position, OFFSETS)), 1)
        return position + self.view.scale * position.new_tensor(OFFSETS)[errors.argmin(1)]

    def drawing_errors(self, wide: Tensor, position: Tensor, offsets: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """How well D redraws the windows at offsets, px of a layer, from their positions (B, 2) px.

        Args:
            wide: layers (B, 4, h, w) at the positions, with SEARCH_PX px more on each side.
            position: (B, 2) px.
            offsets: (x, y) of each, at most SEARCH_PX.

        Yields:
            for each offset the sum of squared errors, (B,).
        """
        side = self.config.window
        for x, y in offsets:
            layer = wide[..., SEARCH_PX + y :, SEARCH_PX + x :][..., :side, :side].contiguous()
            yield self.placing_error(layer, position + self.view.scale * position.new_tensor([x, y]))

    def placing_error(self, layer: Tensor, position: Tensor) -> Tensor:
        """How badly windows are placed, (B,): the best place has the least :meth:`drawing_error`."""
        return self.drawing_error(layer, position)

    def drawing_error(self, layer: Tensor, position: Tensor) -> Tensor:
        """The sum of squared errors (B,) with which layers (B, 4, h, w) at positions (B, 2) px are redrawn."""
        appearance, first, pose, _ = self.start_state(layer)
        return (self.decoder(appearance, first, pose, position).layer - layer).square().sum((1, 2, 3))

    def start_state(self, layer: Tensor) -> State:
        """As :meth:`LMA.start_state`."""
        appearance = self.encoder(layer)
        pose = self.pose_codebook.embed(self.encode_poses(layer))
        return appearance.float(), pose, pose.clone(), self.dynamics.start(layer.shape[0], pose)

    def present_pose(self, state: State) -> Tensor:
        """The pose vectors (B, POSE_CHANNELS) of a state."""
        return state[2]

    def correct_state(self, state: State, layer: Tensor, where: Tensor) -> State:
        """As :meth:`LMA.correct_state`: the pose is that of the real layers."""
        appearance, first, pose, hidden = state
        real = self.pose_codebook.embed(self.encode_poses(layer))
        return appearance, first, torch.where(where[:, None], real, pose), hidden

    def animate(
        self, layer: Tensor, state: State, shift: Tensor, code_vector: Tensor, position: Tensor | None = None
    ) -> tuple[Drawn, State]:
        """As :meth:`LMA.animate`. The layer is not used: the state holds the pose and the appearance."""
        state, _ = self.predict_pose(state, shift, code_vector, position)
        return self.draw(state, position), state

    def predict_pose(
        self, state: State, shift: Tensor, code_vector: Tensor, position: Tensor | None
    ) -> tuple[State, Tensor]:
        """The first half of :meth:`animate`: the RNN predicts the next pose.

        Returns:
            the next state, and the indices of the next poses, (B,) int64.
        """
        appearance, first, pose, hidden = state
        if position is None:
            position = torch.full_like(shift, torch.nan)
        with torch.autocast(shift.device.type, enabled=False):  # bfloat16 rounding must not change the chosen pose
            hidden = self.dynamics.update_hidden(pose, hidden)
            index = self.dynamics(pose, hidden, shift / self.shift_unit, code_vector, position).argmax(1)
            pose = self.pose_codebook.embed(index)
        return (appearance, first, pose, hidden), index

    def draw(self, state: State, position: Tensor | None) -> Drawn:
        """The second half of :meth:`animate`: D draws the pose of a state, for windows at positions (B, 2) px."""
        appearance, first, pose, _ = state
        return self.decoder(appearance, first, pose, position)

    def code_prior(self, state: State, shifts: Tensor) -> Tensor:
        """As :meth:`LMA.code_prior`."""
        if self.prior is None:
            return super().code_prior(state, shifts)
        _, _, pose, hidden = state
        return self.prior(pose, self.dynamics.update_hidden(pose, hidden), shifts / self.shift_unit)


PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    "encoder": AppearanceEncoder,
    "pose_encoder": PoseEncoder,
    "pose_codebook": make_pose_codebook,
    "action": PoseAction,
    "quantiser": make_quantiser,
    "dynamics": PoseDynamics,
    "decoder": PoseDecoder,
    "view": ConnectedWindow,
    "prior": lambda config: PosePrior(config) if config.prior_channels else None,
}
"""A function that makes each part of the pose model, by its name in :class:`PoseLMA`."""
