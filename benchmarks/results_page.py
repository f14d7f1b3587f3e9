"""Write docs/results.md from the committed JSON: python -m benchmarks.results_page docs/results

FOLDER holds {tennis,sprites,arm,wsprites}/evaluation.json, wsprites/actions.json, ablation/ablation.json,
policies/*.json, generality/generality.md, speed/*.json, as `training.evaluation.evaluate`, `benchmarks.ablations`,
`benchmarks.generality`, the commands of agents/ and `glass-bench` wrote them.
Nothing in the page is typed by hand; what was tried, and what a person has to say about it, is in docs/notes/.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tabulate import tabulate

from benchmarks.ablations.rows import tables

try:
    import tyro
except ImportError:
    tyro = None


@dataclass
class ReportConfig:
    """Write the results page from the figures."""

    folder: Annotated[Path, tyro.conf.Positional] if tyro else Path = Path("docs/results")
    """figures, as the commands wrote them"""
    out: Path = Path("docs/results.md")


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("the report needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(ReportConfig, args=argv, prog="python -m benchmarks.results_page", description=__doc__)
    try:
        text = report(config.folder)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        print(f"error: {config.folder}: {type(error).__name__}: {error}; write the figure again", file=sys.stderr)
        return 1
    config.out.write_text(text)
    print(f"written: {config.out}")
    return 0


def report(folder: Path) -> str:
    """The page as Markdown."""

    @functools.cache
    def read(name: str) -> dict | None:
        return json.loads((folder / name).read_text()) if (folder / name).exists() else None

    tennis = read("tennis/evaluation.json")
    sprites = read("sprites/evaluation.json")
    real = read("wsprites/evaluation.json")
    actions = read("wsprites/actions.json")
    parts = [HEAD, bars(read)]
    for name, result in (("tennis", tennis), ("sprites", sprites), ("arm", read("arm/evaluation.json"))):
        if result:
            parts += [
                f"## The bundled {name.title()} world",
                f"From `docs/results/{name}/evaluation.json`.",
                _world(result),
                _see("footage" if name == "arm" else name),
            ]
            parts.append(
                "\n".join(
                    f"{text}:\n\n![{text}](results/{name}/{picture}.png)\n"
                    for picture, text in PICTURES.items()
                    if (folder / name / f"{picture}.png").exists()
                )
            )
    if real:
        parts += ["## W-Sprites", "Real LPC sheets, characters that training never saw (`docs/results/wsprites/`)."]
        parts += [_wsprites(real, actions), _see("wsprites")]
    if (table := folder / "generality" / "generality.md").exists():
        what = "Worlds that nobody tuned it for, `glass-train FOLDER` and no other option (`docs/results/generality/`)."
        parts += ["## Footage of any kind", what, table.read_text(), _see("footage")]
    if ablation := read("ablation/ablation.json"):
        parts += ["## Ablations", "One change at a time (`docs/results/ablation/ablation.json`)."]
        parts += [tables(ablation["rows"]), _see("ablation")]
    if (folder / "policies").is_dir():
        parts += ["## Policies", "From `docs/results/policies/`.", _policies(folder / "policies"), _see("policies")]
    parts += ["## Speed", "From `docs/results/speed/`.", _speed(folder / "speed"), _see("speed")]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


HEAD = """# Results

Written by `python -m benchmarks.results_page` from the JSON files named in each section, which the commands in them wrote, with
the seed and the checkpoint's hash; do not edit. 2 CPU cores (Intel Xeon, some runs with AMX), no GPU: **no CUDA
figure has been measured.**

