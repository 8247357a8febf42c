"""Model cards, read back by the hub's own library."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.card import (
    CARD_FILE,
    Base,
    CardFacts,
    Result,
    Results,
    add_results,
    base_of,
    read_card,
    shown_path,
    write_card,
)

KEPT = "hub/models--org--base/snapshots/0123abc"
HEADER = "---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE\nbase_model: org/first\n---\n\n# Theirs\n"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A directory with a picture model's configuration."""
    path = tmp_path / "run" / "model"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "x", "vision_config": {"depth": 1}}))
    return path


def facts(**changes: object) -> CardFacts:
    bases = [Base("hf:org/base@0123abc", "org/base", {"license": "apache-2.0"})]
    values = {"name": "mine", "summary": "Trained.", "bases": bases, "tags": ["ppo", "grpo"]} | changes
    return CardFacts(**values)  # type: ignore[arg-type]


def test_the_hub_reads_all_of_it(exported: Path) -> None:
    results = Results("Held-out data", "eval_data", [Result("eval_score", 0.5, 0.4, 0.6), Result("eval_kl", 1.0)])
    own = facts(
        datasets=["org/pairs"],
        data={"data": "rows.jsonl: 2 rows, sha256 ab | cd"},
        settings={"algorithm": {"kl_coef": 0.02}},
    )
    write_card(exported, own, [results])
    card = ModelCard.load(exported / CARD_FILE)
    header = card.data.to_dict()
    assert {key: header[key] for key in ("base_model", "license", "library_name", "pipeline_tag", "datasets")} == {
        "base_model": "org/base",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "datasets": ["org/pairs"],
    }
    assert header["tags"] == ["mmrlhf_ray", "ppo", "grpo"]
    score, kl = card.data.eval_results or []
    assert (score.dataset_name, score.metric_type, score.metric_value) == ("eval_data", "eval_score", 0.5)
    assert score.metric_name == "eval_score (95 % interval 0.4 to 0.6)"
    assert (kl.metric_type, kl.metric_name, kl.metric_value) == ("eval_kl", "eval_kl", 1.0)
    assert "| eval_score | 0.5 [0.4, 0.6] |" in card.text
    assert r"| `data` | rows.jsonl: 2 rows, sha256 ab \| cd |" in card.text
    fenced = card.text.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(fenced) == {"algorithm": {"kl_coef": 0.02}}
    assert "`hf:org/base@0123abc` (from [org/base](https://huggingface.co/org/base))" in card.text
    assert "transformers" in card.text.partition("## Versions")[2]


def test_figures_are_replaced_by_those_measured_again(exported: Path) -> None:
    write_card(exported, facts())
    for value in (0.1, 0.2):
        add_results(exported, Results("Evaluation", "mine", [Result("score", value)]))
        add_results(exported, Results("Other", "mine", [Result("kl", value)]))
    card = read_card(exported)
    assert sorted((own.metric_type, own.metric_value) for own in card.data.eval_results) == [
        ("kl", 0.2),
        ("score", 0.2),
    ]
    assert card.text.count("## Evaluation") == card.text.count("## Other") == 1
    assert "0.1" not in card.text.partition("## Evaluation")[2]
    assert "## Versions" in card.text


def test_a_base_of_a_hub_is_named_by_its_id(tmp_path: Path) -> None:
    kept = tmp_path / KEPT
    kept.mkdir(parents=True)
    assert base_of(kept) == Base("hf:org/base@0123abc", "org/base", {})
    (kept / CARD_FILE).write_text(HEADER)
    theirs = {"license": "other", "license_name": "theirs", "license_link": "LICENSE"}
    assert base_of(kept) == Base("hf:org/base@0123abc", "org/base", theirs)


def test_what_was_made_from_a_hubs_model_says_so_again(tmp_path: Path) -> None:
    run = tmp_path / "my-sft" / "model"
    run.mkdir(parents=True)
    (run / CARD_FILE).write_text(HEADER)
    found = base_of(run)
    assert (found.name, found.hub_id, found.licence["license_name"]) == ("my-sft/model", "org/first", "theirs")


def test_a_licence_file_alone_is_linked(exported: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "LICENSE.txt").write_text("Do as you like.")
    write_card(exported, facts(bases=[base_of(base)]))
    header = read_card(exported).data.to_dict()
    assert header["license"] == "other"
    assert header["license_link"] == "LICENSE.txt"
    assert "base_model" not in header


def test_an_unknown_licence_is_said_to_be_unknown(exported: Path) -> None:
    write_card(exported, facts(bases=[Base("models/x")]))
    card = read_card(exported)
    assert card.data.license is None
    assert "does not say its licence here: look it up before you publish" in card.text


def test_several_bases_with_other_licences_give_none(exported: Path) -> None:
    two = [Base("a", "org/a", {"license": "mit"}), Base("b", "org/b", {"license": "apache-2.0"})]
    write_card(exported, facts(bases=two, merged=True))
    header = read_card(exported).data.to_dict()
    assert (header["base_model"], header["base_model_relation"]) == (["org/a", "org/b"], "merge")
    assert "license" not in header


def test_paths_of_a_machine_do_not_get_out() -> None:
    assert shown_path("/home/me/runs/my-sft/model") == "my-sft/model"
    assert shown_path("/home/me/data/pairs.jsonl") == "pairs.jsonl"
    assert shown_path(f"/home/me/{KEPT}") == "hf:org/base@0123abc"
    assert shown_path("/home/me/.cache/modelscope/hub/models/org/base") == "ms:org/base"


def test_a_card_that_hubs_cannot_read_is_named(exported: Path) -> None:
    with pytest.raises(ModelError, match="expected a model card, found none; export the model again"):
        read_card(exported)
    (exported / CARD_FILE).write_text("---\n- a list\n---\n\n# Mine\n")
    with pytest.raises(ModelError, match="no hub can read its header: .*; correct it"):
        add_results(exported, Results("t", "d", []))
