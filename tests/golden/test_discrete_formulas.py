"""Return, policy gradient, Bellman target, Q update and L′ as RLlib's learners compute them, against brute force."""

import itertools
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from mmrlhf_ray.algorithms.losses import human_loss
from mmrlhf_ray.discrete.cloning import FEEDBACK
from mmrlhf_ray.discrete.tabular import FiniteMDP, bellman_backup, mdp_of, q_learning, q_update, value_iteration
from tests.golden.discrete_support import ACTIONS, STATES, episode, job, learner, one_hot

GAMMA = 0.8
REINFORCE = {"kind": "reinforce", "gamma": GAMMA, "entropy_coef": 0.0}
A2C = {"kind": "a2c", "gamma": GAMMA, "entropy_coef": 0.0, "vf_coef": 0.7}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _numbers(lrn: Any) -> tuple[np.ndarray, np.ndarray]:
    module = lrn.module[DEFAULT_MODULE_ID]
    return module.logits.detach().numpy().copy(), module.values.detach().numpy().copy()


def _episodes(logits: np.ndarray) -> list[Any]:
    return [
        episode([0, 1, 2, 0], [1, 3, 0], [1.0, -2.0, 0.5], logits),
        episode([2, 1], [2], [3.0], logits),
        episode([1, 1, 0], [0, 1], [0.25, -1.0], logits),
    ]


def _train_batch(lrn: Any, episodes: list[Any]) -> dict[str, torch.Tensor]:
    made = lrn._learner_connector(
        rl_module=lrn.module, batch={}, episodes=episodes, shared_data={}, metrics=lrn.metrics
    )
    return made[DEFAULT_MODULE_ID]