How to read it: *free running* means from frame 0 with actions inferred from the real clip, without frame 0; *one
step* starts every step from the real frame before it. The *frozen* agent is the first foreground, moved by the same
shifts and otherwise unchanged. Mean squared errors are averaged before any ratio or logarithm. *Control error* is the
commanded minus the achieved displacement of one step, L2 in px; achieved is measured on the composed frames by
matching the agent's silhouette (by colour in Tennis, by M run afresh elsewhere) against real silhouettes of known
position, because the centre of mass of a *real* agent moves when it changes its pose (both are given, and what both
say about real video). *Present* means exactly one agent of plausible size. Random play draws every action
independently."""

PICTURES = {
    "layers": "Layers (Fig. 8): frame, mask, foreground, inpainted scene, next frame from the moved layers",
    "free_running": "Real foregrounds above, free running below",
    "reconstruction": "Real frames above, free-running reconstruction below, every third step",
    "global_actions": "Global actions (Figs. 7, 13-15): four steps in each direction, before in red, after in green",
    "local_actions": "Local actions (Figs. 16-18): each code repeated with zero shift, three agents a code",
    "transfer": "Action transfer (Figs. 5, 11, 12): the actions of the clip above, played on another first frame",
    "curves": "Over 200 steps of random play",
    "after_200_random_steps": "After 200 random steps",
}


PLAY = "simulator/random_play/"
GRADIENT = "crispness/gradient_energy/"
TENNIS = "tennis/evaluation.json"
SPRITES = "sprites/evaluation.json"
ARM = "arm/evaluation.json"
REAL = "wsprites/evaluation.json"
ACTIONS = "wsprites/actions.json"
ONE, ONE_ACTIONS = "wsprites_token/evaluation.json", "wsprites_token/actions.json"  # token, by one command
TENNIS_PPO, SPRITES_PPO, ARM_PPO, DQN, TRANSFER = (
    f"policies/{name}.json" for name in ("ppo_tennis", "ppo_sprites", "ppo_arm", "dqn_her_tennis", "transfer")
)
AIMS = (
    # what, in which file, where there, aim, at least?, the paper
    ("control error at step 100 of random play, Tennis, px", TENNIS, PLAY + "control/step_100/rmse_px", 0.5, False),
    ("the same, Sprites", SPRITES, PLAY + "control/step_100/rmse_px", 0.5, False),
    ("one plausible agent at step 200 of random play, Tennis", TENNIS, PLAY + "present/step_200", 0.99, True),
    ("the same, Sprites", SPRITES, PLAY + "present/step_200", 0.99, True),
    (
        "distance to the start (VGG-HED features, or squared colour), 10 right and 10 left over 20 stays, Tennis",
        TENNIS,
        "simulator/cycle/ratio",
        1.25,
        False,
    ),
    ("the same, Sprites", SPRITES, "simulator/cycle/ratio", 1.25, False),
    ("W-Sprites mIoU", REAL, "segmentation/miou", 0.92, True, "0.88 (60,000 steps)"),
    ("the same, token by one command", ONE, "segmentation/miou", 0.92, True),
    ("W-Sprites background shift error, mean px", REAL, "background_shift/mean", 0.2, False),
    ("W-Sprites foreground shift error, mean px", REAL, "foreground_shift_pairwise/mean", 0.7, False),
    ("W-Sprites angle accuracy", REAL, "foreground_shift_pairwise/angle_accuracy", 1.0, True),
    ("W-Sprites NMI_G", ACTIONS, "codes/nmi_g", 0.60, True, "0.39"),
    ("the same, token by one command", ONE_ACTIONS, "codes/nmi_g", 0.60, True),
    ("W-Sprites CON", ACTIONS, "codes/con", 0.02, False, "0.02 to 0.01"),
    ("the same, token by one command", ONE_ACTIONS, "codes/con", 0.02, False),
    (
        "W-Sprites mIoU_RE over 12 frames, free running",
        REAL,
        "lma/miou_re/free_running_12",
        0.92,
        True,
        "0.93 (one step)",
    ),
    ("the same, token by one command", ONE, "lma/miou_re/free_running_12", 0.92, True),
    ("W-Sprites ADD on 16-frame clips, free running, px", REAL, "video/detection/add_px", 2.0, False),
    ("the same, token by one command", ONE, "video/detection/add_px", 2.0, False),
    ("W-Sprites MDR, percent", REAL, "video/detection/mdr_percent", 1.0, False),
    ("the same, token by one command", ONE, "video/detection/mdr_percent", 1.0, False),
    ("foreground PSNR at step 15, free running, Sprites, dB", SPRITES, "video/step_15/foreground/psnr", 24, True),
    ("the same, Tennis", TENNIS, "video/step_15/foreground/psnr", 24, True),
    ("blend share under held arrows, Tennis", TENNIS, "crispness/blend_share/held_arrows/mean", 0.02, False),
    ("the same, random play", TENNIS, "crispness/blend_share/random_play/mean", 0.05, False),
    (
        "silhouette IoU with the nearest real one, random play, worst of 16 steps to 200, Tennis",
        TENNIS,
        PLAY + "worst_silhouette_iou",
        0.97,
        True,
    ),
    ("p(next pose) under held arrows, total variation, Tennis", TENNIS, "life/next_pose_total_variation", 0.15, False),
    ("distinct poses in 12 steps right, Tennis", TENNIS, "life/right/distinct_poses", 3, True),
    ("share of the commonest of them", TENNIS, "life/right/share_of_the_commonest", 0.6, False),
    ("starts in which the best code swings within 3 steps, Tennis", TENNIS, "life/swing/best", 0.8, True),
    ("direction read off free-running windows, Sprites", SPRITES, "judge/free_running/direction", 0.97, True),
    ("action, Sprites", SPRITES, "judge/free_running/action", 0.9, True),
    ("direction, W-Sprites, token by one command", ONE, "judge/free_running/direction", 0.97, True),
    ("action, W-Sprites, token by one command", ONE, "judge/free_running/action", 0.9, True),
    (
        "gradient energy of random play over the nearest real, Tennis",
        TENNIS,
        "crispness/gradient_energy/random_play",
        0.95,
        True,
    ),
    ("the same", TENNIS, "crispness/gradient_energy/random_play", 1.05, False),
    ("the same, Sprites", SPRITES, "crispness/gradient_energy/random_play", 0.95, True),
    ("the same", SPRITES, "crispness/gradient_energy/random_play", 1.05, False),
    (
        "Tennis ADD on 16-frame clips, free running, px",
        TENNIS,
        "video/detection/add_px",
        1.5,
        False,
        "2.00 (broadcast, 256 px wide)",
    ),
    ("Tennis MDR, percent", TENNIS, "video/detection/mdr_percent", 0.3, False, "0.214 (broadcast)"),
    ("success of PPO on frames, Tennis", TENNIS_PPO, "policies/policy/success", 0.95, True),
    ("success of random play, Tennis", TENNIS_PPO, "policies/random/success", 0.15, False),
    ("steps over the fewest, Tennis", TENNIS_PPO, "policies/policy/steps_ratio", 1.3, False),
    ("minutes of training, Tennis", TENNIS_PPO, "minutes", 30, False),
    ("success of PPO on frames, Sprites", SPRITES_PPO, "policies/policy/success", 0.95, True),
    ("success of random play, Sprites", SPRITES_PPO, "policies/random/success", 0.15, False),
    ("steps over the fewest, Sprites", SPRITES_PPO, "policies/policy/steps_ratio", 1.3, False),
    ("minutes of training, Sprites", SPRITES_PPO, "minutes", 30, False),
    ("arm: mIoU", ARM, "segmentation/miou", 0.85, True),
    ("arm: control error at step 50 of random play, px", ARM, PLAY + "control/step_50/rmse_px", 1.5, False),
    ("arm: one plausible agent at step 200 of random play", ARM, PLAY + "present/step_200", 0.98, True),
    ("arm: success of PPO on frames", ARM_PPO, "policies/policy/success", 0.95, True),
    ("arm: success of random play", ARM_PPO, "policies/random/success", 0.15, False),
    ("success of DQN with HER on positions, Tennis", DQN, "policies/policy/success", 0.9, True),
    (
        "success in the real game, trained in the learned world only",
        TRANSFER,
        "policies/real game, zero-shot/success",
        0.8,
        True,
    ),
)


def _value(tree: dict | None, path: str):
    for key in path.split("/"):
        if tree is None or key not in tree:
            return None
        tree = tree[key]
    return tree


def _show(value, digits: int = 3) -> str:
    if value is None:
        return "not measured"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _list(values, join: str = " / ") -> str:
    return join.join(_show(v) for v in values)


def _percent(value: float | None, digits: int = 0) -> str:
    return "not measured" if value is None else f"{100 * value:.{digits}f} %"


def bars(read: Callable[[str], dict | None]) -> str:
    """What is aimed at, what was measured, what the paper has; `read` gives the figures of a file, or None."""
    rows = []
    for what, file, path, aim, high, *paper in AIMS:
        value = _value(read(file), path)
        reached = "" if value is None else "yes" if (value >= aim if high else value <= aim) else "**no**"
        bound = f"at {'least' if high else 'most'} {aim:g}"
        rows.append((what, bound, _show(value), reached, "".join(paper)))
    return "## Aims and measurements\n\n" + _table(rows, ("what", "aim", "measured", "reached", "the paper"))


def _table(rows, headers: tuple[str, ...], align: tuple[str, ...] | None = None) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)


def _world(r: dict) -> str:
    parts = {
        "": _split,
        "lma": _animation,
        "video": _video,
        "codes": _codes,
        "transfer": _transfer,
        "simulator": _simulator,
        "crispness": _crispness,
        "life": _life,
        "judge": _judge,
        "identity": _identity,
        "prior": _prior,
    }
    measured = (part for key, part in parts.items() if not key or key in r)
    rows = [row for part in measured for row in part(r)]
    head = f"`{r['data']}`, split `{r['split']}`, checkpoint sha256 `{r['checkpoint_sha256'][:16]}`."
    return head + "\n\n" + _table(rows, ("what", "measured"))


def _split(r: dict):
    if s := r.get("segmentation"):
        yield "mIoU of M's masks / around the agent", _list([s["miou"], s["miou_around_agent"]])
    if s := r.get("background_shift"):
        yield "background shift error, mean / median / max px", _list([s["mean"], s["median"], s["max"]])
    if s := r.get("foreground_shift_pairwise"):
        yield "foreground shift error of P_f, mean / median px", _list([s["mean"], s["median"]])
        yield "angle accuracy of P_f, moving pairs", _show(s.get("angle_accuracy"))


def _animation(r: dict):
    steps = {k[5:]: v for k, v in r["lma"].items() if k.startswith("step_")}
    yield (
        f"foreground MSE over the frozen agent's, free running, step {' / '.join(steps)}",
        _list(v["ratio"] for v in steps.values()),
    )
    if re := r["lma"].get("miou_re"):
        names = ("free_running_12", "one_step_12", "frozen_12", "m_on_real_frames_12")
        yield "mIoU_RE over 12 frames: free running / one step / frozen / M on real frames", _list(re[k] for k in names)


def _video(r: dict):
    for key in (k for k in r["video"] if k.startswith("step_")):
        v = r["video"][key]
        step = key[5:]
        value = f"{_show(v['psnr'])} dB / {_show(v['ssim'])} / {_show(v['l1'])}"
        if "foreground" in v:
            value += f"; foreground {_show(v['foreground']['psnr'])} dB"
        if "vgg_hed_distance" in v:
            value += f"; VGG-HED distance {_show(v['vgg_hed_distance'])}"
        yield f"free-running reconstruction, step {step}: PSNR / SSIM / L1", value
    d = r["video"]["detection"]
    yield f"ADD / MDR, {d['frames']} reconstructed frames", f"{_show(d['add_px'])} px / {_show(d['mdr_percent'])} %"


def _codes(r: dict):
    u = r["codes"]["usage"]
    yield "share of each code", ", ".join(f"{v:.3f}" for v in u["share"])
    yield "perplexity; dead codes", f"{_show(u['perplexity'])}; {u['dead'] or 'none'}"
    if "nmi_g" in r["codes"]:
        c = r["codes"]
        yield "NMI_G / NMI_S / CON / given the shift", _list(c[k] for k in ("nmi_g", "nmi_s", "con", "nmi_given_shift"))
    for name, e in r["codes"]["effect"]["each"].items():
        yield (
            f"code {name}, repeated on the spot: MSE from the start; read back by A; silhouettes alike (IoU)",
            f"{_show(e['mse_from_start'])}; {_percent(e['read_back'])}; {_show(e['silhouette_agreement'])}",
        )


def _transfer(r: dict):
    t = r["transfer"]
    yield (
        "action transfer: codes that A reads back off the target (off the target's own video)",
        f"{_percent(t['codes_read_back'])} ({_percent(t['codes_of_the_target_before'])})",
    )


def _simulator(r: dict):
    s = r["simulator"]
    play = r["simulator"]["random_play"]
    yield (
        "8 steps right: starts within 15 %",
        f"{_percent(s['right']['within_15_percent'])} of {s['right']['starts_inside']}",
    )
    c = s["cycle"]
    yield (
        f"cycle, {c['measure']}: after 10 right and 10 left / after 20 stays / between agents",
        _list([c["after_walk"], c["after_standing"], c["between_agents"]]),
    )
    for kind, by in (("control", play["control_by"]), ("control_by_centre_of_mass", "centre of mass")):
        for key, what in (("rmse_px", "RMSE"), ("p95_px", "95th percentile")):
            yield (
                f"control error by {by}, {what} px, step 1 / 10 / 50 / 100 / 200",
                _list(step.get(key) for step in play[kind].values()),
            )
    if f := s.get("detectors_on_real_video"):
        yield (
            "the same on real video with known shifts, RMSE px: template / centre of mass",
            _list([f["template"]["rmse_px"], f["centre_of_mass"]["rmse_px"]]),
        )
    yield "present at step 1 / 10 / 50 / 100 / 200", " / ".join(_percent(v, 1) for v in play["present"].values())


def _crispness(r: dict):
    c = r["crispness"]
    if b := c.get("blend_share"):
        names = ("real", "held_arrows", "random_play")
        yield "blend share, mean: real frames / held arrows / random play", _list(b[k]["mean"] for k in names)
    yield (
        "gradient energy over the nearest real windows: free running / random play",
        _list(c["gradient_energy"][k] for k in ("free_running", "random_play")),
    )


def _life(r: dict):
    for way in ("right", "left"):
        v = r["life"][way]
        yield (
            f"12 steps {way} under the prior: distinct poses / share of the commonest",
            _list([v["distinct_poses"], v["share_of_the_commonest"]]),
        )
        yield (
            f"p(next pose | pose, {way}): total variation against real steps / of two halves of the real steps",
            _list([v["next_pose_total_variation"], v["of_two_halves_of_the_real_steps"]]),
        )
    if s := r["life"].get("swing"):
        yield (
            f"starts in which a code swings within 3 steps, by code ({_percent(s['real_share'], 1)} of the frames do)",
            " / ".join(_percent(v) for v in s["starts_by_code"]),
        )


def _judge(r: dict):
    for label in r["judge"].get("real", {}):
        names = ("free_running", "real", "frozen")
        yield (
            f"{label} read by a classifier: free running / real windows / frozen agent",
            " / ".join(_percent(r["judge"][k][label], 1) for k in names),
        )


def _identity(r: dict):
    if p := r["identity"]:
        yield (
            "off the nearest true picture of the character, of 255: real frames by M / turning round / random play",
            " / ".join(f"{p[k]['mean']:.1f}" for k in ("real", "turns", "random_play")),
        )


def _prior(r: dict):
    if p := r["prior"]:
        names = ("nats", "table_of_shift_and_code_before", "table_of_shift", "shares")
        yield (
            "surprise of the inferred codes, nats a step: prior / counts of (shift, code before) / of shift / of codes",
            _list(p[k] for k in names),
        )


def _wsprites(r: dict, actions: dict | None) -> str:
    text = _world(r)
    if actions:
        c = actions["codes"]
        text += (
            f"\n\nCodes against true actions (`actions.json`: 8 unseen characters, {c['pairs']} pairs): NMI_G "
            f"{_show(c['nmi_g'])}, NMI_S {_show(c['nmi_s'])}, CON {_show(c['con'])}; random codes "
            f"{_show(c['nmi_random'])}; given the shift {_show(c['nmi_given_shift'])}. NMI of few pairs is too large "
            f"by chance: random groups of the same sizes ({c['pairs_a_group']:.0f} pairs) have an NMI_S of "
            f"{_show(c['nmi_s_random_groups'])}; against them CON is {_show(c['con_corrected'])}."
        )
    return text


PLAYERS = ("policy", "success", "95 %", "steps over fewest", "return", "episodes")


def _policies(folder: Path) -> str:
    """The tables of `agents.train`, `agents.ppo_torch`, `agents.transfer` and `agents.plan`."""
    out = []
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text())
        about = [f"{figures[key]:,} {key}" for key in ("timesteps", "minutes") if key in figures]
        made = f"`{figures.get('command') or 'defaults'}`" + ": " * bool(about) + ", ".join(about)
        rows = [
            (
                name,
                _percent(row["success"], 1),
                " to ".join(_percent(v, 1) for v in row["success_95"]),
                _show(row["steps_ratio"]) if row["steps_ratio"] else "-",
                _show(row["return"]),
                f"{row['episodes']:,}",
            )
            for name, row in figures["policies"].items()
        ]
        align = ("left", "right", "left", "right", "right", "right")
        out += [f"### {path.stem.replace('_', ' ')}", "", made, "", _table(rows, PLAYERS, align), ""]
    return "\n".join(out)


SPEEDS = {
    "step_numpy_fps": "step",
    "step_torch_fps": "step, torch out",
    "step_policy_fps": "step + policy",
    "step_policy_learning_fps": "step + policy + learning",
}


def _speed(folder: Path) -> str:
    out = []
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text())
        if "rows" not in figures:
            continue
        if "against" in figures:
            out += _against(figures)
            continue
        if "processes" in figures["rows"][0]:
            continue
        rows = []
        for row in figures["rows"]:
            cells = ["" if row.get(key) is None else f"{row[key]:,.0f}" for key in SPEEDS]
            rows.append([f"{row['num_envs']:,}", *cells, f"{row['step_ms']:.1f}"])
        headers = ("rows", *SPEEDS.values(), "ms a step")
        out += [f"{figures['id']}, frames a second:", "", _table(rows, headers, ("right",) * len(headers)), ""]
    if speed_plot(folder, folder / "against.png"):
        out += [f"![Frames a second over rows, beside others](results/{folder.name}/against.png)", ""]
    return "\n".join(out)


def speed_plot(folder: Path, path: Path) -> Path | None:
    """Frames a second over rows of every comparison in a folder, both sides of each, as a PNG; None: there is none."""
    compared = [f for f in (json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))) if "against" in f]
    if not compared:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    for number, figures in enumerate(compared):
        rows = [row["num_envs"] for row in figures["rows"]]
        for key, label, style in (
            ("ours_fps", figures["id"], "o-"),
            ("peer_fps", f"{figures['against'].split(',')[0]} (beside {figures['id']})", "o--"),
        ):
            axis.plot(rows, [row[key] for row in figures["rows"]], style, color=f"C{number}", label=label)
    axis.set(xscale="log", yscale="log", xlabel="rows", ylabel="frames a second")
    axis.legend(fontsize=7, loc="lower right")
    axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _against(figures: dict) -> list[str]:
    rows = [
        [f"{row['num_envs']:,}", f"{row['ours_fps']:,.0f}", f"{row['peer_fps']:,.1f}", f"{row['ratio']:.1f}"]
        for row in figures["rows"]
    ]
    headers = ("rows", "ours", "the peer", "ours over the peer")
    what = f"{figures['id']} and {figures['rows'][0]['peer']} ({figures['against']}), in turns, frames a second:"
    return [what, "", _table(rows, headers, ("right",) * len(headers)), ""]


def _see(name: str) -> str:
    """Where a person says more about a section."""
    return f"What was tried, and what is not good yet: [notes](notes/{name}.md)."


if __name__ == "__main__":
    sys.exit(main())
