"""Each bad input gets a reason that names file and row, and harms nothing."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import RawMedia, encode_prompt
from mmrlhf_ray.data.media.remote import fetch
from mmrlhf_ray.data.records import sources
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import PROMPT, TABLES
from tests.unit.data import bad_media as media
from tests.unit.data.bad_inputs import GOOD, Case, cases, shows, write_case
from tests.unit.data.web import named, site

CASES = cases()


def check(case: Case, directory: Path) -> None:
    """The row is set aside, alone, with its place, its reason and what to do."""
    file = write_case(case, directory / "data")
    config = DataConfig(path=str(file), format="mmrlhf", on_bad_row="quarantine", **case.config)
    read = read_records(config, TABLES[case.schema], directory / "run")
    assert read.records["prompt_id"].to_pylist() == [GOOD[case.schema]["prompt_id"]]
    (entry,) = map(json.loads, (directory / "run" / "quarantine.jsonl").read_text().splitlines())
    assert (entry["file"], entry["row"]) == (str(file), 1)
    assert entry["remedy"]
    assert re.search(case.reason, f"{entry['reason']}; {entry['remedy']}"), entry["reason"]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_bad_input_is_set_aside_with_its_reason(case, tmp_path):
    check(case, tmp_path)


def test_there_are_more_than_200():
    assert len(CASES) > 200


MEASURED = """
import re, resource, sys
import psutil
from pathlib import Path
from tests.unit.data.bad_inputs import cases
from tests.unit.data.test_bad_inputs import check

heavy = [case for case in cases() if case.heavy]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number, case in enumerate(heavy):
    check(case, Path(sys.argv[1]) / str(number))
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
# Not RUSAGE_CHILDREN, which takes what we had when we started them for theirs.
pids = [child.pid for child in psutil.Process().children()]
peaks = [int(re.search(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) for pid in pids]
print(len(heavy), before // 1024, own // 1024, max(peaks) // 1024)
"""


def test_bombs_take_no_memory(tmp_path):
    """Believed, they would take up to 4 EiB."""
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    count, before, own, children = map(int, done.stdout.split()[-4:])
    assert count > 12
    assert own - before < 300, "MiB, with the making of the files, of which the largest has 65"
    assert 50 < children < 300, "MiB"


# Redirects: the servers stand at the loopback address, which only these tests allow.


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://inner.test/a.png", "leads to 10.0.0.1, which is not a public address"),
        ("http://metadata.test/latest", "leads to 169.254.169.254, which is not a public address"),
        ("http://[::1]/a.png", "leads to ::1, which is not a public address"),
        ("http://0x7f.1/a.png", "not in data.remote.allow_hosts"),
        ("http://other.test/a.png", "not in data.remote.allow_hosts"),
        ("/a.png", "redirects more than data.remote.max_redirects=3 times"),
        ("file:///etc/passwd", "is not an https address"),
    ],
)
def test_a_redirect_inside_is_set_aside(target, reason, tmp_path, monkeypatch):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    names = {
        "media.test": ["127.0.0.1"],
        "inner.test": ["10.0.0.1"],
        "metadata.test": ["169.254.169.254"],
        "::1": ["::1"],
    }
    monkeypatch.setattr(sources, "fetch", partial(fetch, network=named(names)))
    remote = {"allow_http": True, "allow_hosts": tuple(names)}
    with site(answer) as server:
        row = shows("image", f"http://media.test:{server.port}/a.png")
        check(Case("redirect", row, reason, config={"remote": remote}), tmp_path)


# Tables


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": [1, 2]}, "prompt is a int, expected text"),
        ({"prompt": [b"a", b"b"]}, "prompt is a bytes, expected text"),
        ({"prompt": ["a", "b"], "images": ["x", "y"]}, "images is a str, expected a list"),
        ({"prompt": ["a", "b"], "images": [[1], [2]]}, r"images\[0\] is a int, expected text"),
        ({"prompt": ["a", "b"], "task": [1.5, 2.5]}, "task is a float, expected text"),
        ({"messages": ["a", "b"]}, "messages is not JSON"),
        ({"messages": [[1], [2]]}, r"messages\[0\] is"),
        ({"prompt": ["a", "b"], "extras": ["[]", "7"]}, "extras is"),
        ({"prompt": ["a", "b"], "when": pa.array([1, 2], pa.timestamp("s"))}, "when cannot be stored as JSON"),
        ({"prompt": ["a", "b"], "x": [b"a", b"b"]}, "x cannot be stored as JSON"),
        ({"prompt": ["a", "b"], "x": [float("nan"), float("inf")]}, "x cannot be stored as JSON"),
    ],
)
def test_columns_of_wrong_types(columns, reason, tmp_path):
    pq.write_table(pa.table({"prompt_id": ["a", "b"], **columns}), tmp_path / "rows.parquet")
    config = DataConfig(path=str(tmp_path / "rows.parquet"), format="mmrlhf")
    with pytest.raises(DataError, match=rf"rows.parquet.*2 of 2 rows.*\n.*rows.parquet, row 0.*{reason}"):
        read_records(config, PROMPT, tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"hello"])
def test_files_that_are_no_tables(content, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(DataError, match="rows.parquet"):
        read_records(DataConfig(path=str(tmp_path / "rows.parquet"), format="mmrlhf"), PROMPT, tmp_path / "run")


# What only the model tells


def test_control_tokens_in_text_are_refused(omni_encoder):
    tokens = [t.content for t in omni_encoder.tokenizer.added_tokens_decoder.values() if t.special]
    assert len(tokens) >= 5
    for token in tokens:
        for content in (f"a {token} b", [{"type": "text", "text": token}]):
            with pytest.raises(ValueError, match="text contains the control token") as error:
                encode_prompt(omni_encoder, json.dumps([{"role": "user", "content": content}]), [])
            assert token in str(error.value)


def test_media_that_break_after_the_check(omni_encoder):
    chat = json.dumps([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(ValueError, match="cut off"):
        encode_prompt(omni_encoder, chat, [RawMedia("x", "image", media.image()[:500])])
