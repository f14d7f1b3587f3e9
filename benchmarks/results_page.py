"""Write docs/results.md from the committed JSON: python -m benchmarks.results_page docs/results

FOLDER holds the JSON files that glass-evaluate, glass-bench, the other commands of benchmarks/ and the commands of
agents/ wrote. The page contains no figure that was typed by hand.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.core.command import run_command
from training.core.options import Positional
from training.evaluation.tables import PLAY, Figures, captioned, number, table, value


@dataclass(frozen=True)
class ResultsPageConfig:
    """Write the results page from the figures."""

    folder: Positional[Path] = Path("docs/results")  # JSON files, as the commands wrote them
    out: Path = Path("docs/results.md")  # page to write


WORLDS = {"Tennis": "tennis", "Sprites": "sprites", "Arm": "arm", "Mouse": "mouse", "W-Sprites": "wsprites"}
"""The bundled worlds, and one of the real LPC sheets, which is not bundled; and their folders."""
POLICIES = {
    "Tennis": {"ppo": "ppo_tennis", "dqn_her": "dqn_her_tennis", "real": "transfer"},
    "Sprites": {"ppo": "ppo_sprites"},
    "Arm": {"ppo": "ppo_arm", "real": "transfer_arm"},
    "Mouse": {"ppo": "ppo_mouse"},
}
INTRO = """# Results

`python -m benchmarks.results_page` writes this page from the JSON files in `docs/results/`, which the commands that
measured them wrote. All figures were measured on 2 CPU cores; **none was measured on a GPU.** Tennis, Sprites, Arm
and Mouse are the bundled worlds; Mouse is of a real camera. W-Sprites is a world of real LPC sheets, measured on
characters that training did not see; it is not bundled. [Notes](notes.md) lists what was tried and not adopted.

## Beside the paper

The paper scores single steps, each from the real frame before it. We also score free running: from frame 0, without any
later frame. W-Sprites follows the paper's data set; its Tennis is broadcast video, ours is ALE Tennis. "-": we have no
figure of the paper. LPIPS, FID and FVD are not measured, because their networks must be downloaded."""
AIMS_INTRO = """## Aims

Every world is held to the same aim, unless it has one of its own. **Bold** figures miss it; "-": not measured.

- *Free running* starts from frame 0, with actions inferred from the real clip, and sees no later frame.
- The *static* agent is the first foreground, moved by the same shifts and otherwise unchanged.
- *Control error* is the commanded minus the measured displacement of one step, in px. It is measured on the frames: the
  agent's silhouette (by colour in Tennis, by M elsewhere) is matched with real silhouettes of known position. In these
  worlds position is the sum of the shifts, so this error is small by construction.
- *Present* means that exactly one agent of plausible size is found. *Random play* draws every action independently.
- *Way there and back* is the distance to the start ({measure}) after 10 steps right and 10 left, over that
  after 20 stays.
- *Total variation of p(next pose)* compares held arrows with real clips; 0 is equal. Tennis' {mean} is the mean of
  {right} (right) and {left} (left).
- *CON* of few pairs is too large by chance: Sprites has {pairs} pairs a character. The table of worlds has it beside
  random groups of the same sizes, too.
