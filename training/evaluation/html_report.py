"""report.html: how good a world is, each part beside what doing nothing would score; one file that needs no other."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glass_gym.worlds.checkpoint import World

from ..core.reporter import logged_curves
from ..core.run import Run
from ..core.sheets import grid, to_picture
from ..data.store import Store, frames_to_tensor
from .metrics.animation import animation
from .metrics.evaluation import Evaluation
from .metrics.held_out import HORIZON
from .metrics.prior import prior

VIDEOS = 24
"""Held-out videos that are measured."""
ROLLOUTS = 32
"""Walks of random play."""
HELD = 12
"""Steps of a held arrow in the film."""
GOOD, FAIR = 0.35, 0.7
"""Error over the naive one's: up to here a part is good, or fair."""
EXACT = 0.001
"""A mean squared error, of [-1, 1], that nobody can see: four of 255."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: left }
img { image-rendering: pixelated; max-width: 100%; border: 1px solid #ddd } pre { background: #f4f4f4; padding: 1rem }
.good { color: #17803d } .fair { color: #9a6700 } .weak { color: #c0262d }
"""


@dataclass(frozen=True)
class Score:
    """A part's figure, beside that of the naive way to do it.

    Attributes:
        part: what was measured.
        value, naive: figures, in words.
        verdict: "good", "fair" or "weak"; "" where there is nothing to compare.
        meaning: what it says to a person.
    """

    part: str
    value: str
    naive: str
    verdict: str
    meaning: str


def verdict(ratio: float) -> str:
    """Of an error over the naive one's."""
    return "good" if ratio <= GOOD else "fair" if ratio <= FAIR else "weak"


@torch.inference_mode()
def scores(world: World, store: Store) -> tuple[list[Score], Evaluation | None]:
    """Measure a world on held-out videos: a minute or two.

    Returns:
        the scores, and what they were computed from; None where no video is long enough for LMA to be measured.
    """
    out = [_gma(world, store)]
    held = [v for v in store.videos if v.split != "train" and v.length > HORIZON]
    videos = held or [v for v in store.videos if v.length > HORIZON]
    if not videos:
        out.append(Score("animation", "not measured", "", "", f"no video has {HORIZON + 1} frames"))
        return out, None
    videos = videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]
    e = Evaluation(world, store, videos, rollouts=ROLLOUTS, split=videos[0].split)
    figures = animation(e)
    for step in (1, 5, HORIZON):
        at = figures[f"step_{step}"]
        out.append(
            Score(
                f"agent after {step} free steps",
                f"{at['foreground_mse']:.4f}",
                f"{at['static_mse']:.4f} (static)",
                "good" if at["foreground_mse"] < EXACT else verdict(at["ratio"]),
                "squared error of the drawn agent; the static one is the first picture of it, moved along",
            )
        )
    if world.model.lma.prior is not None and world.config.codes > 1:
        nats = prior(e)
        out.append(
            Score(
                "prior over local actions",
                f"{nats['nats']:.2f} nats",
                f"{nats['table_of_shift']:.2f} (table of shifts)",
                verdict(nats["nats"] / max(1e-6, nats["table_of_shift"])),
                "how surprised it is by what real agents do next",
            )
        )
    present = e.play.figures["present"]["step_100"]
    control = e.play.figures["control"]["step_50"].get("rmse_px", float("nan"))
    out.append(
        Score(
            "one agent after 100 random steps",
            f"{present:.0%}",
            "",
            "good" if present >= 0.95 else "fair" if present >= 0.8 else "weak",
            "share of walks in which M finds exactly one agent of plausible size",
        )
    )
    step = max(world.step)
    out.append(
        Score(
            "obeys at step 50",
            f"{control:.1f} px off",
            f"{step:.0f} px (does not move)",
            verdict(control / max(1e-6, step)),
            "how far a step ends from where it was sent, as M sees it; limbs that move count, too",
        )
    )
    return out, e


def _gma(world: World, store: Store) -> Score:
    """The next frame composed of the moved layers, against the copied one, on pixels that change."""
    videos = [v for v in store.videos if v.split != "train" and v.length >= 2] or store.videos
    error = 0.0
    copied = 0.0
    for video in videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]:
        starts = np.linspace(0, video.length - 2, min(4, video.length - 1)).astype(int) + video.start
        pairs = torch.stack([frames_to_tensor(store.frames[s : s + 2]) for s in starts])
        motion = world.model.gma.analyse_pairs(pairs, world.config.hole_margin)
        change = (pairs[:, 1] - pairs[:, 0]).abs()
        error += float(((motion.composed - pairs[:, 1]).abs() * change).sum())
        copied += float((change * change).sum())
    ratio = error / max(1e-6, copied)
    return Score(
        "next frame from moved layers",
        f"{ratio:.2f}",
        "1 (a copy)",
        verdict(ratio),
        "error where the picture changes, of moving the agent over the background",
    )


