"""W-Sprites (Sec. 5, App. C): generated videos of sprites that walk, cast spells and slash over a moving background.

There are 1296 characters: 6 bodies x 6 bottomwears x 6 topwears x 6 hairs. They are drawn in code (built in, free of
any licence), or cut from the LPC sheets of Li & Mandt's "Sprites" data set (`sheets=DIR`). A video follows from seed,
split and index. Labels are in px of the frame.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glass_gym.worlds.pictures import read_picture

from .store import DataError, StoreWriter

TILE = 64
COLUMNS = 13
HEIGHT = 96
WIDTH = 128
LAYERS = ("body", "bottomwear", "topwear", "hair")
VALUES = 6
SHEET_SIZE = (832, 1344)
BUILT_IN = "W-Sprites, built-in characters"  # `Store.source` of a store with built-in characters.
LOCAL_ACTIONS = tuple(
    f"{action} {way}" for action in ("walk", "spellcast", "slash") for way in ("front", "left", "right")
)
"""Names of the local action ids 0..8."""
FIRST_TILE = (131, 118, 144, 26, 13, 39, 182, 169, 195)  # by local action id
FRAME_ORDER = ((7, 0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 4, 6), (0, 1, 2, 3, 4, 5, 4, 0))  # walk, cast, slash
FRAMES = 8
STAY = 0
MOVES = np.array([(0, 0), (1, 0), (-1, 0), (0, -1), (0, 1)])  # stay, right, left, up, down
WALK_ACTION = (None, 2, 1, 0, 0)  # local action ids of the moves


@dataclass(frozen=True)
class WalkConfig:
    """The random walks of App. C; steps and ranges in px, inertia is the probability to keep the direction."""

    step: int = 7
    inertia: float = 0.9
    range_x: int = 64
    range_y: int = 32
    background_step: int = 2
    background_inertia: float = 0.95
    background_range: int = 25
    stay_frames: tuple[int, int] = (4, 8)


class Sprites:
    """All characters: `character(i)` returns its RGBA tiles (9 actions, 8 frames, 64, 64, 4) uint8.

    Args:
        sheets: folder with body/, bottomwear/, topwear/, hair/ (0.png to 5.png each), shoes/1.png; None: draw in code.
    """

    count = VALUES ** len(LAYERS)

    def __init__(self, sheets: str | Path | None = None):
        self.sheets = Path(sheets) if sheets else None
        self._layer = functools.lru_cache(maxsize=None)(self._read if self.sheets else _draw_layer)
        self.character = functools.lru_cache(maxsize=256)(self._compose)

    def _read(self, layer: str, value: int) -> np.ndarray:
        from PIL import Image

        path = self.sheets / layer / f"{value}.png"
        try:
            with Image.open(path, formats=("PNG",)) as image:
                if image.size != SHEET_SIZE:
                    raise DataError(f"{path}: sheet is {image.size}, expected {SHEET_SIZE} (13 x 21 tiles of 64 px)")
                sheet = np.asarray(image.convert("RGBA"))
        except FileNotFoundError:
            needed = f"{'/, '.join(LAYERS)}/ and shoes/ of PNG sheets"
            raise DataError(f"{path}: not found; --sheets needs {needed}") from None
        except OSError as error:
            raise DataError(f"{path}: not a readable image ({error})") from None
        tiles = sheet.reshape(-1, TILE, COLUMNS, TILE, 4).swapaxes(1, 2).reshape(-1, TILE, TILE, 4)
        return tiles[[np.add(first, FRAME_ORDER[action // 3]) for action, first in enumerate(FIRST_TILE)]]

    def _compose(self, index: int) -> np.ndarray:
        values = map(int, np.unravel_index(index, (VALUES,) * len(LAYERS)))
        out = np.zeros((9, FRAMES, TILE, TILE, 4), np.float32)
        for name, value in [*zip(LAYERS, values, strict=True), ("shoes", 1)]:
            top = self._layer(name, value).astype(np.float32) / 255
            alpha = top[..., 3:] + out[..., 3:] * (1 - top[..., 3:])
            colour = top[..., :3] * top[..., 3:] + out[..., :3] * out[..., 3:] * (1 - top[..., 3:])
            out = np.concatenate([colour / np.maximum(alpha, 1e-6), alpha], -1)
        return (out * 255 + 0.5).astype(np.uint8)


@functools.cache
def built_in() -> Sprites:
    """The characters drawn in code."""
    return Sprites()


@functools.lru_cache(maxsize=8)
def characters(split: str, seed: int = 0) -> np.ndarray:
    """The characters of a split ("train", "val" or "test"; 8:1:1, disjoint), in an order fixed by the seed."""
    order = np.random.default_rng([seed, 1296]).permutation(Sprites.count)
    parts = np.split(order, [int(Sprites.count * 0.8), int(Sprites.count * 0.9)])
    return parts[("train", "val", "test").index(split)]


def load_background(path: str | Path | None, walk: WalkConfig) -> np.ndarray:
    """The background (H + 2 r, W + 2 r, 3) uint8, with r = `walk.background_range`.

    It is an image file, which is resized and cropped; ``"china"``: scikit-learn's photograph; None: a drawn landscape.
    """
    from PIL import Image

    height = HEIGHT + 2 * walk.background_range
    width = WIDTH + 2 * walk.background_range
    if path is None:
        return draw_landscape(height, width)
    if str(path) == "china":
        from sklearn.datasets import load_sample_image

        image = Image.fromarray(load_sample_image("china.jpg"))
    else:
        try:
            image = Image.fromarray(read_picture(path))
        except ValueError as error:
            raise DataError(f"background {error}") from None
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.BICUBIC)
    left = (image.width - width) // 2
    top = (image.height - height) // 2
    return np.ascontiguousarray(np.asarray(image)[top : top + height, left : left + width])


def draw_landscape(height: int, width: int) -> np.ndarray:
    """A drawn landscape, free of any licence: (height, width, 3) uint8, the same on every machine."""
    from PIL import Image, ImageDraw, ImageFilter

    rng = np.random.default_rng(7)

    def noise(*cells: int) -> np.ndarray:
        """Smooth noise with mean zero: the sum of one octave for each number of cells."""
        total = np.zeros((height, width))
        for n in cells:
            small = Image.fromarray(rng.normal(size=(n, n)).astype(np.float32))
            total += np.asarray(small.resize((width, height), Image.BICUBIC)) / n**0.5
        return total

    big = 4  # draw enlarged, then downscale, for soft edges
    picture = Image.new("RGB", (width * big, height * big))
    draw = ImageDraw.Draw(picture)
    horizon = 0.42 * height
    for y in range(height * big):
        share = min(1.0, y / (horizon * big))
        colour = tuple(int(a + (b - a) * share) for a, b in zip((96, 150, 214), (214, 228, 236), strict=True))
        draw.line([(0, y), (width * big, y)], fill=colour)
    x = np.arange(-8, width + 9)
    for base, swell, colour in ((0.30, 16, "#7f93ac"), (0.38, 11, "#6c8a86"), (0.44, 6, "#5c8a4a")):
        phase = rng.uniform(0, 6.28, 3)
        ridge = base * height - swell * sum(np.sin(x / s + p) * s / 40 for s, p in zip((40, 17, 7), phase, strict=True))
        outline = [(float(a) * big, float(b) * big) for a, b in zip(x, ridge, strict=True)]
        draw.polygon([*outline, (width * big, height * big), (0, height * big)], fill=colour)
    draw.rectangle([0, 0.55 * height * big, width * big, height * big], fill="#6a9a48")
    for y in sorted(rng.uniform(0.46, 0.97, 26) * height):
        size = 2.2 + 9 * (y / height - 0.4)
        x0 = rng.uniform(0, width)
        shade = rng.uniform(0.8, 1.15)
        if rng.random() < 0.6:  # a tree
            draw.rectangle([(x0 - size / 6) * big, (y - size) * big, (x0 + size / 6) * big, y * big], fill="#5a4028")
            for dx, dy, r in ((0, -2.0, 1.0), (-0.6, -1.4, 0.8), (0.6, -1.4, 0.8)):
                box = [(at + (d + side * r) * size) * big for side in (-1, 1) for at, d in ((x0, dx), (y, dy))]
                draw.ellipse(box, fill=(int(52 * shade), int(112 * shade), int(50 * shade)))
        else:  # a stone
            box = [(x0 - size * 0.6) * big, (y - size * 0.6) * big, (x0 + size * 0.6) * big, y * big]
            draw.ellipse(box, fill=tuple(int(v * shade) for v in (142, 138, 130)))
    pixels = np.asarray(picture.filter(ImageFilter.BoxBlur(big / 3)).resize((width, height), Image.BOX)).astype(float)
    ground = np.clip((np.arange(height) - 0.45 * height) / (0.2 * height), 0.25, 1)[:, None, None]
    pixels += (22 * noise(12, 40, 110))[..., None] * ground * np.array([0.9, 1.0, 0.6])
    return np.clip(pixels, 0, 255).astype(np.uint8)


class WSprites:
    """Generates videos, the same on every machine; `sheets` as for :class:`Sprites`, `background`: load_background."""

    def __init__(self, sheets=None, background=None, seed: int = 0, walk: WalkConfig | None = None):
        self.walk = walk or WalkConfig()
        self.sprites = Sprites(sheets)
        self.background = load_background(background, self.walk)
        self.seed = seed

    def video(self, split: str, index: int, length: int, cast: int | None = None) -> dict[str, np.ndarray]:
        """Generate a video of T = `length` frames, of one of the split's characters, or of the first `cast` in turn.

        Returns:
            frames (T, H, W, 3) uint8; masks (T, H, W) bool; position (T, 2) px, the tile's top-left corner;
            foreground_shift, background_shift (T, 2) px, from frame t to t + 1 (last row zero);
            local_action (T,) ids of LOCAL_ACTIONS; character (T,).
        """
        rng = np.random.default_rng([self.seed, {"train": 0, "val": 1, "test": 2}[split], index])
        chosen = characters(split)
        drawn = int(rng.integers(len(chosen)))
        character = int(chosen[drawn if cast is None else index % cast])
        tiles = self.sprites.character(character)
        position, action, frame = self._walk(rng, length)
        corner = self._background_walk(rng, length)
        frames = np.empty((length, HEIGHT, WIDTH, 3), np.uint8)
        masks = np.zeros((length, HEIGHT, WIDTH), bool)
        for t in range(length):
            (x, y), (bx, by) = position[t], corner[t]
            frames[t] = self.background[by : by + HEIGHT, bx : bx + WIDTH]
            tile = tiles[action[t], frame[t]]
            area = frames[t, y : y + TILE, x : x + TILE]
            tile = tile[: area.shape[0], : area.shape[1]]
            alpha = tile[..., 3:].astype(np.uint16)
            area[:] = (tile[..., :3] * alpha + area * (255 - alpha) + 127) // 255
            masks[t, y : y + TILE, x : x + TILE] = tile[..., 3] > 127
        return {
            "frames": frames,
            "masks": masks,
            "position": position.astype(np.float32),
            "foreground_shift": _steps(position),
            "background_shift": -_steps(corner),
            "local_action": action.astype(np.int16),
            "character": np.full(length, character, np.int16),
        }

    def _walk(self, rng, length):
        """Positions (T, 2), local actions (T,), and frames (T,) of the actions."""
        walk = self.walk
        here = np.array([rng.integers(walk.range_x), rng.integers(walk.range_y)])
        move = int(rng.integers(5))
        clock = until = stay_action = 0
        out = []

        def fits(move: int) -> bool:
            ahead = here + MOVES[move] * walk.step
            return bool((ahead >= 0).all() and (ahead < (walk.range_x, walk.range_y)).all())

        for _ in range(length):
            if move == STAY:
                if until <= 0:
                    stay_action = int(rng.integers(3, 9))
                    clock = 0
                    until = int(rng.integers(walk.stay_frames[0], walk.stay_frames[1] + 1))
                until -= 1
            out.append((*here, stay_action if move == STAY else WALK_ACTION[move], clock % FRAMES))
            clock += 1
            if rng.random() > walk.inertia or not fits(move):
                before, move = move, int(rng.choice([m for m in range(5) if fits(m)]))
                if move != before:
                    clock = until = 0
            here = here + MOVES[move] * walk.step
        x, y, action, frame = np.array(out).T
        return np.stack([x, y], 1), action, frame

    def _background_walk(self, rng, length):
        """The top-left corners (T, 2) of the frames in the background."""
        walk = self.walk
        offset = np.zeros(2, int)
        move = int(rng.integers(5))
        out = []
        for _ in range(length):
            out.append(offset)
            if rng.random() > walk.background_inertia:
                move = int(rng.integers(5))
            ahead = offset + MOVES[move] * walk.background_step
            if (np.abs(ahead) > walk.background_range).any():
                move = STAY
            else:
                offset = ahead
        return np.stack(out) + walk.background_range


def _steps(path: np.ndarray) -> np.ndarray:
    """Differences of each row of a path (T, 2) to the next; the last is zero."""
    return np.diff(path, axis=0, append=path[-1:]).astype(np.float32)


def write_store(
    out: str | Path,
    sheets=None,
    background=None,
    seed: int = 0,
    length: int = 24,
    *,
    videos: tuple[int, int, int],
    cast: int | None = None,
    progress=lambda done: None,
) -> Path:
    """Write a clip store of so many train, val and test `videos`, and return its folder `out`.

    With `cast`, each split has only so many characters, with many videos each (for NMI within a character). `progress`
    is called with the number of videos that are done.
    """
    source = WSprites(sheets, background, seed)
    what = "W-Sprites, LPC sheets" if sheets else BUILT_IN
    writer = StoreWriter(out, HEIGHT, WIDTH, 1.0, what, "wsprites")
    for split, count in zip(("train", "val", "test"), videos, strict=True):
        for index in range(count):
            video = source.video(split, index, length, cast)
            writer.add(f"{split}_{index:05d}", split, video.pop("frames"), video.pop("masks"), **video)
            progress(len(writer.videos))
    writer.close()
    return Path(out)


# --- the built-in characters ---------------------------------------------------------------------------------------

SKIN = ["#f2d3b1", "#e0ac7e", "#c68642", "#8d5524", "#a3c586", "#9fb4d8"]
BOTTOM = ["#2f3e9e", "#7a4b1f", "#3a3a3a", "#b03030", "#2e7d4f", "#d8c27a"]
TOP = ["#ffffff", "#c23b3b", "#3b7dc2", "#e0b020", "#6b3fa0", "#2f8f6f"]
HAIR = ["#2b1b0e", "#8b5a2b", "#e8c060", "#b7410e", "#8a8f98", "#5b2a86"]


def _draw_layer(layer: str, value: int) -> np.ndarray:
    """Draw one value of one attribute on stick skeletons: RGBA tiles (9, 8, 64, 64, 4) uint8."""
    from PIL import Image, ImageDraw

    tiles = np.zeros((9, FRAMES, TILE, TILE, 4), np.uint8)
    for action in range(9):
        for frame, phase in enumerate(FRAME_ORDER[action // 3]):
            image = Image.new("RGBA", (TILE, TILE), (0, 0, 0, 0))
            _PAINTERS[layer](ImageDraw.Draw(image), value, _skeleton(action, phase))
            tiles[action, frame] = np.asarray(image)
    return tiles


def _skeleton(action: int, phase: int) -> dict:
    """Joints (x, y) of a figure, px in its tile, and `side`: -1 left, 1 right, 0 front."""
    kind = action // 3
    side = (0, -1, 1)[action % 3]
    swing = np.sin(2 * np.pi * phase / 8) if kind == 0 else 0.0
    if side == 0:  # seen from the front, legs and hands swing up and down
        feet = [(28, 60 - max(0, 5 * swing)), (36, 60 - max(0, -5 * swing))]
        hands = [(24, 42 - 4 * swing), (40, 42 + 4 * swing)]
    else:
        feet = [(32 + 8 * swing, 60 - abs(3 * swing)), (32 - 8 * swing, 60)]
        hands = [(32 - 7 * swing, 42), (32 + 7 * swing, 42)]
    lift = min(phase, 5) / 5
    if kind == 1:  # spellcast: both hands rise
        hands = [(32 - 9 + 4 * side, 42 - 18 * lift), (32 + 9 + 4 * side, 42 - 18 * lift)]
    if kind == 2:  # slash: one arm sweeps down in front
        angle = np.pi * (0.75 - 1.1 * lift)
        hands[1] = (32 + (side or 1) * 15 * np.cos(angle - 0.6), 32 - 15 * np.sin(angle))
    return {"hip": (32, 44), "neck": (32, 29), "feet": feet, "hands": hands, "side": side}


def _paint_body(draw, value, s):
    colour = SKIN[value]
    for hand in s["hands"]:
        draw.line([(32, 31), tuple(hand)], fill=colour, width=4)
    for foot in s["feet"]:
        draw.line([s["hip"], tuple(foot)], fill=colour, width=5)
    draw.line([s["hip"], s["neck"]], fill=colour, width=9)
    draw.ellipse([23, 11, 41, 30], fill=colour)
    for eye in {0: (29, 35), -1: (26,), 1: (38,)}[s["side"]]:
        draw.rectangle([eye - 1, 20, eye, 22], fill="#202020")


def _paint_bottomwear(draw, value, s):
    for foot in s["feet"]:
        knee = (s["hip"][0] + 0.7 * (foot[0] - s["hip"][0]), s["hip"][1] + 0.7 * (foot[1] - s["hip"][1]))
        draw.line([s["hip"], knee], fill=BOTTOM[value], width=6 + value % 3)
    draw.rectangle([27, 41, 37, 46], fill=BOTTOM[value])


def _paint_topwear(draw, value, s):
    draw.rectangle([26, 29, 38, 42], fill=TOP[value])
    reach = 0.35 + 0.1 * (value % 4)
    for hand in s["hands"]:
        draw.line([(32, 31), (32 + reach * (hand[0] - 32), 31 + reach * (hand[1] - 31))], fill=TOP[value], width=6)


def _paint_hair(draw, value, s):
    colour = HAIR[value]
    side = s["side"]
    draw.pieslice([22, 8, 42, 30], 180, 360, fill=colour)
    if value % 2:  # long hair
        for x in (22, 39) if side == 0 else ((38,) if side < 0 else (22,)):
            draw.rectangle([x, 18, x + 3, 30 + value], fill=colour)


def _paint_shoes(draw, value, s):
    for x, y in s["feet"]:
        draw.ellipse([x - 4, y - 2, x + 4 + s["side"], y + 3], fill="#4a3420")


_PAINTERS = dict(
    zip((*LAYERS, "shoes"), (_paint_body, _paint_bottomwear, _paint_topwear, _paint_hair, _paint_shoes), strict=True)
)