- *Steps over the fewest* is the mean number of steps to the target over the smallest possible one."""
PAPER = (
    # metric, world, path, the paper's figure
    ("mIoU of M's masks (Table 1)", "W-Sprites", "segmentation/miou", "0.88 after 60,000 steps"),
    ("background shift error, mean px (Table 2)", "W-Sprites", "background_shift/mean", None),
    ("foreground shift error, mean px (Table 2)", "W-Sprites", "foreground_shift_pairwise/mean", None),
    ("angle accuracy (Table 2)", "W-Sprites", "foreground_shift_pairwise/angle_accuracy", None),
    ("NMI_G (Table 3)", "W-Sprites", "codes/nmi_g", "0.39"),
    ("NMI_S (Table 3)", "W-Sprites", "codes/nmi_s", None),
    ("CON (Table 3)", "W-Sprites", "codes/con", "0.02 to 0.01"),
    ("mIoU_RE, one step, 12 frames (Table 3)", "W-Sprites", "lma/miou_re/one_step_12", "0.93"),
    ("mIoU_RE, free running, 12 frames", "W-Sprites", "lma/miou_re/free_running_12", None),
    ("ADD, free running, px (Table 5)", "Tennis", "video/detection/add_px", "2.00 (frames 256 px wide)"),
    ("MDR, free running, % (Table 5)", "Tennis", "video/detection/mdr_percent", "0.214"),
)


@dataclass(frozen=True)
class Aim:
    """A figure and the range that is aimed at; `own` has the bounds of worlds that differ."""

    what: str
    path: str
    least: float = -math.inf
    most: float = math.inf
    own: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"{self.least:g} to {self.most:g}"
        bound = f"at least {self.least:g}" if math.isfinite(self.least) else f"at most {self.most:g}"
        return bound + "".join(f"; {world} {other:g}" for world, other in self.own.items())

    def cell(self, world: str, figures: Figures) -> str:
        """The figure of a world, bold if it misses the aim."""
        measured = value(figures, self.path)
        if measured is None:
            return number(None)
        least, most = (self.own.get(world, x) if math.isfinite(x) else x for x in (self.least, self.most))
        return number(measured) if least <= measured <= most else f"**{number(measured)}**"


VARIATION = "next_pose_total_variation"
AIMS = (
    Aim("mIoU of M's masks", "segmentation/miou", least=0.92, own={"Arm": 0.85}),
    Aim("background shift error, mean px", "background_shift/mean", most=0.2),
    Aim("foreground shift error, mean px", "foreground_shift_pairwise/mean", most=0.7),
    Aim("angle accuracy", "foreground_shift_pairwise/angle_accuracy", least=1),
    Aim("mIoU_RE over 12 frames, free running", "lma/miou_re/free_running_12", least=0.92),
    Aim("foreground PSNR at step 15, free running, dB", "video/step_15/foreground/psnr", least=24),
    Aim("ADD on 16-frame clips, free running, px", "video/detection/add_px", most=2, own={"Tennis": 1.5}),
    Aim("MDR, %", "video/detection/mdr_percent", most=1, own={"Tennis": 0.3}),
    Aim("NMI_G", "codes/nmi_g", least=0.6),
    Aim("CON", "codes/con", most=0.02),
    Aim("control error, step 100 of random play, px", f"{PLAY}/control/step_100/rmse_px", most=0.5, own={"Arm": 1.5}),
    Aim("present at step 200 of random play", f"{PLAY}/present/step_200", least=0.99, own={"Arm": 0.98}),
    Aim("present at step 4,500 of random play", "passport/step_4500/present", least=0.99),
    Aim("moves as commanded, within half a step, at step 4,500", "passport/step_4500/control", least=0.99),
    Aim("silhouette IoU with the nearest real one, worst of random play", f"{PLAY}/worst_silhouette_iou", least=0.97),
    Aim("way there and back", "simulator/cycle/ratio", most=1.25),
    Aim("gradient energy of random play over the nearest real", "crispness/gradient_energy/random_play", 0.95, 1.05),
    Aim("blend share under held arrows", "crispness/blend_share/held_arrows/mean", most=0.02),
    Aim("blend share in random play", "crispness/blend_share/random_play/mean", most=0.05),
    Aim("p(next pose), arrow right, total variation", f"pose_transitions/right/{VARIATION}", most=0.15),
    Aim("p(next pose), arrow left", f"pose_transitions/left/{VARIATION}", most=0.15),
    Aim("p(next pose), mean of right and left", f"pose_transitions/{VARIATION}", most=0.15),
    Aim("distinct poses in 12 steps right", "pose_transitions/right/distinct_poses", least=3),
    Aim("share of the most frequent of them", "pose_transitions/right/share_of_the_commonest", most=0.6),
    Aim("starts from which the best code swings within 3 steps", "pose_transitions/swing/best", least=0.8),
    Aim("direction read by a classifier, free running", "action_classifier/free_running/direction", least=0.97),
    Aim("action read by a classifier, free running", "action_classifier/free_running/action", least=0.9),
    Aim("success of PPO on frames", "ppo/policies/policy/success", least=0.95),
    Aim("success of random actions in the same task", "ppo/policies/random/success", most=0.15),
    Aim("PPO's steps over the fewest", "ppo/policies/policy/steps_ratio", most=1.3),
    Aim("minutes of PPO's training", "ppo/minutes", most=30),
    Aim("success of DQN with HER on positions", "dqn_her/policies/policy/success", least=0.9),
    Aim("success of the same PPO outside, zero-shot", "real/policies/real, zero-shot/success", least=0.8),
    Aim("rank correlation of policies, world against outside", "outside/rank_correlation", least=0.9, own={"Arm": 0.8}),
)  # fmt: skip
PICTURES = {
    "layers": "Layers (Fig. 8): frame, mask, foreground, inpainted background, next frame from the moved layers",
    "free_running": "Free running: real foregrounds above, drawn ones below",
    "reconstruction": "Reconstruction: every third real frame above, free-running reconstruction below",
    "global_actions": "Global actions (Figs. 7, 13-15): four steps in each direction, before in red, after in green",
    "local_actions": "Local actions (Figs. 16-18): each code repeated with zero shift, three agents a code",
    "held_arrows": "Held arrows: right and left 12 times each, codes drawn from the prior; real clips below",
    "transfer": "Action transfer (Figs. 5, 11, 12): a clip above; below, its actions from another first frame",
    "curves": "Figures over 200 steps of random play",
    "after_200_random_steps": "Frames after 200 steps of random play",
}
SPEEDS = {
    "step_numpy_fps": "step",
    "step_torch_fps": "step, torch output",
    "step_policy_fps": "step + policy",
    "step_policy_learning_fps": "step + policy + learning",
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(ResultsPageConfig, run, "python -m benchmarks.results_page", __doc__ or "", argv)


def run(config: ResultsPageConfig) -> int:
    """Write the page; returns 0."""
    config.out.write_text(page(config.folder), encoding="utf-8")
    print(f"written: {config.out}")
    return 0


def page(folder: Path) -> str:
    """The page as Markdown; a section whose files are missing is left out."""
    worlds = {world: figures_of(folder, world) for world in WORLDS}
    parts = [INTRO, paper_table(worlds), *aims(worlds), "## Worlds", sources(worlds), captioned(worlds)]
    parts += [*pictures(folder), *footage(folder), *ablations(folder), *policies(folder), *speed(folder)]
    parts += wrappers(folder)
    text = "\n\n".join(part.strip() for part in parts if part)
    return re.sub(r"-{4,}", "---", re.sub(r"(?<=\|) +| +(?=\|)", " ", text)) + "\n"  # cells without padding


def read(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file; empty if there is none."""
    return json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}


