"""Export a world from a trained model and its data: local actions in order, step lengths, start frames."""

from __future__ import annotations

import copy
import dataclasses
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from glass_gym.model.glass import Glass
from glass_gym.model.pose_model import PoseLMA
from glass_gym.simulator.simulator import Simulator
from glass_gym.tensors.convert import unpack_layers
from glass_gym.worlds.action_space import COMPASS, nearest_direction
from glass_gym.worlds.checkpoint import World, save_world
from glass_gym.worlds.checks import without_folders
from glass_gym.worlds.codes import describe_codes, measure_codes, play_code, start_states

from ..core.progress import Bar, each
from ..core.run import Run
from ..data.store import Store, Video
from ..footage.registration import CHANGED, camera_moves
from ..gma.background import estimate_background, masks_of, shots_of
from ..windows.windows import WindowSet, crop_layers

START_FRAMES, START_BYTES = 64, 5_000_000  # Largest number of start frames of a world, and of their bytes.
HELD_OUT = 3  # With fewer held-out videos, start frames come from the others, too.
LOOKED_AT = 2  # At most so many times as many frames are compared.
SPREAD = 64  # Number of frames, spread over a video, from which start frames are chosen if the camera stands still.
START_SHOT = 24  # At most so many of them are compared; if it moves, they are consecutive.
MISSED = 0.005  # An agent is whole if M misses no more than this share of its area.
TOGETHER = 1 << 19
"""Number of pixels for which codes are inferred at once: 32 clips of windows of 32 px, or two of whole frames."""
DEAD = 0.003
"""Codes with less than this share of the training steps are left out; it is low, since the start of a swing is rare."""
RARE_CODE = 0.03  # Codes with less than this share of the steps cannot become the first code.
TWIN = 0.05
"""Two codes are twins if their drawings differ by less than this share of the mean difference between codes."""
SAME = 0.03  # They also are if drawings differ by less than this inside the agent (root mean square, range [-1, 1]).
PLAYED = 64 * 64 * 64  # Pixels of the windows in which codes are played, to compare their drawings.
TWIN_STEPS = 8  # Number of steps that each code is played, to compare their drawings.
GROUND = 0.005  # Quantile of the agent's positions that bounds the world's ground on each side.
SHARPER = 2.0
"""Factor on the mask logits of the pose model's D, against half-transparent limbs, which look like two poses at once.
Squared error grows by 5 % in Sprites and the arm, by 13 % in Tennis, and two thirds of the blends disappear."""
CELL = 4.0  # Smallest side of a cell of the grid of places where agents were seen, px.
RARE = 20  # Minimum number of steps in a direction for a usual code of its own.


@dataclass
class CodeStatistics:
    """Local actions that A inferred for N steps of random training clips.

    Attributes:
        codes: (N,) int64.
        shifts: (N, 2) px, the shifts in these steps.
        change: (N,), mean squared changes of the foreground in these steps.
        directions: (N, code_channels), A's directions before quantisation.
    """

    codes: np.ndarray
    shifts: np.ndarray
    change: np.ndarray
    directions: torch.Tensor

    def counts(self, codes: int) -> np.ndarray:
        """Frequencies (K,) of K = `codes` codes."""
        return np.bincount(self.codes, minlength=codes)

    @torch.no_grad()
    def quantised(self, model: Glass) -> CodeStatistics:
        """The same steps, with codes from the quantiser of `model`, whose A must be the same."""
        return replace(self, codes=model.lma.quantise(self.directions).index.cpu().numpy())


