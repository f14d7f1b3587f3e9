"""PerformTask: walk to a target and perform there what a film shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState
from glass_gym.tasks.base import TRIES, Outcome, Scene, TaskState
from glass_gym.tasks.poses import draw_cards, make_cards, play_ahead, simulator_of
from glass_gym.tasks.reach import TargetTask

FILM = 4  # Pictures of a film; one is shown per step.


class PerformTask(TargetTask):
    """Walk to a target and perform there: play the local action of the film for `hold` steps in a row.

    The film shows the agent itself under that action, standing at its start. What counts is the local action, not the
    pose: the same action can lead to other poses, which depend on the pose before.

    State: `target` (B, 2) px; `code` (B,) int64, what is asked for; `performed` (B,) int64, for how many steps in a
    row it has been played at the target; `playing` (B,) bool, whether it was played in the last step; `time` (B,)
    int64; `film` (B, FILM, 3, s, s) uint8.

    Args:
        scene: the world.
        hold: steps in a row, at least 1.
        codes: the local actions that are asked for; None: all.
        options: of :class:`TargetTask`. The dense reward is 0.1 * progress toward the target, and 1 / hold for each
            step performed, which is lost again when the agent stops too early; the sparse one is 1 at the end.

    Raises:
        ValueError: a value is out of range, or agents of this world have no poses.
    """

    options = ("target", "code")
    draws = 2 * TRIES + 1

    def __init__(self, scene: Scene, hold: int = 3, codes: Any = None, **options: Any):
        super().__init__(scene, **options)
        if isinstance(hold, bool) or not isinstance(hold, int) or hold < 1:
            raise ValueError(f"hold must be an integer of at least 1, got {hold!r}")
        simulator = simulator_of(scene)
        self.hold = hold
        asked = check_codes("codes", range(scene.codes) if codes is None else codes, scene.codes)
        self.codes = torch.from_numpy(asked.reshape(-1)).to(simulator.device)

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """Read `target`, and `code`, one or one per row; ValueError: not in the frame, or no such code."""
        given = super().parse(options, rows)
        if "code" in options:
            codes = check_codes("code", options["code"], self.scene.codes)
            if codes.shape not in ((), (rows,)):
                raise ValueError(f"code must be one local action, or one a row, got shape {codes.shape}")
            given["code"] = torch.from_numpy(np.broadcast_to(codes, rows).copy())
        return given

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """Draw a target away from the agent, and a local action, unless they are given."""
        drawn = (numbers[:, -1] * len(self.codes)).long().clamp(max=len(self.codes) - 1)
        none = torch.zeros_like(drawn)
        counts = {"performed": none, "playing": none > 0, "time": none.clone()}
        return super().sample(numbers, position, given) | {"code": given.get("code", self.codes[drawn])} | counts

    def begin(self, world: WorldState, state: TaskState) -> TaskState:
        """Film what is asked for."""
        codes = state["code"][:, None].expand(-1, FILM)
        still = world.position.new_zeros(len(codes), FILM, 2)
        film = [make_cards(self.scene, after.layer) for after in play_ahead(self.scene, world, still, codes)]
        return state | {"film": torch.stack(film, 1)}

    def watch(self, world: WorldState, code: Tensor, state: TaskState) -> TaskState:
        """Compare the local action with what is asked for."""
        return state | {"playing": code == state["code"]}

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Rewards for progress and for performing."""
        going = state["playing"] & self.reached(after, state["target"])
        performed = torch.where(going, state["performed"] + 1, 0)
        done = performed >= self.hold
        reward = done.to(after.dtype)
        if self.dense:
            more = (performed - state["performed"]).to(after.dtype) / self.hold
            reward = self.progress(before, after, state["target"]) + more
        return Outcome(reward, done, state | {"performed": performed, "time": state["time"] + 1})

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """As of :class:`TargetTask`, with `code`, what is asked for, and `performed`, steps in a row."""
        more = {name: state[name].clone() for name in ("code", "performed")}
        return super().infos(position, state) | more | {"is_success": state["performed"] >= self.hold}

    def wanted_codes(self, state: TaskState) -> Tensor:
        """What is asked for."""
        return state["code"]

    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The straight way; the step that arrives is the first one performed."""
        return np.maximum(super().fewest_steps(position, state), 1) + self.hold - 1

    def observe(self, state: TaskState) -> Tensor:
        """The target's (x, y) px, and one number for each local action: 1 for that asked for, else 0."""
        asked = state["code"][:, None] == torch.arange(self.scene.codes, device=state["code"].device)
        return torch.cat([state["target"], asked.to(state["target"])], 1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions as in :class:`TargetTask`; 0 to 1."""
        low, high = super().bounds()
        none = np.zeros(self.scene.codes, np.float32)
        return np.concatenate([low, none]), np.concatenate([high, none + 1])

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw a ring around the target, and the film's present picture in the upper left corner."""
        rows = torch.arange(len(frames), device=frames.device)
        return draw_cards(super().draw(frames, state), state["film"][rows, state["time"] % FILM])


def check_codes(name: str, codes: Any, count: int, what: str = "local actions") -> np.ndarray:
    """Local actions, or other indices, as an int64 array; ValueError names those that are not in 0 to `count` - 1."""
    array = np.asarray(codes)
    told = codes
    if array.size and np.issubdtype(array.dtype, np.integer):
        wrong = np.unique(array[(array < 0) | (array >= count)])
        if not wrong.size:
            return array.astype(np.int64)
        told = wrong.tolist()
    raise ValueError(f"{name} must be {what}, 0 to {count - 1}, got {str(told)[:80]}")