def figures_of(folder: Path, world: str) -> dict[str, Any]:
    """All figures of a world: evaluation, passport, codes against true actions of more videos, and policies."""
    place = WORLDS[world]
    runs = {name: read(folder, f"policies/{file}.json") for name, file in POLICIES.get(world, {}).items()}
    parts = (read(folder, f"{place}/{name}.json") for name in ("passport", "actions", "evaluation"))
    return {key: figures for part in parts for key, figures in part.items()} | runs


def paper_table(worlds: Mapping[str, Figures]) -> str:
    """Our figures beside the paper's."""
    rows = []
    for metric, world, path, paper in PAPER:
        file = f"`{WORLDS[world]}/{'actions' if path.startswith('codes') else 'evaluation'}.json`"
        rows.append((metric, world, value(worlds[world], path), paper, file))
    return table(rows, ("metric", "world", "ours", "the paper", "file"))


def aims(worlds: Mapping[str, Figures]) -> list[str]:
    """What is aimed at, and what was measured in each world."""
    told = {
        "measure": ("Tennis", "simulator/cycle/measure"),
        "mean": ("Tennis", f"pose_transitions/{VARIATION}"),
        "right": ("Tennis", f"pose_transitions/right/{VARIATION}"),
        "left": ("Tennis", f"pose_transitions/left/{VARIATION}"),
        "pairs": ("Sprites", "codes/pairs_a_group"),
    }
    intro = AIMS_INTRO.format(**{name: number(value(worlds[world], path)) for name, (world, path) in told.items()})
    rows = [(aim.what, aim, *(aim.cell(world, figures) for world, figures in worlds.items())) for aim in AIMS]
    return [intro, table(rows, ("figure", "aim", *worlds))]


def sources(worlds: Mapping[str, Figures]) -> str:
    """Where the figures of each world are from."""
    lines = []
    for world, figures in worlds.items():
        if "data" in figures:
            pairs = value(figures, "codes/pairs")
            line = f"- {world}: {figures['data']}, split {figures['split']}, `{WORLDS[world]}/evaluation.json`"
            lines.append(line + f"; NMI and CON of {number(pairs)} pairs" * (pairs is not None))
    return "\n".join(lines)


def pictures(folder: Path) -> list[str]:
    """The contact sheets of the worlds, by kind."""
    out = []
    for name, caption in PICTURES.items():
        shown = {world: f"{place}/{name}.png" for world, place in WORLDS.items()}
        shown = {world: file for world, file in shown.items() if (folder / file).exists()}
        links = [f"![{world}: {name}](results/{file})" for world, file in shown.items()]
        if links:
            out += [f"**{caption}.** {', '.join(shown)}.", "\n".join(links)]
    return ["## Pictures", *out] if out else []