@torch.no_grad()
def code_statistics(model: Glass, windows: WindowSet, clips: int = 256, length: int = 16) -> CodeStatistics:
    """Infer codes on `clips` random clips of `length` frames; fewer and shorter ones if there is less footage."""
    rng = np.random.default_rng(0)
    device = model.device
    length = min(length, int(windows.lengths.max()))
    clips = min(clips, len(windows.layers))
    height, width = model.lma.view.size
    together = max(1, TOGETHER // (length * height * width))
    directions = []
    shifts = []
    change = []
    for first in range(0, clips, together):
        some = [windows.sample(rng, length) for _ in range(min(together, clips - first))]
        packed = np.stack([windows.centred(clip, model.config.window) for clip in some])
        layers = unpack_layers(torch.from_numpy(packed).to(device))
        moves = torch.from_numpy(np.stack([clip.position for clip in some])).diff(dim=1).to(device)
        directions.append(model.lma.directions(layers, moves).flatten(0, 1))
        shifts.append(moves.flatten(0, 1).cpu())
        change.append((layers[:, 1:, :3] - layers[:, :-1, :3]).square().mean((2, 3, 4)).flatten().cpu())
    unknown = np.zeros(0, np.int64)
    found = CodeStatistics(unknown, torch.cat(shifts).numpy(), torch.cat(change).numpy(), torch.cat(directions))
    return found.quantised(model)


def usual_codes(statistics: CodeStatistics, step: tuple[float, float], codes: int) -> tuple[int, ...]:
    """The most frequent local action with each direction, for players without a prior.

    A rare diagonal (RARE) takes the code of its horizontal part, any other rare direction code 0.

    Args:
        statistics: codes and shifts of training steps.
        step: (x, y) px, the world's step lengths.
        codes: K.

    Returns:
        a code for each direction of :data:`glass_gym.worlds.action_space.COMPASS`.
    """
    counts = np.zeros((len(COMPASS), codes), int)
    np.add.at(counts, (nearest_direction(statistics.shifts, step), statistics.codes), 1)
    names = list(COMPASS)
    out = []
    for row, name in enumerate(names):
        if counts[row].sum() < RARE and "-" in name:
            row = names.index(name.split("-")[1])
        out.append(int(counts[row].argmax()) if counts[row].sum() >= RARE else 0)
    return tuple(out)


@torch.no_grad()
def twin_codes(model: Glass, windows: WindowSet, statistics: CodeStatistics, steps: int = TWIN_STEPS) -> list[int]:
    """Codes whose drawings equal those of a more frequent code, by TWIN and SAME.

    Each code is played for `steps` steps without a shift, from at most 64 real windows, and the last drawings are
    compared. For whole frames there are none, since they cannot be played without a shift.
    """
    count = model.config.codes
    if not model.lma.view.follows or count < 2:
        return []
    device = model.device
    pixels = model.config.window**2
    good = windows.complete()
    index = good[np.random.default_rng(0).integers(len(good), size=max(16, min(64, PLAYED // pixels)))]
    start = crop_layers(windows, index, model.config.window).to(device)
    place = torch.from_numpy(windows.position[index].astype(np.float32)).to(device)
    still = torch.zeros(len(start), steps, 2, device=device)
    ends = []
    for code in range(count):
        vectors = model.lma.quantiser.embed(torch.full((len(start) * steps,), code, device=device))
        drawn = model.lma.rollout(start[:, None], still, vectors.unflatten(0, (len(start), steps)), position=place)
        ends.append(drawn[-1].layer)
    far = torch.stack([torch.stack([(a - b).square().mean() for b in ends]) for a in ends]).cpu().numpy()
    one = max(TWIN * far.sum() / (count * (count - 1)), SAME**2 * float((torch.cat(ends)[:, 3] > 0.5).float().mean()))
    kept = []
    twins = []
    for code in np.argsort(-statistics.counts(count)).tolist():
        same = [k for k in kept if far[code, k] < one]
        (twins if same else kept).append(code)
    return sorted(twins)


def order_codes(statistics: CodeStatistics, codes: int, twins: Sequence[int] = ()) -> list[int]:
    """The codes that a world keeps, in their order there.

    The first code is the one under which a standing agent changes least; the others follow by frequency.

    Args:
        statistics: codes of training steps.
        codes: K, before codes are left out.
        twins: codes to leave out, besides those with less than DEAD of the steps.
    """
    count = statistics.counts(codes)
    share = count / max(1, len(statistics.codes))
    kept = [k for k in range(codes) if share[k] >= DEAD and k not in twins] or list(range(codes))
    still = np.abs(statistics.shifts).sum(1) < 0.5

    def change(code: int) -> float:
        seen = still & (statistics.codes == code)
        return float(statistics.change[seen].mean()) if seen.any() and share[code] >= RARE_CODE else np.inf

    neutral = min(kept, key=change)
    return [neutral, *sorted((k for k in kept if k != neutral), key=lambda k: -count[k])]


def with_codes(model: Glass, order: Sequence[int]) -> Glass:
    """A copy of the model with only the codes in `order`, in this order."""
    out = copy.deepcopy(model)
    out.lma.keep_codes(list(order))
    return Glass(out.gma, out.lma)


@dataclass
class StartFrame:
    """A frame for episodes to start from: `frame` and `background`, its picture without the agent, (H, W, 3) uint8.

    `area` is that of M's mask, px, `cut` tells whether the frame's edge cuts the agent off, `missed` is the area of the
    agent, px, that M misses, and `inpainted` the share of the agent whose background the footage does not show; both
    are 0 where they are too small to matter.
    """

    frame: np.ndarray
    background: np.ndarray
    area: float
    cut: bool
    missed: int
    inpainted: float

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Frames of lower rank are better; (False, 0, 0) is best."""
        return self.cut, self.missed, self.inpainted


def start_frames(model: Glass, store: Store, count: int = START_FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Choose frames for episodes to start from, in which M finds the whole agent, and clear their backgrounds.

    What M misses, such as a raised hand, is not drawn. What is behind the agent is taken from the frames around, if
    they show it; frames of which they do are preferred. Frames are spread over the val and test videos; if these are
    fewer than HELD_OUT, over all, so that agents start in many places.

    Returns:
        `count` frames and their backgrounds, (N, H, W, 3) uint8 each.

    Raises:
        ValueError: M finds no agent in these videos.
    """
    held = [v for v in store.videos if v.split != "train"]
    held = held if len(held) >= HELD_OUT else store.videos
    rng = np.random.default_rng(0)
    each = math.ceil(min(count, 32) / len(held))  # frames per video
    picked: list[StartFrame] = []
    with Bar("start frames", count, "frame") as bar:
        for index in rng.permutation(len(held)):
            found = whole_agents(model, store, held[index], rng)[:each]
            picked += found
            bar.update(sum(start.rank == (False, 0, 0) for start in found))
            if sum(start.rank == (False, 0, 0) for start in picked) >= count or len(picked) >= LOOKED_AT * count:
                break
    if not picked:
        raise ValueError(f"{store.root}: the mask is empty on every frame; train GMA longer or check theta")
    whole = np.quantile([start.area for start in picked], 0.75) / 2  # of smaller agents M may find only a part
    picked = sorted(picked, key=lambda start: (start.area < whole, *start.rank))[:count]
    return np.stack([start.frame for start in picked]), np.stack([start.background for start in picked])


def whole_agents(model: Glass, store: Store, video: Video, rng: np.random.Generator) -> list[StartFrame]:
    """Frames of a video in which M finds an agent: whole agents before known backgrounds first.

    They are spread over the video if the camera stands still, so that agents start in many places and those that rest
    are not in the plate; else they are of a random part of it. Pixels that M misses are those beside its mask that
    differ from the background plate.
    """
    from scipy import ndimage

    first = int(rng.integers(max(1, video.length - START_SHOT + 1)))
    frames = np.asarray(store.frames[video.start + first : video.start + min(video.length, first + START_SHOT)])
    step = model.config.gma_scale
    if video.length > len(frames) and not camera_moves(frames[:, ::step, ::step]).any():
        spread = np.linspace(0, video.length - 1, min(video.length, SPREAD)).astype(int)
        frames = np.asarray(store.frames[video.start + spread])
    found = []
    for shot in shots_of(frames[:, ::step, ::step]) or [slice(0, len(frames))]:
        plate = estimate_background(model.gma, frames[shot], masks_of(model.gma, frames[shot]))
        seen = np.flatnonzero(plate.sizes >= max(16, np.median(plate.sizes) / 2))
        for t in np.sort(rng.permutation(seen)[:START_SHOT]).tolist():
            background, share = plate.without_agent(model.gma, t)
            missed = 0
            if (compared := plate.compare(t)) is not None:
                far, near = compared
                hole = ndimage.binary_dilation(plate.masks[t], np.ones((3, 3)), iterations=1 + model.config.hole_margin)
                missed = int((near & ~hole & (far > CHANGED) & (far < np.inf)).sum())
            missed = missed if missed > MISSED * plate.sizes[t] else 0
            mask = plate.masks[t]
            cut = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
            start = StartFrame(frames[shot][t], background, mask.sum(), cut, missed, share if share > MISSED else 0.0)
            found.append((start.rank, rng.random(), start))
    return [start for *_, start in sorted(found, key=lambda row: row[:2])]


def build_world(model: Glass, store: Store, windows: WindowSet, provenance: dict | None = None) -> World:
    """Build a world from a trained model: leave out useless codes, and measure what a world needs on the data.

    Args:
        model: the trained model.
        store: the videos; start frames come from them.
        windows: the windows of the training videos.
        provenance: how the weights were made, as plain values.

    Raises:
        ValueError: there is no start frame.
    """
    model.eval()
    with Bar("local actions"):
        found = code_statistics(model, windows)
        model = with_codes(model, order_codes(found, model.config.codes, twin_codes(model, windows, found)))
    statistics = found.quantised(model)  # quantised again: some codes are gone
    codes = model.config.codes
    count = min(START_FRAMES, max(16, START_BYTES // store.frames[0].nbytes))
    frames, backgrounds = start_frames(model, store, count)
    step = windows.step()
    facts: dict[str, list] = {
        "frame_mean": frames.mean((0, 1, 2)).round(2).tolist(),
        "frame_std": frames.std((0, 1, 2)).round(2).tolist(),
    }
    if windows.grid:
        facts["grid"] = list(windows.grid)
    facts["code_share"] = statistics.counts(codes).tolist()
    if isinstance(model.lma, PoseLMA):
        if not model.config.library:
            model.lma.decoder.sharpen(SHARPER)
        edge = model.config.width, model.config.height  # positions may lie outside the frame
        sides = np.quantile(windows.position, (GROUND, 1 - GROUND), axis=0).round(1).clip(0, edge)
        facts["ground"] = sides.ravel().tolist()
        facts["seen"] = seen_cells(windows.position, edge, step)
        with Bar("start positions"):  # stored, since finding them takes seconds
            start = Simulator(model, model.device, "float32").start(torch.from_numpy(frames))
        facts["start_positions"] = start.position.tolist()
    usual = usual_codes(statistics, step, codes)
    names = tuple(f"code {k}" for k in range(codes))  # until they are measured
    about = facts, provenance or {}
    world = World(
        model, frames, step, names, store.pixel_aspect, *about, usual_codes=usual, start_backgrounds=backgrounds
    )
    simulator = Simulator(model, model.device, "float32")
    begun = start_states(world, simulator)
    films = (play_code(simulator, begun, code) for code in each(range(codes), "names of local actions", "code"))
    world.code_names = describe_codes(world, measure_codes(simulator, films))
    return world


def seen_cells(position: np.ndarray, size: tuple[int, int], step: Sequence[float]) -> list[list[int]]:
    """Where agents were: positions (N, 2) px in frames of `size` (width, height) px -> rows of cells, 0 or 1.

    A cell is as large as the longer step along an axis, at least CELL px, so that a way of steps leaves no gaps.
    """
    cell = max(CELL, *step)
    shape = [max(1, round(side / cell)) for side in size]
    index = (position * shape / size).astype(int).clip(0, np.array(shape) - 1)
    cells = np.zeros(shape[::-1], int)
    cells[index[:, 1], index[:, 0]] = 1
    return cells.tolist()


def export_world(run: Run, model: Glass, store: Store, windows: WindowSet, minutes: dict[str, float]) -> World:
    """Build the world of a run, write it as world.safetensors, and print how to use it; `minutes` are by stage."""
    argv = without_folders(sys.argv[1:])
    read = dataclasses.asdict(run.config.read)
    about = {"data": store.source, "minutes": minutes, "argv": argv, "torch": torch.__version__, "read": read}
    if store.rate:  # before frames are skipped
        about["footage_fps"] = store.rate * ((read["skip"] or 0) + 1)
    codes = model.config.codes
    with Bar("exporting the world"):
        world = build_world(copy.deepcopy(model).cpu(), store, windows, about)
        path = save_world(run.out / "world.safetensors", world)
    print(f"world: {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)
    left_out = codes - world.config.codes
    why = f"; {left_out} more explained nothing, or drew the same as another" if left_out else ""
    print(f"  {world.config.codes} local actions{why}: {', '.join(world.code_names)}")
    print(f"  gymnasium.make('Glass-v0', checkpoint={str(path)!r})")
    print(f"  glass_gym.register_world('MyGame-v0', {str(path)!r})")
    print(f"  glass-names {shlex.quote(str(path))}")
    print(f"  glass-play --checkpoint {shlex.quote(str(path))}", flush=True)
    return world
