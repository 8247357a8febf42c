"""The peers of cross_check, and how their functions are called outside of their trainers."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import cross_check_ours as ours
from benchmarks.cross_check import Line, Rows, Values, with_gradients
from benchmarks.cross_check_ours import (
    BETA,
    DUAL,
    HIGHER,
    KL_COEF,
    LIKED,
    ONE_SIDED,
    PAIRS,
    PREFERENCE,
    TWO_SIDED,
    Compared,
    pairs,
    per_response,
    policy,
    ref_sums,
    scored,
    token_means,
)
from mmrlhf_ray.algorithms.losses import bradley_terry_loss
from mmrlhf_ray.algorithms.mismatch import mismatch_weights
from mmrlhf_ray.algorithms.policy_loss import Clip
from mmrlhf_ray.algorithms.preference_loss import kto_loss


class _Alone:
    """Stands for an accelerate.Accelerator of one process."""

    num_processes = 1
    device = torch.device("cpu")
    sync_gradients = True

    def gather(self, x: Tensor) -> Tensor:
        return x

    def gather_for_metrics(self, x: Tensor) -> Tensor:
        return x

    def reduce(self, x: Tensor, reduction: str) -> Tensor:
        return x


def _trainer(**settings: Any) -> Any:
    """The attributes of a TRL trainer that its losses read."""
    common = {
        "accelerator": _Alone(),
        "model": SimpleNamespace(training=False),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "aux_loss_enabled": False,
        "beta": BETA,
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "label_smoothing": 0.0,
    }
    return SimpleNamespace(**(common | settings))


def _trl_policy(
    trl: Any, loss_type: str, low: float, high: float, *, dual: float | None = None, **settings: Any
) -> Compared:
    """GRPOTrainer._compute_loss; `settings` of the trainer."""

    def of(r: Rows) -> Values:
        given = {"importance_sampling_level": "token", "use_vllm": False, "beta": 0.0} | settings

        def loss(logprobs: Tensor) -> Tensor:
            trainer = _trainer(
                loss_type=loss_type,
                epsilon_low=low,
                epsilon_high=high,
                args=SimpleNamespace(delta=dual, use_bias_correction_kl=False, steps_per_generation=1),
                top_entropy_quantile=1.0,
                off_policy_mask_threshold=None,
                current_gradient_accumulation_steps=1,
                max_completion_length=r.longest,
                vllm_importance_sampling_correction=True,
                _entropy_bonus_enabled=False,
                _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
                **given,
            )
            ids = torch.zeros_like(r.mask, dtype=torch.long)
            weights = mismatch_weights(r.old_logprobs, r.rollout_logprobs, r.mask, "tis", 0.0, 2.0)
            inputs = {
                "prompt_ids": ids[:, :1],
                "prompt_mask": ids[:, :1],
                "completion_ids": ids,
                "completion_mask": r.mask.long(),
                "advantages": r.advantages,
                "old_per_token_logps": r.old_logprobs,
                "ref_per_token_logps": r.ref_logprobs,
                "importance_sampling_ratio": weights,
                "num_items_in_batch": r.mask.sum(),
            }
            result: Tensor = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
            return result

        return with_gradients(loss, r.logprobs)

    return of


def _trl_outputs(logprobs: Tensor, mask: Tensor) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """A model that gives these log-probabilities to the tokens after the first, and its inputs."""
    zeros = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(log_probs=logprobs * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    completion = torch.nn.functional.pad(mask.long(), (1, 0))
    inputs = {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
    }
    return lambda **_: outputs, inputs


def _trl_pairs(trl: Any, kinds: list[str], weights: list[float]) -> Compared:
    """DPOTrainer._compute_loss of a weighted sum of losses."""

    def of(r: Rows) -> Values:
        def loss(logprobs: Tensor) -> Tensor:
            trainer = _trainer(
                ld_alpha=None,
                precompute_ref_logps=True,
                f_divergence_type="reverse_kl",
                loss_types=kinds,
                loss_weights=weights,
                use_weighting=False,
            )
            model, inputs = _trl_outputs(logprobs, r.mask)
            chosen, rejected = ref_sums(r)
            inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
            result: Tensor = trl.DPOTrainer._compute_loss(trainer, model, inputs, False)
            return result

        return with_gradients(loss, r.logprobs)

    return of


def _kto(trl: Any) -> tuple[Compared, Compared]:
    """Ours and KTOTrainer._compute_loss, the second half of the responses disliked."""

    def measured(r: Rows) -> tuple[Tensor, Tensor]:
        return r.sums(r.old_logprobs), r.sums(r.ref_logprobs)

    def our_loss(r: Rows) -> Values:
        now, ref = measured(r)
        kl = max(0.0, float((now - ref).mean()))
        return with_gradients(
            lambda x: kto_loss(r.sums(x), ref, LIKED.to(x), kl, BETA, 1.5, 0.5, 2 * PAIRS)[0], r.logprobs
        )

    def theirs(r: Rows) -> Values:
        now, ref = measured(r)

        def loss(logprobs: Tensor) -> Tensor:
            trainer = _trainer(
                precompute_ref_logps=True,
                calculate_KL=True,
                loss_type="kto",
                desirable_weight=1.5,
                undesirable_weight=0.5,
                _compute_kl_logps=lambda *_: now,
            )
            model, inputs = _trl_outputs(logprobs, r.mask)
            result: Tensor = trl.KTOTrainer._compute_loss(
                trainer, model, inputs | {"label": LIKED > 0, "ref_logps": ref, "ref_KL_logps": ref}, False
            )
            return result

        return with_gradients(loss, r.logprobs)

    return our_loss, theirs


def _trl_scores(trl: Any, center: float | None) -> Compared:
    def loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
        trainer = _trainer(args=SimpleNamespace(center_rewards_coefficient=center))
        outputs = SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])
        result: Tensor = trl.RewardTrainer.compute_loss(trainer, lambda **_: outputs, {"margin": margin})
        return result

    return scored(loss)


def _trl_reference_free(cpo: Any, orpo: Any) -> tuple[Compared, Compared]:
    """SimPO of CPOTrainer, and ORPOTrainer's odds ratio with the likelihood that the paper adds."""
    simpo = _trainer(alpha=0.0, loss_type="simpo", simpo_gamma=0.2)

    def odds(r: Rows, a: Tensor, b: Tensor) -> Tensor:
        chosen, rejected = token_means(r, (a, b))
        ratio = orpo.ORPOTrainer.odds_ratio_loss(_trainer(), chosen, rejected)[0]
        return (-chosen - ratio).mean()

    return pairs(lambda r, a, b: cpo.CPOTrainer.cpo_loss(simpo, *token_means(r, (a, b)))[0].mean()), pairs(odds)