def footage(folder: Path) -> list[str]:
    """Worlds of footage that the command was not tuned on."""
    if not (figures := read(folder, "generality/generality.json")):
        return []
    from benchmarks.generality import markdown  # gymnasium and the whole of training

    known = [name for name in figures if (folder / f"generality/{name}.gif").exists()]
    films = "\n".join(f"![{name}](results/generality/{name}.gif)" for name in known)
    intro = "`glass-train FOLDER`, no other option, on footage it was not tuned on (`generality/generality.json`)."
    below = "Held-out footage above, the learned world below:"
    return ["## Other footage", intro, markdown(figures), below, films]


def ablations(folder: Path) -> list[str]:
    """GMA with one loss or part changed."""
    if not (figures := read(folder, "ablation/ablation.json")):
        return []
    from benchmarks.ablations import table as ablation_table

    intro = (
        "W-Sprites, one loss or part changed a row, few and equal steps, one seed (`ablation/ablation.json`). All rows "
        "but the last have the GMA of the default model, `pose()`, without pseudo-labels and the refine stage."
    )
    return ["## Ablations of GMA", intro, ablation_table(figures["rows"])]


def policies(folder: Path) -> list[str]:
    """Success of policies, and of the random and greedy ones in the same task."""
    rows = []
    for path in sorted((folder / "policies").glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        for name, row in figures["policies"].items():
            low, high = (100 * bound for bound in row["success_95"])
            success = f"{100 * row['success']:.1f} % ({low:.1f} to {high:.1f})"
            trained = name == "policy" and "timesteps" in figures  # planning.json compares with a policy
            training = f"{figures['timesteps']:,} steps, {number(figures['minutes'])} min" if trained else ""
            rows.append((path.stem, name, training, success, row["steps_ratio"], row["return"], row["episodes"]))
    heads = ("run", "policy", "training", "success (95 % interval)", "steps over the fewest", "return", "episodes")
    intro = "Each run has a file in `policies/`. *greedy* walks straight to the target; *random* is random play."
    return ["## Policies", intro, table(rows, heads)] if rows else []


def speed(folder: Path) -> list[str]:
    """Frames a second of the environments, and beside another world model."""
    own, peers = [], []
    for path in sorted((folder / "speed").glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        for row in figures.get("rows", ()):
            if "step_ms" in row:
                own.append((figures["id"], row["num_envs"], *(row.get(key) for key in SPEEDS), row["step_ms"]))
            if "ratio" in row:
                fps = (row["ours_fps"], row["peer_fps"], row["ratio"])
                peers.append((figures["id"], figures["against"], row["num_envs"], *fps))
    if not own and not peers:
        return []
    return [
        "## Speed",
        "Frames a second (`speed/`); resets are included. The last column is the time of one step of all environments.",
        table(own, ("id", "num_envs", *SPEEDS.values(), "ms a step")),
        "Beside another world model, measured in turns on the same machine:",
        table(peers, ("id", "beside", "num_envs", "ours", "theirs", "ratio")),
    ]


def wrappers(folder: Path) -> list[str]:
    """Which of Gymnasium's wrappers work over the environments; those with the same result share a row."""
    figures = read(folder, "wrappers.json")
    single = [(name, {"single": answer}) for name, answer in figures.get("single", {}).items()]
    rows: dict[tuple[str, str], list[str]] = {}
    for name, answers in [*single, *figures.get("vector", {}).items()]:
        for answer in dict.fromkeys(answers.values()):
            places = [place for place, other in answers.items() if other == answer]
            where = "; ".join(places) if len(places) < len(answers) or len(places) == 1 else "all vector"
            if answer != "works" or len(places) == len(answers):
                rows.setdefault((where, re.sub("refused: (.*)", r"refused: `\1`", answer)), []).append(name)
    intro = (
        "Gymnasium's wrappers over `GlassTennis-v0`, single and vector, with each autoreset mode and output (`python "
        "-m tests.wrapper_table`, `wrappers.json`). What is not listed works. *over ArrayConversion*: it works with "
        "`gymnasium.wrappers.vector.ArrayConversion(envs, torch, numpy)` below it."
    )
    cells = [(where, answer, ", ".join(names)) for (where, answer), names in rows.items()]
    return ["## Wrappers", intro, table(cells, ("environment", "result", "wrappers"))] if rows else []


if __name__ == "__main__":
    sys.exit(main())
