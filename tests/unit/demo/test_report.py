import base64
import dataclasses
import html.parser
import io
import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmrlhf_ray.demo.data import Sizes, build_data
from mmrlhf_ray.demo.gallery import pick, question, view
from mmrlhf_ray.demo.report import ReportInputs, Setting, proxy_gold, write_report
from mmrlhf_ray.demo.scoring import score_responses
from mmrlhf_ray.demo.tasks import respond
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.reports.charts import Series, line_chart, ticks
from mmrlhf_ray.schema import RESPONSE
from tests.unit.tiny import filled_responses

MODALITIES = {"text", "image", "audio", "image+audio", "video"}
"""Of Omni-Digits."""
ATTACK = '<script>alert("x")</script> answer : 4 & <img src=x onerror=alert(1)>'


def answers(prompts, policy, step=0, media="own", grounded=True, kl=1.0, score=0.5):
    rows = []
    for row in prompts.to_pylist():
        extras = json.loads(row["extras"])
        text = respond(extras["answer"], extras["evidence"] if grounded else {})
        rows.append(
            {
                **{key: row[key] for key in ("prompt_id", "task", "modality")},
                "step": step,
                "policy": policy,
                "media": media,
                "text": text,
                "finish_reason": "stop",
                "response_tokens": len(text.split()) + 1,
                "score": score,
                "kl": kl,
            }
        )
    return filled_responses(rows)


def replace_text(table, row, text):
    texts = table["text"].to_pylist()
    texts[row] = text
    return table.set_column(RESPONSE.get_field_index("text"), RESPONSE.field("text"), pa.array(texts))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    sizes = Sizes(
        demonstrations=7, prompts_train=13, prompts_heldout=65, tones=10, tones_heldout=12, clips=4, clips_heldout=8
    )
    return build_data(tmp_path_factory.mktemp("omni"), seed=0, sizes=sizes)


