"""report.html: the quality of a world, each figure beside a baseline; one file that loads no other."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.sheets import grid, to_picture, with_labels

from ..core.progress import Bar, say
from ..core.reporter import logged_curves
from ..core.run import Run
from ..data.store import Store, frames_to_tensor
from .metrics.animation import animation
from .metrics.evaluation import Evaluation
from .metrics.held_out import HORIZON, held_out_videos
from .metrics.passport import passport
from .metrics.pose_transitions import HELD
from .metrics.prior import prior
from .tables import number, value

PARTS = 9  # Number of parts that the bar of a report counts.
VIDEOS = 24  # Held-out videos that are measured.
ROLLOUTS, LONG_ROLLOUTS = 32, 8  # Rollouts of random play, and of long random play.
GOOD, FAIR = 0.35, 0.7  # Largest error over the baseline's of a good and of a fair figure.
GOOD_STEP, FAIR_STEP = 0.25, 0.5
"""Largest control error, in steps, of good and of fair control: an agent that is off by half a step has moved as if by
another action."""
EXACT = 0.001  # A mean squared error, of [-1, 1], that is invisible: about 4 of 255.

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: left }
img { image-rendering: pixelated; max-width: 100%; border: 1px solid #ddd } pre { background: #f4f4f4; padding: 1rem }
.good { --verdict: #17803d } .fair { --verdict: #9a6700 } .weak { --verdict: #c0262d }
td:nth-child(2), td:nth-child(4) { color: var(--verdict) }
"""
FREE = "squared error of the drawn agent, which sees no real frame after the first; static: its first picture, moved"
SCORES: tuple[tuple[str, str, str, str, str, float, float], ...] = (
    *((f"agent after {n} free-running steps", f"lma/step_{n}/foreground_mse", f"lma/step_{n}/static_mse",
       "static agent", FREE, GOOD, FAIR) for n in (1, 5, HORIZON)),
    ("prior over local actions", "prior/nats", "prior/table_of_shift", "table of shifts",
     "nats a step: how badly the prior predicts the local actions of real agents; the table counts them by shift",
     GOOD, FAIR),
    ("control error at step 50, px", "play/control/step_50/rmse_px", "step", "a step",
     "distance between the commanded and the measured step in random play; good up to a quarter of a step (along the "
     "axis where it is shorter), fair up to half; moving limbs count as error", GOOD_STEP, FAIR_STEP),
)  # fmt: skip
"""Scores: name, the figure, the baseline's figure, the baseline, what the figure means, and the largest figures over
the baseline's that are good and fair."""

PASSPORT = {
    "present": "one agent of plausible size",
    "control": "moves as commanded, within half a step",
    "codes_read_back": "local action that A reads back",
    "nearest_real_mse": "squared error of the nearest real picture of the agent",
}
"""Figures of :func:`training.evaluation.metrics.passport.passport`, and what they mean."""


class Score(NamedTuple):
    """A figure of a world beside that of a baseline, both as text."""

    part: str  # what was measured
    value: str
    baseline: str
    verdict: str  # "good", "fair" or "weak"; "" if nothing was measured
    meaning: str  # of the figure, in plain words


def verdict(ratio: float, good: float = GOOD, fair: float = FAIR) -> str:
    """Of an error over the baseline's; `good` and `fair` are the largest ones that are called so."""
    return "good" if ratio <= good else "fair" if ratio <= fair else "weak"


@torch.inference_mode()
def scores(
    world: World,
    store: Store,
    count: int = VIDEOS,
    rollouts: int = ROLLOUTS,
    begin: Callable[[str], None] = lambda part: None,
) -> tuple[list[Score], Evaluation | None]:
    """Measure a world on held-out videos, in a minute or two.

    Args:
        world: the world.
        store: the videos.
        count: number of videos, at most.
        rollouts: of random play.
        begin: is told the name of each part that begins.

    Returns:
        the scores, and the evaluation; None if no video is long enough to measure LMA.
    """
    begin("next frames")
    out = [_composed(world, store)]
    videos = held_out_videos(store, count, "val", "test")
    if not videos:
        return [*out, Score("animation", "not measured", "", "", f"no video has {HORIZON + 1} frames")], None
    e = Evaluation(world, store, videos, rollouts=rollouts, split=videos[0].split)
    begin("free running")
    figures = {"step": min(length for length in world.step if length > 0), "lma": animation(e)}
    begin("local actions of real agents")
    figures["prior"] = prior(e)
    begin("random actions")
    figures["play"] = e.play.figures
    for part, path, baseline_path, baseline, meaning, good, fair in SCORES:
        measured, other = value(figures, path), value(figures, baseline_path)
        if measured is not None and other:
            exact = path.endswith("mse") and measured < EXACT
            grade = "good" if exact else verdict(measured / other, good, fair)
            out.append(Score(part, number(measured), f"{number(other)} ({baseline})", grade, meaning))
    present = value(figures, "play/present/step_100")
    grade = "good" if present >= 0.95 else "fair" if present >= 0.8 else "weak"
    meaning = "share of the rollouts of random play in which M finds exactly one agent of plausible size"
    return [*out, Score("one agent after 100 random steps", number(present), "", grade, meaning)], e