def _gradient(lrn: Any, batch: dict[str, torch.Tensor]) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, and its gradients by logits and by values."""
    module = lrn.module[DEFAULT_MODULE_ID]
    out = lrn.module.forward_train({DEFAULT_MODULE_ID: batch})
    losses = lrn.compute_losses(fwd_out=out, batch={DEFAULT_MODULE_ID: batch})
    grads = torch.autograd.grad(losses[DEFAULT_MODULE_ID], [module.logits, module.values], allow_unused=True)
    zero = np.zeros(STATES)
    return losses[DEFAULT_MODULE_ID].item(), grads[0].numpy(), zero if grads[1] is None else grads[1].numpy()


def _returns(rewards: list[float]) -> list[float]:
    """Σ over k of γ^k · r_{t+k}, added up anew for every t."""
    return [sum(GAMMA**k * rewards[t + k] for k in range(len(rewards) - t)) for t in range(len(rewards))]


def test_the_return_is_the_discounted_sum_of_rewards() -> None:
    lrn = learner(A2C | {"gae_lambda": 1.0})
    batch = _train_batch(lrn, _episodes(_numbers(lrn)[0]))
    targets = batch[Postprocessing.VALUE_TARGETS].numpy()[batch[Columns.LOSS_MASK].numpy()]
    wanted = _returns([1.0, -2.0, 0.5]) + _returns([3.0]) + _returns([0.25, -1.0])
    np.testing.assert_allclose(targets, wanted, rtol=1e-5)
    assert targets[0] == pytest.approx(1.0 - 0.8 * 2.0 + 0.64 * 0.5)


@pytest.mark.parametrize(("algorithm", "value_of"), [(REINFORCE, 0.0), (A2C, 1.0)])
def test_the_policy_gradient_is_the_advantage_times_the_score(algorithm: dict[str, Any], value_of: float) -> None:
    lrn = learner(algorithm)
    logits, values = _numbers(lrn)
    if algorithm is REINFORCE:
        # The job's module for it has no critic.
        lrn.module[DEFAULT_MODULE_ID].values.data.zero_()
    _, by_logits, by_values = _gradient(lrn, _train_batch(lrn, _episodes(logits)))

    played = [(0, 1, 1.0, 0), (1, 3, -2.0, 0), (2, 0, 0.5, 0), (2, 2, 3.0, 1), (1, 0, 0.25, 2), (1, 1, -1.0, 2)]
    returns = np.array([x for e in range(3) for x in _returns([r for _, _, r, n in played if n == e])])
    advantages = returns - value_of * values[[s for s, *_ in played]]
    # RLlib brings advantages to mean 0 and deviation 1 over a batch in which each episode has one row more, at its
    # last state: with no reward, and, as nothing ends there, followed by the next episode. The loss leaves them out.
    ends = value_of * values[[0, 1, 0]]
    extra = GAMMA * np.array([returns[3], returns[4], 0.0]) - ends
    everything = np.concatenate([advantages, extra])
    counted = (advantages - everything.mean()) / everything.std()
    wanted, wanted_values = np.zeros((STATES, ACTIONS)), np.zeros(STATES)
    probabilities = np.exp(_log_softmax(logits))
    for (state, action, _, _), scaled, plain in zip(played, counted, advantages, strict=True):
        score = np.eye(ACTIONS)[action] - probabilities[state]
        wanted[state] -= scaled * score / len(played)
        wanted_values[state] -= value_of * 0.7 * 2.0 * plain / len(played)
    np.testing.assert_allclose(by_logits, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_values, wanted_values, rtol=1e-4, atol=1e-6)


def test_the_policy_gradient_is_that_of_the_expected_return() -> None:
    """Every action of two states, each weighed by its probability: −∇ of E[r], by finite differences in float64."""
    lrn = learner(REINFORCE)
    logits, _ = _numbers(lrn)
    rewards = np.random.default_rng(5).normal(size=(2, ACTIONS))
    pairs = list(itertools.product(range(2), range(ACTIONS)))
    logp = _log_softmax(logits)
    weighted = [len(pairs) * np.exp(logp[s, a]) * rewards[s, a] for s, a in pairs]
    batch = {
        Columns.OBS: torch.tensor(one_hot([s for s, _ in pairs])),
        Columns.ACTIONS: torch.tensor([a for _, a in pairs]),
        Columns.ACTION_LOGP: torch.tensor([logp[s, a] for s, a in pairs], dtype=torch.float32),
        Columns.ACTION_DIST_INPUTS: torch.tensor(np.array([logits[s] for s, _ in pairs])),
        Postprocessing.ADVANTAGES: torch.tensor(weighted, dtype=torch.float32),
        Postprocessing.VALUE_TARGETS: torch.zeros(len(pairs)),
    }
    _, by_logits, _ = _gradient(lrn, batch)

    def expected(table: np.ndarray) -> float:
        return float((np.exp(_log_softmax(table))[:2] * rewards).sum())

    wanted, step = np.zeros((STATES, ACTIONS)), 1e-6
    for state, action in itertools.product(range(STATES), range(ACTIONS)):
        moved = np.zeros((STATES, ACTIONS))
        moved[state, action] = step
        wanted[state, action] = -(expected(logits + moved) - expected(logits - moved)) / (2 * step)
    np.testing.assert_allclose(by_logits, wanted, rtol=1e-4, atol=1e-6)


def test_ppo_stops_the_gradient_where_the_ratio_is_clipped() -> None:
    lrn = learner({"kind": "ppo", "entropy_coef": 0.0, "vf_coef": 0.0, "clip_range": 0.2})
    logits, _ = _numbers(lrn)
    logp = _log_softmax(logits)
    ratios, advantages = [1.5, 0.5, 1.5, 0.5, 1.1], [1.0, -1.0, -1.0, 1.0, 1.0]
    actions = [0, 1, 2, 3, 0]
    batch = {
        Columns.OBS: torch.tensor(one_hot([0] * 5)),
        Columns.ACTIONS: torch.tensor(actions),
        Columns.ACTION_LOGP: torch.tensor(
            [logp[0, a] - np.log(r) for a, r in zip(actions, ratios, strict=True)], dtype=torch.float32
        ),
        Columns.ACTION_DIST_INPUTS: torch.tensor(np.repeat(logits[:1], 5, axis=0)),
        Postprocessing.ADVANTAGES: torch.tensor(advantages),
        Postprocessing.VALUE_TARGETS: torch.zeros(5),
    }
    loss, by_logits, _ = _gradient(lrn, batch)
    surrogate = [min(r * a, min(max(r, 0.8), 1.2) * a) for r, a in zip(ratios, advantages, strict=True)]
    assert loss == pytest.approx(-np.mean(surrogate), rel=1e-5)
    wanted = np.zeros(ACTIONS)
    # The first two are clipped.
    for ratio, advantage, action in list(zip(ratios, advantages, actions, strict=True))[2:]:
        wanted -= ratio * advantage * (np.eye(ACTIONS)[action] - np.exp(logp[0])) / 5
    np.testing.assert_allclose(by_logits[0], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("double", [True, False])
def test_the_bellman_target_of_dqn(double: bool) -> None:
    """Huber loss of Q(s, a) − (r + γ·Q'(s', argmax)), the argmax of the online network with double."""
    config = _dqn_config(double)
    rng = np.random.default_rng(11)
    q, q_next, q_target = (rng.normal(scale=2.0, size=(6, ACTIONS)) for _ in range(3))
    actions, rewards = rng.integers(ACTIONS, size=6), rng.normal(size=6)
    ended, weights = np.array([True, False, False, True, False, False]), rng.uniform(0.2, 1.0, size=6)

    wanted = []
    for i in range(6):
        best = max(range(ACTIONS), key=lambda k, i=i: q_next[i][k] if double else q_target[i][k])
        target = rewards[i] + (0.0 if ended[i] else GAMMA * q_target[i][best])
        error = abs(q[i][actions[i]] - target)
        wanted.append(weights[i] * (0.5 * error**2 if error <= 1.0 else error - 0.5))

    predictions = torch.tensor(q, requires_grad=True)
    loss = _dqn_loss(
        config,
        {QF_PREDS: predictions, QF_NEXT_PREDS: torch.tensor(q_next), QF_TARGET_NEXT_PREDS: torch.tensor(q_target)},
        {
            Columns.ACTIONS: torch.tensor(actions),
            Columns.REWARDS: torch.tensor(rewards),
            Columns.TERMINATEDS: torch.tensor(ended),
            "weights": torch.tensor(weights),
            "n_step": torch.ones(6),
        },
    )
    assert loss.item() == pytest.approx(np.mean(wanted), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, predictions)
    assert np.count_nonzero(gradient.numpy()) == 6  # of the action that was done, and of no target


def _dqn_config(double: bool) -> Any:
    from mmrlhf_ray.discrete.algorithms import algorithm_config

    dqn = {"kind": "dqn", "gamma": GAMMA, "double": double, "dueling": False}
    return algorithm_config(job(dqn), "unused", {}, None)  # type: ignore[arg-type]


def _dqn_loss(config: Any, out: dict[str, Any], batch: dict[str, Any]) -> torch.Tensor:
    """Of RLlib's learner; a loss of given predictions needs none of its module."""
    lrn = DQNTorchLearner(config=config)
    return lrn.compute_loss_for_module(module_id=DEFAULT_MODULE_ID, config=config, batch=batch, fwd_out=out)


