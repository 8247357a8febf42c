"""Encoders, fusion and heads together: from an observation to one number per action."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.discrete.encoders import layers, make_encoder
from mmrlhf_ray.discrete.fusion import DECISION_FUSION, FEATURE_FUSION, JOINT, Views
from mmrlhf_ray.discrete.spaces import PRESENT, TASK, decision_counts

Observation = Mapping[str, Tensor]
"""As `spaces.observation_space`, each with a first dimension B for the rows."""


class FusionBody(nn.Module):
    """Observation → Views: encoders, fusion of features, and the trunk that all tasks share.

    `late` and `hybrid` give each modality a trunk of its own too, so that it can decide alone.
    """

    def __init__(self, cfg: DiscreteConfig) -> None:
        """Raises ConfigError where an encoder does not fit its modality."""
        super().__init__()
        fusion = cfg.fusion
        self.modalities = tuple(cfg.observation.modalities)
        self.encoders = nn.ModuleDict(
            {name: make_encoder(name, modality, fusion.width) for name, modality in cfg.observation.modalities.items()}
        )
        self.fusion: nn.Module | None = None
        self.trunk: nn.Module | None = None
        if fusion.stage != "late":
            self.fusion = FEATURE_FUSION[fusion.kind](len(self.modalities), fusion)
            # The flags say what is missing, which a zero alone does not.
            self.trunk = layers((self.fusion.size + len(self.modalities), *fusion.hidden))
        self.trunks: nn.ModuleDict | None = None
        if fusion.stage != "early":
            self.trunks = nn.ModuleDict({name: layers((fusion.width, *fusion.hidden)) for name in self.modalities})
        self.hidden: int = fusion.hidden[-1]

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, in their order: `joint`, then modalities."""
        return ((JOINT,) if self.fusion is not None else ()) + (self.modalities if self.trunks is not None else ())

    def encode(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """(features [B, M, W], 0 where missing; present [B, M])."""
        present = (observation[PRESENT] > 0).to(torch.float32)
        encoded = []
        for number, name in enumerate(self.modalities):
            content = observation[name]
            there = present[:, number].reshape(-1, *(1,) * (content.dim() - 1)) > 0
            encoded.append(self.encoders[name](torch.where(there, content, torch.zeros_like(content))))
        return torch.stack(encoded, 1) * present[..., None], present

    def forward(self, observation: Observation) -> Views:
        return self.look(observation)

    def look(self, observation: Observation) -> Views:
        features, present = self.encode(observation)
        seen, there = [], []
        if self.fusion is not None and self.trunk is not None:
            seen.append(self.trunk(torch.cat([self.fusion(features, present), present], 1)))
            there.append(torch.ones_like(present[:, :1]))
        if self.trunks is not None:
            seen += [self.trunks[name](features[:, number]) for number, name in enumerate(self.modalities)]
            there.append(present)
        return Views(torch.stack(seen, 1), torch.cat(there, 1), observation.get(TASK))


class Heads(nn.Module):
    """Views → [B, actions]: each task decides from each view, and the views' decisions are fused.

    With one view there is nothing to fuse. Actions that a row's task does not have get `fill`.
    """

    def __init__(self, body: FusionBody, counts: tuple[int, ...], kind: str, fill: float) -> None:
        """counts: actions of each task. kind: of FusionSection."""
        super().__init__()
        views = len(body.views)
        self.decide = nn.ModuleList(
            nn.ModuleList(nn.Linear(body.hidden, count) for _ in range(views)) for count in counts
        )
        self.fuse = nn.ModuleList(DECISION_FUSION[kind](views, body.hidden, count) for count in counts if views > 1)
        self._actions, self._fill = max(counts), fill

    def forward(self, views: Views) -> Tensor:
        chosen = self._decided(0, views)
        if views.task is None:
            return chosen
        # Every task's head takes part in every batch, so that learners that work together all have its gradient.
        for task in range(1, len(self.decide)):
            chosen = torch.where(views.task[:, task, None] > 0, self._decided(task, views), chosen)
        return chosen

    def shares(self, views: Views) -> Tensor | None:
        """[B, V]: how much each view counts in a row's decision; None where nothing weighs them."""
        if not len(self.fuse):
            return None
        shares = [fuse.shares(views) for fuse in self.fuse]
        if shares[0] is None or views.task is None:
            return shares[0]
        return (torch.stack(shares, 1) * views.task[..., None]).sum(1)

    def _decided(self, task: int, views: Views) -> Tensor:
        """[B, actions], filled up with `fill`."""
        alone = [decide(views.features[:, number]) for number, decide in enumerate(self.decide[task])]
        decided = alone[0] if len(alone) == 1 else self.fuse[task](torch.stack(alone, 1), views)
        missing = self._actions - decided.shape[1]
        return nn.functional.pad(decided, (0, missing), value=self._fill) if missing else decided


def action_counts(cfg: DiscreteConfig) -> tuple[int, ...]:
    """Actions of each task: its decisions, and requests where the job is sequential."""
    return tuple(count + len(cfg.ask_actions) for count in decision_counts(cfg).values())


def fusion_shares(body: FusionBody, heads: Heads, observation: Observation) -> dict[str, dict[str, float]]:
    """How much each modality counts: {"features": {modality: share}, "decisions": {view: share}}, means over the rows.

    Only what is weighed: `concat` has neither, `early` no decisions, `late` no features. Shares sum to 1 over what is
    there; for `attention` of features they are the summary's attention.
    """
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        features, present = body.encode(observation)
        if body.fusion is not None:
            _note(found, "features", body.modalities, body.fusion.shares(features, present))
        _note(found, "decisions", body.views, heads.shares(body.look(observation)))
    return found


def _note(found: dict[str, dict[str, float]], key: str, names: tuple[str, ...], shares: Tensor | None) -> None:
    if shares is not None:
        found[key] = dict(zip(names, shares.mean(0).tolist(), strict=True))
