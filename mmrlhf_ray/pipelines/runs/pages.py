"""Pages on runs, the same whether they are served or written to a file."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import jinja2
import yaml
from markupsafe import Markup

from mmrlhf_ray.data.errors import printable
from mmrlhf_ray.pipelines.runs.compare import different_settings, figure_rows, labels
from mmrlhf_ray.pipelines.runs.figures import Figure
from mmrlhf_ray.pipelines.runs.read import Run
from mmrlhf_ray.pipelines.runs.rollouts import ORDERS, Selection, Wanted, choices, kept_steps, read_step, select
from mmrlhf_ray.reports.curves import sections, title_of
from mmrlhf_ray.reports.page import inline_policy, page_environment
from mmrlhf_ray.reports.tokens import LEVELS, MEASURES
from mmrlhf_ray.runtime.progress import duration

Source = Callable[[str], str | None]
"""media_id → address, None where the media are not kept."""
_ORDERS = {
    "drawn": "as drawn",
    "worst": "worst groups first",
    "best": "best groups first",
    "spread": "most different scores first",
}
_COLOURS = {
    "advantage": "advantage: blue is made more likely, orange less",
    "kl": "KL to the reference: blue is likelier than the reference has it, orange less likely",
    "mismatch": "learner against sampler: blue is likelier to the learner, orange less likely",
    "none": "nothing",
}


@dataclass(frozen=True)
class Excerpt:
    """Some groups of one step, in a file."""

    title: str
    selection: Selection


def run_page(run: Run) -> str:
    """Curves of a run, served."""
    return _render("run.html.j2", **_about(run), here="curves", served=True)


def rollouts_page(run: Run, query: Mapping[str, str], source: Source) -> str:
    """Kept responses of one step, served; `query` as the page's own form sends it."""
    steps = kept_steps(run.path)
    asked = query.get("step", "")
    step = int(asked) if asked.isdecimal() and int(asked) in steps else max(steps, default=None)
    wanted = Wanted.of(query)
    table = None if step is None else read_step(steps[step])
    colour = query.get("colour", "")
    return _render(
        "rollouts.html.j2",
        **_about(run),
        here="rollouts",
        served=True,
        steps=list(steps),
        step=step,
        follows=step is not None and asked != str(step),
        wanted=wanted,
        choices={} if table is None else choices(table),
        selection=None if table is None else select(table, wanted),
        colour=colour if colour in _COLOURS else MEASURES[0],
        source=source,
        address=lambda **changes: "/rollouts?" + urlencode({**query, **changes}),
    )


def compare_page(runs: Sequence[Run], served: bool) -> str:
    """Runs next to each other."""
    return _render("compare.html.j2", **_compared(runs), here="", served=served, version=_version(runs))


def report_page(runs: Sequence[Run], excerpts: Mapping[str, Sequence[Excerpt]], source: Source) -> str:
    """One file about one run, or about several next to each other. excerpts: by a run's label."""
    about = _about(runs[0]) if len(runs) == 1 else _compared(runs)
    return _render(
        "report.html.j2",
        **{**about, "version": ""},
        here="",
        served=False,
        excerpts=excerpts,
        source=source,
        colour=MEASURES[0],
        alone=len(runs) == 1,
    )


def version(run: Run) -> str:
    """Changes whenever a page on the run would."""
    return _version([run])


def style() -> str:
    """The style sheet of these pages."""
    return _environment().get_template("runs.css.j2").render(measures=MEASURES, levels=LEVELS)


def _about(run: Run) -> dict[str, Any]:
    steps = run.steps
    return {
        "title": run.name,
        "run": run,
        "version": version(run),
        "age": duration(run.age),
        "progress": f"step {run.done}" + (f" of {steps}" if steps else ""),
        "figures": run.figures,
        "sections": sections({run.name: run.metrics}),
        "settings": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True),
        "has_rollouts": bool(kept_steps(run.path)),
    }


def _compared(runs: Sequence[Run]) -> dict[str, Any]:
    names = labels(runs)
    return {
        "title": " · ".join(names),
        "names": names,
        "runs": list(zip(names, runs, strict=True)),
        "rows": figure_rows(runs),
        "settings": different_settings(runs),
        "sections": sections({name: run.metrics for name, run in zip(names, runs, strict=True)}),
    }


def _version(runs: Sequence[Run]) -> str:
    return "/".join(f"{run.state}:{run.done}:{max(kept_steps(run.path), default='')}" for run in runs)


def _render(template: str, *, served: bool, **given: Any) -> str:
    sheet = None if served else style()
    page = (
        _environment()
        .get_template(template)
        .render(
            style=None if sheet is None else Markup(sheet),
            policy=None if sheet is None else inline_policy(sheet),
            served=served,
            measures=MEASURES,
            colours=_COLOURS,
            orders={order: _ORDERS[order] for order in ORDERS},
            duration=duration,
            title_of=title_of,
            **given,
        )
    )
    return printable(page)


def _environment() -> jinja2.Environment:
    environment = page_environment("mmrlhf_ray.pipelines.runs")
    environment.filters["number"] = _number
    environment.filters["change"] = _change
    return environment


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}".replace("-", "−")


def _change(figure: Figure) -> str:
    return "" if figure.first is None else f"from {_number(figure.first)}"