def test_the_q_update_moves_towards_its_target() -> None:
    q = np.array([[1.0, 2.0], [0.5, -1.0]])
    q_update(q, 0, 1, target=1.0 + GAMMA * 0.5, step_size=0.25)
    np.testing.assert_allclose(q, [[1.0, 2.0 + 0.25 * (1.4 - 2.0)], [0.5, -1.0]])


def _random_mdp() -> FiniteMDP:
    rng = np.random.default_rng(2)
    transitions = rng.dirichlet(np.ones(3), size=(3, 2))
    goes_on = np.ones((3, 2, 3))
    goes_on[:, :, 2] = 0.0
    return FiniteMDP(transitions, rng.normal(size=(3, 2)), goes_on)


def test_value_iteration_finds_the_best_of_all_policies() -> None:
    """The value of each of the 8 deterministic policies, by solving its linear equations."""
    mdp = _random_mdp()
    best = np.full(3, -np.inf)
    for policy in itertools.product(range(2), repeat=3):
        chosen = np.arange(3), np.array(policy)
        onward = GAMMA * (mdp.transitions * mdp.goes_on)[chosen]
        best = np.maximum(best, np.linalg.solve(np.eye(3) - onward, mdp.rewards[chosen]))
    found = value_iteration(mdp, GAMMA)
    np.testing.assert_allclose(found.max(axis=1), best, atol=1e-8)
    np.testing.assert_allclose(bellman_backup(mdp, found, GAMMA), found, atol=1e-8)


def test_q_learning_ends_at_the_fixed_point_of_dynamic_programming() -> None:
    """Exactly, where nothing is random; every state is told apart from every other by its Q."""
    env = gymnasium.make("CliffWalking-v1").unwrapped
    exact = value_iteration(mdp_of(env), 0.9)
    learned, visits = q_learning(env, 0.9, 60_000, seed=0, decay=0.0)
    seen = visits > 0
    assert seen.all(axis=1).sum() == 37  # all but the cliff and the goal
    np.testing.assert_allclose(learned[seen], exact[seen], atol=1e-9)


