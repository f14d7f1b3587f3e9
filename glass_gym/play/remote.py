"""A window in a browser, for machines without a screen and for notebooks.

Frames go to the browsers over a WebSocket; keys and clicks come back. The first browser plays, the others watch. Needs
``pip install "glass-gym[web]"`` (starlette, uvicorn, websockets).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import io
import json
import math
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from glass_gym.env.window import DisplayError, Event

MOST_VIEWERS = 32  # Browsers at once, including the one that plays; further ones are refused.
LONGEST_MESSAGE = 1024  # Bytes of a message from a browser, at most.
MOST_EVENTS = 256  # Events that wait for the player's next step; older ones are dropped.
MOST_MALFORMED = 8  # A browser that sends so many malformed messages is disconnected.
LARGEST_PICTURE = 16 << 20  # Bytes of an uploaded picture, at most.
PICTURE_SECONDS = 20.0  # A picture that takes longer to arrive is refused.
IDLE_SECONDS = 5.0  # A connection without a whole request is closed after one to two times this.
FILES = {"/": "index.html", "/remote.js": "remote.js", "/controls.js": "controls.js", "/style.css": "style.css"}
PAGE = (b"player.js", b"remote.js")
"""It is the page of :mod:`glass_gym.export.page` with another script: remote.js shows frames that are sent to it."""
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
LOCAL_KEYS = {"q", "escape", "v", "s"}
"""Keys that are ignored from browsers: they end the program, or write files on its machine."""
POLICY, TRY_LATER = 1008, 1013  # Status codes of a closed WebSocket (RFC 6455).
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class WebWindow:
    """A :class:`glass_gym.env.window.Window` that browsers show.

    The first browser plays and the others watch; when it leaves, the next one plays. The address contains an access
    token: only browsers that have it can connect.

    Args:
        size: (height, width) px of the frames.
        title: of the page.
        codes: names of the local actions; each gets a button.
        films: of the local actions, (T, s, s, 3) uint8 each, for the buttons (:func:`glass_gym.play.player.films_of`).
        agent: whether the player has a trained agent, which the page can then switch to.
        fps: steps a second at the start; the page can change them.
        host: the interface to listen on; any but 127.0.0.1 lets other machines connect.
        port: 0: a free one.

    Raises:
        DisplayError: a package is missing, or the port is taken.
    """

    def __init__(
        self,
        size: tuple[int, int],
        title: str = "glass_gym",
        codes: Sequence[str] = (),
        films: Sequence[np.ndarray] = (),
        agent: bool = False,
        fps: float = 15,
        host: str = "127.0.0.1",
        port: int = 0,
    ):
        strips = [f"data:image/png;base64,{base64.b64encode(_png(np.concatenate(film, 1))).decode()}" for film in films]
        self.about = {"height": size[0], "width": size[1], "title": title, "codes": list(codes)}
        self.about |= {"films": strips, "agent": agent, "fps": fps}
        self.token = secrets.token_urlsafe(24)
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._seen = 0
        self._frame: bytes | None = None
        self._number = 0
        self._viewers: list[Any] = []
        self._pass = ""  # proves, with an uploaded picture, that it comes from the browser that plays
        self._uploading = False
        self._news: Any = None  # a condition, notified of each new frame
        self._late = time.monotonic()
        self._fps = 0.0
        try:
            import starlette  # noqa: F401
            import uvicorn
            import websockets  # noqa: F401
        except ImportError as error:
            raise DisplayError(f"playing in a browser needs {error.name}: pip install 'glass-gym[web]'") from None
        try:
            self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise DisplayError(f"cannot listen on {host}:{port} ({error}); choose another --port") from None
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"
        config = uvicorn.Config(
            self._app(),
            log_level="error",
            ws="websockets-sansio",
            ws_max_size=LONGEST_MESSAGE,
            limit_concurrency=8 * MOST_VIEWERS,
            timeout_graceful_shutdown=1,
            http=_protocol(),
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True, name="glass-web")
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def _serve(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._news = asyncio.Condition()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(main())

    # --- the player's side -------------------------------------------------------------------------------------

    def poll(self) -> list[Event]:
        """The events since the last call, in order."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def show(self, frame: np.ndarray, lines: Sequence[str] = (), page: Sequence[str] = ()) -> None:
        """Send a frame (h, w, 3) uint8, the lines below it and the page over it; a slow browser skips frames."""
        told = json.dumps({"lines": list(lines), "page": list(page), "seen": self._seen}).encode()
        message = len(told).to_bytes(4, "big") + told + _png(frame)

        async def publish() -> None:
            async with self._news:
                self._frame = message
                self._number += 1
                self._news.notify_all()

        if self._loop and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(publish(), self._loop)

    def wait(self, fps: float) -> float:
        """Sleep until the next frame is due; returns frames a second, a running mean."""
        time.sleep(max(0.0, self._late + 1 / fps - time.monotonic()))
        now = time.monotonic()
        taken = now - self._late
        self._late = now
        self._fps = 1 / taken if not self._fps else 0.9 * self._fps + 0.1 / max(taken, 1e-3)
        return self._fps

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(5)
        self._socket.close()

    # --- the browsers' side ------------------------------------------------------------------------------------

    def _app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse, Response
        from starlette.routing import Route, WebSocketRoute

        folder = Path(__file__).parent / "web"
        refusal = functools.partial(PlainTextResponse, headers=HEADERS)

        async def file(request: Any) -> Any:
            name = FILES[request.url.path]
            text = (folder / name).read_bytes()
            if request.url.path == "/":
                if not self._knows(request):
                    return refusal("wrong token: open the address that glass-play printed\n", 403)
                text = text.replace(*PAGE)
            return Response(text, media_type=TYPES[Path(name).suffix], headers=HEADERS)

        async def picture(request: Any) -> Any:
            if not self._may_play(request):
                return refusal("only the browser that plays can start from a picture\n", 403)
            if self._uploading or any(event.kind == "picture" for event in list(self._events)):
                return refusal("one picture at a time\n", 503)
            self._uploading = True
            try:
                data = await asyncio.wait_for(_body(request), PICTURE_SECONDS)
            except (asyncio.TimeoutError, asyncio.CancelledError):  # cancelled when the server closes
                return PlainTextResponse(
                    "the picture took too long to arrive\n", 408, headers=HEADERS | {"Connection": "close"}
                )
            finally:
                self._uploading = False
            if data is None:
                text = f"the picture is larger than {LARGEST_PICTURE >> 20} MB\n"
                return PlainTextResponse(text, 413, headers=HEADERS | {"Connection": "close"})
            self._events.append(Event("picture", file=data))
            return Response(status_code=204, headers=HEADERS)

        routes = [*(Route(path, file) for path in FILES), Route("/picture", picture, methods=["POST"])]
        return Starlette(routes=[*routes, WebSocketRoute("/socket", self._browser)])

    def _may_play(self, request: Any) -> bool:
        """Whether a request comes from the browser that plays."""
        shown = request.headers.get("x-glass-pass", "")
        known = bool(self._pass) and hmac.compare_digest(shown.encode(), self._pass.encode())
        return known and self._knows(request) and not _foreign(request)

    def _knows(self, request: Any) -> bool:
        """Whether a request has the access token."""
        return hmac.compare_digest(request.query_params.get("token", "").encode(), self.token.encode())

    async def _browser(self, socket: Any) -> None:
        """Serve one browser until it disconnects."""
        if _foreign(socket) or not self._knows(socket):
            await socket.close(POLICY)  # before it is accepted: HTTP 403
            return
        if len(self._viewers) >= MOST_VIEWERS:
            await socket.accept()
            await socket.close(TRY_LATER, "too many browsers")
            return
        self._viewers.append(socket)
        try:
            await socket.accept()
            await socket.send_text(json.dumps(self.about))
            sending = asyncio.create_task(self._send(socket))
            try:
                await self._receive(socket)
            finally:
                sending.cancel()
        except Exception:  # however a browser disconnects, the others must not notice
            pass
        finally:
            if self._viewers and self._viewers[0] is socket:
                self._events.append(Event("release"))  # all keys that it held
                self._pass = ""
            self._viewers.remove(socket)

    async def _send(self, socket: Any) -> None:
        """Send the newest frames, and whether this browser plays."""
        sent, plays = 0, None
        while True:
            async with self._news:
                while self._number == sent:
                    await self._news.wait()
                sent, frame = self._number, self._frame
            now = bool(self._viewers) and self._viewers[0] is socket
            if now != plays:
                plays = now
                told: dict[str, Any] = {"plays": plays}
                if plays:
                    self._pass = told["pass"] = secrets.token_urlsafe(16)
                await socket.send_text(json.dumps(told))
            await socket.send_bytes(frame)

    async def _receive(self, socket: Any) -> None:
        """Take events from the browser that plays; those of others are ignored."""
        malformed = 0
        while malformed < MOST_MALFORMED:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                return
            event = parse_event(message.get("text"))
            if event is None:
                malformed += 1
                continue
            number, event = event
            if self._viewers[0] is socket and event.key not in LOCAL_KEYS:
                self._events.append(event)
                self._seen = number
        await socket.close(POLICY, "malformed messages")


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()