@pytest.fixture(scope="module")
def inputs(data):
    held = pq.read_table(data.prompts_heldout / "records.parquet")
    train = pq.read_table(data.prompts_train / "records.parquet")
    rollouts = [answers(train, "ppo", step, grounded=step > 4, kl=0.1 * step, score=0.1 * step) for step in range(10)]
    ppo = replace_text(answers(held, "ppo", 10), 0, ATTACK)
    return ReportInputs(
        title="A run of <Omni-Digits>",
        machine={"cores": "2", "memory": "24 GiB"},
        setting=Setting(3, "mmrlhf demo --seed 3", {"ray": "2.60.0"}, "2026-01-31"),
        prompts=held,
        media=pq.read_table(data.prompts_heldout / "media.parquet"),
        sft=answers(held, "sft", grounded=False, kl=0.0),
        ppo=ppo,
        swapped=answers(held, "ppo", 10, media="swapped"),
        rollouts=pa.concat_tables(rollouts),
        rollout_prompts=train,
        sft_metrics=[{"step": s, "time": 0.0, "loss": 2.0 / (s + 1)} for s in range(5)],
        reward_model_metrics=[
            {"step": s, "time": 0.0, "pair_accuracy": 0.5, "eval_pair_accuracy": 0.6} for s in (0, 1)
        ],
        ppo_metrics=[{"step": s, "time": 0.0, "score": 0.1 * s, "kl": None, "odd_metric": 1.0} for s in range(3)],
        durations={"SFT": 61.0, "PPO": 125.0},
    )


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    path = write_report(run_dir, inputs)
    assert path == run_dir / "report.html"
    assert [p.name for p in run_dir.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


class Tags(html.parser.HTMLParser):
    """Every start tag with its attributes; fails on end tags that don't match."""

    VOID = ("meta", "img", "source", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def data_uri(uri):
    return base64.b64decode(uri.partition(";base64,")[2])


def test_the_page_is_one_file_without_script_or_network(page):
    tags = Tags(page)
    assert not {tag for tag, _ in tags.tags} & {"script", "link", "iframe", "object", "embed"}
    addresses = [a[key] for _, a in tags.tags for key in ("src", "href", "srcset", "poster") if key in a]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"url\(|@import|https?://", page)


def test_model_text_is_escaped(page):
    assert "&lt;script&gt;alert(" in page
    assert ATTACK not in page
    assert "A run of &lt;Omni-Digits&gt;" in page


def test_every_modality_is_in_the_gallery_with_its_media(page, inputs):
    tags = Tags(page)
    cards = tags.named("article")
    assert len(cards) == 28
    for modality in MODALITIES:
        assert f">{modality} · " in page
    sounds = tags.named("audio")
    assert sounds
    assert all("controls" in sound for sound in sounds)
    assert all(data_uri(sound["src"]).startswith(b"RIFF") for sound in sounds)
    clips = [img for img in tags.named("img") if img["alt"].startswith("clip")]
    assert clips
    assert all(Image.open(io.BytesIO(data_uri(clip["src"]))).n_frames == 4 for clip in clips)
    assert all(a.get("alt") for a in tags.named("img"))


def test_bars_durations_and_curves_are_shown(page):
    assert page.count("✓ met") == 3
    assert page.count("✗ missed") == 1
    assert "1 of 4 requirements were missed" in page
    assert "1 min 01 s" in page
    assert "2 min 05 s" in page
    assert "3 min 06 s" in page
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles == [
        "Loss",
        "pair accuracy",
        "Score, mean over responses",
        "odd metric",
        "Reward of the rollouts over steps",
        "The same over the distance from SFT",
    ]  # kl has no finite value, so no chart


def test_the_page_begins_with_what_happened_and_how_to_do_it_again(page):
    text = re.sub(r"<[^>]+>", " ", page[page.index("<header>") : page.index("</header>")])
    said = " ".join(text.split())
    assert re.search(r"PPO raised the gold reward from \d\.\d+ to \d\.\d+ \(\+0\.\d+ \[\+0\.\d+, \+0\.\d+\]\)", said)
    assert all(part in said for part in ("seed 3", "ray 2.60.0", "mmrlhf demo --seed 3", "2026-01-31", "cores 2"))


def test_differences_stand_in_columns_of_their_own_with_a_colour_where_they_are_sure(page):
    rows = re.findall(r'<td class="left (better|worse|same)">([+−]?\d\.\d+) \[[+−]?\d', page)
    assert {direction for direction, _ in rows} >= {"better", "same"}
    assert all(text.startswith("+") for direction, text in rows if direction == "better")


def test_cards_can_be_chosen_by_what_happened(page):
    changes = re.findall(r'<article class="card" data-change="(\w+)"', page)
    assert changes == sorted(changes, key=("worse", "better", "same").index)
    for change in ("worse", "better", "same"):
        assert f"{change} ({changes.count(change)})" in page


def test_every_label_points_at_an_element(page):
    tags = Tags(page)
    ids = {a["id"] for _, a in tags.tags if "id" in a}
    assert {a["aria-labelledby"] for _, a in tags.tags if "aria-labelledby" in a} <= ids
    assert all(svg["role"] == "img" and "Line chart:" in svg["aria-label"] for svg in tags.named("svg"))


def test_a_run_without_curves_still_has_a_report(inputs, tmp_path):
    bare = dataclasses.replace(inputs, sft_metrics=[], reward_model_metrics=[], ppo_metrics=[], durations={})
    Tags(write_report(tmp_path, bare).read_text(encoding="utf-8"))


def test_missing_media_are_named(inputs, tmp_path):
    with pytest.raises(DataError, match="not in the media table"):
        write_report(tmp_path, dataclasses.replace(inputs, media=inputs.media.slice(0, 1)))
    assert list(tmp_path.iterdir()) == []


def test_proxy_and_gold_are_means_of_each_step(inputs):
    points = proxy_gold(score_responses(inputs.rollouts, inputs.rollout_prompts))
    assert [p.step for p in points] == list(range(10))
    assert [p.gold for p in points] == pytest.approx([1.0] * 5 + [1.6] * 5)
    assert [p.proxy for p in points] == pytest.approx([0.1 * s for s in range(10)], abs=1e-6)
    assert points[3].kl == pytest.approx(0.3, abs=1e-6)


def test_pick_covers_modalities_and_tasks_and_is_not_by_answer(inputs):
    picked = pick(inputs.prompts, 14)
    assert {row["modality"] for row in picked} == MODALITIES
    assert {row["task"] for row in picked if row["modality"] == "image"} == {
        "image_digit",
        "image_parity",
        "images_larger",
    }
    shuffled = inputs.prompts.take(np.random.default_rng(0).permutation(inputs.prompts.num_rows))
    assert pick(shuffled, 14) == picked
    assert len(pick(inputs.prompts, 1000)) == inputs.prompts.num_rows


def test_a_clip_is_shown_frame_by_frame(inputs):
    row = next(row for row in inputs.media.to_pylist() if row["kind"] == "video")
    shown = view(row)
    moving = Image.open(io.BytesIO(data_uri(shown.uri)))
    assert moving.info["duration"] == 250
    assert moving.n_frames == len(shown.stills) == 4
    stills = [np.asarray(Image.open(io.BytesIO(data_uri(uri)))) for uri in shown.stills]
    assert not np.array_equal(stills[0], stills[-1])


def test_question_takes_text_parts_of_user_messages():
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it ?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "sure ?"},
    ]
    assert question(json.dumps(messages)) == "what is it ?\nsure ?"


