"""show: play an environment in a notebook."""

from __future__ import annotations

import threading
from typing import Any

from glass_gym.env.window import DisplayError
from glass_gym.play.play import web_window
from glass_gym.play.player import Player


def show(env: Any, fps: float = 15, height: int = 560, **kwargs: Any) -> Any:
    """Play an environment in the output of a notebook cell. Needs ``pip install "glass-gym[web]"``.

    A thread steps the environment until `show(...).window.close()` is called or the kernel ends. The browser must run
    on the kernel's machine, or the port must be forwarded.

    Example:
        >>> import gymnasium as gym, glass_gym
        >>> env = gym.make("GlassTennis-v0", render_mode="rgb_array", max_episode_steps=-1)
        >>> glass_gym.show(env)  # doctest: +SKIP

    Args:
        env: a glass_gym environment, made by gym.make with ``render_mode="rgb_array"``.
        fps: steps a second.
        height: of the output, px.
        kwargs: further arguments of :class:`glass_gym.play.player.Player`.

    Returns:
        an IPython.display.IFrame. Its attribute `window` is the :class:`glass_gym.play.remote.WebWindow`, `player` the
        Player.

    Raises:
        DisplayError: a package is missing.
    """
    try:
        from IPython.display import IFrame
    except ImportError:
        raise DisplayError("glass_gym.show needs a notebook: pip install notebook, or use glass-play --web") from None
    player = Player(env, None, fps=fps, **kwargs)
    player.reset()
    window = player.window = web_window(player, "glass_gym")
    thread = threading.Thread(target=player.run, daemon=True, name="glass-show")
    frame: Any = IFrame(window.url, "100%", height)
    frame.window, frame.player = window, player
    thread.start()
    return frame