async def _body(request: Any) -> bytes | None:
    """The body of a request; None if it is larger than LARGEST_PICTURE."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > LARGEST_PICTURE:
            return None
    return data


def _protocol() -> type:
    """HTTP/1.1 of uvicorn, which closes connections that send no whole request in time: anybody can open those."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._look(None)

        def _look(self, last: Any) -> None:
            """Check every IDLE_SECONDS whether a request is served; `last`: what was idle the last time."""
            if self not in self.connections:  # closed, or a WebSocket by now
                return
            idle = self.cycle is None or self.cycle.response_complete
            now = (self.cycle,) if idle else None
            if idle and now == last:
                self.transport.close()
            self.loop.call_later(IDLE_SECONDS, self._look, now)

    return Impatient


def _foreign(request: Any) -> bool:
    """Whether a request comes from a page of another origin."""
    origin = request.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    except ValueError:  # no address at all, such as "http://["
        return True


def parse_event(text: str | None) -> tuple[int, Event] | None:
    """The number and event of a message such as ``{"number": 3, "kind": "press", "key": "left"}``; None: malformed."""
    try:
        data = json.loads(text or "")
        number, kind, key = data["number"], data["kind"], data.get("key", "")
        place = data.get("place", [0, 0])
        fits = (
            set(data) <= {"number", "kind", "key", "place"}
            and type(number) is int
            and 0 <= number < 1 << 53
            and kind in ("press", "release", "click", "speed")
            and isinstance(key, str)
            and len(key) <= 16
            and isinstance(place, list)
            and len(place) == 2
            and all(type(p) in (int, float) and math.isfinite(p) and abs(p) < 1e6 for p in place)
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return (number, Event(kind, key, (float(place[0]), float(place[1])))) if fits else None
