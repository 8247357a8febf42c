import io
import json
import math

import pyarrow as pa
import pytest
from rich.console import Console

from mmrlhf_ray.demo.scoring import (
    bars,
    compare,
    judge,
    media_bar,
    print_table,
    score_responses,
    summarise,
)
from mmrlhf_ray.errors import DataError, SchemaError
from mmrlhf_ray.schema import PROMPT, RESPONSE
from tests.unit.tiny import filled_responses

RIGHT, TERSE, WRONG = "the image shows 4 . answer : 4", "answer : 4", "answer : 5"


def prompt_table(n, modality="image"):
    extras = json.dumps({"answer": "4", "options": ["4", "5"], "evidence": {"image": "4"}, "facts": "image 4"})
    rows = [
        {
            "prompt_id": f"held-{i}",
            "messages": json.dumps([{"role": "user", "content": [{"type": "image"}]}]),
            "media_ids": ["m"],
            "task": "image_digit" if i % 2 else "image_parity",
            "modality": modality,
            "extras": extras,
        }
        for i in range(n)
    ]
    return pa.Table.from_pylist(rows, schema=PROMPT)


def response_table(texts, policy="ppo", finish="stop", score=0.5, kl=1.0, modality="image", media="own"):
    rows = [
        {
            "step": 7,
            "policy": policy,
            "media": media,
            "prompt_id": f"held-{i}",
            "task": "image_digit" if i % 2 else "image_parity",
            "modality": modality,
            "text": text,
            "finish_reason": finish,
            "response_tokens": len(text.split()) + 1,
            "score": score,
            "kl": kl,
        }
        for i, text in enumerate(texts)
    ]
    return filled_responses(rows)


def scored(texts, **columns):
    return score_responses(response_table(texts, **columns), prompt_table(len(texts)))


def test_scores_are_the_gold_reward_of_each_row():
    got = scored([RIGHT, TERSE, WRONG])
    assert [(r.gold.correct, r.gold.grounded, r.gold.total) for r in got] == [
        (True, True, 1.6),
        (True, False, 1.0),
        (False, False, 0.0),
    ]
    assert got[1].prompt_id == "held-1"
    assert got[1].task == "image_digit"
    assert got[1].step == 7


def test_a_response_to_an_unknown_prompt_is_named():
    with pytest.raises(DataError, match="row 2: prompt_id 'held-2'"):
        score_responses(response_table([RIGHT] * 3), prompt_table(2))


def test_a_wrong_table_is_refused():
    with pytest.raises(SchemaError, match="kl"):
        score_responses(response_table([RIGHT]).drop_columns(["kl"]), prompt_table(1))


def test_summary_overall_and_by_task():
    # Even rows are image_parity, odd rows image_digit.
    summary = summarise(scored([RIGHT, WRONG, RIGHT, TERSE]))
    overall = summary.overall
    assert (overall.n, overall.accuracy.estimate, overall.grounded) == (4, 0.75, 0.5)
    assert overall.gold.estimate == pytest.approx((1.6 + 0 + 1.6 + 1) / 4)
    assert overall.gold.low < overall.gold.estimate < overall.gold.high
    assert overall.accuracy.low == pytest.approx(0.3006, abs=1e-4)  # Wilson, 3 of 4
    assert (overall.proxy, overall.kl, overall.unfinished) == (0.5, 1.0, 0.0)
    assert overall.response_tokens == (9 + 4 + 9 + 4) / 4
    assert {task: group.accuracy.estimate for task, group in summary.by_task.items()} == {
        "image_digit": 0.5,
        "image_parity": 1.0,
    }
    assert summary.by_modality["image"] == overall


def test_unfinished_and_unasked_figures():
    overall = summarise(scored([RIGHT], finish="length", score=math.nan, kl=math.nan)).overall
    assert overall.unfinished == 1
    assert overall.gold.estimate == pytest.approx(1.1)
    assert math.isnan(overall.proxy)
    assert math.isnan(overall.kl)


def test_nothing_to_summarise_is_an_error():
    with pytest.raises(DataError, match="no responses"):
        summarise([])


