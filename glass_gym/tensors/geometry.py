"""Positions and windows in frames: find the agent, cut windows out of frames, and draw them back.

A position is (x, y) in px, x to the right and y down. The centre of the pixel in column c and row r is (c, r).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.tensors.convert import can_read_values, to_bytes, to_images

FAINT = 3.5 / 255
"""Masks up to this, which D leaves along the edges of windows, are not worth the time to draw them at full size."""


def compose(layer: Tensor, background: Tensor) -> Tensor:
    """Layer over background, colour * m + b * (1 - m): (B, 4, H, W) and (B, 3, H, W) -> (B, 3, H, W)."""
    return layer[:, :3] + background * (1 - layer[:, 3:])


def unmixed(images: Tensor, masks: Tensor, backgrounds: Tensor) -> Tensor:
    """The colours that, drawn over backgrounds through masks, give the images, as far as there are such colours.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        masks: (B, 1, H, W) in [0, 1].
        backgrounds: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    return ((images - backgrounds * (1 - masks)) / masks.clamp_min(1e-3)).clamp(-1, 1)


def reduced(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) reduced by a whole factor, by means of squares: (B, C, H / factor, W / factor)."""
    return F.avg_pool2d(x, factor) if factor > 1 else x


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) enlarged by a whole factor, bilinearly: (B, C, H * factor, W * factor)."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear") if factor > 1 else x


def offsets(centre: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The distances of columns and rows from centres (B, 2) px: x - x_0, (B, 1, W), and y - y_0, (B, H, 1)."""
    x = torch.arange(width, device=centre.device) - centre[:, 0, None, None]
    y = torch.arange(height, device=centre.device)[:, None] - centre[:, 1, None, None]
    return x, y


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Means over squares of 2 radius + 1 px around each pixel of (B, C, H, W); pixels beyond the edge count as 0."""
    side = 2 * radius + 1  # separable: 2 side pixels instead of side^2
    return F.avg_pool2d(F.avg_pool2d(x, (1, side), 1, (0, radius)), (side, 1), 1, (radius, 0))


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Maxima over squares of 2 radius + 1 px around each pixel of (B, C, H, W)."""
    side = 2 * radius + 1
    return F.max_pool2d(F.max_pool2d(mask, (1, side), 1, (0, radius)), (side, 1), 1, (radius, 0))


def neighbourhood(centre: Tensor, radius: float, height: int, width: int) -> Tensor:
    """Which pixels are within `radius` px of centres (B, 2) along both axes: (B, H, W) bool."""
    x, y = offsets(centre, height, width)
    return (x.abs() <= radius) & (y.abs() <= radius)


def densest_point(mask: Tensor, radius: int) -> Tensor:
    """The position of the agent: the centre of mass of the densest (2 radius + 1) px square of the mask.

    (The centre of mass of the whole mask would be pulled toward other moving things, such as a ball.)

    Args:
        mask: (B, 1, H, W) in [0, 1].
        radius: px.

    Returns:
        (B, 2) px; the frame's centre where the mask is empty.
    """
    _, _, height, width = mask.shape
    mass = box_mean(mask.float(), radius) * (2 * radius + 1) ** 2
    best = mass.flatten(1).argmax(1).int()  # Metal does not divide int64
    peak = torch.stack([best % width, best // width], 1).float()
    x, y = offsets(peak.new_zeros(1, 2), height, width)
    for _ in range(3):  # mean shift: re-centre the neighbourhood on its own mass
        inside = mask[:, 0].float() * neighbourhood(peak, radius, height, width)
        total = inside.sum((1, 2)).clamp_min(1e-6)
        mean = torch.stack([(inside * x).sum((1, 2)), (inside * y).sum((1, 2))], 1) / total[:, None]
        peak = torch.where(total[:, None] > 1e-3, mean, peak)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=mask.device)
    return torch.where(mass.flatten(1).amax(1, keepdim=True) > 1e-3, peak, centre)


def keep_agent(masks: Tensor, position: Tensor, window: int) -> Tensor:
    """Masks (B, 1, H, W), zero outside windows (such as on a ball): pixels position - window / 2 + i."""
    inside = [(-window / 2 <= along) & (along < window / 2) for along in offsets(position, *masks.shape[2:])]
    return masks * (inside[0] & inside[1])[:, None]


def places(corners: Tensor, side: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The pixels of windows with top left pixels at corners (B, 2) int64, (x, y); windows may reach out of the frame.

    Returns:
        indices into flattened frames, (B, side, side) int64, clamped to the frame; and which pixels lie inside the
        frame, (B, side, side) bool.
    """
    ruler = torch.arange(side, device=corners.device)
    x, y = corners[:, :1] + ruler, corners[:, 1:] + ruler  # (B, side)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    return y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None], inside


def crop_windows(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Windows (B, C, side, side) of images, from top left pixels (B, 2) int64, (x, y); zero outside the image."""
    _, channels, height, width = images.shape
    index, inside = places(corners, side, height, width)
    cut = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, channels, -1))
    return cut.unflatten(2, (side, side)) * inside[:, None].to(images.dtype)


