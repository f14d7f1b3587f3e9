"""Start a world from a picture of your own.

python examples/own_picture.py photo.png
"""

import sys

import gymnasium as gym
import imageio.v3 as iio

import glass_gym

env = gym.make("GlassTennis-v0", render_mode="rgb_array")
picture = iio.imread(sys.argv[1])  # any size: the centre is cropped to the world's shape and resized
try:
    frame, info = env.reset(options={"start_frame": picture})
except glass_gym.NoAgentError as error:
    sys.exit(f"{error}")
print(f"found an agent at {info['agent_position'].round(1)}")
for _ in range(5):
    env.step([1, 0])  # shift 1 is right
iio.imwrite("five_steps_right.png", env.render())
