"""Compare speeds: python -m benchmarks.peers --against ../diamond --num-envs 1 64

--against PATH measures this checkout and another one in turns, each in a process of its own. PATH is a checkout of
DIAMOND or of another version of glass_gym. Both run on one machine at one time, because speeds differ by 2.5 times
between virtual machines of one kind. --processes N measures how the speed grows with 1, 2, 4 ... N processes of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from benchmarks import peer_process
from benchmarks.peer_process import PEERS
from glass_gym.tools.bench import check_writable, env_of, machine, run_benchmark, world_parser, write_report

ROUNDS = 5  # How often each side is measured, in turns.
OURS = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = world_parser("python -m benchmarks.peers", __doc__ or "", (1, 64), "glass_peers.json")
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--against", type=Path, metavar="PATH", help="a checkout to compare with")
    one.add_argument("--processes", type=int, metavar="N", help="1 to N processes, each of the last --num-envs rows")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each side is measured (default: 4)")
    return run_benchmark(parser, argv, measure)


def measure(arguments: argparse.Namespace) -> None:
    """Measure, write the report and print its table."""
    check_writable(arguments.out)
    id, settings = env_of(arguments)
    settings["id"] = id
    report: dict[str, Any] = {"id": id, "machine": machine()}
    if arguments.against:
        rows = [compare(arguments.against, n, arguments.seconds, settings) for n in tqdm(arguments.num_envs)]
        report |= {"against": str(arguments.against), "rows": rows}
        heads = {"num_envs": "rows", "ours_fps": "ours", "peer_fps": rows[0]["peer"], "ratio": "ours / peer"}
    else:
        rows = scale(arguments.processes, arguments.num_envs[-1], arguments.seconds, settings)
        report |= {"num_envs": arguments.num_envs[-1], "rows": rows}
        heads = {"processes": "processes", "threads": "threads each", "fps": "frames per second"}
    cells = [[row[key] for key in heads] for row in rows]
    write_report(report, tabulate(cells, tuple(heads.values()), tablefmt="github", floatfmt=",.1f"), arguments.out)


def compare(path: Path, rows: int, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Frames per second of this checkout and a peer's, medians of rounds in turns, and their ratio.

    Each is measured for `seconds`, all rounds together; before that, it runs as long to fill its caches.
    """
    runners = {"ours": Runner(OURS, rows, settings)}
    try:
        runners["peer"] = Runner(path, rows, settings)
        for runner in runners.values():
            runner.time(seconds)
        taken: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(ROUNDS):
            for name, runner in runners.items():
                taken[name].append(runner.time(seconds / ROUNDS))
        ours, peer = (rows / float(np.median(taken[name])) for name in ("ours", "peer"))
    finally:
        for runner in runners.values():
            runner.close()
    return {"num_envs": rows, "peer": runners["peer"].kind, "ours_fps": ours, "peer_fps": peer, "ratio": ours / peer}


def scale(processes: int, rows: int, seconds: float, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Frames per second of 1, 2, 4, ... processes at once; each gets its share of the cores."""
    if not 1 <= processes <= 1024:
        raise ValueError(f"--processes takes 1 to 1024, got {processes}")
    lines = []
    for count in tqdm(sorted({*(1 << i for i in range(processes.bit_length())), processes}), unit="count"):
        threads = max(1, machine()["cores"] // count)
        runners = [Runner(OURS, rows, settings, threads) for _ in range(count)]
        try:
            for _ in range(2):  # caches fill in the first
                for runner in runners:
                    runner.ask(seconds)
                taken = [runner.answer() for runner in runners]
        finally:
            for runner in runners:
                runner.close()
        lines.append({"processes": count, "threads": threads, "fps": round(sum(rows / t for t in taken), 1)})
    return lines


class Runner:
    """The simulator of a checkout in a process of its own, ready to step `rows` at once.

    `settings` are `id`, `device`, `precision`, `checkpoint`, as far as it knows them; `threads` of torch, 0: its own
    choice. ValueError: the peer is unknown, or ends.
    """

    def __init__(self, path: Path, rows: int, settings: dict[str, Any], threads: int = 0):
        kinds = [name for name, (file, _, _) in PEERS.items() if (path / file).is_file()]
        if not kinds:
            known = ", ".join(f"{name} ({file})" for name, (file, _, _) in PEERS.items())
            raise ValueError(f"{path} is not the checkout of a known peer: {known}")
        self.kind = kinds[0]
        source = (path / PEERS[self.kind][1]).resolve()
        self.process = subprocess.Popen(
            [sys.executable, peer_process.__file__, self.kind, str(rows), json.dumps(settings)],
            cwd=source,
            env={**os.environ, "PYTHONPATH": str(source)} | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def ask(self, seconds: float) -> None:
        """Let it step for so long."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def answer(self) -> float:
        """Median seconds of a step, when what was asked for is done."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["seconds"]
        raise ValueError(f"{self.kind} ended with {self.process.wait()}; its error is printed above")

    def time(self, seconds: float) -> float:
        """Step for so long; median seconds of a step."""
        self.ask(seconds)
        return self.answer()

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
