import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated

import pytest
from annotated_types import Ge, Le
from hypothesis import given
from hypothesis import strategies as st

from training.core.command import run_command
from training.core.options import Count, Positive, check_options
from training.evaluation.evaluate import EvaluateConfig
from training.train import TrainConfig, main


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Ge(0), Le(1)] = 0.5
    many: tuple[Positive, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    some_count: Count | None = None
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


def test_what_is_in_range_passes():
    check_options(Outer())
    check_options(Outer(0, "", Inner(1.0, ())))
    check_options(TrainConfig(data="tennis"))
    check_options(EvaluateConfig(checkpoint="tennis", data="tennis"))


@pytest.mark.parametrize("wrong", [Outer("1"), Outer(True), Outer(0, 1), Outer(inner=Inner(1, (1, 2.0)))])  # pyright: ignore
def test_another_type_is_named(wrong):
    with pytest.raises(ValueError, match=r"--(some-count|name|inner\.many) is .*another type"):
        check_options(wrong)


@dataclass(frozen=True)
class Written(Outer):
    out: str = "x"


@pytest.mark.parametrize(("kind", "hint"), [(Outer, ""), (Written, " or choose another --out")])
def test_a_full_disk_is_told_with_the_options_that_there_are(kind, hint, capsys):
    def work(config) -> int:
        raise OSError("disk full")

    assert run_command(kind, work, "glass-x", "", []) == 1
    assert capsys.readouterr().err == f"error: disk full; free some space{hint}\n"


def test_a_file_in_the_place_of_a_folder_is_told_and_kept(tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.write_text("mine", encoding="utf-8")
    assert run_command(Written, lambda config: file.mkdir(exist_ok=True), "glass-x", "", []) == 1
    told = capsys.readouterr().err
    assert told == f"error: {file}: a file lies where a folder is to be; move the file away or choose another --out\n"
    assert file.read_text(encoding="utf-8") == "mine"


@given(st.one_of(st.floats(max_value=-1e-9), st.floats(min_value=1.0001), st.just(float("nan"))))
def test_what_is_not_is_named(share):
    with pytest.raises(ValueError, match=r"--inner\.share is .*, expected at (least 0|most 1)"):
        check_options(Outer(inner=Inner(share)))


def test_parts_of_a_tuple_are_checked():
    with pytest.raises(ValueError, match=r"--inner\.many is 0, expected at least 1"):
        check_options(Outer(inner=Inner(many=(3, 0))))
    with pytest.raises(ValueError, match="--some-count is -1, expected at least 0"):
        check_options(Outer(-1))


BAD = [
    "--gma.theta -1", "--gma.theta nan", "--gma.theta 0", "--gma.batch 0", "--gma.iterations -1",
    "--refine.iterations -1", "--loop.seed -1", "--loop.max-minutes nan", "--paper.frames 0", "--paper.continuous -1",
    "--paper.horizons 0",
    "--pose.batch 0", "--lma.action-only-weight -0.1", "--codes 0", "--poses 0", "--window 0", "--window -3",
    "--record-frames 0", "--read.size 0 0", "--read.size -8 64", "--read.size 1000000 64", "--read.skip -1",
    "--read.crop -1 0 5 5", "--read.fps 0", "--read.fps nan",
]  # fmt: skip


@pytest.mark.parametrize("option", BAD)
def test_an_option_out_of_range_is_told_before_anything_is_opened(tmp_path, capsys, option):
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "out"), *option.split()]) == 1
    error = capsys.readouterr().err
    assert option.split()[0] in error and option.split()[0] in error.split(" is ")[0]
    assert not (tmp_path / "out").exists()


def test_every_number_has_a_range():
    """An option that somebody adds is checked, too."""

    def walk(config):
        for known in fields(config):
            value = getattr(config, known.name)
            if is_dataclass(value):
                walk(value)
            elif re.match("(int|float|tuple.(int|float))", str(known.type)):
                raise AssertionError(f"{type(config).__name__}.{known.name}: {known.type} has no range")

    walk(TrainConfig(data="x"))
