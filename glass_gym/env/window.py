"""A pygame window: shows frames enlarged by an integer and lines of text; reports keys, gamepads and clicks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LINE = 20  # Height of a line of text, px.
FONTS = "dejavusansmono,couriernew,monospace"
FONT, SMALLEST = 14, 7  # Sizes of text, px: the usual one, and the smallest that a page may shrink to.
MARGIN = 12  # Distance between a page of text and the edge of the window, px.
SHARE = 0.75  # The largest share of the screen's width and height that a new window takes.
NO_SCREEN = (
    "Without a screen, play in a browser: glass-play --web. Or run the command under xvfb-run, or record it: "
    "SDL_VIDEODRIVER=dummy glass-play --record film.mp4"
)
WAYS = (("left", "right"), ("up", "down"))  # Keys of a gamepad's first two axes, toward -1 and toward 1.
TILT = 0.5  # Share of its way from which a stick counts.
INK = (235, 235, 235)
DIM = (150, 150, 150)
PAPER = (24, 24, 28)


@dataclass(frozen=True)
class Event:
    """An action of the user.

    Attributes:
        kind: ``"press"``, ``"release"``, ``"click"``, ``"speed"``, ``"picture"`` or ``"quit"``.
        key: of a press or release: the key's name (pygame.key.name). A release with an empty name releases all keys.
        place: of a click: (x, y) in px of the shown frame, possibly outside of it. Of a speed: (steps a second, 0).
        file: of a picture to start from: the bytes of an image file.
    """

    kind: str
    key: str = ""
    place: tuple[float, float] = (0.0, 0.0)
    file: bytes = b""


class DisplayError(RuntimeError):
    """A window cannot be opened; the message says what to do."""


class Window:
    """A window that shows frames.

    Args:
        size: (height, width) px of the frames.
        title: of the window.
        scale: an integer; frames are enlarged so many times. None: as large as the screen allows, at most 8.
        lines: number of lines of text below the frame.

    Raises:
        DisplayError: pygame is not installed, or there is no screen.
    """

    def __init__(self, size: tuple[int, int], title: str = "glass_gym", scale: int | None = None, lines: int = 0):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError:
            raise DisplayError("a window needs pygame: pip install 'glass-gym[play]'") from None
        self.pygame = pygame
        self.height, self.width = size
        self.lines = lines
        try:
            pygame.display.init()
            if scale is None:
                screen = pygame.display.get_desktop_sizes()[0]
                room = (SHARE * screen[0] / self.width, (SHARE * screen[1] - lines * LINE) / self.height)
                scale = int(min(8, *room))
            self._scale = scale = max(1, scale)
            total = (self.width * scale, self.height * scale + lines * LINE)
            self.screen = pygame.display.set_mode(total, pygame.RESIZABLE)
        except pygame.error as error:
            raise DisplayError(f"no window can be opened ({error}). {NO_SCREEN}") from None
        if pygame.display.get_driver() == "offscreen" and os.environ.get("SDL_VIDEODRIVER") != "offscreen":
            pygame.display.quit()  # SDL fell back to a driver without a visible window
            raise DisplayError(f"no window can be opened (no display was found). {NO_SCREEN}")
        pygame.display.set_caption(title)
        pygame.font.init()
        self.font = pygame.font.SysFont(FONTS, FONT)
        self.clock = pygame.time.Clock()
        with contextlib.suppress(pygame.error):  # a machine may have no gamepads at all
            pygame.joystick.init()
        self._gamepads: dict[int, Any] = {}
        self._tilts: dict[tuple[int, int], str] = {}  # gamepad and axis (the cross: 2 and 3) -> the key that it holds
        self._corner = (0, 0)

    def poll(self) -> list[Event]:
        """The events since the last call, in order."""
        pygame = self.pygame
        kinds = {pygame.KEYDOWN: "press", pygame.KEYUP: "release"}
        out = []
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                out.append(Event("quit"))
            elif event.type in kinds:
                out.append(Event(kinds[event.type], pygame.key.name(event.key)))
            elif event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
                x, y = ((event.pos[i] - self._corner[i]) / self._scale for i in range(2))
                out.append(Event("click", place=(x, y)))
            elif event.type == pygame.JOYDEVICEADDED:
                gamepad = pygame.joystick.Joystick(event.device_index)
                self._gamepads[gamepad.get_instance_id()] = gamepad  # it sends events as long as it is kept
            elif event.type in (pygame.JOYBUTTONDOWN, pygame.JOYBUTTONUP) and event.button < 10:
                kind = "press" if event.type == pygame.JOYBUTTONDOWN else "release"
                out.append(Event(kind, str(event.button)))
            elif event.type == pygame.JOYAXISMOTION and event.axis < 2:
                out += self._tilt(event.instance_id, event.axis, event.value)
            elif event.type == pygame.JOYHATMOTION:
                x, y = event.value
                out += [*self._tilt(event.instance_id, 2, x), *self._tilt(event.instance_id, 3, -y)]
            elif event.type in (pygame.JOYDEVICEREMOVED, getattr(pygame, "WINDOWFOCUSLOST", -1)):
                self._tilts.clear()
                out.append(Event("release"))  # what is released elsewhere is not reported: release all
        return out

    def _tilt(self, gamepad: int, axis: int, value: float) -> list[Event]:
        """The events of a stick or cross that lies at `value`, -1 to 1, along an axis."""
        held = self._tilts.get((gamepad, axis), "")
        key = WAYS[axis % 2][value > 0] if abs(value) >= TILT else ""
        self._tilts[gamepad, axis] = key
        return [] if key == held else [Event(*what) for what in (("release", held), ("press", key)) if what[1]]

    def show(self, frame: np.ndarray, lines: Sequence[str] = (), page: Sequence[str] = ()) -> None:
        """Show a frame (h, w, 3) uint8, and lines of text: `lines` below it, or a `page` over the whole window."""
        pygame = self.pygame
        width, height = self.screen.get_size()
        room = height - self.lines * LINE
        self._scale = max(1, min(width // self.width, room // self.height))
        size = (self.width * self._scale, self.height * self._scale)
        self._corner = ((width - size[0]) // 2, max(0, (room - size[1]) // 2))
        self.screen.fill(PAPER)
        picture = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self.screen.blit(pygame.transform.scale(picture, size), self._corner)
        if page:
            self._cover(page, width, height)
        else:
            for row, text in enumerate(lines[: self.lines]):
                ink = self.font.render(text, True, DIM if row else INK)
                self.screen.blit(ink, (8, height - (self.lines - row) * LINE + 2))
        pygame.display.flip()

    def _cover(self, page: Sequence[str], width: int, height: int) -> None:
        """Cover the window with lines of text, in the largest size that fits, up to FONT."""
        pygame = self.pygame
        cover = pygame.Surface((width, height))
        cover.fill(PAPER)
        cover.set_alpha(225)
        self.screen.blit(cover, (0, 0))
        across = (width - 2 * MARGIN) / max(1, *(self.font.size(text)[0] for text in page))
        share = min(1.0, across, (height - 2 * MARGIN) / (len(page) * LINE))
        font = self.font if share == 1 else pygame.font.SysFont(FONTS, max(SMALLEST, int(FONT * share)))
        for row, text in enumerate(page):
            self.screen.blit(font.render(text, True, INK), (MARGIN, MARGIN + int(row * LINE * share)))

    def wait(self, fps: float) -> float:
        """Sleep until the next frame is due; returns frames a second, the mean of the last ten."""
        self.clock.tick(fps)
        return self.clock.get_fps()

    def close(self) -> None:
        """Close the window."""
        self._gamepads.clear()
        self.pygame.joystick.quit()
        self.pygame.display.quit()
        self.pygame.font.quit()
