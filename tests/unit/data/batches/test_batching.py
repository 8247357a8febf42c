"""Properties of the plan, over many random workloads."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from mmrlhf_ray.config import EngineConfig
from mmrlhf_ray.data.batches.batching import (
    MicroBatch,
    PassBudget,
    Shard,
    SharedPrompts,
    align_passes,
    check_lengths,
    fill_lines,
    fill_passes,
    media_kinds,
    one_pass_plan,
    padding_share,
    plan_shards,
    present_kinds,
)
from mmrlhf_ray.data.encoding.encode import Encoder

KINDS = ("image", "audio", "video")


class Workload:
    """Random rows, steps, ranks and budget."""

    def __init__(self, seed: int, *, shared: bool = False):
        rng = random.Random(seed)
        self.lengths = [rng.choice([rng.randint(1, 20), rng.randint(50, 100)]) for _ in range(rng.randint(1, 60))]
        groups = sorted(rng.randint(0, len(self.lengths) // 3) for _ in self.lengths)
        shortest = {g: min(n for n, own in zip(self.lengths, groups, strict=True) if own == g) for g in groups}
        self.prompts = SharedPrompts(groups, [shortest[group] for group in groups])
        self.kinds = [frozenset(rng.sample(KINDS, rng.choice([0, 0, 1, 1, 2]))) for _ in self.lengths]
        self.n_ranks = rng.randint(1, 5)
        self.budget = PassBudget(rng.randint(100, 400), rng.choice([0.0, 0.05, 0.3]), shared)
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        cut = rng.randint(0, len(order))
        # Two epochs over the rows: a row may come in several steps, but once in each.
        self.steps = [s for s in (order[:cut], order[cut:], order) if s]

    def plan(self) -> list[Shard]:
        return plan_shards(self.lengths, self.kinds, self.steps, self.n_ranks, self.budget, self.prompts)

    def lines(self, shard: Shard, micro_batch: MicroBatch) -> dict[int, list[int]]:
        """The rows in each line of a pass."""
        found: dict[int, list[int]] = {}
        for row, line in zip(micro_batch.rows, micro_batch.lines or (), strict=True):
            found.setdefault(line, []).append(shard.rows[row])
        return found


@pytest.fixture(scope="module")
def plain() -> list[Workload]:
    return [Workload(seed) for seed in range(200)]


@pytest.fixture(scope="module")
def shared() -> list[Workload]:
    return [Workload(seed, shared=True) for seed in range(200)]


@pytest.fixture(scope="module")
def workloads(plain: list[Workload], shared: list[Workload]) -> list[Workload]:
    return plain + shared


def test_every_row_is_in_each_of_its_steps_once(workloads: list[Workload]) -> None:
    for work in workloads:
        shards = work.plan()
        for number, step in enumerate(work.steps):
            done = Counter(s.rows[row] for s in shards for micro_batch in s.steps[number] for row in micro_batch.rows)
            assert done == Counter(step)


def test_a_ranks_own_rows_are_numbered_in_the_order_of_use(workloads: list[Workload]) -> None:
    for work in workloads:
        for shard in work.plan():
            used = [row for step in shard.steps for micro_batch in step for row in micro_batch.rows]
            assert used == list(range(len(shard.rows)))


def test_ranks_have_equally_many_passes_over_the_same_kinds(workloads: list[Workload]) -> None:
    for work in workloads:
        shards = work.plan()
        for number in range(len(work.steps)):
            passes = [shard.steps[number] for shard in shards]
            assert len({len(p) for p in passes}) == 1
            for together in zip(*passes, strict=True):
                seen = set()
                for shard, micro_batch in zip(shards, together, strict=True):
                    own = present_kinds([shard.rows[row] for row in micro_batch.rows], work.kinds)
                    assert not own & set(micro_batch.dummies), "no dummy of a kind that is there"
                    assert micro_batch.rows or micro_batch.dummies, "no pass is empty"
                    seen.add(own | set(micro_batch.dummies) - {"text"})
                assert len(seen) == 1
        assert len({shard.passes for shard in shards}) == 1


def test_passes_keep_to_the_budget_and_the_padding_share(plain: list[Workload]) -> None:
    for work in plain:
        for shard in work.plan():
            for micro_batch in (m for step in shard.steps for m in step if m.rows):
                tokens = [work.lengths[shard.rows[row]] for row in micro_batch.rows]
                positions = max(tokens) * len(tokens)
                assert positions <= work.budget.tokens
                assert positions - sum(tokens) <= work.budget.max_padding_share * positions


def test_lines_keep_to_the_budget_and_the_padding_share(shared: list[Workload]) -> None:
    for work in shared:
        shards = work.plan()
        for shard in shards:
            for micro_batch in (m for step in shard.steps for m in step if m.rows):
                loads = [work.prompts.cost(line, work.lengths) for line in work.lines(shard, micro_batch).values()]
                positions = max(loads) * len(loads)
                assert positions <= work.budget.tokens
                assert positions - sum(loads) <= work.budget.max_padding_share * positions
        assert padding_share(shards, work.lengths, work.prompts) <= work.budget.max_padding_share


def test_a_group_is_cut_only_where_it_is_too_large(shared: list[Workload]) -> None:
    cut = 0
    for work in shared:
        for number, step in enumerate(work.steps):
            places = {
                (work.prompts.groups[row], rank, index, line)
                for rank, shard in enumerate(work.plan())
                for index, micro_batch in enumerate(shard.steps[number])
                for line, rows in work.lines(shard, micro_batch).items()
                for row in rows
            }
            groups = {group: [row for row in step if work.prompts.groups[row] == group] for group, *_ in places}
            costs = {group: work.prompts.cost(rows, work.lengths) for group, rows in groups.items()}
            share = sum(costs.values()) / work.n_ranks
            for group, times in Counter(group for group, *_ in places).items():
                cut += times > 1
                assert times == 1 or costs[group] > min(1.5 * share, work.budget.tokens) - 1
    assert cut


def test_prompts_in_common_save_tokens() -> None:
    lengths, prompts = [110] * 8, SharedPrompts([0] * 4 + [1] * 4, [100] * 8)
    (shard,) = one_pass_plan(lengths, [frozenset()] * 8, 1, PassBudget(1000, shared=True), prompts)
    assert shard.steps == ((MicroBatch(tuple(range(8)), lines=(0,) * 4 + (1,) * 4),),)
    (plain,) = one_pass_plan(lengths, [frozenset()] * 8, 1, PassBudget(300), prompts)
    assert [len(micro_batch.rows) for micro_batch in plain.steps[0]] == [2, 2, 2, 2]


def test_what_shares_no_prompt_is_packed_where_the_budget_has_it() -> None:
    lengths, prompts = [110, 110, 90], SharedPrompts([0, 0, 1], [100, 100, 80])

    def passes(**budget: bool | int) -> tuple[MicroBatch, ...]:
        (shard,) = one_pass_plan(lengths, [frozenset()] * 3, 1, PassBudget(**budget), prompts)
        assert padding_share([shard], lengths, prompts) == 0.0
        return shard.steps[0]

    apart = MicroBatch((0, 1, 2), lines=(0, 0, 0), packed=True)
    assert passes(tokens=400, packed=True) == (apart,)
    assert passes(tokens=400, packed=True, shared=True) == (MicroBatch((0, 1, 2), lines=(0, 0, 0)),)
    # The group fills a pass, and the other row is alone in the next.
    assert passes(tokens=130, packed=True, shared=True, max_padding_share=0) == (
        MicroBatch((0, 1), lines=(0, 0)),
        MicroBatch((2,), lines=(0,), packed=True),
    )


def test_a_family_that_takes_no_lines_packs_none(vl_encoder: Encoder) -> None:
    @dataclass(frozen=True)
    class Other:
        shared_rows = None

    engine = EngineConfig(shared_prompt=False)
    assert PassBudget.of(engine, [vl_encoder.adapter], packed=True).packed
    assert not PassBudget.of(engine, [vl_encoder.adapter, Other()], packed=True).packed


def test_ranks_are_balanced_to_within_one_row(plain: list[Workload]) -> None:
    for work in plain:
        shards = work.plan()
        for number, step in enumerate(work.steps):
            load = [sum(work.lengths[s.rows[row]] for m in s.steps[number] for row in m.rows) for s in shards]
            assert max(load) - min(load) <= max(work.lengths[row] for row in step)


def test_the_plan_depends_on_its_arguments_alone() -> None:
    assert Workload(7).plan() == Workload(7).plan()


def test_rows_join_a_pass_up_to_the_budget() -> None:
    assert fill_passes([0, 1, 2], [10, 10, 10], PassBudget(30)) == [MicroBatch((0, 1, 2))]
    assert fill_passes([0, 1, 2], [10, 10, 10], PassBudget(29)) == [MicroBatch((0, 1)), MicroBatch((2,))]


def test_padding_splits_a_pass() -> None:
    # 10 + 9 tokens in 20 positions: one twentieth is padding.
    assert fill_passes([0, 1], [9, 10], PassBudget(100, 0.05)) == [MicroBatch((1, 0))]
    assert fill_passes([0, 1], [9, 10], PassBudget(100, 0.04)) == [MicroBatch((1,)), MicroBatch((0,))]


def test_padding_joins_lines() -> None:
    # 10 + 9 + 9 tokens: in three lines 2 of 30 positions are padding, in two 10 of 38, in one none.
    assert fill_lines([0, 1, 2], [9, 10, 9], PassBudget(100, 0.07)) == [[[1], [0], [2]]]
    assert fill_lines([0, 1, 2], [9, 10, 9], PassBudget(100, 0.05)) == [[[1, 0, 2]]]
    assert fill_lines([0, 1, 2], [9, 10, 9], PassBudget(19, 0.0)) == [[[1, 0]], [[2]]]


def test_dummies_stand_for_what_only_others_have() -> None:
    present = [[frozenset({"image"})], [frozenset({"audio", "image"}), frozenset()]]
    own, others = [MicroBatch((0,))], [MicroBatch((4,), lines=(0,)), MicroBatch((5,), lines=(0,))]
    assert align_passes(own, present, rank=0) == [MicroBatch((0,), ("audio",)), MicroBatch((), ("text",))]
    assert align_passes(others, present, rank=1) == others


def test_a_rank_without_rows_runs_the_others_towers() -> None:
    shards = plan_shards([5], [frozenset({"video"})], [[0]], 2, PassBudget(10))
    assert shards[0] == Shard((0,), ((MicroBatch((0,)),),))
    assert shards[1] == Shard((), ((MicroBatch((), ("video",)),),))


def test_one_pass_plan_has_one_step_with_every_row() -> None:
    shards = one_pass_plan([3, 4, 5], [frozenset()] * 3, 2, PassBudget(100))
    assert sorted(row for shard in shards for row in shard.rows) == [0, 1, 2]
    assert all(len(shard.steps) == 1 for shard in shards)


def test_a_row_longer_than_a_pass_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"row 1 has 11 tokens, more than micro_batch_tokens=10; raise it to at least 11"
    ):
        check_lengths([3, 11], PassBudget(10))
    with pytest.raises(ValueError, match="row 1 has 11 tokens"):
        plan_shards([3, 11], [frozenset()] * 2, [[0, 1]], 1, PassBudget(10))
    check_lengths([10], PassBudget(10))
    check_lengths([], PassBudget(10))


def test_media_kinds_are_read_from_the_modality() -> None:
    assert media_kinds("text") == frozenset()
    assert media_kinds("image+audio") == {"image", "audio"}


def test_padding_share_counts_positions() -> None:
    shard = Shard((1, 0, 2), ((MicroBatch((0, 1)), MicroBatch((2,))),))
    assert padding_share([shard], [4, 10, 6]) == pytest.approx(6 / 26)
    assert padding_share([Shard((), ((MicroBatch((), ("text",)),),))], []) == 0.0