def test_comparison_counts_from_the_candidates_side_whatever_the_row_order():
    candidate = scored([RIGHT] * 6 + [TERSE] * 3 + [WRONG])
    baseline = list(reversed(scored([TERSE] * 10)))
    outcome = compare(candidate, baseline).outcome
    assert (outcome.wins, outcome.ties, outcome.losses) == (6, 3, 1)
    assert outcome.net.estimate == 0.5


def test_several_samples_of_a_prompt_count_once():
    prompts = prompt_table(1)
    both = score_responses(pa.concat_tables([response_table([RIGHT]), response_table([WRONG])]), prompts)  # mean 0.8
    outcome = compare(both, score_responses(response_table([TERSE]), prompts)).outcome
    assert (outcome.wins, outcome.ties, outcome.losses) == (0, 0, 1)


def test_different_prompts_cannot_be_compared():
    with pytest.raises(DataError, match="1 are answered by one alone, the first is 'held-2'"):
        compare(scored([RIGHT] * 3), scored([RIGHT] * 2))


def verdict_bars(before, after):
    candidate, baseline = scored(after), scored(before)
    return [bar.passed for bar in bars(summarise(baseline), summarise(candidate), compare(candidate, baseline))]


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ([TERSE] * 40, [RIGHT] * 40, [True, True, True]),
        ([TERSE] * 40, [TERSE] * 40, [False, False, True]),
        ([RIGHT] * 40, [TERSE] * 40, [False, False, True]),
        ([TERSE] * 40, [RIGHT] * 20 + [WRONG] * 20, [False, False, False]),
        ([TERSE] * 30 + [WRONG] * 10, [RIGHT] * 24 + [TERSE] * 6 + [WRONG] * 10, [True, True, True]),
        ([TERSE] * 40, [RIGHT] * 9 + [TERSE] * 31, [False, True, True]),
    ],
)
def test_bars(before, after, passed):
    assert verdict_bars(before, after) == passed


def test_media_that_cost_nothing_miss_their_bar():
    own = summarise(scored([RIGHT] * 40))
    assert media_bar(own, summarise(scored([WRONG] * 40))).passed
    assert not media_bar(own, summarise(scored([RIGHT] * 40))).passed
    assert not media_bar(own, summarise(scored([RIGHT] * 39 + [WRONG]))).passed


def test_text_prompts_do_not_blur_the_ablation():
    # Half the prompts are text, answered rightly under swapped media too: they must not enter the bar.
    picture, text = prompt_table(40), prompt_table(40, modality="text")
    renamed = [f"text-{i}" for i in range(40)]
    prompts = pa.concat_tables([picture, text.set_column(0, PROMPT.field("prompt_id"), pa.array(renamed))])

    def answers(seen, read, media="own"):
        words = response_table([read] * 40, modality="text", media=media)
        words = words.set_column(3, RESPONSE.field("prompt_id"), pa.array(renamed))
        return pa.concat_tables([response_table([seen] * 40, media=media), words])

    own = answers(RIGHT, WRONG)
    verdict = judge(prompts, answers(TERSE, WRONG), own, answers(WRONG, RIGHT, "swapped"))
    assert verdict.bars[-1].passed
    assert verdict.bars[-1].measured.startswith("0.000")
    assert verdict.swapped.overall.accuracy.estimate == 0.5


def test_table_fits_80_columns_and_names_every_bar():
    verdict = judge(
        prompt_table(40),
        response_table([TERSE] * 40, policy="sft", kl=0.0),
        response_table([TERSE] * 40, score=-1.234, kl=12.34),
        response_table([WRONG] * 40, media="swapped"),
    )
    console = Console(file=io.StringIO(), width=80)
    print_table(verdict, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("accuracy", "grounded", "gold", "proxy", "KL", "length", "SFT", "media swapped", "-1.234", "12.34"):
        assert word in text
    assert text.count("MISSED") == 2
    assert text.count("passed") == 2
    assert "0 wins, 40 ties, 0 losses" in text
    assert not verdict.passed


def test_long_figures_are_not_cut():
    one = response_table([TERSE] * 40, score=-12345.678, kl=123456.78)
    console = Console(file=io.StringIO(), width=60)
    print_table(judge(prompt_table(40), one, one, one), console)
    assert "-12345.678" in console.file.getvalue()
    assert "123456.78" in console.file.getvalue()
