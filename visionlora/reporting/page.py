"""``report.html``: one file with its figures, its table and all it needs to show them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from visionlora.common.drawing import BLUE, METHOD_COLOURS, PALETTE, log_ticks
from visionlora.common.errors import UserError
from visionlora.common.labels import METHODS
from visionlora.common.rows import is_number, shown
from visionlora.reporting.plots import beside, pareto
from visionlora.reporting.runs import Configuration, leading, made_differently, spread_in_words, written
from visionlora.tasks.task import Task
from visionlora.tasks.words import higher_is_better, is_share, label

try:
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs
except ModuleNotFoundError:
    raise UserError('the report is drawn by plotly; install it with: pip install "visionlora[report]"') from None

COSTS = {
    "params/trainable": ("trained parameters", "whole"),
    "seconds/fit": ("seconds", "tenth"),
    "memory/peak_mib": ("peak MiB", "whole"),
    "bytes/adapter": ("adapter bytes", "whole"),
}
"""Columns of the table beside what is measured: their heading, and how they are written."""


def columns(ranked: Sequence[Configuration]) -> dict[str, tuple[str, str]]:
    """The numbers of the table by key: the leading measure on the validation part, all measures on the test part, costs."""
    task = ranked[0].task
    found = {f"val/{task.lead().key}": ("validation", "share" if task.lead().share else "number")}
    for measure in task.every_measure():
        if measure.spread:
            heading = f"test {measure.short or measure.words}" if measure == task.lead() else measure.short or measure.words
            found[f"test/{measure.key}"] = (heading, "share" if measure.share else "number")
    return {key: column for key, column in (found | COSTS).items() if any(c.summary(key) is not None for c in ranked)}


def page(ranked: Sequence[Configuration], metric: str, command: str) -> str:
    """The page as text.

    Args:
        ranked: configurations, the best by ``metric`` first.
        metric: a key of ``results.json``.
        command: what trains the best one again.
    """
    title = f"{len(ranked)} configurations, {sum(len(c.runs) for c in ranked)} runs"
    task = ranked[0].task
    figures = [
        _figure("by-parameters", against(ranked, metric, "params/trainable", "trained parameters", log=True)),
        _figure("by-seconds", against(ranked, metric, "seconds/fit", "seconds of training", front=True)),
        _figure("by-memory", against(ranked, metric, "memory/peak_mib", "peak memory, MiB", front=True)),
        _figure("curves", curves(ranked, metric)),
    ]
    table = {"columns": _columns(ranked), "rows": [_row(number, c) for number, c in enumerate(ranked, 1)]}
    words = {
        "TITLE": html.escape(title),
        "METRIC": html.escape(label(metric, task)),
        "BEST": html.escape(written(ranked[0].summary(metric), metric, task)),
        "COMMAND": html.escape(command),
        "NOTE": html.escape(_note(ranked, metric)),
        "FIGURES": _in_script(figures),
        "TABLE": _in_script(table),
        "PLOTLY": get_plotlyjs(),
    }
    text = (files("visionlora.reporting") / "page.html").read_text(encoding="utf-8")
    return re.sub(r"@@([A-Z]+)@@", lambda word: words[word[1]], text)  # at once: a name that holds such a word is a name


def _in_script(values: Any) -> str:
    r"""JSON that ends no script and begins no comment in it, whatever the names: ``<`` is ``\u003c``."""
    return json.dumps(values).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})


def against(ranked: Sequence[Configuration], metric: str, key: str, title: str, log: bool = False, front: bool = True) -> go.Figure:
    """The metric of each configuration against a cost, the spread over seeds as bars, the rank beside each point.

    Args:
        ranked: configurations.
        metric: of the vertical axis.
        key: of the horizontal one.
        title: of the horizontal one.
        log: logarithmic.
        front: mark what nothing is both cheaper and better than.
    """
    figure = go.Figure()
    points = [(c, x, y) for c in ranked if (x := c.summary(key)) is not None and (y := c.summary(metric)) is not None]
    if front and points:
        edge = pareto([(x.mean, y.mean) for _, x, y in points], lower=not higher_is_better(metric, ranked[0].task))
        line = {"shape": "hv", "color": "#222", "width": 1}
        figure.add_scatter(x=[x for x, _ in edge], y=[y for _, y in edge], mode="lines", name="Pareto front", line=line)
    for method in dict.fromkeys(c.method for c, _, _ in points):
        chosen = [(c, x, y) for c, x, y in points if c.method == method]
        bars = {"array": [y.high - y.mean for _, _, y in chosen], "arrayminus": [y.mean - y.low for _, _, y in chosen]}
        figure.add_scatter(
            x=[x.mean for _, x, _ in chosen],
            y=[y.mean for _, _, y in chosen],
            error_y={**bars, "symmetric": False, "thickness": 1, "width": 3},
            mode="markers+text",
            name=html.escape(METHODS.get(method, method)),
            marker={"color": METHOD_COLOURS.get(method, BLUE), "size": 9},
            text=[html.escape(beside(c, ranked)) for c, _, _ in chosen],
            textposition="top right",
            textfont={"size": 10},
            cliponaxis=False,
            hovertext=[_hover(c, metric) for c, _, _ in chosen],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    figure.update_xaxes(title=title)
    if log and points and min(x.mean for _, x, _ in points) > 0:
        places, words = log_ticks([x.mean for _, x, _ in points])
        figure.update_xaxes(type="log", tickvals=places, ticktext=words)
    return _styled(figure, metric, ranked[0].task)


def curves(ranked: Sequence[Configuration], metric: str) -> go.Figure:
    """The leading measure on the validation part over epochs, or the training loss where nothing was validated; names on hover where there
    are many.
    """
    figure = go.Figure()
    for key in (leading(ranked, "val"), "train/loss", "train/loss_step"):  # the last one for runs of one epoch
        found = [(c, curve) for c in ranked for run in c.runs if (curve := run.curve(key)) is not None]
        if any(len(x) > 1 for _, (x, _) in found):
            break
    colours = {id(c): colour for c, colour in zip(ranked, PALETTE, strict=False)}  # of the best; the others are grey
    grey_x: list[float | None] = []
    grey_y: list[float | None] = []
    grey_text: list[str] = []
    named: set[int] = set()
    for c, (x, y) in found:
        if id(c) not in colours:
            grey_x += [*x, None]
            grey_y += [*y, None]
            grey_text += [html.escape(c.name)] * (len(x) + 1)
            continue
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", name=html.escape(c.name), legendgroup=html.escape(c.name), showlegend=id(c) not in named,
            line={"color": colours[id(c)], "width": 1.5},
        )  # fmt: skip
        named.add(id(c))
    if grey_x:
        grey = go.Scatter(
            x=grey_x, y=grey_y, text=grey_text, mode="lines", name="the others", line={"color": "#ccc", "width": 1},
            hovertemplate="%{text}<br>%{y}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(grey)
        figure.data = (figure.data[-1], *figure.data[:-1])  # behind the others
    longest = max((x[-1] for _, (x, _) in found), default=1)
    figure.update_xaxes(title="epoch", dtick=1 if longest <= 12 else None)
    named_ones = len(ranked) if len(ranked) <= len(PALETTE) else 0
    return _styled(figure, key, ranked[0].task).update_layout(showlegend=named_ones > 0, height=380 + 20 * named_ones)


def _styled(figure: go.Figure, metric: str, task: type[Task]) -> go.Figure:
    figure.update_yaxes(title=label(metric, task), tickformat=".3~%" if is_share(metric, task) else None)  # 67.5 %, not 68 %
    return figure.update_layout(
        template="plotly_white", margin={"l": 60, "r": 20, "t": 20, "b": 50}, height=380, hovermode="closest",
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "font": {"size": 11}}, font={"family": "system-ui, sans-serif"},
    )  # fmt: skip


def _figure(name: str, figure: go.Figure) -> dict[str, Any]:
    return {"name": name, **json.loads(figure.to_json())}


def _hover(c: Configuration, metric: str) -> str:
    lines = [html.escape(f"{key}={shown(value)}") for key, value in c.changed.items()] or [html.escape(c.name)]
    for key, (heading, _) in columns([c]).items():
        if key == metric or key in ("params/trainable", "seconds/fit", "memory/peak_mib"):
            lines.append(f"{heading}: {written(c.summary(key), key, c.task)}")
    return "<br>".join([*lines, f"{len(c.runs)} runs"])


def _columns(ranked: Sequence[Configuration]) -> list[dict[str, str]]:
    keys = list(dict.fromkeys(key for c in ranked for key in c.changed))
    return [
        {"key": "rank", "label": "#", "kind": "whole"},
        *({"key": key, "label": key, "kind": "text"} for key in keys),
        {"key": "runs", "label": "runs", "kind": "whole"},
        *({"key": key, "label": heading, "kind": kind} for key, (heading, kind) in columns(ranked).items()),
        {"key": "where", "label": "folders", "kind": "folders"},
    ]


def _row(number: int, c: Configuration) -> dict[str, Any]:
    row: dict[str, Any] = {"rank": number, "runs": len(c.runs), "where": [str(run.path) for run in c.runs]}
    row |= {key: value if is_number(value) else shown(value) for key, value in c.changed.items()}
    for key in columns([c]):
        if (found := c.summary(key)) is not None:
            row[key] = found.mean
            row[f"{key}±"] = written(found, key, c.task).partition(" ")[2]  # what follows the mean
    return row


def _note(ranked: Sequence[Configuration], metric: str) -> str:
    parts = [f"Ranked by {label(metric, ranked[0].task)}.", *spread_in_words(ranked)]
    if metric.startswith("test/") and len(ranked) > 1:
        parts.append("Ranked on the test set, the best is a little too good: choose by validation (data.val_fraction) where you can.")
    return " ".join([*parts, made_differently([run for c in ranked for run in c.runs])]).strip()