def points_of(chart):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'<polyline[^>]*points="([^"]*)"', chart)
    ]


def test_chart_goes_up_where_the_figures_do_and_breaks_at_gaps():
    lines = points_of(line_chart("t", [Series("a", range(5), [0.0, 1.0, None, math.nan, 2.0])], "step"))
    assert [len(line) for line in lines] == [2, 1]
    (x0, y0), (x1, y1) = lines[0]
    assert x1 > x0
    assert y1 < y0
    assert lines[1][0][0] == pytest.approx(x0 + 4 * (x1 - x0), abs=0.2)
    assert lines[1][0][1] == pytest.approx(y0 + 2 * (y1 - y0), abs=0.2)


def test_chart_names_are_escaped_and_spoken():
    chart = line_chart("a < b", [Series("x&y", [0, 1], [1.0, 3.0]), Series("z", [0], [2.0])], "step")
    assert "a &lt; b" in chart
    assert "x&amp;y: 1 at step 0, 3 at step 1, lowest 1, highest 3." in chart
    Tags(str(chart))


def test_long_series_are_averaged_down():
    (line,) = points_of(line_chart("t", [Series("a", range(1000), [1.0] * 500 + [2.0] * 500)], "step"))
    assert len(line) == 200


def test_chart_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="'t': no finite point"):
        line_chart("t", [Series("a", [0], [math.nan])], "step")


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.3, 1.6, [-0.5, 0, 0.5, 1, 1.5, 2]),
        (0, 150, [0, 50, 100, 150]),
        (5, 5, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, want):
    got = ticks(low, high)
    assert got[0] <= low
    assert got[-1] >= high
    assert got == pytest.approx(want)


@pytest.mark.parametrize("scale", [1e-14, 1e-9, 1.0, 1e9])
def test_charts_of_any_scale(scale):
    marks = ticks(1.0 * scale, 3.0 * scale)
    assert marks == pytest.approx([x * scale for x in (1.0, 1.5, 2.0, 2.5, 3.0)], rel=1e-6, abs=0.0)
    assert len(set(marks)) == len(marks)
    line_chart("tiny", [Series("y", [0, 1], [1.0 * scale, 3.0 * scale])], "step")
