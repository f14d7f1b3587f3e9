"""A window in a browser: one plays, others watch; whoever has no business here is refused, and the server lives on."""

import base64
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

import io

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from glass_gym.env.window import DisplayError, Event
from glass_gym.play import notebook, play, remote
from glass_gym.play.player import FILM, Player, films_of
from glass_gym.play.remote import WebWindow, parse_event


@pytest.fixture
def window():
    window = WebWindow((32, 48), "test", ("neutral", "swing"))
    yield window
    window.close()
    assert not window._thread.is_alive()


def address(window, token=None):
    return f"ws://127.0.0.1:{window.port}/socket?token={token or window.token}"


def frame_of(browser):
    """(what was told, picture) of the next frame; texts on the way are left out."""
    while isinstance(message := browser.recv(5), str):
        pass
    length = int.from_bytes(message[:4], "big")
    return json.loads(message[4 : 4 + length]), np.asarray(Image.open(io.BytesIO(message[4 + length :])))


def events_of(window, count=1):
    found = []
    over = time.monotonic() + 5
    while len(found) < count and time.monotonic() < over:
        found += window.poll()
        time.sleep(0.01)
    return found


def lives(window, value=7):
    """The server still serves: the page, and frames to a browser that comes now."""
    over = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(window.url, timeout=5) as page:
                assert page.status == 200 and b"remote.js" in page.read()
            break
        except urllib.error.HTTPError as busy:  # until it has noticed that the many have gone
            assert busy.code == 503 and time.monotonic() < over
            time.sleep(0.05)
    with connect(address(window)) as browser:
        assert json.loads(browser.recv(5))["codes"] == ["neutral", "swing"]
        window.show(np.full((32, 48, 3), value, np.uint8))
        assert (frame_of(browser)[1] == value).all()
    return True


def test_one_plays_the_others_watch_and_the_next_one_takes_over(window):
    with connect(address(window)) as first, connect(address(window)) as second:
        window.show(np.zeros((32, 48, 3), np.uint8), ["you: right"], ["page"])
        for browser in (first, second):
            told, picture = frame_of(browser)
            assert told == {"lines": ["you: right"], "page": ["page"], "seen": 0} and picture.shape == (32, 48, 3)
        second.send(json.dumps({"number": 1, "kind": "press", "key": "left"}))
        first.send(json.dumps({"number": 4, "kind": "press", "key": "right"}))
        first.send(json.dumps({"number": 5, "kind": "click", "place": [10.5, 20]}))
        first.send(json.dumps({"number": 6, "kind": "press", "key": "q"}))  # ends nothing from afar
        first.send(json.dumps({"number": 7, "kind": "press", "key": "v"}))  # writes nothing
        first.send(json.dumps({"number": 8, "kind": "release", "key": "right"}))
        events = events_of(window, 3)
        assert events == [Event("press", "right"), Event("click", "", (10.5, 20.0)), Event("release", "right")]
        window.show(np.zeros((32, 48, 3), np.uint8))
        assert frame_of(first)[0]["seen"] == 8
        first.close()
        assert events_of(window) == [Event("release")]  # what it held is let go
        second.send(json.dumps({"number": 9, "kind": "press", "key": "up"}))
        assert events_of(window) == [Event("press", "up")]


