"""show: an environment to play in a notebook's output."""

from __future__ import annotations

import threading
from typing import Any

from glass_gym.env.render import DisplayError
from glass_gym.play.play import Player, web_window


def show(env: Any, fps: float = 15, height: int = 560, **kwargs: Any) -> Any:
    """Play an environment in a notebook's output, in the browser that shows the notebook.

    The environment is stepped in a thread until :meth:`WebWindow.close`, or until the kernel ends. Browser and kernel
    have to be on one machine, or the port has to be forwarded.

    Args:
        env: of gym.make, ``render_mode="rgb_array"``.
        fps: steps a second.
        height: of the output, px.
        kwargs: of :class:`glass_gym.play.Player`.

    Returns:
        an IPython.display.IFrame; its `window` is the :class:`WebWindow`, its `player` the Player.

    Raises:
        DisplayError: a package is missing.
    """
    try:
        from IPython.display import IFrame
    except ImportError:
        raise DisplayError("glass_gym.show is for notebooks (pip install notebook); else: glass-play --web") from None
    player = Player(env, None, fps=fps, **kwargs)
    player.reset()
    window = player.window = web_window(player, "glass_gym")
    thread = threading.Thread(target=player.run, daemon=True, name="glass-show")
    frame: Any = IFrame(window.url, "100%", height)
    frame.window, frame.player = window, player
    thread.start()
    return frame
