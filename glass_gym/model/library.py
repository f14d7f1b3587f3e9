"""The library: real windows of the footage, which stand for the poses of one agent.

Where all footage shows the same agent, its own pixels are the best drawing of it (video textures, Schödl et al., 2000).
So the world stores P windows of the footage, each with its pose vector: the principal components of the window
(Turk & Pentland, 1991). The RNN predicts the next pose vector, and the nearest stored window is drawn. Nothing is
blurred, no drawing is fed back, and every picture is one that the camera has seen.

An agent seen from above looks the same in every direction. Then the *heading*, the direction of its long axis, is taken
out: windows are turned until it points right, so that one stored window serves all directions, and turned back to draw.
Each window then also serves as its mirror image.

Where several agents come one after the other, each stays itself: entries of another colour than the first window's
entry are less near.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.blocks import SLOPE
from glass_gym.model.config import GlassConfig
from glass_gym.model.lma import Drawn, State
from glass_gym.model.pose_model import POSE_CHANNELS, PoseAction, PoseDynamics, PoseLMA, PosePrior
from glass_gym.model.quantise import make_quantiser
from glass_gym.model.view import ConnectedWindow
from glass_gym.tensors.convert import pack_layers, unpack_layers
from glass_gym.tensors.geometry import reduced

Q_SIDE = 32  # Q sees windows reduced to about this side, px.
FINEST = 8.0  # Largest logarithm of a precision; footage that repeats exactly has no bound of its own.
TURN_UNIT = 0.1  # The RNN and A get turns in units of this many radians.


def principal_axis(mask: Tensor) -> Tensor:
    """The direction of the long axis of masks (B, h, w), by their second moments.

    Returns:
        (B,) rad, clockwise from the right, known up to a half turn.
    """
    down = torch.arange(mask.shape[-2], device=mask.device, dtype=mask.dtype)
    right = torch.arange(mask.shape[-1], device=mask.device, dtype=mask.dtype)
    mass = mask.sum((1, 2)).clamp_min(1e-6)
    columns, rows = mask.sum(1), mask.sum(2)
    x = right - ((columns * right).sum(1) / mass)[:, None]
    y = down - ((rows * down).sum(1) / mass)[:, None]
    xx, yy = (columns * x * x).sum(1), (rows * y * y).sum(1)
    xy = ((mask * x[:, None]).sum(2) * y).sum(1)
    return torch.atan2(2 * xy, xx - yy) / 2


def off_centre(mask: Tensor) -> Tensor:
    """From the middle of masks (B, h, w) to the centre of mass of what is above 0.5: (B, 2) px, (x, y)."""
    solid = mask * (mask > 0.5)
    mass = solid.sum((1, 2)).clamp_min(1e-6)
    down = torch.arange(mask.shape[-2], device=mask.device) - (mask.shape[-2] - 1) / 2
    right = torch.arange(mask.shape[-1], device=mask.device) - (mask.shape[-1] - 1) / 2
    return torch.stack([(solid.sum(1) * right).sum(1) / mass, (solid.sum(2) * down).sum(1) / mass], 1)


def turn(layers: Tensor, angle: Tensor, mirrored: Tensor | None = None, centre: Tensor | None = None) -> Tensor:
    """Turn layers about their middle; beyond the border is nothing.

    Args:
        layers: (B, C, s, s).
        angle: (B,) rad, clockwise.
        mirrored: (B,) bool, the rows that are mirrored top to bottom first; None: none.
        centre: (B, 2) px from the middle, the point that is turned about and moved to the middle; None: the middle.

    Returns:
        (B, C, s, s).
    """
    side = layers.shape[-1]
    at = (2 * torch.arange(side, device=layers.device, dtype=layers.dtype) + 1) / side - 1
    cos, sin = (f(angle).to(layers)[:, None, None] for f in (torch.cos, torch.sin))
    x = cos * at + sin * at[:, None]
    y = cos * at[:, None] - sin * at
    if mirrored is not None:
        y = torch.where(mirrored[:, None, None], -y, y)
    if centre is not None:
        x, y = (a + 2 / side * c[:, None, None] for a, c in zip((x, y), centre.to(layers).unbind(1), strict=True))
    return F.grid_sample(layers, torch.stack([x, y], -1), "bicubic", align_corners=False)


def seen_by_q(layers: Tensor) -> Tensor:
    """What Q sees of layers (B, 4, s, s): windows reduced to about Q_SIDE px, (B, 4, r, r) float32."""
    factor = max(1, layers.shape[-1] // Q_SIDE)
    side = layers.shape[-1] // factor * factor
    first = (layers.shape[-1] - side) // 2
    return reduced(layers[..., first : first + side, first : first + side].float(), factor)


class Library(nn.Module):
    """P stored windows, with pose vectors, headings and agents' colours; and Q, the principal components of a window.

    Entries are these windows; where the heading is taken out, P more are their mirror images at the axis. A colour is
    the agent's mean one, in units of its standard deviation within one agent's visit. `residual` is the mean squared
    length of what pose vectors leave out of a window, in their units; 0 if the heading is left in.
    """

    mean: Tensor
    components: Tensor
    codebook: Tensor
    colours: Tensor
    residual: Tensor
    windows: Tensor
    headings: Tensor

    def __init__(self, config: GlassConfig):
        super().__init__()
        side = config.window
        seen = 4 * (side // max(1, side // Q_SIDE)) ** 2
        self.register_buffer("mean", torch.zeros(seen))
        self.register_buffer("components", torch.zeros(POSE_CHANNELS, seen))
        self.stored = config.poses
        self.register_buffer("codebook", torch.randn(config.poses * (1 + config.heading), POSE_CHANNELS))
        self.register_buffer("colours", torch.zeros(config.poses * (1 + config.heading), 3))
        self.register_buffer("residual", torch.zeros(()))
        self.register_buffer("windows", torch.zeros(config.poses, 4, side, side, dtype=torch.uint8))
        self.register_buffer("headings", torch.zeros(config.poses))

    def encode(self, seen: Tensor) -> Tensor:
        """Q: reduced windows (B, 4, r, r), with the heading taken out -> pose vectors (B, POSE_CHANNELS), float32."""
        with torch.autocast(seen.device.type, enabled=False):  # bfloat16 rounding must not change the nearest entry
            return (seen.flatten(1) - self.mean) @ self.components.T

    def nearest(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compare reduced windows (B, 4, r, r) with the entries.

        Returns:
            their pose vectors (B, POSE_CHANNELS); the nearest entries (B,) int64; the squared errors (B,) of drawing
            the components of these.
        """
        vectors = self.encode(seen)
        nearest, index = self.logits(vectors).max(1)
        unit = 1 / self.components[0].square().sum().clamp_min(1e-12)  # squared error of a distance of one
        whole = (seen.flatten(1) - self.mean).square().sum(1)
        return vectors, index, whole - 2 * unit * nearest

    def logits(self, vectors: Tensor) -> Tensor:
        """How near each entry is to pose vectors (..., POSE_CHANNELS): (..., P or 2 P), see :func:`nearness`."""
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors @ self.codebook.T - self.codebook.square().sum(1) / 2

    def logits_of_agent(self, vectors: Tensor, own: Tensor) -> Tensor:
        """As :meth:`logits`, where entries of other colours than the agent's are less near.

        Args:
            vectors: (B, POSE_CHANNELS).
            own: (B, POSE_CHANNELS), those of the agents' first windows, whose nearest entries tell their colours.

        Returns:
            (B, P or 2 P).
        """
        colour = self.colours[self.logits(own).argmax(1)]
        return (
            self.logits(vectors)
            + colour @ self.colours.T
            - colour.square().sum(1, keepdim=True) / 2
            - self.colours.square().sum(1) / 2
        )

    def embed(self, index: Tensor) -> Tensor:
        """The pose vectors (..., POSE_CHANNELS) of entries."""
        return self.codebook[index]

    def look_up(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The windows of entries (B,).

        Returns:
            packed layers (B, 4, s, s) uint8, as filmed; headings (B,) rad; whether layers are to be mirrored top to
            bottom, (B,) bool, and then have this heading.
        """
        mirrored = index >= self.stored
        index = index - self.stored * mirrored
        return self.windows[index], torch.where(mirrored, -self.headings[index], self.headings[index]), mirrored


class LibraryAction(PoseAction):
    """A without its quantiser: it sees how far the agent turned, too."""

    def __init__(self, config: GlassConfig):
        super().__init__(config)
        size = config.psi_channels
        self.psi[0] = nn.Linear(POSE_CHANNELS + 1, size)

    def forward(self, poses: Tensor, turns: Tensor) -> Tensor:  # type: ignore[override]
        """Pose vectors (B, T + 1, POSE_CHANNELS), turns (B, T) rad -> directions (B, T, code_channels), float32."""
        known = F.pad(turns, (1, 0)) / TURN_UNIT
        psi = self.norm(self.psi(torch.cat([poses, known[..., None].to(poses)], -1))).float()
        unturned = self.norm(self.psi(F.pad(poses, (0, 1)))).float()
        before, after = unturned[:, :-1].flatten(0, 1), psi[:, 1:].flatten(0, 1)
        return self.spread(self.mlp(self.chain(before, after)).float()).float().unflatten(0, (len(poses), -1))


class LibraryDynamics(PoseDynamics):
    """The RNN: pose, global and local action -> the change of the pose vector, the precision of that, and the turn.

    What comes next is one Gaussian for each code. So entries that are alike share what is learned, and P may be as
    large as the footage; the entry nearest to the mean is drawn, so that nothing drifts.
    """

    def __init__(self, config: GlassConfig):
        super().__init__(config)
        self.logits = nn.Linear(2 * self.width, POSE_CHANNELS + 2)

    def _logits(self, context: Tensor) -> Tensor:
        """(..., POSE_CHANNELS + 2): the change, the logarithm of the precision, the turn in TURN_UNIT."""
        return self.logits(F.leaky_relu(context, SLOPE)).float()


class LibraryLMA(PoseLMA):
    """The LMA with a library in the place of E, Q and D.

    An episode's first window is one entry more, for its agent alone: until the agent moves, it looks as in its picture.

    The state is a tuple of tensors with one row per agent: the pose vector; the hidden state before that pose; the
    heading, (B,) rad clockwise from the right, zeros in worlds that leave it in; and of the first window its pose
    vector, its heading, and the packed layer itself.
    """

    stages = {"lma": ("library", "action", "quantiser", "dynamics", "prior")}  # noqa: RUF012
    library: Library
    action: LibraryAction  # type: ignore[assignment]

    def codebooks(self) -> list[Tensor]:
        """As :meth:`LMA.codebooks`."""
        return list(self.quantiser.buffers())

    @property
    def pose_codebook(self) -> Library:  # type: ignore[override]
        """The entries' pose vectors."""
        return self.library

    def observe(self, layers: Tensor) -> tuple[Tensor, Tensor]:
        """Find the nearest entries of layers (B, 4, s, s), and their headings.

        Of the axis' two directions the one is taken whose window is nearer to an entry.

        Returns:
            entries (B,) int64, headings (B,) rad.
        """
        _, entry, heading, _ = self._observe(layers)
        return entry, heading

    def _observe(self, layers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`observe`, between the pose vectors and the errors of :meth:`Library.nearest`."""
        seen = seen_by_q(layers)
        if not self.config.heading:
            vector, entry, error = self.library.nearest(seen)
            return vector, entry, torch.zeros_like(error), error
        axis, centre = principal_axis(seen[:, 3]), off_centre(seen[:, 3])
        both = torch.stack([axis, axis + math.pi])
        found = [self.library.nearest(turn(seen, -angle, centre=centre)) for angle in both]
        (vector, other), entries, errors = (torch.stack(x) for x in zip(*found, strict=True))
        error, which = errors.min(0)
        vector = torch.where(which[:, None] > 0, other, vector)
        return vector, entries.gather(0, which[None])[0], both.gather(0, which[None])[0], error

    def encode_poses(self, layers: Tensor) -> Tensor:
        """As :meth:`PoseLMA.encode_poses`, 0 to P - 1 or 2 P - 1; the heading is taken out first."""
        return self.observe(layers)[0]

    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """As :meth:`LMA.directions`. The shifts are not used: the windows have moved with the agent."""
        entry, heading = (x.unflatten(0, layers.shape[:2]) for x in self.observe(layers.flatten(0, 1)))
        return self.action(self.library.embed(entry), wrapped(heading.diff(dim=1)))

    def placing_error(self, layer: Tensor, position: Tensor) -> Tensor:
        """As :meth:`PoseLMA.placing_error`; of an agent that turns, how far it is off the middle."""
        if self.config.heading:
            return off_centre(layer[:, 3]).square().sum(1)
        return self.drawing_error(layer, position)

    def drawing_error(self, layer: Tensor, position: Tensor) -> Tensor:
        """As :meth:`PoseLMA.drawing_error`, of reduced windows."""
        return self._observe(layer)[3]

    def start_state(self, layer: Tensor) -> State:
        """As :meth:`LMA.start_state`."""
        pose, _, heading, _ = self._observe(layer)
        hidden = self.dynamics.start(layer.shape[0], pose)
        return pose, hidden, heading, pose.clone(), heading.clone(), pack_layers(layer)

    def present_pose(self, state: State) -> Tensor:
        """As :meth:`PoseLMA.present_pose`."""
        return state[0]

    def correct_state(self, state: State, layer: Tensor, where: Tensor) -> State:
        """As :meth:`LMA.correct_state`: but for the hidden state, all starts again from the real layers."""
        pairs = zip(self.start_state(layer), state, strict=True)
        pose, _, *rest = (torch.where(where.view(-1, *[1] * (old.ndim - 1)), new, old) for new, old in pairs)
        return pose, state[1], *rest

    def predict_pose(
        self, state: State, shift: Tensor, code_vector: Tensor, position: Tensor | None
    ) -> tuple[State, Tensor]:
        """As :meth:`PoseLMA.predict_pose`; an index counts only where the state's pose is not the first window's."""
        pose, hidden, heading, own, *first = state
        if position is None:
            position = torch.full_like(shift, torch.nan)
        with torch.autocast(shift.device.type, enabled=False):  # bfloat16 rounding must not change the chosen pose
            hidden = self.dynamics.update_hidden(pose, hidden)
            moved = self.seen_by_agent(shift, heading) / self.shift_unit
            out = self.dynamics(pose, hidden, moved, code_vector, position)
            vector, _, turned = self.read(pose, out)
            best, index = self.library.logits_of_agent(vector, own).max(-1)
            pose = torch.where((nearness(vector, own) > best)[:, None], own, self.library.embed(index))
        return (pose, hidden, heading + turned, own, *first), index

    def seen_by_agent(self, shift: Tensor, heading: Tensor) -> Tensor:
        """Shifts (..., 2) px in the agent's own frame, forward and to its right, under headings (...) rad."""
        if not self.config.heading:
            return shift
        cos, sin = heading.cos(), heading.sin()
        x, y = shift.unbind(-1)
        return torch.stack([cos * x + sin * y, cos * y - sin * x], -1)

    def read(self, pose: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the RNN's output means.

        Args:
            pose: (..., POSE_CHANNELS), the present poses.
            out: (..., POSE_CHANNELS + 2).

        Returns:
            the next pose's vector (..., POSE_CHANNELS), the logarithm of its precision (...), the turn (...) rad.
        """
        change, precision, turned = out.split((POSE_CHANNELS, 1, 1), -1)
        return pose + change, precision[..., 0].clamp(max=FINEST), TURN_UNIT * self.config.heading * turned[..., 0]

    def draw(self, state: State, position: Tensor | None) -> Drawn:
        """As :meth:`PoseLMA.draw`: a stored window, turned; `colour` and `logits` are channels of the layer.

        The first window is drawn until the pose is farther from it than what pose vectors leave out: there two windows
        of one pose differ by twice the residual, and by three times as much or more in detail that Q does not see.

        Returns:
            the layers; a code moves the pose also while the first window is drawn.
        """
        pose, _, heading, own, began, first = state
        best, index = self.library.logits(pose).max(-1)
        starts = nearness(pose, own) + 4 * self.library.residual >= best
        stored, filmed, mirrored = self.library.look_up(index)
        layer = unpack_layers(torch.where(starts[:, None, None, None], first, stored))
        if self.config.heading:
            layer = turn(layer, heading - torch.where(starts, began, filmed), mirrored & ~starts)
            mask = layer[:, 3:].clamp(0, 1)  # bicubic interpolation overshoots
            layer = torch.cat([layer[:, :3].maximum(-mask).minimum(mask), mask], 1)
        return Drawn(layer, layer[:, :3], layer[:, 3:])

    def code_prior(self, state: State, shifts: Tensor) -> Tensor:
        """As :meth:`LMA.code_prior`."""
        if self.prior is None:
            return super().code_prior(state, shifts)
        pose, hidden, heading, *_ = state
        moved = self.seen_by_agent(shifts, heading[:, None]) / self.shift_unit
        return self.prior(pose, self.dynamics.update_hidden(pose, hidden), moved)


def nearness(vectors: Tensor, entries: Tensor) -> Tensor:
    """Half the squared length of vectors (..., C) minus half their squared distance to entries (..., C): (...)."""
    return (vectors * entries).sum(-1) - entries.square().sum(-1) / 2


def wrapped(angle: Tensor) -> Tensor:
    """Angles in rad, moved into [-pi, pi) by whole turns."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


PARTS = {
    "library": Library,
    "action": LibraryAction,
    "quantiser": make_quantiser,
    "dynamics": LibraryDynamics,
    "view": ConnectedWindow,
    "prior": lambda config: PosePrior(config) if config.prior_channels else None,
}
"""A function that makes each part, by its name in :class:`LibraryLMA`."""
