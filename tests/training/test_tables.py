import pytest

from training.evaluation.tables import captioned, lookup, markdown, nested, number, table, value

FIGURES = {"video": {"step_1": {"psnr": 30.0, "ssim": 0.9}, "step_5": {"psnr": 25.0}, "frames": 7}}


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (0.123456, "0.123"),
        (1472.0, "1,472"),
        (14, "14"),
        (20_000, "20,000"),
        (True, "True"),
        (None, "-"),
        ([0.5, 1], "0.5 / 1"),
        ([], "none"),
        ("test", "test"),
    ],
)
def test_numbers_have_three_digits(figure, text):
    assert number(figure) == text


def test_a_path_finds_figures_by_wildcards_and_alternatives():
    assert lookup(FIGURES, "video/step_*/psnr") == [30.0, 25.0]
    assert lookup(FIGURES, "video/step_1/ssim|psnr") == [0.9, 30.0]
    assert lookup(FIGURES, "video/frames/psnr") == lookup(None, "video") == []
    assert value(FIGURES, "video/frames") == 7 and value(FIGURES, "codes") is None


def test_captions_without_a_figure_are_left_out_of_the_table_of_worlds():
    lines = captioned({"A": FIGURES, "B": {}}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "PSNR, free running, dB: step 1 / 5 / 15",
        "SSIM, free running: step 1 / 5 / 15",
    ]
    assert "30 / 25" in lines[2] and lines[2].rstrip(" |").endswith("-")


def test_nested_figures_are_a_table_a_level():
    text = nested({"a": 1, "b": {"c": 0.25, "d": {"e": None}}})
    assert text.index("| a ") < text.index("## b") < text.index("| c ") < text.index("### d") < text.index("| e ")


def test_an_evaluation_shows_figures_that_have_no_caption_too():
    text = markdown(FIGURES | {"seed": 3, "brightness": {"mean": 0.5}})
    assert "PSNR" in text and "| seed " in text and "## brightness" in text and "## video" not in text


def test_a_table_takes_numbers_and_text():
    assert table([("a|b", 0.5)], ("x", "y")).splitlines()[-1].split()[-2] == "0.5"
