"""The table of docs/models.md: parity of a tiny model of every family."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mmrlhf_ray.models.verdict import ParityRow, Verdict, read_verdict
from mmrlhf_ray.pipelines.parity.report import shown

BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"


def run(families: Mapping[str, Callable[[Path, int], None]], output: Path | None) -> bool:
    """Build each family's tiny model, compare sampler and learner on it, and put the table between the marks of
    `output` (none: print it only). Returns whether sampler and learner agree on all that vLLM takes here."""
    verdicts = {}
    with tempfile.TemporaryDirectory(prefix="mmrlhf-families-") as scratch:
        for family, build in families.items():
            directory = Path(scratch) / family
            build(directory, 0)
            # One process each: vLLM keeps what it holds.
            subprocess.run([sys.executable, "-m", "mmrlhf_ray.cli", "parity", str(directory)], check=False)
            verdict = read_verdict(directory)
            if verdict is None:
                raise RuntimeError(f"{family}: parity ended without a verdict; see above")
            verdicts[family] = verdict
    text = "\n".join(markdown(verdicts))
    print(text)
    if output is not None:
        put_between_marks(output, text)
    return all(row.passed or _refused(row) for verdict in verdicts.values() for row in verdict.rows)


def markdown(verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    """Rows of the table, then why something could not be compared."""
    yield "| `model_type` | modality | prompt ids | max \\|Δlogprob\\| | after a weight push | when the media change |"
    yield "|---|---|---|---|---|---|"
    for family, verdict in verdicts.items():
        for row in verdict.rows:
            figures = " | ".join(shown(figure) for figure in (row.before, row.after, row.influence))
            yield f"| `{family}` | {row.case} | {_ids(row)} | {figures} |"
        if not verdict.rows:
            yield f"| `{family}` | none | not compared | – | – | – |"
    some = next(iter(verdicts.values()))
    yield ""
    yield f"Made with {', '.join(f'{name} {number}' for name, number in some.versions.items())}, on the CPU in float32."
    for family, verdict in verdicts.items():
        if verdict.reason:
            yield f"`{family}` could not be compared: {verdict.reason.splitlines()[0]}"
        said = [row.detail.strip().splitlines()[0].partition(": ") for row in verdict.rows if row.detail]
        for why in dict.fromkeys(why for _, _, why in said):
            cases = ", ".join(case for case, _, reason in said if reason == why)
            yield f"`{family}`, {cases}: {why}"


def _ids(row: ParityRow) -> str:
    if row.passed:
        return "equal"
    if not row.equal_ids:
        return "**differ**"
    return "refused, see below" if _refused(row) else "equal, **failed**"


def _refused(row: ParityRow) -> bool:
    return row.equal_ids and row.before is None


def put_between_marks(file: Path, text: str) -> None:
    """Replace what stands between the marks. Raises ValueError where they are missing."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file}: expected the lines {BEGIN} and {END}, between which the table goes")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
