"""A window in a browser: the player's frames go out over a WebSocket, keys and clicks come in; one plays, others watch.

For machines without a screen, and for notebooks (:mod:`glass_gym.notebook`). Needs ``pip install "glass-gym[web]"``
(starlette, uvicorn).
"""

from __future__ import annotations

import asyncio
import contextlib
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

from glass_gym.render import DisplayError, Event

MOST_VIEWERS = 32
"""Browsers at once, the one that plays included; more are turned away."""
LONGEST_MESSAGE = 1024
"""Bytes of a message from a browser."""
WAITING = 256
"""Events that wait for the player's next step; older ones are dropped."""
MALFORMED = 8
"""After so many messages that are no events a browser is disconnected."""
FILES = {"/": "remote.html", "/remote.js": "remote.js", "/style.css": "style.css"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
NOT_FROM_AFAR = {"q", "escape", "v", "s"}
"""Keys that end the program or write files where it runs."""
POLICY, TRY_LATER = 1008, 1013
"""Why a WebSocket is closed (RFC 6455)."""
SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class WebWindow:
    """As :class:`glass_gym.render.Window`, in browsers.

    The first browser that comes plays, the others watch; when it leaves, the next one plays. The address holds a token:
    whoever has it may come in.

    Args:
        size: (height, width) px of the frames.
        title: of the page.
        codes: names of the local actions, for buttons.
        host: the interface that is listened on; anything but 127.0.0.1 lets other machines in.
        port: 0: any that is free.

    Raises:
        DisplayError: a package is missing, or the port is taken.
    """

    def __init__(
        self,
        size: tuple[int, int],
        title: str = "glass_gym",
        codes: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ):
        self.about = {"height": size[0], "width": size[1], "title": title, "codes": list(codes)}
        self.token = secrets.token_urlsafe(24)
        self._events: deque[Event] = deque(maxlen=WAITING)
        self._seen = 0
        self._frame: bytes | None = None
        self._number = 0
        self._viewers: list[Any] = []
        self._news: Any = None  # told when there is a new frame
        self._late = time.monotonic()
        self._fps = 0.0
        try:
            import uvicorn
        except ImportError:
            raise DisplayError("a window in a browser needs pip install 'glass-gym[web]'") from None
        try:
            self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise DisplayError(f"nothing can be served on {host}:{port} ({error}); choose another --port") from None
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"
        config = uvicorn.Config(
            self._app(),
            log_level="error",
            ws="websockets-sansio",
            ws_max_size=LONGEST_MESSAGE,
            limit_concurrency=8 * MOST_VIEWERS,
            timeout_keep_alive=5,
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
        """Everything that happened since the last call, in order."""
        out = []
        with contextlib.suppress(IndexError):
            while True:
                out.append(self._events.popleft())
        return out

    def show(self, frame: np.ndarray, lines: Sequence[str] = (), page: Sequence[str] = ()) -> None:
        """Send a frame (h, w, 3) uint8, the lines below it and the page over it to all browsers.

        A browser that is slow is sent the newest only.
        """
        picture = io.BytesIO()
        Image.fromarray(frame).save(picture, "png", compress_level=1)
        told = json.dumps({"lines": list(lines), "page": list(page), "seen": self._seen}).encode()
        message = len(told).to_bytes(4, "big") + told + picture.getvalue()

        async def publish() -> None:
            async with self._news:
                self._frame = message
                self._number += 1
                self._news.notify_all()

        if self._loop and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(publish(), self._loop)

    def wait(self, fps: float) -> float:
        """Sleep until the next frame is due; returns the frames a second of late."""
        due = self._late + 1 / fps
        time.sleep(max(0.0, due - time.monotonic()))
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

        async def file(request: Any) -> Any:
            name = FILES[request.url.path]
            if request.url.path == "/" and not self._knows(request.query_params.get("token")):
                return PlainTextResponse("wrong token: open the address that glass-play printed\n", 403, headers=SAFE)
            kind = TYPES[Path(name).suffix]
            return Response((folder / name).read_bytes(), media_type=kind, headers=SAFE)

        return Starlette(routes=[*(Route(path, file) for path in FILES), WebSocketRoute("/socket", self._browser)])

    def _knows(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    async def _browser(self, socket: Any) -> None:
        """One browser, from its first message to its last."""
        origin, host = socket.headers.get("origin"), socket.headers.get("host")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or not self._knows(socket.query_params.get("token")):
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
        except Exception:  # a browser that goes away, however: the others play on
            pass
        finally:
            if self._viewers and self._viewers[0] is socket:
                self._events.append(Event("release"))  # whatever it held
            self._viewers.remove(socket)

    async def _send(self, socket: Any) -> None:
        """Every newest frame, and whether this browser plays."""
        sent, plays = 0, None
        while True:
            async with self._news:
                while self._number == sent:
                    await self._news.wait()
                sent, frame = self._number, self._frame
            now = bool(self._viewers) and self._viewers[0] is socket
            if now != plays:
                plays = now
                await socket.send_text(json.dumps({"plays": plays}))
            await socket.send_bytes(frame)

    async def _receive(self, socket: Any) -> None:
        """Events of the browser that plays; what others say is not heard."""
        odd = 0
        while odd < MALFORMED:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                return
            event = parse_event(message.get("text"))
            if event is None:
                odd += 1
                continue
            number, event = event
            if self._viewers[0] is socket and event.key not in NOT_FROM_AFAR:
                self._events.append(event)
                self._seen = number
        await socket.close(POLICY, "malformed messages")


def parse_event(text: str | None) -> tuple[int, Event] | None:
    """Read a browser's message: ``{"number": 3, "kind": "press", "key": "left"}``; a click has a `place`, [x, y] px.

    Returns:
        its number and the event; None where it is none.
    """
    try:
        data = json.loads(text or "")
        number, kind, key = data["number"], data["kind"], data.get("key", "")
        place = data.get("place", [0, 0])
        fits = (
            set(data) <= {"number", "kind", "key", "place"}
            and type(number) is int
            and 0 <= number < 1 << 53
            and kind in ("press", "release", "click")
            and isinstance(key, str)
            and len(key) <= 16
            and isinstance(place, list)
            and len(place) == 2
            and all(type(p) in (int, float) and math.isfinite(p) and abs(p) < 1e6 for p in place)
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return (number, Event(kind, key, (float(place[0]), float(place[1])))) if fits else None
