"""check() lets good tables through and says what is wrong with others."""

import pyarrow as pa
import pytest

from mmrlhf_ray.errors import SchemaError
from mmrlhf_ray.schema import EXPERIENCE, PREFERENCE, PROMPT, ROLLOUT, TABLES, check

PROMPTS = [
    {"prompt_id": f"p{i}", "messages": "[]", "media_ids": [], "task": "t", "modality": "text", "extras": "{}"}
    for i in range(3)
]


def prompts() -> pa.Table:
    return pa.Table.from_pylist(PROMPTS, schema=PROMPT)


def rollouts(**changes: list) -> pa.Table:
    rows = [
        {
            "sample_id": f"s{i}",
            "group_id": 0,
            "prompt_id": "p",
            "task": "t",
            "modality": "text",
            "policy_version": 0,
            "versions": [],
            "segments": [],
            "prompt_token_ids": [1],
            "facts_token_ids": [],
            "response_token_ids": [1] * n,
            "response_mask": [True] * n,
            "rollout_logprobs": [0.0] * n,
            "finish_reason": "stop",
            "media_ids": [],
        }
        | {name: values[i] for name, values in changes.items()}
        for i, n in enumerate((2, 3))
    ]
    return pa.Table.from_pylist(rows, schema=ROLLOUT)


def message(table: pa.Table, schema: pa.Schema) -> str:
    with pytest.raises(SchemaError) as error:
        check(table, schema, "Actor.method")
    text = str(error.value)
    assert text.startswith("Actor.method: " + schema.metadata[b"mmrlhf.table"].decode())
    return text


@pytest.mark.parametrize("name", TABLES)
def test_every_schema_passes_its_own_empty_table(name: str) -> None:
    table = TABLES[name].empty_table()
    assert check(table, TABLES[name], "test") is table


def test_good_tables_come_back_as_they_are() -> None:
    for table, schema in ((prompts(), PROMPT), (rollouts(), ROLLOUT), (rollouts().slice(1), ROLLOUT)):
        assert check(table, schema, "test") is table


def test_the_order_of_columns_is_free() -> None:
    table = prompts()
    check(table.select(list(reversed(table.column_names))), PROMPT, "test")


def test_missing_and_unknown_columns_are_named() -> None:
    table = prompts().rename_columns(["prompt_id", "messages", "media_ids", "task", "modality", "surprise"])
    text = message(table, PROMPT)
    assert "missing ['extras']" in text
    assert "unexpected ['surprise']" in text
    assert "missing ['chosen', 'rejected', 'margin']" in message(prompts(), PREFERENCE)


def test_a_wrong_type_is_named() -> None:
    place = PROMPT.names.index("task")
    table = prompts().set_column(place, "task", pa.array([1, 2, 3]))
    assert "PROMPT.task expects string, got int64" in message(table, PROMPT)


def test_a_null_is_named_with_its_row() -> None:
    place = PROMPT.names.index("task")
    table = prompts().set_column(place, "task", pa.array(["a", "b", None]))
    assert "PROMPT.task expects no nulls, row 2 is null" in message(table, PROMPT)


@pytest.mark.parametrize("column", ["response_mask", "rollout_logprobs"])
def test_per_token_lists_have_the_responses_length(column: str) -> None:
    value = True if column == "response_mask" else 0.0
    text = message(rollouts(**{column: [[value] * 2, [value] * 2]}), ROLLOUT)
    assert f"{column} expects 3 entries as in response_token_ids, row 1 has 2" in text


@pytest.mark.parametrize("column", ["rewards", "old_logprobs", "ref_logprobs", "values", "advantages", "returns"])
def test_so_do_those_of_experience(column: str) -> None:
    table = rollouts()
    for field in list(EXPERIENCE)[len(ROLLOUT) :]:
        lengths = (1, 3) if field.name == column else (2, 3)
        values = [0.0, 0.0] if field.name == "score" else [[0.0] * n for n in lengths]
        table = table.append_column(field, pa.array(values, field.type))
    assert f"{column} expects 2 entries as in response_token_ids, row 0 has 1" in message(table, EXPERIENCE)


def span(version: int, start: int, end: int) -> dict:
    return {"version": version, "start": start, "end": end}


def test_spans_of_versions_cover_the_response() -> None:
    check(rollouts(versions=[[span(3, 0, 2)], [span(3, 0, 1), span(4, 1, 3)]]), ROLLOUT, "test")
    short = rollouts(versions=[[], [span(3, 0, 1), span(4, 1, 2)]])
    assert "versions expects spans that cover the 3 sampled tokens of the response, row 1 has" in message(
        short, ROLLOUT
    )
    parts = pa.concat_tables([rollouts(), short])
    assert "versions expects spans that cover the 3 sampled tokens of the response, row 3 has" in message(
        parts, ROLLOUT
    )
