"""Without an extra, commands print their help, or one line that names it; never a traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import runpy, sys, traceback

missing = sys.argv[1].split(",")

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
for command in sys.argv[2].split(";"):
    module, *sys.argv[1:] = command.split()
    sys.argv[0] = module
    print("COMMAND", command)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        print("STATUS", stop.code or 0)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    sys.stdout.flush()
"""


def without(missing, *commands):
    """What commands print, and their exit status, where packages are missing."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(missing), ";".join(commands)], cwd=ROOT, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    out = re.findall(r"COMMAND .*\n((?s:.*?))STATUS (\d+)", done.stdout)
    assert len(out) == len(commands), done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return [(text, int(status)) for text, status in out]


def test_without_tyro_commands_name_the_extra():
    commands = ("training.train", "training.evaluation.evaluate", "training.world.distil")
    found = without(["tyro"], *(f"{c} --help" for c in commands))
    for text, status in found:
        lines = [line for line in text.splitlines() if "RuntimeWarning" not in line and "warn(" not in line]
        assert status == 2 and len(lines) == 1 and lines[0].endswith("needs tyro: pip install 'glass-gym[train]'"), text


def test_help_needs_no_package_that_only_the_work_needs(block_store, tmp_path):
    missing = ["scipy", "sklearn", "skimage", "matplotlib", "tensorboard", "ale_py", "av", "accelerate",
               "torchmetrics", "stable_baselines3", "sb3_contrib", "yaml", "rich", "pygame"]  # fmt: skip
    train = f"training.train {block_store} --out {tmp_path / 'a'} --gma.iterations 1"
    tennis = f"training.train tennis --out {tmp_path / 'b'} --cache {tmp_path}"
    helps = [f"{m} --help" for m in ("training.train", "training.evaluation.evaluate", "agents.train")]
    *shown, surveyed, recorded = without(missing, *helps, train, tennis)
    assert all(status == 0 and "--help" in text for text, status in shown)
    for (text, status), package in ((surveyed, "scipy"), (recorded, "ale_py")):
        assert status == 2 and f"glass-train needs {package}: pip install 'glass-gym[train]'" in text