def test_a_wrong_token_and_a_foreign_page_are_refused(window):
    for token in ("nonsense", "", window.token[:-1], "\u00e9"):
        with pytest.raises((InvalidStatus, InvalidHandshake)):
            connect(f"ws://127.0.0.1:{window.port}/socket?token={urllib.request.quote(token)}")
    with pytest.raises(InvalidStatus):
        connect(f"ws://127.0.0.1:{window.port}/socket")
    with pytest.raises(InvalidStatus):
        connect(address(window), origin="http://elsewhere.example")
    with connect(address(window), origin=f"http://127.0.0.1:{window.port}"):
        pass
    for path in ("/", "/?token=wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{window.port}{path}", timeout=5)
        assert refused.value.code == 403
    for path in ("/../pyproject.toml", "/remote.html", "/%2e%2e/env.py"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{window.port}{path}", timeout=5)
        assert refused.value.code == 404
    assert lives(window)


@pytest.mark.parametrize(
    "text",
    [
        "", "no json", "[]", "null", "3", '{"number": 1}', '{"number": -1, "kind": "press", "key": "a"}',
        '{"number": 1, "kind": "quit"}',
        '{"number": 1, "kind": "press", "key": 3}', '{"number": true, "kind": "press"}',
        '{"number": 1, "kind": "press", "key": "' + "a" * 17 + '"}', '{"number": 1, "kind": "click", "place": [1]}',
        '{"number": 1, "kind": "click", "place": [NaN, 1]}', '{"number": 1, "kind": "click", "place": [1e9, 1]}',
        '{"number": 1, "kind": "click", "place": {"0": 1}}', '{"number": 1, "kind": "press", "more": 1}', "[" * 500,
        None,
    ],
)  # fmt: skip
def test_what_is_no_event_is_not_heard(text):
    assert parse_event(text) is None


def test_malformed_and_oversized_messages_end_a_browser_and_nothing_else(window):
    with connect(address(window)) as browser:
        for _ in range(remote.MOST_MALFORMED):
            browser.send("nonsense")
        with pytest.raises(ConnectionClosed):
            while True:
                browser.recv(5)
    with connect(address(window)) as browser, pytest.raises(ConnectionClosed):
        browser.send("x" * (remote.LONGEST_MESSAGE + 1))
        while True:
            browser.recv(5)
    with connect(address(window)) as browser:
        browser.send(b"\0\1\2")
        browser.send(json.dumps({"number": 1, "kind": "press", "key": "up"}))
        assert Event("press", "up") in events_of(window, 3)  # after what the two before let go
        for number in range(2000):
            browser.send(json.dumps({"number": number, "kind": "press", "key": "up"}))
        time.sleep(0.2)
        assert len(window._events) <= remote.MOST_EVENTS
    assert lives(window)


def test_a_thousand_connections_leave_it_alive(window):
    with ExitStack() as stack:
        for _ in range(remote.MOST_VIEWERS):
            stack.enter_context(connect(address(window))).recv(5)
        with connect(address(window)) as late, pytest.raises(ConnectionClosed) as closed:
            late.recv(5)
        assert closed.value.rcvd.code == remote.TRY_LATER
    raw = []
    for index in range(1000):
        connection = socket.create_connection(("127.0.0.1", window.port), timeout=5)
        if index % 3 == 0:
            connection.sendall(b"GET / HTTP/1.1\r\n")  # and then nothing
        elif index % 3 == 1:
            connection.sendall(b"\xff" * 64)
        raw.append(connection)
        if len(raw) > 100:
            raw.pop(0).close()
    for connection in raw:
        connection.close()
    over = time.monotonic() + 5
    while window._viewers and time.monotonic() < over:
        time.sleep(0.02)
    assert not window._viewers and lives(window)


def test_a_slow_browser_gets_the_newest_frame(window):
    with connect(address(window), max_queue=1) as browser:
        browser.recv(5)
        # 40 MB are more than sockets hold: the server has to wait for the browser
        noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        for value in range(200):
            window.show(noise, [str(value)])
        seen = []
        while not seen or seen[-1] != "199":
            seen.append(frame_of(browser)[0]["lines"][0])
        assert len(seen) < 200


def test_the_player_plays_in_a_browser(tiny_world, capsys):
    env = gym.make("Glass-v0", checkpoint=tiny_world, render_mode="rgb_array", max_episode_steps=-1)
    player = Player(env, None, fps=60)
    player.reset(0)
    window = player.window = WebWindow(player.frame.shape[:2], "tiny", player.table.code_names)
    thread = threading.Thread(target=player.run)
    thread.start()
    try:
        with connect(address(window)) as browser:
            assert json.loads(browser.recv(5)) == {
                "height": player.frame.shape[0], "width": player.frame.shape[1], "title": "tiny",
                "codes": ["neutral", "swing", "turn"], "films": [], "agent": False, "fps": 15,
            }  # fmt: skip
            browser.send(json.dumps({"number": 1, "kind": "speed", "place": [500, 0]}))
            while not frame_of(browser)[0]["seen"] or player.fps != 60:
                pass
            browser.send(json.dumps({"number": 1, "kind": "press", "key": "right"}))
            while "right" not in frame_of(browser)[0]["lines"][0]:
                pass
            browser.send(json.dumps({"number": 2, "kind": "press", "key": "h"}))
            while not frame_of(browser)[0]["page"]:
                pass
    finally:
        player.running = False
        thread.join(10)
        window.close()
        env.close()


def post(window, data, headers=None, token=None):
    """(status, text) of a picture that is sent."""
    url = f"http://127.0.0.1:{window.port}/picture?token={token or window.token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=5) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def pass_of(window, browser):
    window.show(np.full((32, 48, 3), 7, np.uint8))
    while "pass" not in (told := json.loads(browser.recv(5))):
        pass
    return told["pass"]


def test_only_who_plays_starts_from_a_picture(window):
    assert post(window, b"x")[0] == 403
    with connect(address(window)) as first, connect(address(window)) as second:
        key = pass_of(window, first)
        second.recv(5)
        assert json.loads(second.recv(5)) == {"plays": False}
        for headers, token in (({}, None), ({"X-Glass-Pass": "x"}, None), ({"X-Glass-Pass": key}, "wrong"),
                               ({"X-Glass-Pass": key, "Origin": "http://elsewhere.example"}, None)):  # fmt: skip
            assert post(window, b"x", headers, token)[0] == 403
        assert post(window, b"abc", {"X-Glass-Pass": key})[0] == 204
        assert post(window, b"def", {"X-Glass-Pass": key}) == (503, "one picture at a time\n")
        assert events_of(window) == [Event("picture", file=b"abc")]
        big = b"x" * (remote.LARGEST_PICTURE + 1)
        try:
            assert post(window, big, {"X-Glass-Pass": key}) == (413, "the picture is larger than 16 MB\n")
        except (ConnectionError, urllib.error.URLError):
            pass  # closed before all was sent
        assert post(window, b"abc", {"X-Glass-Pass": key})[0] == 204
    assert events_of(window, 3)[0].kind == "picture" and lives(window)


def opened(window, text=""):
    connection = socket.create_connection(("127.0.0.1", window.port), timeout=5)
    connection.sendall(text.format(window).encode())
    return connection


UPLOAD = (
    "POST /picture?token={0.token} HTTP/1.1\r\nHost: 127.0.0.1:{0.port}\r\nX-Glass-Pass: {0._pass}\r\n"
    "Content-Length: 1000\r\n\r\nabc"
)


def test_an_origin_that_is_no_address_is_refused(window):
    with connect(address(window)) as browser:
        key = pass_of(window, browser)
        assert post(window, b"x", {"X-Glass-Pass": key, "Origin": "http://["})[0] == 403
        with pytest.raises(InvalidStatus) as refused:
            connect(address(window), origin="http://[")
        assert refused.value.response.status_code == 403


def test_who_sends_nothing_or_half_a_picture_stops_nobody(monkeypatch):
    monkeypatch.setattr(remote, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(remote, "PICTURE_SECONDS", 0.3)
    window = WebWindow((32, 48), "test", ("neutral", "swing"))
    silent = [opened(window, ("", "GET / HT", "GET /style.css HTTP/1.1\r\nHost: x\r\n\r\n")[i % 3]) for i in range(300)]
    with connect(address(window)) as browser:
        key = pass_of(window, browser)
        while b" 503 " in (answer := opened(window, UPLOAD).recv(100)):  # until silent connections have been closed
            time.sleep(0.1)
        assert b" 408 " in answer
        assert post(window, b"abc", {"X-Glass-Pass": key})[0] == 204
        time.sleep(1)
        assert post(window, b"", {"X-Glass-Pass": "not idle"})[0] == 403  # a place is free again
        assert browser.ping().wait(5)  # who plays stays
    for connection in silent:
        while connection.recv(1 << 16):
            pass  # an answer, then the end
    window.close()


def test_it_closes_in_time_whatever_browsers_do(window):
    with connect(address(window)) as browser:
        pass_of(window, browser)
        stuck = [opened(window, UPLOAD), opened(window), opened(window, "GET /")]
        time.sleep(0.2)
        began = time.monotonic()
        window.close()
        assert time.monotonic() - began < 3 and not window._thread.is_alive()
    for connection in stuck:
        connection.close()


def test_a_picture_starts_an_episode_and_what_is_none_is_said(tiny_world, monkeypatch):
    env = gym.make("Glass-v0", checkpoint=tiny_world, render_mode="rgb_array", max_episode_steps=-1)
    player = Player(env, None)
    player.reset(0)
    file = io.BytesIO()
    Image.fromarray(np.asarray(tiny_world.start_frames[1])).save(file, "png")
    given = []
    monkeypatch.setattr(
        player.core.starts, "from_pictures", lambda p: given.append(p) or player.core.starts.states.rows([1])
    )
    player.handle(Event("picture", file=file.getvalue()))
    assert np.array_equal(given[0][0], tiny_world.start_frames[1]) and player.options == {}
    player.handle(Event("picture", file=b"nonsense"))
    assert "the picture: broken image" in player.lines()[2] and len(given) == 1


def test_each_local_action_has_a_film(any_world):
    env = gym.make("Glass-v0", checkpoint=any_world, render_mode="rgb_array", max_episode_steps=-1)
    env.reset(seed=0)
    core = env.unwrapped.core
    before = core.state.clone()
    films = films_of(core)
    assert len(films) == len(core.table.code_names) and films[0].dtype == np.uint8
    side = min(core.height, 4 * core.world.config.agent_radius)
    assert films[0].shape == (FILM, side, side, 3)
    assert all(np.array_equal(a, b) for a, b in zip(before.tensors(), core.state.tensors(), strict=True))
    window = WebWindow((32, 48), "test", core.table.code_names, films)
    try:
        strip = window.about["films"][0].removeprefix("data:image/png;base64,")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip))))
        assert np.array_equal(picture[:, side : 2 * side], films[0][1])
    finally:
        window.close()


def test_the_address_is_printed_and_what_is_missing_is_named(tmp_path, capsys, monkeypatch):
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with pytest.raises(DisplayError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*choose another --port"):
        WebWindow((8, 8), port=port)
    taken.close()
    assert play.main(["--web", "--steps", "2", "--fps", "60"]) == 0
    assert "open http://127.0.0.1:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        play.main(["--web", "--port", "70000"])
    assert "--port must be between 0 and 65535" in capsys.readouterr().err
    for package in ("starlette", "uvicorn", "websockets"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, package, None)
            assert play.main(["--web", "--steps", "2"]) == 1
        said = capsys.readouterr().err
        assert said == f"error: playing in a browser needs {package}: pip install 'glass-gym[web]'\n"


def test_a_notebook_shows_a_world(tiny_world):
    pytest.importorskip("IPython")
    env = gym.make("Glass-v0", checkpoint=tiny_world, render_mode="rgb_array", max_episode_steps=-1)
    shown = notebook.show(env, fps=60)
    try:
        assert shown.window.url in shown._repr_html_()
        with connect(address(shown.window)) as browser:
            assert frame_of(browser)[1].shape == shown.player.frame.shape
    finally:
        shown.player.running = False
        time.sleep(0.1)
        shown.window.close()