def sample_windows(maps: Tensor, corners: Tensor, side: int, scale: float) -> Tensor:
    """Windows of frames, bilinearly from maps of these frames that have another size.

    Args:
        maps: (B, C, h, w); edges are repeated.
        corners: (B, 2), (x, y) of the windows' first pixels, in px of the windows.
        side: px.
        scale: a pixel of the windows is as large as so many pixels of the maps.

    Returns:
        (B, C, side, side), float32.
    """
    height, width = maps.shape[2:]
    ruler = torch.arange(side, device=maps.device) + 0.5
    x, y = ((corners[:, axis, None] + ruler) * scale * 2 / n - 1 for axis, n in enumerate((width, height)))
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    return F.grid_sample(maps.float(), grid, padding_mode="border", align_corners=False)


def blend_windows(
    windows: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None, scale: int = 1
) -> Tensor:
    """Compose layers over backgrounds at sub-pixel positions. Pixels outside the windows stay as they are.

    Pixel i of a window, enlarged by `scale`, lands on the frame's pixel position - scale s / 2 + i, with bilinear
    interpolation. What lies outside the frame is lost. Enlarged windows land on whole pixels; on the CPU they are
    blended in bytes, and margins with masks up to FAINT are left out.

    Args:
        windows: (B, 4, s, s), colour * mask in [-1, 1] and mask.
        background: (B, 3, H, W) uint8.
        position: (B, 2) px, the windows' centres.
        out: frames (B, 3, H, W) that may be overwritten, to save memory; used on the CPU.
        scale: whole factor by which windows are enlarged first.

    Returns:
        (B, 3, H, W) uint8; on the CPU in the memory format of the background.
    """
    height, width = background.shape[2:]
    side = windows.shape[-1] * scale
    corner = position - side / 2
    if scale > 1:  # of an enlarged window nobody sees fractions of a px
        corner = corner.round()
    whole = corner.floor()
    fraction = (corner - whole).to(windows.dtype)
    if can_read_values(windows):
        out = background.clone() if out is None else out.copy_(background)
        if scale > 1:
            return _paste_enlarged(windows, out, whole, scale)
        windows, first = _without_margins(windows)
        if fraction.any():
            windows = _moved(windows, fraction)
        return _paste(windows, out, whole + first)
    windows, more = _enlarged_windows(windows, scale)
    index, inside = places(whole.long() - more, side + 2 * more + 1, height, width)
    flat = background.flatten(2)
    below = to_images(flat.gather(2, index.flatten(1)[:, None].expand(-1, 3, -1)))
    drawn = to_bytes(compose(_moved(windows, fraction).float().flatten(2), below))
    spare = height * width  # pixels outside the frame are written to one spare pixel after the last one
    index = torch.where(inside, index, spare).flatten(1)[:, None].expand(-1, 3, -1)
    out = torch.cat([flat, flat[..., :1]], 2).scatter(2, index, drawn)
    return out[..., :spare].unflatten(2, (height, width)).contiguous()


def _enlarged_windows(windows: Tensor, scale: int) -> tuple[Tensor, int]:
    """Enlarge windows, and let their edges fade; and by how many px they have grown on each side beyond that."""
    return (enlarged(F.pad(windows, (1, 1, 1, 1)), scale), scale) if scale > 1 else (windows, 0)


