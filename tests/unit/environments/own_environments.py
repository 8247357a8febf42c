"""Environments that a user might write."""

import json
import time

import gymnasium
import numpy as np
from PIL import Image

from mmrlhf_ray.environments.protocol import EpisodeFailed, Shown, Step

GREY = np.full((6, 6, 3), 128, np.uint8)


class Guess:
    """Say higher or lower until the number is found."""

    def __init__(self, most=9):
        self.most = most

    def reset(self, start):
        self.number = json.loads(start.extras)["number"]
        return ["From 0 to", str(self.most), *start.media, Image.fromarray(GREY)]

    def step(self, response):
        if not response.isdecimal():
            return COMMANDS[response]()
        guess = int(response)
        if guess == self.number:
            return Step((), 1.0, True)
        return ("higher" if guess < self.number else "lower"), np.float32(-0.25), False

    def close(self):
        raise RuntimeError("closing fails, and nothing depends on it")


def raises():
    raise IndexError("out of cards")


def gives_up():
    raise EpisodeFailed("the deck is empty")


COMMANDS = {
    "raise": raises,
    "give up": gives_up,
    "hang": lambda: time.sleep(600),
    "nan": lambda: ("", float("nan"), False),
    "text": lambda: ("", "much", False),
    "nothing": lambda: None,
    "thing": lambda: (object(), 0, False),
    "broken": lambda: ([Shown("image", "image/png", b"\x89PNG\r\n\x1a\n"), "look"], 0.5, False),
}


class Lazy:
    """Has no step."""

    def reset(self, start):
        return ()


class Steps(gymnasium.Env):
    """Go right twice."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(0, 9, (2,), np.int64)

    def __init__(self, render_mode=None, goal=2):
        self.render_mode, self.goal = render_mode, goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.drawn = 0, int(self.np_random.integers(10))
        return np.array([self.at, self.drawn]), {}

    def step(self, action):
        self.at += 1 if action == 1 else -1
        return np.array([self.at, self.drawn]), float(action), self.at == self.goal, False, {}

    def render(self):
        return np.full((4, 4, 3), 10 * self.at, np.uint8)


class Unseen(Steps):
    """Cannot be rendered."""

    def render(self):
        raise ModuleNotFoundError("no module to draw with")


gymnasium.register("Steps-v0", Steps)
gymnasium.register("Unseen-v0", Unseen)
