import imageio.v3 as iio
import numpy as np

from glass_gym.tools.demo import main, scripted_actions
from glass_gym.worlds.action_space import ActionTable
from glass_gym.worlds.checkpoint import save_world


def test_the_demo_writes_a_gif_and_a_contact_sheet_and_says_so(tiny_world, tmp_path, capsys):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    assert main(["--checkpoint", str(path), "--out", str(tmp_path / "demo"), "--steps", "5"]) == 0
    said = capsys.readouterr().out
    assert "frames a second" in said and str(tmp_path / "demo/world.gif") in said
    film = tmp_path / "demo/world.gif"
    frames = np.stack(list(iio.imiter(film)))
    lengths = [iio.immeta(film, index=i)["duration"] for i in range(len(frames))]  # equal frames are written as one
    count = 1 + 28 + 3 * 4 + 5
    assert 60 * count <= sum(lengths) <= 1000 / 15 * count  # rounded down to 1/100 s
    assert frames.shape[1:3] == (64, 154) and "40 scripted and 5 random steps" in said
    assert iio.imread(tmp_path / "demo/contact_sheet.png").shape == (8 * 32, 6 * 77, 3)


def test_an_unknown_world_is_named(capsys):
    assert main(["--checkpoint", "nobody"]) == 1
    assert "no checkpoint called 'nobody'" in capsys.readouterr().err


def test_the_script_walks_round_and_shows_every_code():
    actions = scripted_actions(ActionTable.build((4, 3), ("neutral", "swing")))
    assert actions[:8] == [(1, None)] * 8 and actions[-4:] == [(0, 1)] * 4
    assert len(actions) == 28 + 8
