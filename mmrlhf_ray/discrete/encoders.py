"""One network per modality, each from the modality's array to `width` features.

Inputs are those of `spaces.modality_space`, with a first dimension B for the rows: pictures [B, C, H, W], sound
[B, frames, bands], clips [B, frames, C, H, W], text int64 [B, words]. Outputs are float32 [B, width]. No row's output
depends on another row: there is no batch normalisation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mmrlhf_ray.config.discrete_parts import (
    AudioModality,
    CnnEncoder,
    ImageModality,
    MlpEncoder,
    Modality,
    PretrainedEncoder,
    RecurrentEncoder,
    TextModality,
    VideoModality,
)
from mmrlhf_ray.discrete.pretrained import PretrainedFeatures
from mmrlhf_ray.discrete.spaces import modality_space
from mmrlhf_ray.errors import ConfigError


def make_encoder(name: str, modality: Modality, width: int) -> nn.Module:
    """The encoder of a modality, [B, *modality_space(modality).shape] → [B, width].

    Raises ConfigError, which names the key, where it does not fit the shape or a checkpoint cannot be read.
    """
    try:
        return _KINDS[type(modality)](modality, width)
    except ValueError as error:
        raise ConfigError(f"observation.modalities.{name}.encoder: {error}") from error


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers [B, sizes[0]] → [B, sizes[-1]], each followed by ReLU."""
    made = [[nn.Linear(into, out), nn.ReLU()] for into, out in pairwise(sizes)]
    return nn.Sequential(*(layer for pair in made for layer in pair))


class Centred(nn.Module):
    """Pictures in 0…1 to −2…2, around which networks learn faster."""

    def forward(self, pictures: Tensor) -> Tensor:
        return 4.0 * pictures - 2.0


class Convolutions(nn.Sequential):
    """[B, C, H, W] → [B, width]: convolution, ReLU and pooling by 2, again and again, then one linear layer."""

    def __init__(self, section: CnnEncoder, shape: tuple[int, int, int], width: int) -> None:
        """Raises ValueError where the picture is too small to be halved that often, or the kernel is even."""
        into, height, columns = shape
        if section.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={section.kernel_size} must be odd")
        halved = len(section.channels)
        if min(height, columns) < 2**halved:
            raise ValueError(
                f"channels has {halved} entries, which halve {height} × {columns} to nothing; expected at most "
                f"{int(math.log2(max(min(height, columns), 1)))}"
            )
        made: list[nn.Module] = []
        for out in section.channels:
            made += [nn.Conv2d(into, out, section.kernel_size, padding=section.kernel_size // 2), nn.ReLU()]
            made += [nn.MaxPool2d(2)]
            into = out
        size = into * (height >> halved) * (columns >> halved)
        super().__init__(*made, nn.Flatten(), nn.Linear(size, width), nn.ReLU())


class Hidden(nn.Sequential):
    """[B, …] → [B, width]: hidden layers on the flattened input."""

    def __init__(self, section: MlpEncoder, shape: Sequence[int], width: int) -> None:
        super().__init__(nn.Flatten(), layers((math.prod(shape), *section.hidden, width)))


class Recurrent(nn.Module):
    """[B, T, features] → [B, width]: the last layer's state at each row's end. GRU or LSTM."""

    def __init__(self, section: RecurrentEncoder, features: int, width: int) -> None:
        super().__init__()
        self.cells = _CELLS[section.kind](features, section.hidden, section.layers, batch_first=True)
        self.out = layers((section.hidden, width))

    def forward(self, steps: Tensor, lengths: Tensor | None = None) -> Tensor:
        """lengths: int64 [B], 0 … T; None = T. What comes after a row's end does not change its output."""
        states, _ = self.cells(steps)
        if lengths is None:
            return self.out(states[:, -1])
        ends = (lengths - 1).clamp(min=0)
        last = states.gather(1, ends[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
        return self.out(last * (lengths > 0).to(last.dtype)[:, None])


class Sound(nn.Module):
    """[B, frames, bands] → [B, width]. Loudness is taken out: each sound has mean 0 and variance 1."""

    def __init__(self, modality: AudioModality, width: int) -> None:
        super().__init__()
        frames, bands = modality_space(modality).shape
        self.normalise = nn.LayerNorm((frames, bands), elementwise_affine=False)
        self.encoder: nn.Module
        match modality.encoder:
            case CnnEncoder() as section:
                self.encoder = nn.Sequential(
                    nn.Unflatten(1, (1, frames)), Convolutions(section, (1, frames, bands), width)
                )
            case RecurrentEncoder() as section:
                self.encoder = Recurrent(section, bands, width)
            case MlpEncoder() as section:
                self.encoder = Hidden(section, (frames, bands), width)

    def forward(self, sound: Tensor) -> Tensor:
        return self.encoder(self.normalise(sound))


class Frames(nn.Module):
    """[B, frames, C, H, W] → [B, width]: one picture encoder for all frames, then their mean, maximum or GRU."""

    def __init__(self, modality: VideoModality, width: int) -> None:
        super().__init__()
        _, *picture = modality_space(modality).shape
        self.frame = _picture_encoder(modality, (picture[0], picture[1], picture[2]), width)
        self.pool = _POOLS[modality.pool](width)

    def forward(self, clip: Tensor) -> Tensor:
        features = self.frame(clip.flatten(0, 1))
        return self.pool(features.unflatten(0, (-1, clip.shape[1])))


class Text(nn.Module):
    """int64 [B, words], 0 = no word → [B, width]."""

    def __init__(self, modality: TextModality, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(modality.buckets, width, padding_idx=0)
        section = modality.encoder
        self.recurrent: Recurrent | None = None
        self.out: nn.Module | None = None
        if isinstance(section, RecurrentEncoder):
            self.recurrent = Recurrent(section, width, width)
        else:
            self.out = layers((width, width))

    def forward(self, words: Tensor) -> Tensor:
        embedded = self.words(words)
        lengths = (words > 0).sum(1)
        if self.recurrent is not None:
            return self.recurrent(embedded, lengths)
        assert self.out is not None
        return self.out(embedded.sum(1) / lengths.clamp(min=1).to(embedded.dtype)[:, None])


class _Mean(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(1)


class _Max(_Mean):
    def forward(self, features: Tensor) -> Tensor:
        return features.amax(1)


class _Gru(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells = Recurrent(RecurrentEncoder(kind="gru", hidden=width), width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.cells(features)


def _picture_encoder(modality: ImageModality | VideoModality, shape: tuple[int, int, int], width: int) -> nn.Module:
    match modality.encoder:
        case CnnEncoder() as section:
            return nn.Sequential(Centred(), Convolutions(section, shape, width))
        case PretrainedEncoder() as section:
            features = PretrainedFeatures(section.path)
            return nn.Sequential(features, layers((features.size, width)))
        case MlpEncoder() as section:
            return nn.Sequential(Centred(), Hidden(section, shape, width))


def _picture(modality: ImageModality, width: int) -> nn.Module:
    channels, height, columns = modality_space(modality).shape
    return _picture_encoder(modality, (channels, height, columns), width)


_CELLS: Mapping[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
_POOLS: Mapping[str, Callable[[int], nn.Module]] = {"mean": _Mean, "max": _Max, "gru": _Gru}
_KINDS: Mapping[type, Callable[[Any, int], nn.Module]] = {
    ImageModality: _picture,
    AudioModality: Sound,
    VideoModality: Frames,
    TextModality: Text,
}
