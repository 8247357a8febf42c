"""RLlib's modules: their APIs, actions that a task lacks, targets, and a warm start."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI, ValueFunctionAPI

from mmrlhf_ray.discrete.module import DecisionNet, PolicyModule, QModule, config_of, module_spec, warm_start
from mmrlhf_ray.discrete.saved import inference_module
from mmrlhf_ray.errors import ConfigError
from tests.unit.discrete_nets import TWO_TASKS, make, net_job, observations


def batch(cfg, rows=16, seed=0):
    return {Columns.OBS: observations(cfg, rows, seed)}


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "reinforce", "clone"])
def test_a_policy_has_values_where_its_algorithm_has_a_critic(algorithm):
    cfg = net_job(algorithm)
    module = make(cfg)
    assert isinstance(module, PolicyModule)
    assert isinstance(module, ValueFunctionAPI)
    seen = batch(cfg)
    out = module.forward_train(seen)
    values = module.compute_values(seen, out[Columns.EMBEDDINGS])
    assert values.shape == (16,)
    torch.testing.assert_close(values, module.compute_values(seen))
    assert bool(values.any()) is (algorithm in ("ppo", "a2c"))
    torch.testing.assert_close(out[Columns.ACTION_DIST_INPUTS], DecisionNet(module)(seen[Columns.OBS]))


def test_a_policys_loss_is_finite_where_tasks_lack_actions():
    cfg = net_job("ppo", tasks=TWO_TASKS)
    module, seen = make(cfg), batch(cfg)
    logits = module.forward_train(seen)[Columns.ACTION_DIST_INPUTS]
    decided = module.get_train_action_dist_cls().from_logits(logits)
    earlier = module.get_train_action_dist_cls().from_logits(logits.detach() * 0.5)
    actions = torch.zeros(16, dtype=torch.int64)
    (decided.logp(actions) + decided.entropy() + earlier.kl(decided) + module.compute_values(seen)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    lacking = seen[Columns.OBS]["task"][:, 1] == 1
    assert (decided.sample(sample_shape=(200,))[:, lacking] < 2).all()


@pytest.mark.parametrize("dueling", [True, False])
def test_q_values_are_rllibs_and_targets_lag(dueling):
    cfg = net_job("dqn", "weighted", "late", tasks=TWO_TASKS)
    torch.manual_seed(0)
    spec = module_spec(cfg)
    spec.model_config |= {"dueling": dueling, "double_q": True, "num_atoms": 1, "epsilon": 1.0}
    module = spec.build()
    assert isinstance(module, QModule)
    assert isinstance(module, QNetAPI)
    assert isinstance(module, TargetNetworkAPI)
    seen = batch(cfg)
    q = module.compute_q_values(seen)["qf_preds"]
    lacking = seen[Columns.OBS]["task"][:, 1] == 1
    assert torch.isinf(q[lacking, 2]).all()
    torch.testing.assert_close(q.clamp(min=torch.finfo(torch.float32).min), DecisionNet(module)(seen[Columns.OBS]))
    module.make_target_networks()
    with torch.no_grad():
        for parameter in module.af.parameters():
            parameter.add_(1.0 + torch.rand_like(parameter))
    torch.testing.assert_close(module.forward_target(seen)["qf_preds"], q)
    out = module.forward_train(seen | {Columns.NEXT_OBS: seen[Columns.OBS]})
    there = torch.isfinite(q)
    assert not torch.allclose(out["qf_preds"][there], q[there])
    out["qf_preds"][there].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.requires_grad)


def test_exploration_draws_only_what_a_task_has_even_where_nothing_is_seen():
    cfg = net_job("dqn", "weighted", "late", tasks=TWO_TASKS)
    module = make(cfg)
    module.epsilon_schedule._value = 1.0
    seen = observations(cfg, 16)
    seen["present"][:] = 0.0
    drawn = np.stack([module.forward_exploration({Columns.OBS: seen}, t=0)["actions"].numpy() for _ in range(100)])
    tasks = seen["task"].argmax(1).numpy()
    assert set(drawn[:, tasks == 1].ravel()) <= {0, 1}
    assert set(drawn[:, tasks == 0].ravel()) == {0, 1, 2}


def test_dueling_means_leave_out_what_a_task_lacks():
    cfg = net_job("dqn", stage="early", tasks=TWO_TASKS)
    module, seen = make(cfg), batch(cfg)
    views = module.encoder.look(seen[Columns.OBS])
    q, value = module.compute_q_values(seen)["qf_preds"], module.vf(views)
    second = views.task[:, 1] == 1
    torch.testing.assert_close(q[second, :2].mean(1), value[second, 0])
    torch.testing.assert_close(q[~second].mean(1), value[~second, 0])


def test_the_configuration_travels_with_the_module():
    cfg = net_job("ppo", tasks=TWO_TASKS)
    assert config_of(make(cfg)) == cfg


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_runners_get_all_weights_they_need(algorithm):
    cfg = net_job(algorithm)
    learner, runner = make(cfg, 1), inference_module(cfg)
    runner.set_state(learner.get_state(inference_only=True))
    assert not any(key.startswith("_target") for key in runner.state_dict())
    seen = observations(cfg, 8)
    torch.testing.assert_close(DecisionNet(runner)(seen), DecisionNet(learner)(seen), atol=0, rtol=0)


def test_a_warm_start_takes_the_encoder_and_between_policies_the_decisions():
    cloned, seen = make(net_job("clone"), 1), observations(net_job(), 8)
    policy = make(net_job("ppo"), 2)
    taken = warm_start(policy, cloned.get_state())
    assert {name.split(".")[0] for name in taken} == {"encoder", "pi"}
    torch.testing.assert_close(DecisionNet(policy)(seen), DecisionNet(cloned)(seen), atol=0, rtol=0)
    q = make(net_job("dqn"), 3)
    q.make_target_networks()
    heads = q.af.state_dict()["decide.0.0.weight"].clone()
    assert {name.split(".")[0] for name in warm_start(q, cloned.get_state())} == {"encoder"}
    for net in (q.encoder, q._target_encoder):
        for name, value in cloned.encoder.state_dict().items():
            assert torch.equal(net.state_dict()[name], value)
    assert torch.equal(q.af.state_dict()["decide.0.0.weight"], heads)


def test_a_policy_that_asks_may_start_from_one_that_does_not():
    """Its decisions are those of the trained one; its requests are as they were drawn."""
    cloned, seen = make(net_job("clone", stage="early"), 1), observations(net_job(), 8)
    asking = make(net_job("ppo", stage="early", sequential={"first": "image", "cost": 0.1}), 2)
    before = asking.pi.state_dict()["decide.0.0.weight"].clone()
    warm_start(asking, cloned.get_state())
    after, decisions = asking.pi.state_dict()["decide.0.0.weight"], len(cloned.pi.state_dict()["decide.0.0.weight"])
    assert torch.equal(after[decisions:], before[decisions:])
    assert len(after) > decisions
    torch.testing.assert_close(DecisionNet(asking)(seen)[:, :decisions], DecisionNet(cloned)(seen))


@pytest.mark.parametrize(
    "other",
    [
        net_job("clone", "weighted"),
        net_job("clone", stage="late"),
        net_job("clone", tasks=TWO_TASKS),
        net_job("clone", fusion={"width": 9, "hidden": [12]}),
    ],
    ids=["kind", "stage", "tasks", "width"],
)
def test_a_warm_start_from_another_network_is_refused(other):
    policy = make(net_job("ppo"))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(ConfigError, match="warm_start: .* is not alike in both runs"):
        warm_start(policy, make(other).get_state())
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