def _composed(world: World, store: Store) -> Score:
    """The next frame composed of the moved layers, against a copy of the frame, on pixels that change."""
    videos = [v for v in store.videos if v.split != "train" and v.length >= 2] or store.videos
    error = copied = 0.0
    for video in videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]:
        starts = np.linspace(0, video.length - 2, min(4, video.length - 1)).astype(int) + video.start
        pairs = torch.stack([frames_to_tensor(store.frames[s : s + 2]) for s in starts])
        motion = world.model.gma.analyse_pairs(pairs, world.config.hole_margin)
        change = (pairs[:, 1] - pairs[:, 0]).abs()
        error += float(((motion.composed - pairs[:, 1]).abs() * change).sum())
        copied += float((change * change).sum())
    ratio = error / max(1e-6, copied)
    meaning = "error on the pixels that change, when the agent's layer is moved over the background"
    return Score("next frame from moved layers", number(ratio), "1 (copy of the frame)", verdict(ratio), meaning)


@torch.inference_mode()
def film(e: Evaluation) -> list[np.ndarray]:
    """Frames of four agents under held arrows, right, left, up and down; local actions come from the prior."""
    start = e.probe.start.rows(torch.linspace(0, len(e.probe.start) - 1, 4).long())
    arrows = [name for name in ("right", "left", "up", "down") if name in e.probe.table.shift_names]
    states = [start, *e.probe.hold(start, [name for name in arrows for _ in range(HELD)])]
    return [np.concatenate(list(e.probe.simulator.frames(s).numpy()), 1) for s in states]


