import os
import subprocess
import sys

import pytest

from glass_gym.tools.locks import LockedError, alone

HOLD = """
import sys, time
from glass_gym.tools.locks import alone
with alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_and_free_when_that_is_killed(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=rf"process {other.pid} is at work there"), alone(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with alone(tmp_path):
        assert (tmp_path / ".owner").read_text(encoding="utf-8") == f"{os.getpid()}\n"
    assert not (tmp_path / ".owner").exists()


def test_trainings_do_not_share_a_run_folder(tmp_path, block_store, capsys):
    from training.train import main

    with alone(tmp_path):
        assert main([str(block_store), "--out", str(tmp_path)]) == 1
    assert f"process {os.getpid()} is at work there" in capsys.readouterr().err
    assert not (tmp_path / "gma.pt").exists()
