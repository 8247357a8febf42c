"""Q-learning in a table, next to dynamic programming, on Gymnasium's finite environments.

`python -m mmrlhf_ray.discrete.tabular FrozenLake-v1` learns from sampled steps alone and compares what it found with
the fixed point that value iteration computes from the environment's transition table.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium
import numpy as np
import typer
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FiniteMDP:
    """A Markov decision process in tables. S states, A actions."""

    transitions: Floats
    """[S, A, S]: probability of the next state."""
    rewards: Floats
    """[S, A]: expected reward."""
    goes_on: Floats
    """[S, A, S]: 1 where the episode goes on after the transition, 0 where it has ended."""


def mdp_of(env: gymnasium.Env[Any, Any]) -> FiniteMDP:
    """The tables of an environment of gymnasium.envs.toy_text, from its `P`.

    Raises ValueError for an environment that does not say its transitions.
    """
    table = getattr(env.unwrapped, "P", None)
    if table is None:
        raise ValueError(f"{env.spec.id if env.spec else env} expects a transition table `P`, as FrozenLake-v1 has one")
    states, actions = len(table), len(table[0])
    transitions, rewards = np.zeros((states, actions, states)), np.zeros((states, actions))
    goes_on = np.ones((states, actions, states))
    for state in range(states):
        for action in range(actions):
            for probability, following, reward, ended in table[state][action]:
                transitions[state, action, following] += probability
                rewards[state, action] += probability * reward
                goes_on[state, action, following] = 0.0 if ended else 1.0
    return FiniteMDP(transitions, rewards, goes_on)


def bellman_backup(mdp: FiniteMDP, q: Floats, gamma: float) -> Floats:
    """(TQ)(s, a) = r(s, a) + γ·Σ_s' P(s' | s, a)·max_a' Q(s', a'), without the last term where the episode ends.

    q [S, A] → [S, A]. Source: Bellman 1957; Sutton & Barto 2018, equation 3.20.
    """
    following = np.einsum("sat,sat,t->sa", mdp.transitions, mdp.goes_on, q.max(axis=1))
    backed_up: Floats = mdp.rewards + gamma * following
    return backed_up


def value_iteration(mdp: FiniteMDP, gamma: float, tolerance: float = 1e-10) -> Floats:
    """Q* [S, A] to within `tolerance`: the Bellman backup, again and again.

    Raises ValueError unless 0 ≤ gamma < 1, where alone the backup is a contraction for certain.
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma expects a number in [0, 1), got {gamma}")
    q = np.zeros_like(mdp.rewards)
    while True:
        backed_up = bellman_backup(mdp, q, gamma)
        # A step of size d leaves at most γ·d / (1 − γ) to go.
        if gamma * np.abs(backed_up - q).max() <= tolerance * (1.0 - gamma):
            return backed_up
        q = backed_up


def q_update(q: Floats, state: int, action: int, target: float, step_size: float) -> None:
    """Q(s, a) ← Q(s, a) + α·(target − Q(s, a)), in place; the target is r + γ·max_a' Q(s', a').

    Source: Watkins & Dayan 1992.
    """
    q[state, action] += step_size * (target - q[state, action])


def q_learning(
    env: gymnasium.Env[Any, Any], gamma: float, steps: int, seed: int, epsilon: float = 0.5, decay: float = 0.75
) -> tuple[Floats, Floats]:
    """(Q [S, A], visits n [S, A]) after `steps` sampled steps of `env`, ε-greedy, with step size 1 / n(s, a)^decay.

    A state that ends the episode is never acted in: its n stays 0 and its Q means nothing. With decay in (0.5, 1] and
    every pair visited forever, Q converges to Q* (Watkins & Dayan 1992). `decay` 0 is step size 1: right where nothing
    is random.
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Discrete)
    assert isinstance(env.observation_space, gymnasium.spaces.Discrete)
    actions = int(space.n)
    q = np.zeros((int(env.observation_space.n), actions))
    visits = np.zeros_like(q)
    rng = np.random.default_rng(seed)
    state, _ = env.reset(seed=seed)
    for _ in range(steps):
        greedy = rng.random() >= epsilon
        # Among equals by chance: else a table of zeros would try one action only.
        choices = np.flatnonzero(q[state] == q[state].max()) if greedy else np.arange(actions)
        action = int(choices[rng.integers(len(choices))])
        following, reward, terminated, truncated, _ = env.step(action)
        target = float(reward) + (0.0 if terminated else gamma * float(q[following].max()))
        visits[state, action] += 1
        q_update(q, state, action, target, visits[state, action] ** -decay)
        state = env.reset()[0] if terminated or truncated else following
    return q, visits


def main(
    name: Annotated[str, typer.Argument(help="A finite Gymnasium environment.")] = "FrozenLake-v1",
    gamma: Annotated[float, typer.Option(min=0, help="Discount, below 1.")] = 0.9,
    steps: Annotated[int, typer.Option(min=1)] = 300_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Learn by Q-learning, solve by value iteration, and print how far they are apart."""
    env = gymnasium.make(name).unwrapped
    exact = value_iteration(mdp_of(env), gamma)
    learned, visits = q_learning(env, gamma, steps, seed)
    seen = visits.min(axis=1) > 0
    exact_seen, learned_seen = exact[seen], learned[seen]
    chosen = np.take_along_axis(exact_seen, learned_seen.argmax(axis=1)[:, None], axis=1)[:, 0]
    best = (chosen >= exact_seen.max(axis=1) - 1e-9).mean()
    print(f"{name}: {len(exact)} states, {exact.shape[1]} actions, gamma {gamma:g}, {steps:,} steps")
    print(f"{seen.sum()} states acted in: largest |Q - Q*| {np.abs(learned_seen - exact_seen).max():.4f}")
    print(f"learned action is a best one in {best:.0%} of them; largest Q* {exact_seen.max():.4f}")


if __name__ == "__main__":
    typer.run(main)