def report_world(run: Run, world: World, store: Store) -> None:
    """Measure a run's world, print the scores, and write report.html and passport.json into its folder."""
    world.model.eval()
    with Bar("report", PARTS, "part") as bar:
        amounts = {"report_videos": VIDEOS, "report_rollouts": ROLLOUTS}
        count, rollouts = (run.shortened(name, amount) for name, amount in amounts.items())
        found, e = scores(world, store, count, rollouts, bar.next)
        held = None
        if e is not None:
            bar.next("long random play")
            held = passport(e, run.shortened("report_rollouts", LONG_ROLLOUTS))
            (run.out / "passport.json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        page = _page(run, world, store, found, e, held, bar.next)
    for score in found:
        say(f"  {score.part}: {score.value}" + f" (baseline: {score.baseline})" * bool(score.baseline), score.verdict)
    (run.out / "report.html").write_text(page, encoding="utf-8")
    say(f"report: {run.out / 'report.html'}")


def options_used(run: Run) -> list[tuple[str, Any, str]]:
    """Name, value and reason of every option that was chosen for a run or differs from its default."""
    used = _flat(dataclasses.asdict(run.config))
    default = _flat(dataclasses.asdict(type(run.given)(data=run.given.data)))
    names = [*run.why, *(name for name in used if name not in run.why and used[name] != default[name])]
    return [(name, used.get(name, run.values.get(name)), run.why.get(name, "given")) for name in names]


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, option in options.items():
        out |= _flat(option, f"{prefix}{name}.") if isinstance(option, dict) else {prefix + name: option}
    return out


def _page(
    run: Run,
    world: World,
    store: Store,
    found: Sequence[Score],
    e: Evaluation | None,
    held: dict[str, Any] | None,
    begin: Callable[[str], None],
) -> str:
    shift = " x ".join(f"{s:g}" for s in world.step)
    minutes = world.provenance["minutes"]
    file = str(run.out / "world.safetensors")
    name, argument = html.escape(repr(file), quote=False), html.escape(shlex.quote(file), quote=False)
    parts = [
        f"<h1>{html.escape(store.source or store.kind)}</h1>",
        f"<p>{store.width}x{store.height} px, a step of {shift} px, {world.config.codes} local actions, trained in "
        f"{sum(minutes.values()):.0f} minutes ({', '.join(f'{stage} {m:.0f}' for stage, m in minutes.items())}).</p>",
        "<h2>Score card</h2>",
        _table(("part", "this world", "baseline", "", "meaning"), found),
        f"<h2>Use it</h2><pre>env = gymnasium.make('Glass-v0', checkpoint={name})\n"
        f"glass_gym.register_world('MyGame-v0', {name})\nglass-play --checkpoint {argument}</pre>",
    ]
    if held is not None:
        parts.append(_passport(held, world.code_names))
    if e is not None:
        begin("held arrows")
        parts.append(f"<h2>Held arrows</h2><p>Right, left, up, down.</p>{_gif(film(e))}")
        begin("local actions")
        shown = [[to_picture(x[:3]) for x in clip[0]] for clip in e.code_clips]
        sheet = with_labels(grid(shown), [f"{k}: {name}" for k, name in enumerate(world.code_names)])
        parts.append(f"<h2>Local actions</h2><p>Each 12 times with zero shift.</p>{_png(sheet)}")
        begin("held-out video")
        pairs = [list(clip[::3]) for both in zip(*reversed(e.reconstruction), strict=True) for clip in both]
        parts.append(f"<h2>Held-out video</h2><p>Real above, drawn below.</p>{_png(grid(pairs[:6], scale=1))}")
    begin("pictures and curves")
    layers = "refine" if (run.out / "samples" / "refine-final.png").exists() else "gma"
    for caption, file in (("Survey: the agent as found", "survey"), ("Layers (GMA)", f"{layers}-final")):
        if (path := run.out / "samples" / f"{file}.png").exists():
            parts.append(f"<h2>{caption}</h2>{_png(np.asarray(Image.open(path).convert('RGB')))}")
    if curves := logged_curves(run.out):
        parts.append(f"<h2>Training</h2>{_curves(curves)}")
    parts.append("<h2>Options that were chosen or given</h2><p>All others had their defaults (config.json).</p>")
    parts.append(_table(("option", "value", "reason"), options_used(run)))
    page = f"<!doctype html><meta charset='utf-8'><title>A learned world</title><style>{STYLE}</style>"
    return page + "\n".join(parts) + "\n"


def _passport(held: dict[str, Any], names: Sequence[str]) -> str:
    """The section of long random play, and the matrix of codes."""
    steps = [name for name in held if name.startswith("step_")]
    rows = [[what, *(held[step][key] for step in steps)] for key, what in PASSPORT.items()]
    codes = [[f"{k}: {name}", *held["codes_read"][k]] for k, name in enumerate(names)]
    return (
        "<h2>Passport</h2><p>Random actions for thousands of steps, measured in the steps before each mark.</p>"
        + _table(("", *(step.replace("_", " ") for step in steps)), rows)
        + "<p>What A reads (columns) where each local action was commanded (rows), as a share.</p>"
        + _table(("", *range(len(names))), codes)
    )


def _table(headers: Iterable[Any], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; a row's class is its verdict."""
    lines = [f"<tr>{''.join(f'<th>{header}</th>' for header in headers)}</tr>"]
    for row in rows:
        kind = next((cell for cell in row if cell in ("good", "fair", "weak")), "")
        cells = (f"<td>{html.escape(number(cell))}</td>" for cell in row)
        lines.append(f"<tr class='{kind}'>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _png(picture: np.ndarray) -> str:
    Image.fromarray(picture).save(buffer := io.BytesIO(), "PNG", optimize=True)
    return _image(buffer, "png")


def _gif(frames: list[np.ndarray]) -> str:
    first, *others = (Image.fromarray(f.repeat(2, 0).repeat(2, 1)) for f in frames)
    first.save(buffer := io.BytesIO(), "GIF", save_all=True, append_images=others, duration=120, loop=0)
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
    figure.savefig(buffer := io.BytesIO(), dpi=80, format="png")
    plt.close(figure)
    return _image(buffer, "png")
