"""Encoders: declared shapes, padding and row order that must not matter, and what does not fit."""

import pytest
import torch
from pydantic import TypeAdapter

from mmrlhf_ray.config.discrete_parts import Modality
from mmrlhf_ray.discrete.encoders import make_encoder
from mmrlhf_ray.discrete.spaces import modality_space
from mmrlhf_ray.errors import ConfigError
from tests.unit.discrete_nets import CLIP, SOUND
from tests.unit.discrete_tiny import IMAGE, TEXT

KINDS = {
    "image-cnn": IMAGE | {"channels": 3},
    "image-mlp": IMAGE | {"encoder": {"kind": "mlp", "hidden": [5, 6]}},
    "odd-sides": {"kind": "image", "height": 9, "width": 14, "encoder": {"kind": "cnn", "channels": [3, 4, 5]}},
    "sound-cnn": SOUND | {"encoder": {"kind": "cnn", "channels": [4]}},
    "sound-gru": SOUND | {"encoder": {"kind": "gru", "hidden": 5}},
    "sound-lstm": SOUND | {"encoder": {"kind": "lstm", "layers": 2}},
    "sound-mlp": SOUND | {"encoder": {"kind": "mlp"}},
    "sound-waveform": SOUND | {"front_end": {"kind": "waveform", "bands": 20}, "encoder": {"kind": "gru"}},
    "clip-mean": CLIP,
    "clip-max": CLIP | {"pool": "max"},
    "clip-gru": CLIP | {"pool": "gru", "encoder": {"kind": "mlp"}},
    "text-mean": TEXT,
    "text-gru": TEXT | {"encoder": {"kind": "gru"}},
    "text-lstm": TEXT | {"encoder": {"kind": "lstm"}},
}


def parsed(section: dict) -> Modality:
    return TypeAdapter(Modality).validate_python(section)


def encoder(section: dict, width: int = 7) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_encoder("it", parsed(section), width).eval()


def rows(section: dict, n: int) -> torch.Tensor:
    space = modality_space(parsed(section))
    space.seed(0)
    return torch.stack([torch.as_tensor(space.sample()) for _ in range(n)])


@pytest.mark.parametrize("section", KINDS.values(), ids=KINDS)
def test_every_encoder_gives_width_numbers_for_each_row_alone(section):
    net, batch = encoder(section), rows(section, 4)
    features = net(batch)
    assert features.shape == (4, 7)
    assert features.dtype == torch.float32
    features.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    alone = torch.cat([net(batch[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(features, alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize("kind", ["embedding", "gru", "lstm"])
def test_words_after_the_end_do_not_count(kind):
    short, long = TEXT | {"words": 3}, TEXT | {"words": 8}
    nets = [encoder(section | {"encoder": {"kind": kind}}) for section in (short, long)]
    words = torch.tensor([[4, 9, 0], [7, 0, 0], [0, 0, 0]])
    padded = torch.cat([words, torch.zeros(3, 5, dtype=torch.int64)], 1)
    torch.testing.assert_close(nets[0](words), nets[1](padded))


def test_mean_and_maximum_of_frames_forget_their_order_and_a_gru_does_not():
    clip = rows(CLIP, 2)
    for pool, same in (("mean", True), ("max", True), ("gru", False)):
        net = encoder(CLIP | {"pool": pool})
        assert torch.allclose(net(clip), net(clip.flip(1)), atol=1e-6) is same, pool


def test_loudness_of_sound_is_taken_out():
    section = SOUND | {"encoder": {"kind": "mlp"}}
    net, sound = encoder(section), rows(section, 2)
    torch.testing.assert_close(net(sound), net(3.0 * sound + 1.0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (IMAGE | {"encoder": {"kind": "cnn", "channels": [4, 4, 4]}}, "halve 4 × 4 to nothing; expected at most 2"),
        (IMAGE | {"encoder": {"kind": "cnn", "kernel_size": 2}}, "kernel_size=2 must be odd"),
        (IMAGE | {"encoder": {"kind": "pretrained", "path": "/no/where"}}, "path=/no/where: expected a directory"),
    ],
)
def test_what_does_not_fit_names_the_modality(section, said):
    with pytest.raises(ConfigError, match=f"observation.modalities.it.encoder: .*{said}"):
        encoder(section)