def _paste_enlarged(windows: Tensor, out: Tensor, corner: Tensor, scale: int) -> Tensor:
    """As :func:`_paste`, enlarged: row by row, as agents lie at different places of their windows, and in bytes."""
    height, width = out.shape[2:]
    frames = out.permute(0, 2, 3, 1).numpy()
    seen = windows[:, 3] > FAINT
    boxes = zip(corner.long().tolist(), seen.any(1).numpy(), seen.any(2).numpy(), strict=True)
    for frame, window, (corner_xy, *covered) in zip(frames, windows, boxes, strict=True):
        columns, rows = (np.flatnonzero(along) for along in covered)
        if not len(rows):
            continue
        part = window[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        colour, mask = _enlarged_bytes(part.float().permute(1, 2, 0), scale)
        x, y = (at + scale * (int(first[0]) - 1) for at, first in zip(corner_xy, (columns, rows), strict=True))
        inside = slice(max(0, -y), max(0, height - y)), slice(max(0, -x), max(0, width - x))
        colour, mask = colour[inside], mask[inside]
        target = frame[max(0, y) :, max(0, x) :][: colour.shape[0], : colour.shape[1]]
        drawn = np.multiply(target, 255 - mask, dtype=np.uint16)
        drawn += 255  # that a mask of 0 leaves the frame as it is
        drawn >>= 8
        drawn += colour
        target[...] = drawn
    return out


def _enlarged_bytes(layer: Tensor, scale: int) -> np.ndarray:
    """A layer (h, w, 4) over black, and its mask three times, enlarged: (2, scale (h + 2), scale (w + 2), 3) uint8."""
    height, width, _ = layer.shape
    mask = layer[..., 3:].expand(-1, -1, 3).contiguous()
    both = torch.zeros(2, height + 2, width + 2, 3, dtype=torch.uint8)  # empty pixels around: edges fade
    inner = both[:, 1:-1, 1:-1]
    inner[0] = (layer[..., :3] + mask).mul_(127.5).round_().clamp_(0, 255)
    inner[1] = mask.mul_(255).round_()
    torch.minimum(*both, out=both[0])  # a colour brighter than its mask would overflow where it is drawn on white
    return enlarged(both.permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1).numpy()


def _without_margins(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Crop layers (B, 4, s, s) to the rows and columns that are not empty in all; and (x, y) of the first pixel."""
    covered = windows.permute(0, 2, 3, 1).amax(0)[..., 3] > 0  # reduces all channels: that follows the memory layout
    rows, columns = (covered.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return windows, torch.zeros(2)
    return windows[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], torch.tensor([columns[0], rows[0]])


def _moved(windows: Tensor, fraction: Tensor) -> Tensor:
    """Shift windows (B, C, s, s) by fractions (B, 2) of a px, bilinearly: (B, C, s + 1, s + 1)."""
    fx = fraction[:, 0].view(-1, 1, 1, 1)
    fy = fraction[:, 1].view(-1, 1, 1, 1)
    padded = F.pad(windows, (1, 1, 1, 1))
    across = padded[..., 1:] * (1 - fx) + padded[..., :-1] * fx
    return across[:, :, 1:] * (1 - fy) + across[:, :, :-1] * fy


def _paste(windows: Tensor, out: Tensor, corner: Tensor) -> Tensor:
    """Compose windows into frames `out`, on the CPU, with their top left pixels at whole-pixel corners (B, 2)."""
    height, width = out.shape[2:]
    extent = np.array(windows.shape[:1:-1])
    frames = out.permute(0, 2, 3, 1).numpy()
    below = np.zeros((len(frames), *extent[::-1], 3), np.uint8)
    first = corner.long().numpy()
    size = np.array([width, height])
    low = np.clip(-first, 0, extent)  # the part of the window that lies in the frame
    high = np.clip(size - first, low, extent)
    boxes = [
        (frames[row, y + top : y + bottom, x + left : x + right], (row, slice(top, bottom), slice(left, right)))
        for row, ((x, y), (left, top), (right, bottom)) in enumerate(
            zip(first.tolist(), low.tolist(), high.tolist(), strict=True)
        )
        if bottom > top and right > left
    ]
    for target, place in boxes:
        below[place] = target
    layer = windows.float().permute(0, 2, 3, 1)
    mask = layer[..., 3:]
    drawn = (layer[..., :3] + mask).mul_(127.5).addcmul_(torch.from_numpy(below).float(), 1 - mask)
    pixels = drawn.round_().clamp_(0, 255).byte().numpy()
    for target, place in boxes:
        target[...] = pixels[place]
    return out
