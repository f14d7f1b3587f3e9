"""The pages of glass-export and glass-play --web in headless Chromium; they request nothing from other servers."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("playwright")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from glass_gym.export.onnx import TOLERANCE, core_of_world
from glass_gym.export.page import write_page, write_single_file
from glass_gym.worlds.checkpoint import load_world
from tests import browser

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not browser.CHROMIUM, reason="needs Chromium (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made_once):
    runtime = browser.runtime(tmp_path_factory.mktemp("npm"))
    if not runtime:
        pytest.skip("needs npm, to fetch onnxruntime-web")
    policy = ROOT / "agents" / "trained" / "GlassTennis-v0" / "ppo.safetensors"

    def fill(folder):
        write_page([load_world("tennis")], folder, runtime, [policy], webgpu=True)

    return made_once("site", fill)


@pytest.fixture(scope="module")
def site(folder):
    with browser.served(folder) as url:
        yield url


@pytest.fixture
def page(site):
    with browser.page_of(f"{site}#world=tennis&seed=5", viewport={"width": 1100, "height": 860}) as page:
        browser.wait_until_ready(page)
        yield page
        assert page.said == [] and all(url.startswith((site, "blob:", "data:")) for url in page.asked)


PLAY = """([index, actions]) => glass.exclusive(async () => {
  const game = new glass.Game(glass.world, 0);
  await game.reset();
  game.state = (await glass.world.start(index)).state;
  const frames = [];
  for (const [shift, code] of actions) {
    await game.step(shift, code);
    frames.push(btoa(String.fromCharCode(...game.frame.subarray(0, 23040)))
      + btoa(String.fromCharCode(...game.frame.subarray(23040))));
  }
  return frames;
})"""


@pytest.mark.parametrize("engine", ["WebAssembly", pytest.param("WebGPU", marks=pytest.mark.slow)])
def test_frames_are_torchs(engine, site):
    arguments = browser.WEBGPU if engine == "WebGPU" else ()
    with browser.page_of(f"{site}#world=tennis&seed=5&engine=webgpu", arguments) as page:
        browser.until(page, "globalThis.glass?.game?.frame", 120)
        assert page.evaluate("glass.engine") == engine and page.said == []
        check_frames(page, 5 if engine == "WebGPU" else 50)  # an emulated card takes a second a step


def check_frames(page, steps):
    world = load_world("tennis")
    core = core_of_world(world)
    simulator = core.simulator
    rng = np.random.default_rng(0)
    actions = np.stack([rng.integers(9, size=steps), rng.integers(world.config.codes, size=steps)], 1)
    page.evaluate("glass.pause()")
    frames = page.evaluate(PLAY, [7, actions.tolist()])
    state = core.starts.states.rows(slice(7, 8))
    shifts = torch.from_numpy(core.table.shifts)
    for (shift, code), text in zip(actions, frames, strict=True):
        state = simulator.step(state, shifts[shift][None], torch.tensor([code]))
        true = simulator.frames(state)[0].numpy().astype(int)
        seen = np.frombuffer(base64.b64decode(text), np.uint8).reshape(true.shape)
        drawn = (true != state.background[0].permute(1, 2, 0).numpy()).any(-1)
        assert drawn.any() and np.abs(seen - true)[drawn].mean() < TOLERANCE


@pytest.mark.slow
def test_one_file_opens_from_the_disk_and_asks_for_nothing(folder, tmp_path):
    url = write_single_file(folder, tmp_path / "one page.html").as_uri()
    with browser.page_of(f"{url}#world=tennis&seed=5") as page:
        browser.wait_until_ready(page)
        check_frames(page, 5)
        assert page.evaluate("glass.linkTo()").startswith(f"{url}#world=tennis")
        assert page.evaluate("glass.world.hasPolicy") and page.said == []
        assert all(asked.startswith((url, "blob:null/", "data:")) for asked in page.asked)


@pytest.mark.slow
def test_a_gamepad_walks_and_acts(page):
    press = """([axes, pressed]) => {
      const buttons = Array.from({ length: 17 }, (_, k) => ({ pressed: pressed.includes(k) }));
      navigator.getGamepads = () => [null, { axes, buttons }];
    }"""
    for axes, buttons, shift in (([-0.9, 0.1], [2], "left"), ([0, 0], [13, 5], "down"), ([0.8, -0.7], [0], "up-right")):
        page.evaluate(press, [axes, buttons])
        code = buttons[-1]
        did = f"glass.game.last?.[1] === {code} && glass.world.about.shift_names[glass.game.last[0]] === '{shift}'"
        browser.until(page, did)
    page.evaluate(press, [[0, 0], []])
    browser.until(page, "glass.world.about.shift_names[glass.game.last[0]] === 'stay'")


def test_a_person_walks_acts_and_arrives(page):
    position = lambda: np.array(page.evaluate("glass.game.position"))  # noqa: E731
    page.evaluate("glass.game.aim([150, 90])")
    before = position()
    page.keyboard.down("ArrowLeft")
    browser.until(page, "glass.game.steps > 12")
    browser.until(page, "document.querySelector('#human figcaption').textContent.includes('left')")
    page.keyboard.up("ArrowLeft")
    assert position()[0] < before[0] - 10 and abs(position()[1] - before[1]) < 1
    codes = page.evaluate("glass.world.about.code_names.length")
    for code in range(codes):  # key k is code k
        page.keyboard.down(str(code))
        browser.until(page, f"glass.game.last && glass.game.last[1] === {code}")
        page.keyboard.up(str(code))
    page.keyboard.press(str(codes))
    assert f"no local action {codes}: this world has 0 to {codes - 1}" in page.inner_text("#message")
    names = page.evaluate("glass.world.about.code_names")
    assert page.locator("#codes button").all_inner_texts() == [f"{k}: {name}" for k, name in enumerate(names)]
    here = position()
    page.evaluate(f"glass.game.aim([{here[0] + 20}, {here[1]}])")
    page.keyboard.down("ArrowRight")
    browser.until(page, "glass.game.reached > 0")
    page.keyboard.up("ArrowRight")
    browser.until(page, "document.getElementById('score').textContent.includes('1 reached, best in')")


def test_a_click_moves_the_target_and_a_touch_walks(page):
    box = page.locator("#human canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    target = page.evaluate("glass.game.target")
    assert abs(target[0] - 40) <= 2 and abs(target[1] - 48) <= 2
    page.evaluate("""document.querySelectorAll('#pad button')[3].dispatchEvent(new PointerEvent('pointerdown'))""")
    browser.until(page, "glass.game.last && glass.world.about.shift_names[glass.game.last[0]] === 'left'")


@pytest.mark.slow
def test_a_link_plays_the_same_game_again(page, site):
    page.keyboard.down("ArrowDown")
    browser.until(page, "glass.game.actions.length > 6")
    page.keyboard.up("ArrowDown")
    page.keyboard.press("r")
    browser.until(page, "glass.game.actions.length > 12")
    page.evaluate("glass.pause()")
    last = (
        "async () => glass.exclusive(() => [glass.game.actions.length, Array.from(glass.game.frame), glass.linkTo()])"
    )
    count, frame, link = page.evaluate(last)
    again = browser.opened(page.context, link)
    browser.until(again, f"globalThis.glass?.game?.actions?.length >= {count}", 120)
    again.evaluate("glass.pause()")
    assert again.evaluate("glass.game.actions")[:count] == page.evaluate("glass.game.actions")
    replayed = """async (actions) => {
      const K = glass.world.about.code_names.length;
      const game = new glass.Game(glass.world, 5);
      await game.reset();
      for (const a of actions) a === 65535 ? await game.again() : await game.step(Math.floor(a / K), a % K);
      return Array.from(game.frame);
    }"""
    assert again.evaluate(replayed, again.evaluate("glass.game.actions")[:count]) == frame
    damaged = browser.opened(page.context, f"{site}#world=nowhere&seed=x&actions=%%%&clicks=a.b")
    browser.wait_until_ready(damaged)
    assert "no world called nowhere" in damaged.inner_text("#message") and damaged.said == again.said == []


def test_any_picture_starts_a_game_and_one_without_an_agent_says_so(page, tmp_path):
    start = load_world("tennis").start_frames[3]
    Image.fromarray(start).save(tmp_path / "start.png")
    page.evaluate("glass.game.reached = 5")
    page.set_input_files("#picture", tmp_path / "start.png")
    browser.until(page, "glass.game.pictured")
    shown = np.array(page.evaluate("Array.from(glass.game.state.background.data)")).reshape(start.shape)
    assert np.abs(shown - start.astype(int)).mean() < 4  # the same court, without the player
    Image.new("RGB", (200, 120), (20, 120, 40)).save(tmp_path / "empty.png")
    page.set_input_files("#picture", tmp_path / "empty.png")
    browser.until(page, "document.getElementById('message').textContent.includes('no agent found')")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    page.set_input_files("#picture", tmp_path / "text.png")
    browser.until(page, "document.getElementById('message').textContent.includes('no picture that can be read')")


def test_the_trained_agent_plays_beside_the_person(page):
    page.select_option("#who", "both")
    browser.until(page, "glass.agent.reached > 0")
    assert page.is_visible("#human") and page.is_visible("#agent")
    browser.until(page, "document.getElementById('score').textContent.includes('agent: 1 reached')")


def test_a_clip_is_saved(page, tmp_path):
    page.click("#clip")
    browser.until(page, "glass.game.steps > 10")
    with page.expect_download() as download:
        page.click("#clip")
    download.value.save_as(tmp_path / "clip.webm")
    assert (tmp_path / "clip.webm").read_bytes()[
        :4
    ] == b"\x1aE\xdf\xa3" and download.value.suggested_filename == "tennis.webm"


@pytest.fixture
def remote():
    """The page of glass-play --web, and its player."""
    pytest.importorskip("starlette")
    import threading

    import gymnasium as gym

    from glass_gym.play.player import Player, films_of
    from glass_gym.play.remote import WebWindow
    from glass_gym.policy import load_policy

    env = gym.make("GlassTennis-v0", render_mode="rgb_array", max_episode_steps=-1)
    agent = load_policy(ROOT / "agents" / "trained" / "GlassTennis-v0" / "ppo.safetensors", core=env.unwrapped.core)
    player = Player(env, None, agent, fps=30)
    player.agent_plays = False
    player.reset(0)
    films = films_of(player.core)
    window = player.window = WebWindow(player.frame.shape[:2], "glass-play", player.table.code_names, films, True, 30)
    thread = threading.Thread(target=player.run)
    thread.start()
    with browser.page_of(window.url, viewport={"width": 1100, "height": 860}) as page:
        page.player = player
        browser.until(page, "glass.frames > 3 && glass.plays && glass.films")
        yield page
        assert page.said == [] and all(
            url.startswith((window.url.split("?")[0], "blob:", "data:")) for url in page.asked
        )
    player.running = False
    thread.join(10)
    window.close()
    env.close()


def test_the_page_of_glass_play_has_what_the_exported_one_has(remote, tmp_path):
    page, player = remote, remote.player
    options = page.locator("#who option").all_inner_texts()
    assert options == ["you", "the trained agent"] and page.locator("#codes button").count() == 8
    page.keyboard.down("ArrowLeft")
    browser.until(page, "document.querySelector('figcaption').textContent.startsWith('you: left')")
    page.keyboard.up("ArrowLeft")
    page.evaluate("navigator.getGamepads = () => [{ axes: [0.9, 0], buttons: [] }]")
    browser.until(page, "document.querySelector('figcaption').textContent.startsWith('you: right')")
    page.evaluate("navigator.getGamepads = () => []")
    page.locator("#codes button").nth(1).dispatch_event("pointerdown")
    name = player.table.code_names[1]
    browser.until(page, f"document.querySelector('figcaption').textContent.includes({name!r})")
    page.locator("#codes button").nth(1).dispatch_event("pointerup")
    page.keyboard.down("0")
    browser.until(page, f"document.querySelector('figcaption').textContent.includes({player.table.code_names[0]!r})")
    page.keyboard.up("0")
    page.click("#pause")
    browser.until(page, "document.querySelector('#pause').textContent === 'go on'")
    assert player.paused
    page.click("#pause")
    page.select_option("#who", "agent")
    browser.until(page, "document.querySelector('figcaption').textContent.startsWith('agent: ')")
    page.select_option("#who", "human")
    page.locator("#fps").fill("8")
    browser.until(page, "document.querySelector('#score').textContent.includes('/8 fps')")
    path = tmp_path / "start.png"
    Image.fromarray(player.core.world.start_frames[5]).save(path)
    player.core.state.task["target"][:] = 0  # a new episode has another
    page.set_input_files("#picture", path)
    browser.until(page, "!document.querySelector('#picture').value && glass.frames > 20")
    over = 100
    while over and float(player.core.state.task["target"].sum()) == 0:
        over -= 1
        page.wait_for_timeout(50)
    assert over, page.inner_text("body")
    page.set_input_files("#picture", ROOT / "README.md")
    browser.until(page, "document.querySelector('#hint').textContent.includes('broken image')")