class Circle(gymnasium.Env[int, int]):
    """To the second state and, with a reward, back: the episode ends in a state that is acted in."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)
    P: ClassVar = {
        0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 0, 0.0, False)]},
        1: {0: [(1.0, 0, 1.0, True)], 1: [(1.0, 1, 0.0, False)]},
    }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        self._state = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        _, self._state, reward, ended = self.P[self._state][action][0]
        return self._state, reward, ended, False, {}


def test_nothing_is_earned_after_the_end() -> None:
    """By hand, first state: on, stay; second: back, stay."""
    expected = [[GAMMA, GAMMA**2], [1.0, GAMMA]]
    np.testing.assert_allclose(value_iteration(mdp_of(Circle()), GAMMA), expected, atol=1e-8)
    learned, _ = q_learning(Circle(), GAMMA, 5_000, seed=0, decay=0.0)
    np.testing.assert_allclose(learned, expected, atol=1e-8)


def test_q_learning_comes_close_to_it_where_steps_slip() -> None:
    env = gymnasium.make("FrozenLake-v1").unwrapped
    exact = value_iteration(mdp_of(env), 0.9)
    learned, visits = q_learning(env, 0.9, 100_000, seed=0)
    seen = visits.min(axis=1) > 0
    assert np.abs(learned - exact)[seen].max() < 0.05 < exact.max() / 10
    chosen = exact[np.arange(len(exact)), learned.argmax(axis=1)]
    np.testing.assert_allclose(chosen[seen], exact.max(axis=1)[seen], atol=1e-9)


@pytest.mark.parametrize("coef", [0.0, 0.3])
def test_l_prime_is_l_plus_lambda_h(coef: float) -> None:
    """Rows 0–2 are imitated, 3–6 have votes; a vote of ½ counts half."""
    lrn = learner({"kind": "clone"}, human_loss={"coef": coef})
    logits, _ = _numbers(lrn)
    states, actions = [0, 1, 2, 0, 1, 2, 2], [1, 0, 3, 2, 2, 0, 1]
    votes = [0.0, 0.0, 0.0, 1.0, -1.0, -1.0, 0.5]
    batch = {
        Columns.OBS: torch.tensor(one_hot(states)),
        Columns.ACTIONS: torch.tensor(actions),
        Columns.LOSS_MASK: torch.tensor([v == 0.0 for v in votes]),
        FEEDBACK: torch.tensor(votes),
    }
    loss, by_logits, _ = _gradient(lrn, batch)

    logp = _log_softmax(logits)
    said = [logp[s, a] for s, a in zip(states, actions, strict=True)]
    supervised = -(said[0] + said[1] + said[2]) / 3
    unsaid = [np.log(1.0 - np.exp(x)) for x in said]
    human = -(1.0 * said[3] + 1.0 * unsaid[4] + 1.0 * unsaid[5] + 0.5 * said[6]) / 4
    assert loss == pytest.approx(supervised + coef * human, rel=1e-5)

    wanted = np.zeros((STATES, ACTIONS))
    for state, action, vote in zip(states, actions, votes, strict=True):
        score = np.eye(ACTIONS)[action] - np.exp(logp[state])  # gradient of log π(a)
        chance = np.exp(logp[state, action])
        if vote == 0.0:
            wanted[state] -= score / 3
        elif vote > 0.0:
            wanted[state] -= coef * vote * score / 4
        else:  # of log(1 − π): −π / (1 − π) times that of log π
            wanted[state] += coef * -vote * chance / (1.0 - chance) * score / 4
    np.testing.assert_allclose(by_logits, wanted, rtol=1e-4, atol=1e-6)


def test_h_ends_where_a_wrong_decision_is_never_made() -> None:
    certain = torch.tensor([0.0, -50.0])
    assert human_loss(certain, torch.tensor([1.0, -1.0])).item() == pytest.approx(0.0, abs=1e-6)
    assert human_loss(certain, torch.tensor([-1.0, 1.0])).item() > 30.0
    with pytest.raises(ValueError, match="one that is not 0"):
        human_loss(certain, torch.zeros(2))
