"""Networks over observations of several modalities: a body, shared by the shape of policies and reward models."""

from collections.abc import Mapping, Sequence

import gymnasium
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from mmrlhf_ray.behaviour.spaces import is_picture

_WIDE = 20
"""Pictures of more pixels a side are halved by each convolution."""
_LEAST_SPREAD = 1e-2
"""Numbers that hardly vary stay about as they are."""


def layers(inputs: int, hidden: Sequence[int], outputs: int | None = None) -> nn.Sequential:
    """Linear layers with tanh between them; the last without, where `outputs` are given."""
    parts: list[nn.Module] = []
    for width in hidden:
        parts += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*parts, *([] if outputs is None else [nn.Linear(inputs, outputs)]))


class Eyes(nn.Module):
    """A picture [B, height, width, channels] of numbers 0…high to `width` features [B, width]."""

    def __init__(self, box: Box, width: int) -> None:
        super().__init__()
        height, across, channels = box.shape
        stride = 2 if min(height, across) > _WIDE else 1
        self.high = float(box.high.max())
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride), nn.ReLU(), nn.Conv2d(16, 16, 3, stride), nn.ReLU(), nn.Flatten()
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, across)).shape[1]
        self.out = nn.Linear(flat, width)

    def forward(self, picture: Tensor) -> Tensor:
        return torch.relu(self.out(self.convolutions(picture.float().movedim(-1, 1) / self.high)))


class Body(nn.Module):
    """Modality → [B, …], and further numbers [B, further], to features [B, hidden[-1]].

    Vectors are squashed by sign(x)·log(1 + |x|), so that no scale has to be known (Hafner et al. 2023, "Mastering
    Diverse Domains through World Models", equation 9), then centred and scaled where scale_inputs() has said how.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, space: gymnasium.spaces.Dict, hidden: Sequence[int], further: int = 0) -> None:
        super().__init__()
        boxes = {name: box for name, box in space.spaces.items() if isinstance(box, Box)}
        self.vectors = [name for name, box in boxes.items() if not is_picture(box)]
        self.eyes = nn.ModuleDict({name: Eyes(box, hidden[0]) for name, box in boxes.items() if is_picture(box)})
        numbers = sum(boxes[name].shape[0] for name in self.vectors)
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))
        inputs = numbers + hidden[0] * len(self.eyes) + further
        self.layers = layers(inputs, hidden)
        self.width = hidden[-1]

    def forward(self, observation: Mapping[str, Tensor], further: Tensor | None = None) -> Tensor:
        parts = [(self._numbers(observation) - self.centre) / self.spread] if self.vectors else []
        parts += [eyes(observation[name]) for name, eyes in self.eyes.items()]
        return self.layers(torch.cat([*parts, *([] if further is None else [further])], dim=-1))

    def scale_inputs(self, observation: Mapping[str, Tensor]) -> None:
        """From now on numbers that are like these have mean 0 and deviation 1."""
        if self.vectors:
            numbers = self._numbers(observation)
            self.centre.copy_(numbers.mean(0))
            self.spread.copy_(numbers.std(0).clamp(min=_LEAST_SPREAD))

    def _numbers(self, observation: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([_squashed(observation[name]) for name in self.vectors], dim=-1)


class RewardNet(nn.Module):
    """r(observation, action): one number for each step [B]."""

    def __init__(self, space: gymnasium.spaces.Dict, actions: Discrete | Box, hidden: Sequence[int]) -> None:
        super().__init__()
        self.numbered = int(actions.n) if isinstance(actions, Discrete) else 0
        self.body = Body(space, hidden, int(actions.n) if isinstance(actions, Discrete) else actions.shape[0])
        self.out = nn.Linear(self.body.width, 1)

    def forward(self, observation: Mapping[str, Tensor], actions: Tensor) -> Tensor:
        if self.numbered:
            given = nn.functional.one_hot(actions.long(), self.numbered).float()
        else:
            given = actions.float().clamp(-1.0, 1.0)
        return self.out(self.body(observation, given)).squeeze(-1)


def _squashed(vector: Tensor) -> Tensor:
    finite = torch.nan_to_num(vector.float())
    return finite.sign() * torch.log1p(finite.abs())
