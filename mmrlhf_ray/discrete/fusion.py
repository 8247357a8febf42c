"""How modalities become one, as features (early), as decisions (late) or both (hybrid).

B rows, M modalities in the configuration's order, W = `fusion.width`. `present` is float32 [B, M], 1 = there is
something, 0 = missing. What is missing is replaced by zeros before it is encoded and has weight zero after it, so its
content cannot change a result, not even in the last bit.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrlhf_ray.config.discrete_parts import FusionSection

JOINT = "joint"
"""Name of the view that sees all modalities."""


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax of `scores` [..., N] over those with `present` 1; the others get exactly 0, all where none is there."""
    kept = torch.where(present > 0, scores, torch.finfo(scores.dtype).min)
    raised = torch.exp(kept - kept.amax(-1, keepdim=True).detach()) * present
    return raised / raised.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


class Concat(nn.Module):
    """[B, M, W] → [B, M·W]: side by side, zeros for what is missing."""

    def __init__(self, modalities: int, section: FusionSection) -> None:
        super().__init__()
        self.size = modalities * section.width

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        return (features * present[..., None]).flatten(1)

    def shares(self, features: Tensor, present: Tensor) -> Tensor | None:
        """How much each modality counts, [B, M]; None: nothing weighs them."""
        return None


class Weighted(nn.Module):
    """[B, M, W] → [B, W]: a sum with one learned weight per modality, normalised over those that are there."""

    def __init__(self, modalities: int, section: FusionSection) -> None:
        super().__init__()
        self.size = section.width
        self.scores = nn.Parameter(torch.zeros(modalities))

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        return (features * self.shares(features, present)[..., None]).sum(1)

    def shares(self, features: Tensor, present: Tensor) -> Tensor:
        return masked_softmax(self.scores.expand_as(present), present)


class Attention(nn.Module):
    """[B, M, W] → [B, W]: modalities and one learned summary attend to each other; the result is their mean.

    One layer of multi-head attention with a residual and layer normalisation (Vaswani et al. 2017). The summary is
    always there, so a row with nothing present has a result too.
    """

    def __init__(self, modalities: int, section: FusionSection) -> None:
        super().__init__()
        self.size = section.width
        self.names = nn.Parameter(torch.randn(modalities + 1, section.width) * 0.02)
        self.attention = nn.MultiheadAttention(section.width, section.heads, batch_first=True)
        self.norm = nn.LayerNorm(section.width)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        tokens, there, _ = self._attended(features, present)
        return (tokens * there[..., None]).sum(1) / there.sum(1, keepdim=True)

    def shares(self, features: Tensor, present: Tensor) -> Tensor:
        """Of the summary's attention to modalities, [B, M]."""
        *_, weights = self._attended(features, present)
        on = weights[:, 0, 1:] * present
        return on / on.sum(-1, keepdim=True).clamp(min=torch.finfo(on.dtype).tiny)

    def _attended(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens [B, 1 + M, W], which of them are there [B, 1 + M], attention weights [B, 1 + M, 1 + M])."""
        features = features * present[..., None]
        tokens = torch.cat([torch.zeros_like(features[:, :1]), features], 1) + self.names
        there = torch.cat([torch.ones_like(present[:, :1]), present], 1)
        seen, weights = self.attention(tokens, tokens, tokens, key_padding_mask=there == 0, need_weights=True)
        return self.norm(tokens + seen), there, weights


class Views(NamedTuple):
    """The inputs to decisions: V views of a row. `early` has 1, `late` M, `hybrid` M + 1, the joint one first."""

    features: Tensor
    """[B, V, hidden]."""
    present: Tensor
    """[B, V]: 0 = the view's modality is missing."""
    task: Tensor | None
    """One-hot [B, tasks]; None = there is one task."""


class ConcatDecisions(nn.Module):
    """[B, V, N] → [B, N]: one linear layer on all decisions side by side; starts as their mean."""

    def __init__(self, views: int, hidden: int, numbers: int) -> None:
        super().__init__()
        self.mix = nn.Linear(views * numbers + views, numbers)
        with torch.no_grad():
            self.mix.weight.zero_()
            self.mix.weight[:, : views * numbers] = torch.eye(numbers).repeat(1, views) / views

    def forward(self, decisions: Tensor, views: Views) -> Tensor:
        there = decisions * views.present[..., None]
        return self.mix(torch.cat([there.flatten(1), views.present], 1))

    def shares(self, views: Views) -> Tensor | None:
        """How much each view counts, [B, V]; None: nothing weighs them."""
        return None


class WeightedDecisions(nn.Module):
    """[B, V, N] → [B, N]: a sum with one learned weight per view, normalised over those that are there.

    The bias decides where nothing is there. It does not start at zero: RLlib explores no action of value exactly 0.
    """

    def __init__(self, views: int, hidden: int, numbers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(views))
        self.bias = nn.Parameter(torch.randn(numbers) * 0.02)

    def forward(self, decisions: Tensor, views: Views) -> Tensor:
        return (decisions * self.shares(views)[..., None]).sum(1) + self.bias

    def shares(self, views: Views) -> Tensor:
        return masked_softmax(self.scores.expand_as(views.present), views.present)


class AttentionDecisions(WeightedDecisions):
    """[B, V, N] → [B, N]: a sum with weights that a learned query finds in each row (Bahdanau et al. 2015)."""

    def __init__(self, views: int, hidden: int, numbers: int) -> None:
        super().__init__(views, hidden, numbers)
        self.query = nn.Linear(hidden, 1, bias=False)

    def shares(self, views: Views) -> Tensor:
        return masked_softmax(self.query(views.features).squeeze(-1) + self.scores, views.present)


FEATURE_FUSION: Mapping[str, Callable[[int, FusionSection], nn.Module]] = {
    "concat": Concat,
    "weighted": Weighted,
    "attention": Attention,
}
DECISION_FUSION: Mapping[str, Callable[[int, int, int], nn.Module]] = {
    "concat": ConcatDecisions,
    "weighted": WeightedDecisions,
    "attention": AttentionDecisions,
}