@torch.inference_mode()
def film(e: Evaluation) -> list[np.ndarray]:
    """Frames of a few agents that go right, left, up and down as far as the world lets them, nobody pressing a code."""
    start = e.probe.start.rows(torch.linspace(0, len(e.probe.start) - 1, 4).long())
    arrows = [name for name in ("right", "left", "up", "down") if name in e.probe.table.shift_names]
    states = [start, *e.probe.hold(start, [name for name in arrows for _ in range(HELD)])]
    return [np.concatenate(list(e.probe.simulator.frames(s).numpy()), 1) for s in states]


def report_world(run: Run, world: World, store: Store) -> list[Score]:
    """Measure a run's world, print the score card, and write report.html."""
    samples = run.out / "samples"
    refined = samples / "refine-final.png"
    pictures = [("What was seen to move", samples / "survey.png")]
    pictures.append(("Layers (GMA)", refined if refined.exists() else samples / "gma-final.png"))
    page = run.out / "report.html"
    minutes = world.provenance["minutes"]
    found = write_report(page, world, store, run.values, run.why, minutes, pictures, logged_curves(run.out))
    for score in found:
        print(f"  {score.part}: {score.value}" + f" (naive: {score.naive})" * bool(score.naive), score.verdict)
    print(f"report: {page}")
    return found


def write_report(
    path: Path,
    world: World,
    store: Store,
    values: Mapping[str, Any],
    why: Mapping[str, str],
    minutes: dict[str, float],
    pictures: Sequence[tuple[str, Path]] = (),
    curves: dict[str, list[tuple[int, float]]] | None = None,
) -> list[Score]:
    """Measure a world and write the page.

    Args:
        path: of the page.
        world: trained.
        store: what it was trained on.
        values, why: the options that were chosen, or given instead, and the reasons.
        minutes: of each stage.
        pictures: captions and PNGs to show.
        curves: of training, (step, value) each.

    Returns:
        the scores.
    """
    world.model.eval()
    found, e = scores(world, store)
    parts = [f"<h1>{html.escape(store.source or store.kind)}</h1>"]
    shift = " x ".join(f"{s:g}" for s in world.step)
    parts.append(
        f"<p>{store.width}x{store.height} px, a step of {shift} px, {world.config.codes} local actions, "
        f"trained in {sum(minutes.values()):.0f} minutes "
        f"({', '.join(f'{name} {m:.0f}' for name, m in minutes.items())}).</p>"
    )
    rows = "".join(
        f"<tr><td>{s.part}</td><td class='{s.verdict}'>{s.value}</td><td>{s.naive}</td>"
        f"<td class='{s.verdict}'>{s.verdict}</td><td>{s.meaning}</td></tr>"
        for s in found
    )
    parts.append(f"<h2>Score card</h2><table><tr><th>part<th>it<th>naive<th><th>what it says</tr>{rows}</table>")
    name = html.escape(str(path.parent / "world.safetensors"))
    parts.append(
        f"<h2>Use it</h2><pre>env = gymnasium.make('Glass-v0', checkpoint='{name}')\n"
        f"glass_gym.register_world('MyGame-v0', '{name}')\nglass-play --checkpoint {name}</pre>"
    )
    if e is not None:
        parts.append(f"<h2>Held arrows</h2><p>Right, left, up, down.</p>{_gif(film(e))}")
        shown = [[to_picture(x[:3]) for x in clip[0]] for clip in e.code_clips]
        caption = ", ".join(html.escape(name) for name in world.code_names)
        parts.append(f"<h2>Local actions</h2><p>Each 12 times on the spot: {caption}.</p>{_png(grid(shown))}")
        _, real = e.reconstruction
        drawn, _ = e.reconstruction
        pairs = []
        for n in range(min(3, len(real))):
            pairs += [list(real[n][::3]), list(drawn[n][::3])]
        parts.append(f"<h2>Held-out video</h2><p>Real above, drawn below.</p>{_png(grid(pairs, scale=1))}")
    for caption, file in pictures:
        if file.exists():
            parts.append(f"<h2>{html.escape(caption)}</h2>{_png(np.asarray(Image.open(file).convert('RGB')))}")
    if curves:
        parts.append(f"<h2>Training</h2>{_curves(curves)}")
    if why:
        chosen = "".join(
            f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(values.get(k)))}</td><td>{html.escape(reason)}</td></tr>"
            for k, reason in why.items()
        )
        parts.append(f"<h2>Options that were chosen or given</h2><table>{chosen}</table>")
    page = f"<!doctype html><meta charset='utf-8'><title>A learned world</title><style>{STYLE}</style>"
    path.write_text(page + "\n".join(parts) + "\n")
    return found


def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return _image(buffer, "png")


def _gif(frames: list[np.ndarray]) -> str:
    buffer = io.BytesIO()
    images = [Image.fromarray(f.repeat(2, 0).repeat(2, 1)) for f in frames]
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=120, loop=0)
    return _image(buffer, "gif")


def _image(buffer: io.BytesIO, kind: str) -> str:
    return f"<img src='data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _curves(curves: dict[str, list[tuple[int, float]]]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name, points in curves.items() if len(points) > 1]
    if not names:
        return ""
    rows = -(-len(names) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(13, 2.4 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(*zip(*curves[name], strict=True), linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80, format="png")
    plt.close(figure)
    return _image(buffer, "png")
