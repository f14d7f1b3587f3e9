"""glass-play: keys, the loop, recordings, a window; and a real window under Xvfb where there is one."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

pygame = pytest.importorskip("pygame")

from glass_gym.env.window import DisplayError, Event, Window  # noqa: E402
from glass_gym.play import play  # noqa: E402
from glass_gym.play import recorder as recorder_of_play  # noqa: E402
from glass_gym.play.controls import Controls, digits  # noqa: E402
from glass_gym.play.player import Player  # noqa: E402
from glass_gym.play.recorder import Recorder, video_suffix  # noqa: E402
from glass_gym.worlds.action_space import ActionTable  # noqa: E402
from glass_gym.worlds.checkpoint import save_world  # noqa: E402

TABLE = ActionTable.build((3, 2), ("neutral", "swing", "turn"), usual_codes=[0, 2, 2, 0, 1, 1, 1, 0, 2])


def press(*keys):
    return [Event("press", key) for key in keys]


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_tap_between_two_steps_is_not_lost():
    controls = Controls()
    controls.press("up")
    controls.release("up")
    assert controls.action(TABLE).tolist() == [3, 0]
    assert controls.action(TABLE).tolist() == [0, 0]


def test_held_arrows_go_on_and_two_are_a_diagonal():
    controls = Controls()
    controls.press("right")
    controls.press("up")
    assert [controls.action(TABLE).tolist() for _ in range(2)] == [[2, 2], [2, 2]]
    controls.release("up")
    assert controls.action(TABLE).tolist() == [1, 2]
    controls.press("left")
    assert controls.action(TABLE).tolist() == [0, 0]  # right and left at once: stay
    controls.release("")
    assert controls.action(TABLE).tolist() == [0, 0]


def test_digits_are_codes_and_without_one_the_shifts_usual_code_is_used():
    controls = Controls()
    controls.press("left")
    assert controls.action(TABLE).tolist() == [5, 1]
    controls.press("2")
    assert controls.action(TABLE).tolist() == [5, 2]
    controls.release("2")
    controls.press("[0]")
    assert controls.action(TABLE).tolist() == [5, 0]
    controls.release("[0]")
    controls.press("9")
    assert controls.action(TABLE).tolist() == [5, 1]  # no such code
    controls.release("9")
    assert not any(map(controls.press, ("q", "[", "\u00b2", "12", "")))


def test_with_shift_digits_are_codes_from_ten():
    table = ActionTable.build((3, 2), tuple(f"code {k}" for k in range(21)))
    controls = Controls()
    controls.press("left shift")
    controls.press("3")
    assert controls.action(table).tolist() == [0, 13]
    controls.release("left shift")
    assert controls.action(table).tolist() == [0, 13]
    controls.release("3")
    assert controls.action(table).tolist() == [0, 0] and not controls.held


def test_key_k_is_code_k_for_gymnasiums_player_as_well(tiny_world):
    env = gym.make("Glass-v0", checkpoint=tiny_world)
    for code in range(3):
        assert env.unwrapped.get_keys_to_action()[(ord(str(code)),)].tolist() == [0, code]


# --- the loop, over a window that is played by the test -------------------------------------------------------------


class FakeWindow:
    """Events in, frames out."""

    def __init__(self, *ticks):
        self.ticks, self.shown, self.texts, self.pages = list(ticks), [], [], []

    def poll(self):
        return self.ticks.pop(0) if self.ticks else [Event("quit")]

    def show(self, frame, lines, page):
        self.pages.append(list(page))
        self.shown.append(frame.copy())
        self.texts.append(list(lines))

    def wait(self, fps):
        return fps


def player(world, *ticks, agent=None, folder=None, **kwargs):
    kwargs = {"target_radius": 0.01, "checkpoint": world, "render_mode": "rgb_array", **kwargs}
    env = gym.make("Glass-v0", **kwargs)
    out = Player(env, FakeWindow(*ticks), agent, folder=folder)
    out.reset(seed=0)
    return out


def test_the_newest_frame_is_shown_and_the_text_tells_the_action(tiny_world):
    p = player(tiny_world, press("right"), [])
    p.tick()
    assert np.array_equal(p.window.shown[-1], p.env.render()) and "right + neutral" in p.window.texts[-1][0]
    assert "99 steps left" in p.window.texts[-1][1] and "distance" in p.window.texts[-1][1]


def test_pause_single_step_reset_speed_and_quit(tiny_world):
    p = player(
        tiny_world, press("space"), [], press("n"), [], press("space"), press("r"), press("+", "+", "-"), press("q")
    )
    p.run()
    assert p.total == 4  # n, then three running ticks
    assert p.steps == 2 and p.fps == 30 and not p.running


def test_an_episode_that_ends_starts_anew_and_is_counted(tiny_world):
    p = player(tiny_world, *[[]] * 6, max_episode_steps=2)
    p.run()
    assert p.episodes == 2 and p.reached == 0 and "time is up after 2 steps" in p._message


def test_the_window_says_how_to_walk_and_what_the_digits_do(tiny_world):
    p = player(tiny_world, [], press("h"), press("9"), press("?"))
    p.run()
    assert "arrows walk" in p.window.texts[0][2] and "h all keys" in p.window.texts[0][2]
    page = "\n".join(p.window.pages[1])
    assert "0..2 act" in p.window.texts[0][2] and "0..2    the local action with that number" in page
    assert all(f"{k}  {name}" in page for k, name in enumerate(p.table.code_names)) and "record video" in page
    assert "no local action 9: this world has 0 to 2" in p.window.texts[2][2] and "h all keys" in p.window.texts[2][2]
    assert p.window.pages[0] == [] and p.window.pages[2] and p.window.pages[3] == []


def test_a_limit_counts_down_and_the_best_time_is_kept(tiny_world):
    p = player(tiny_world, [], [], max_episode_steps=9)
    p.tick()
    assert "8 steps left" in p.window.texts[-1][1]
    for steps in (7, 4, 6):
        p.steps = steps
        p._finish(True)
    assert (p.best, p.reached) == (4, 3)
    p._finish(False)
    assert p.reached == 3 and "time is up" in p._message
    p.tick()
    assert "best 4 steps" in p.window.texts[-1][1]


def test_a_person_has_no_time_limit_and_a_given_one_holds(tiny_world, tmp_path, monkeypatch):
    path = str(save_world(tmp_path / "tiny.safetensors", tiny_world))
    limits = []
    monkeypatch.setattr(Player, "run", lambda self, _: limits.append(self.env.spec.max_episode_steps))
    assert play.main(["--checkpoint", path]) == 0
    assert play.main(["--checkpoint", path, "--max-episode-steps", "7"]) == 0
    assert limits == [None, 7]


def test_a_click_sets_the_target_where_the_stretched_frame_shows_it(tiny_world):
    p = player(tiny_world, [Event("click", place=(32.0, 10.0))], [Event("click", place=(300.0, 10.0))])
    p.tick()
    assert p.info["target"].tolist() == [20, 10]  # 32 / 1.6
    p.tick()
    assert p.info["target"].tolist() == [20, 10]
    free = player(tiny_world, [Event("click", place=(32.0, 10.0))], task=None)
    free.tick()
    assert "no task" in free.window.texts[-1][2] and "distance" not in free.window.texts[-1][1]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_recordings_hold_what_was_shown(tiny_world, tmp_path, suffix, monkeypatch):
    av = pytest.importorskip("av")
    monkeypatch.setattr("glass_gym.play.player.video_suffix", lambda: suffix)
    p = player(tiny_world, press("v"), press("right"), [], press("v"), press("s"), folder=tmp_path)
    p.run()
    (video,), (picture,) = tmp_path.glob(f"*{suffix}"), tmp_path.glob("*.png")
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4 and frames[0].shape == (64 + 24, 154, 3)
    assert np.abs(frames[-1][:64:2, ::2].astype(int) - p.window.shown[2].astype(int)).mean() < 16
    assert (frames[0][64:] > 127).sum() < (frames[-1][64:] > 127).sum()  # the names of the last action
    assert Image.open(picture).size == (77, 32)


@pytest.mark.parametrize("name", ["plain.mp4", "2026-01-01T12:30 %03d.MP4", "-i.mp4"])
def test_an_mp4_of_any_size_and_name_plays_everywhere(tmp_path, name, monkeypatch):
    av = pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(Path(name), fps=12.5, scale=1)
    for level in range(0, 250, 10):
        recorder.add(np.full((33, 77, 3), level, np.uint8))
    recorder.close()
    with open(name, "rb") as file, av.open(file) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.average_rate == 12.5 and stream.codec_context.name == "h264"
    assert {(frame.format.name, frame.width, frame.height) for frame in frames} == {("yuv420p", 78, 34)}
    shown = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    assert np.allclose(shown, range(0, 250, 10), atol=3)


def test_without_pyav_an_mp4_names_the_extra_and_gifs_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_of_play, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"a\.mp4: a \.mp4 needs PyAV: pip install 'glass-gym\[play\]'"):
        Recorder(tmp_path / "a.mp4", 12)
    assert video_suffix() == ".gif"
    recorder = Recorder(tmp_path / "a.gif", 12)
    recorder.add(np.zeros((8, 8, 3), np.uint8))
    recorder.close()
    assert (tmp_path / "a.gif").stat().st_size
    with pytest.raises(ValueError, match=r"a\.avi: record to a \.mp4 or a \.gif file"):
        Recorder(tmp_path / "a.avi", 12)


def test_a_recording_that_cannot_be_written_is_told_and_play_goes_on(tiny_world, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    p = player(tiny_world, press("v"), press("s"), [], folder=tmp_path / "file")
    p.run()
    assert p.total == 3 and p.recorder is None and "nothing is recorded" in capsys.readouterr().err


def test_the_agent_can_be_switched_on_and_off(tiny_world):
    class Right:
        def begin(self):
            pass

        def act(self, core):
            return np.array([[1, 2]])

    p = player(tiny_world, [], press("a"), press("left"), agent=Right())
    p.tick()
    assert p.last.tolist() == [1, 2] and p.window.texts[-1][0].startswith("agent: right + turn")
    p.tick()
    assert p.last.tolist() == [0, 0]
    p.tick()
    assert p.last.tolist() == [5, 0]
    lone = player(tiny_world, press("a"))
    lone.tick()
    assert "no agent loaded" in lone.window.texts[-1][2]


# --- the window -----------------------------------------------------------------------------------------------------


def test_the_window_scales_by_whole_pixels_and_places_clicks():
    window = Window((32, 77), scale=3, lines=2)
    frame = np.random.default_rng(0).integers(0, 256, (32, 77, 3), dtype=np.uint8)
    window.show(frame, ["one", "two"])
    shown = pygame.surfarray.array3d(window.screen).swapaxes(0, 1)
    assert shown.shape == (32 * 3 + 40, 77 * 3, 3) and np.array_equal(shown[:96], frame.repeat(3, 0).repeat(3, 1))
    assert shown[96:].std() > 5  # there is text
    window.poll()
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(30, 60)))
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_LEFT))
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    click, key, quitting = window.poll()
    assert click.place == (10, 20) and key == Event("press", "left") and quitting.kind == "quit"
    window.close()


def test_a_gamepad_walks_and_acts():
    window = Window((32, 77), scale=1)
    window.poll()

    def told(kind, *events):
        for event in events:
            pygame.event.post(pygame.event.Event(kind, instance_id=0, **event))
        return [(event.kind, event.key) for event in window.poll()]

    def tilted(*values, axis=0):
        return told(pygame.JOYAXISMOTION, *({"axis": axis, "value": value} for value in values))

    assert tilted(-0.2, -0.7, -1.0) == [("press", "left")]
    assert tilted(0.9) == [("release", "left"), ("press", "right")]
    assert tilted(0.6, axis=1) == [("press", "down")] and tilted(-1.0, axis=5) == []
    assert tilted(0.0) == [("release", "right")]
    assert told(pygame.JOYHATMOTION, {"value": (1, 1)}) == [("press", "right"), ("press", "up")]
    assert told(pygame.JOYHATMOTION, {"value": (0, 1)}) == [("release", "right")]
    assert told(pygame.JOYBUTTONDOWN, {"button": 3}, {"button": 12}) == [("press", "3")]
    assert told(pygame.JOYBUTTONUP, {"button": 3}) == [("release", "3")]
    assert told(pygame.JOYDEVICEREMOVED, {}) == [("release", "")] and tilted(0.7, axis=1) == [("press", "down")]
    window.close()


def test_no_screen_says_what_to_do(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    pygame.display.quit()
    with pytest.raises(DisplayError, match=r"no window can be opened .*xvfb-run"):
        Window((32, 77))


def test_without_pygame_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert play.main(["--steps", "1"]) == 1
    assert capsys.readouterr().err == "error: a window needs pygame: pip install 'glass-gym[play]'\n"


def test_a_window_that_nobody_can_see_is_an_error(monkeypatch):
    pygame.display.quit()
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    with pytest.raises(DisplayError, match=r"no display was found.*xvfb-run"):
        Window((32, 77))


@pytest.mark.parametrize(
    ("codes", "said"),
    [(1, "0       the local action with that number"), (9, "0..8    the local action with that number"),
     (10, "0..9    the local action with that number"),
     (12, "0..9    the local action with that number, with shift: 10..11"),
     (25, "0..9    the local action with that number, with shift: 10..19")],
)  # fmt: skip
def test_the_help_names_the_digits_that_do_something(codes, said):
    assert digits(codes) == said


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_plays_a_checkpoint_from_a_picture_and_records(tiny_world, tmp_path, capsys):
    import imageio.v3 as iio

    path = save_world(tmp_path / "tiny.safetensors", tiny_world)
    iio.imwrite(tmp_path / "start.png", tiny_world.start_frames[3])
    status = play.main(
        ["--checkpoint", str(path), "--image", str(tmp_path / "start.png"), "--steps", "4", "--fps", "500",
         "--record", str(tmp_path / "a.gif"), "--seed", "1"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert status == 0 and "4 steps" in out and "recorded 5 frames" in out and (tmp_path / "a.gif").exists()


def test_the_command_watches_an_agent(tiny_world, tmp_path, capsys):
    sb3 = pytest.importorskip("stable_baselines3")
    from glass_gym.sb3 import GlassVecEnv

    path = save_world(tmp_path / "tiny.safetensors", tiny_world)
    env = GlassVecEnv("Glass-v0", 2, checkpoint=str(path), obs_type="position", max_episode_steps=5)
    sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=16).save(tmp_path / "ppo.zip")
    arguments = ["--checkpoint", str(path), "--agent", str(tmp_path / "ppo.zip"), "--steps", "6", "--fps", "500"]
    assert play.main([*arguments, "--max-episode-steps", "5"]) == 0
    assert "6 steps, " in capsys.readouterr().out
    other = ["--agent", str(tmp_path / "ppo.zip"), "--steps", "1"]  # Tennis has four codes, the policy three
    assert play.main(other) == 1 and "its actions are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["GlassCricket-v0"], "Worlds here: Glass-v0, GlassArm-v0, GlassMouse-v0, GlassSprites-v0, GlassTennis-v0"),
        (["CartPole-v1"], "not a glass_gym world|unexpected keyword"),
        (["--image", "none.png"], "none.png: no such file"),
        (["--agent", "none.zip"], "none.zip: no such policy"), (["--device", "cuda:77"], "CUDA|counted from 0"),
        (["--checkpoint", "none.safetensors"], "no checkpoint called"),
    ],
)  # fmt: skip
def test_the_command_names_what_is_wrong(arguments, words, capsys):
    import re

    assert play.main([*arguments, "--steps", "1"]) == 1
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.skipif(not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool")
def test_a_real_window_is_played_with_real_keys(tmp_path):
    # -noreset: else it starts anew whenever its last client leaves, and refuses who comes meanwhile
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-noreset", "-screen", "0", "1024x768x24"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout
    display = f":{server.stdout.readline().strip()}"  # one that is free; said when it is ready
    environment = {k: v for k, v in os.environ.items() if k != "SDL_VIDEODRIVER"} | {"DISPLAY": display}

    def xdotool(*arguments):
        return subprocess.run(
            ["xdotool", *arguments], env=environment, capture_output=True, text=True, timeout=30
        ).stdout

    game = None
    try:
        code = "import sys; from glass_gym.play.play import main; sys.exit(main())"
        game = subprocess.Popen(
            [sys.executable, "-c", code, "--free", "--seed", "1", "--folder", str(tmp_path), "--scale", "3"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        window = ""
        for _ in range(120):  # (its search does not see SDL's titles)
            xdotool("mousemove", "512", "384")
            place = dict(line.split("=") for line in xdotool("getmouselocation", "--shell").split())
            if "glass-play" in xdotool("getwindowname", place.get("WINDOW", "0")):
                window = place["WINDOW"]
            if window or game.poll() is not None:
                break
            time.sleep(0.5)
        assert window, game.communicate()[0] if game.poll() is not None else "no window"
        time.sleep(1)
        xdotool("windowfocus", window)
        for key in ("s", "Right", "Right", "Up", "2", "v"):
            xdotool("key", "--delay", "150", key)
            time.sleep(0.2)
        xdotool("keydown", "Right")
        time.sleep(1.0)
        xdotool("keyup", "Right")
        xdotool("key", "v")
        time.sleep(1.2)  # pictures are named by the second
        xdotool("key", "s")
        time.sleep(0.5)
        xdotool("key", "q")
        out, _ = game.communicate(timeout=30)
        assert game.returncode == 0, out
    finally:
        if game and game.poll() is None:
            game.kill()
        server.terminate()  # killed, it would leave its display locked
        server.wait(timeout=30)
    pictures = sorted(tmp_path.glob("*.png"))
    videos = [*tmp_path.glob("*.mp4"), *tmp_path.glob("*.gif")]
    assert len(pictures) == 2 and len(videos) == 1 and "recorded" in out and "steps" in out
    import imageio.v3 as iio

    assert (iio.imread(pictures[0]) != iio.imread(pictures[1])).any()