def trl_lines() -> list[Line]:
    """Raises ImportError."""
    trl, utils = import_module("trl"), import_module("trl.trainer.utils")
    simpo, orpo = _trl_reference_free(import_module("trl.experimental.cpo"), import_module("trl.experimental.orpo"))
    kto = _kto(trl)

    def line(name: str, ours: Compared, theirs: Compared, epsilon: float = 0.0, reason: str = "") -> Line:
        return Line("TRL", name, ours, theirs, epsilon, reason)

    out = [
        line(f"ppo {bounds}, {mode}", policy("ppo", clip, mode), _trl_policy(trl, theirs, 0.2, clip.high or 0.2))
        for bounds, clip in (("0.2/0.2", TWO_SIDED), ("0.2/0.28", HIGHER))
        for mode, theirs in (("token_mean", "dapo"), ("sequence_mean", "grpo"), ("constant_length", "dr_grpo"))
    ]
    both = {"use_vllm": True, "beta": KL_COEF}
    out += [
        line("dual clip 1.5", policy("ppo", DUAL, "token_mean"), _trl_policy(trl, "dapo", 0.2, 0.2, dual=1.5)),
        line("gspo", policy("gspo", TWO_SIDED, "sequence_mean"),
             _trl_policy(trl, "grpo", 0.2, 0.2, importance_sampling_level="sequence")),
        line("cispo, upper bound 5", policy("cispo", ONE_SIDED, "token_mean"), _trl_policy(trl, "cispo", 0.2, 5.0)),
        line("cispo, clip_range 0.2", policy("cispo", Clip(0.2, 4.0), "token_mean"),
             _trl_policy(trl, "cispo", 0.2, 5.0), reason="TRL and the paper have no lower bound, as our default"),
        line("k3 in the loss", policy("ppo", TWO_SIDED, "token_mean", kl=True),
             _trl_policy(trl, "dapo", 0.2, 0.2, beta=KL_COEF)),
        line("tis, k3 in the loss not corrected", policy("ppo", TWO_SIDED, "token_mean", "tis", kl=True),
             _trl_policy(trl, "dapo", 0.2, 0.2, **both)),
        line("dpo", PREFERENCE["dpo"], _trl_pairs(trl, ["sigmoid"], [1.0])),
        line("ipo", PREFERENCE["ipo"], _trl_pairs(trl, ["ipo"], [1.0])),
        line("bco, delta 0", PREFERENCE["bco, delta 0"], _trl_pairs(trl, ["bco_pair"], [1.0])),
        line("mpo without sft, delta 0", PREFERENCE["mpo without sft"],
             _trl_pairs(trl, ["sigmoid", "bco_pair"], [0.8, 0.2])),
        line("mpo, delta 0", PREFERENCE["mpo"], _trl_pairs(trl, ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
             reason="TRL's sft is a mean over the batch's tokens; ours over each response, as in the paper"),
        line("kto", *kto),
        line("simpo", PREFERENCE["simpo"], simpo),
        line("orpo", PREFERENCE["orpo"], orpo, 2e-6),
        line("reward model, margin", scored(lambda a, b, m: bradley_terry_loss(a, b, PAIRS, m)[0]),
             _trl_scores(trl, None)),
        line("reward model, centred", scored(lambda a, b, m: bradley_terry_loss(a, b, PAIRS, m, 0.0, 0.01)[0]),
             _trl_scores(trl, 0.01)),
        line("token log-probabilities", ours.logprobs,
             lambda r: with_gradients(lambda x: utils.selective_log_softmax(x, r.token_ids), r.logits)),
        line("entropy", ours.entropy, lambda r: with_gradients(lambda x: utils.entropy_from_logits(x), r.logits)),
    ]  # fmt: skip
    return out


def verl_lines() -> list[Line]:
    """Raises ImportError."""
    core, config = import_module("verl.trainer.ppo.core_algos"), import_module("verl.workers.config")

    def of(function: Any, clip: Clip, mode: str) -> Compared:
        settings = config.ActorConfig(
            strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, ppo_mini_batch_size=1,
            clip_ratio_low=clip.low, clip_ratio_high=clip.high, clip_ratio_c=clip.dual or 1e9,
        )  # fmt: skip
        return lambda r: with_gradients(
            lambda x: function(r.old_logprobs, x, r.advantages, r.mask.to(x), mode, settings)[0], r.logprobs
        )

    def kl(kind: str) -> Compared:
        return lambda r: with_gradients(lambda x: core.kl_penalty(x, r.ref_logprobs, kind)[r.mask], r.logprobs)

    def gae(which: int) -> Compared:
        return lambda r: [
            core.compute_gae_advantage_return(r.rewards, r.old_values, r.mask.to(r.rewards), 0.98, 0.9)[which][r.mask]
        ]

    def grouped(function: Any, **options: Any) -> Compared:
        # Their functions add up rewards that are 0 beyond the response.
        return lambda r: [function(r.rewards * r.mask, r.mask.to(r.rewards), r.groups.numpy(), **options)[0][r.mask]]

    def value(r: Rows) -> Values:
        return with_gradients(
            lambda v: core.compute_value_loss(v, r.returns, r.old_values, r.mask.to(v), 0.2)[0], r.values
        )

    vanilla, eps = core.compute_policy_loss_vanilla, 1e-6
    our_gspo, gspo = policy("gspo", TWO_SIDED, "sequence_mean"), of(core.compute_policy_loss_gspo, TWO_SIDED, "")
    grpo = core.compute_grpo_outcome_advantage
    lines = [
        ("ppo 0.2/0.28, token_mean", policy("ppo", HIGHER, "token_mean"), of(vanilla, HIGHER, "token-mean")),
        ("ppo 0.2/0.28, sequence_mean", policy("ppo", HIGHER, "sequence_mean"),
         of(vanilla, HIGHER, "seq-mean-token-mean")),
        ("dual clip 1.5", policy("ppo", DUAL, "token_mean"), of(vanilla, DUAL, "token-mean")),
        ("gspo, an advantage per response", per_response(our_gspo), per_response(gspo)),
        ("cispo, both bounds 0.2", policy("cispo", TWO_SIDED, "token_mean"),
         of(core.compute_policy_loss_cispo, TWO_SIDED, "token-mean")),
        *((f"kl {kind}", ours.estimates(kind), kl(kind)) for kind in ("k1", "k2", "k3")),
        ("gae returns", ours.gae_returns, gae(1)),
        ("gae whitened, unbiased deviation", ours.gae_whitened_unbiased, gae(0)),
        ("grpo advantages", ours.ADVANTAGES["grpo"], grouped(grpo)),
        ("dr_grpo advantages", ours.ADVANTAGES["dr_grpo"], grouped(grpo, norm_adv_by_std_in_grpo=False)),
        ("rloo advantages", ours.ADVANTAGES["rloo"], grouped(core.compute_rloo_outcome_advantage)),
        ("value loss", ours.value, value),
    ]  # fmt: skip
    return [Line("verl", *line, epsilon=eps) for line in lines] + [
        Line("verl", "gae whitened", ours.gae_whitened, gae(0), reason="verl divides by the unbiased deviation"),
        Line(
            "verl",
            "gspo, an advantage per token",
            our_gspo,
            gspo,
            reason="verl's is GSPO-token, where a token's own advantage drives it; the paper has one per response",
        ),
    ]


def openrlhf_lines() -> list[Line]:
    """Raises ImportError."""
    loss, utils = import_module("openrlhf.models.loss"), import_module("openrlhf.models.utils")

    def of(clip: Clip, **options: Any) -> Compared:
        function = loss.PolicyLoss(clip.low, clip.high, clip.dual, **options)
        return lambda r: with_gradients(
            lambda x: function(x, r.old_logprobs, r.advantages, r.mask, r.rollout_logprobs)[0], r.logprobs
        )

    def corrected(kind: str, low: float) -> Compared:
        bounds = [low, 2.0]
        return of(TWO_SIDED, enable_vllm_is_correction=True, vllm_is_truncated_threshold=bounds,
                  vllm_is_correction_type=kind)  # fmt: skip

    def judged(**options: Any) -> Compared:
        function = loss.DPOLoss(BETA, **options)
        return pairs(lambda r, a, b: function(a, b, *ref_sums(r))[0])

    def kl(kind: str) -> Compared:
        return lambda r: with_gradients(lambda x: utils.compute_approx_kl(x, r.ref_logprobs, kind)[r.mask], r.logprobs)

    value = loss.ValueLoss(0.2)
    lines = [
        ("ppo 0.2/0.28, token_mean", policy("ppo", HIGHER, "token_mean"), of(HIGHER)),
        ("ppo 0.2/0.28, sequence_mean", policy("ppo", HIGHER, "sequence_mean"), of(HIGHER, token_level_loss=False)),
        ("dual clip 1.5", policy("ppo", DUAL, "token_mean"), of(DUAL)),
        ("gspo", policy("gspo", TWO_SIDED, "sequence_mean"), of(TWO_SIDED, policy_loss_type="gspo")),
        ("tis", policy("ppo", TWO_SIDED, "token_mean", "tis"), corrected("tis", 0.0)),
        ("icepop", policy("ppo", TWO_SIDED, "token_mean", "icepop"), corrected("icepop", 0.5)),
        *((f"kl {kind}", ours.estimates(kind), kl(kind)) for kind in ("k1", "k2", "k3")),
        ("value loss", ours.value, lambda r: with_gradients(
            lambda v: value(v, r.old_values, r.returns, r.mask), r.values)),
        ("dpo", PREFERENCE["dpo"], judged()),
        ("cdpo", PREFERENCE["cdpo"], judged(label_smoothing=0.1)),
        ("reward model, margin", scored(lambda a, b, m: bradley_terry_loss(a, b, PAIRS, m)[0]),
         scored(loss.PairWiseLoss())),
        ("token log-probabilities", ours.logprobs, lambda r: with_gradients(
            lambda x: utils.log_probs_from_logits(x, r.token_ids), r.logits)),
    ]  # fmt: skip
    return [Line("OpenRLHF", *line, epsilon=1e-6) for line in lines] + [
        Line("OpenRLHF", "ipo", PREFERENCE["ipo"], judged(ipo=True),
             reason="its sums of tokens are ours per token, as the paper's authors advise"),
        Line("OpenRLHF", "sequence_mask", policy("ppo", TWO_SIDED, "token_mean", "sequence_mask"),
             corrected("seq-mask-tis", 0.5), reason="it also weighs the tokens of kept responses by their ratio"),
    ]  # fmt: skip


PEERS: Mapping[str, Callable[[], list[Line]]] = {"trl": trl_lines, "verl": verl_lines, "openrlhf": openrlhf_lines}
"""Peer → its lines; raises ImportError."""
