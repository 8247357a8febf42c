"""The whole network: every fusion at every stage, missing modalities, several tasks, shares."""

import itertools

import pytest
import torch

from mmrlhf_ray.discrete.module import DecisionNet
from mmrlhf_ray.discrete.net import action_counts
from tests.unit.discrete_nets import ALL, TWO_TASKS, make, net_job, observations
from tests.unit.discrete_tiny import IMAGE, TEXT

KINDS, STAGES = ("concat", "weighted", "attention"), ("early", "late", "hybrid")


@pytest.mark.parametrize(("kind", "stage"), itertools.product(KINDS, STAGES))
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_what_a_missing_modality_holds_changes_no_bit(algorithm, kind, stage):
    cfg = net_job(algorithm, kind, stage)
    net = DecisionNet(make(cfg))
    seen = observations(cfg, 16)
    other = {name: array.clone() for name, array in seen.items()}
    for number, name in enumerate(ALL):
        gone = other["present"][:, number] == 0
        other[name][gone] = torch.nan if other[name].is_floating_point() else 1
    scores = net(seen)
    assert scores.shape == (16, 3)
    assert torch.isfinite(scores).all()
    assert torch.equal(scores, net(other))


@pytest.mark.parametrize(("kind", "stage"), itertools.product(KINDS, STAGES))
def test_every_modality_that_is_there_counts(kind, stage):
    cfg = net_job("ppo", kind, stage)
    net = DecisionNet(make(cfg))
    seen, others = observations(cfg, 1), observations(cfg, 1, seed=5)
    for name in ALL:
        other = dict(seen) | {name: others[name]}
        assert not torch.equal(net(seen), net(other)), name
    for number in range(len(ALL)):
        fewer = seen["present"].clone()
        fewer[0, number] = 0.0
        assert not torch.equal(net(seen), net(dict(seen) | {"present": fewer}))


@pytest.mark.parametrize("stage", STAGES)
def test_a_task_has_its_own_head_on_the_shared_trunk(stage):
    cfg = net_job("ppo", "weighted", stage, tasks=TWO_TASKS)
    assert action_counts(cfg) == (3, 2)
    net = DecisionNet(make(cfg))
    seen = observations(cfg, 16)
    scores = net(seen)
    first, second = seen["task"][:, 0] == 1, seen["task"][:, 1] == 1
    lowest = torch.finfo(torch.float32).min
    assert (scores[second, 2] == lowest).all()
    assert (scores[first] > lowest).all()
    before = scores.clone()
    with torch.no_grad():
        for parameter in net.heads.decide[1].parameters():
            parameter.add_(1.0)
    after = net(seen)
    assert torch.equal(before[first], after[first])
    assert not torch.equal(before[second], after[second])
    with torch.no_grad():
        for parameter in net.body.parameters():
            parameter.add_(0.1)
    assert not torch.equal(after[first], net(seen)[first])


def test_requests_are_actions_of_the_sequential_job():
    cfg = net_job("ppo", observation={"modalities": {"image": IMAGE, "said": TEXT}}, sequential={"first": "image"})
    assert action_counts(cfg) == (5,)
    assert DecisionNet(make(cfg))(observations(cfg, 4)).shape == (4, 5)


@pytest.mark.parametrize(
    ("kind", "stage", "expected"),
    [
        ("concat", "hybrid", {}),
        ("weighted", "early", {"features": list(ALL)}),
        ("weighted", "late", {"decisions": list(ALL)}),
        ("weighted", "hybrid", {"features": list(ALL), "decisions": ["joint", *ALL]}),
        ("attention", "hybrid", {"features": list(ALL), "decisions": ["joint", *ALL]}),
    ],
)
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_shares_say_what_is_weighed(algorithm, kind, stage, expected):
    cfg = net_job(algorithm, kind, stage)
    seen = observations(cfg, 15)  # all patterns but that of nothing
    shares = DecisionNet(make(cfg)).shares(seen)
    assert {key: list(value) for key, value in shares.items()} == expected
    for value in shares.values():
        assert sum(value.values()) == pytest.approx(1.0)


def test_learned_weights_are_the_shares():
    cfg = net_job("ppo", "weighted", "early")
    module = make(cfg)
    with torch.no_grad():
        module.encoder.fusion.scores[:] = torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    shares = DecisionNet(module).shares(observations(cfg, 1))["features"]
    assert list(shares.values()) == pytest.approx([0.1, 0.2, 0.3, 0.4])
