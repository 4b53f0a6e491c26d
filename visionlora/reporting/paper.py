"""The table for a paper: a row a configuration, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.common.drawing import save
from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.files import inside, replace_file
from visionlora.common.labels import METHODS
from visionlora.common.rows import is_number, shown, write_rows
from visionlora.reporting.plots import accuracy_against, accuracy_by
from visionlora.reporting.runs import Configuration, leading, spread_in_words
from visionlora.reporting.significance import Comparison, compare
from visionlora.tasks.task import Task
from visionlora.tasks.words import has_spread, higher_is_better, is_share, label

if TYPE_CHECKING:
    import pandas as pd

OWN = ("configuration", "n", "p")
"""Columns that are no key of the config or of ``results.json``."""
SIGNIFICANT = 0.05
COSTS = {"params/trainable": "parameters", "seconds/fit": "seconds", "memory/peak_mib": "memory"}
"""Costs that the measure is drawn against, and the names of these plots."""


@dataclass(frozen=True)
class PaperTable:
    """What is in the table.

    Args:
        ranked: a row each.
        metric: that the comparison with the baseline is about.
        columns: keys of the config or of ``results.json``, or of ``OWN``.
        baseline: that the others are compared with, or ``None``.
        comparisons: by the number of the row; a row is missing where there are too few seeds.
    """

    ranked: Sequence[Configuration]
    metric: str
    columns: Sequence[str]
    baseline: Configuration | None
    comparisons: dict[int, Comparison]

    @property
    def task(self) -> type[Task]:
        """What the runs were trained for."""
        return self.ranked[0].task

    @property
    def notes(self) -> list[str]:
        """What a reader has to know, a sentence each."""
        said = spread_in_words(self.ranked)
        if self.baseline is not None:
            tests = " or ".join(sorted({one.test for one in self.comparisons.values()}))
            against = f"{label(self.metric, self.task)} against {self.baseline.title}"
            said.append(
                f"p: {tests} of the {against}, two-sided, corrected for {len(self.comparisons)} comparisons (Holm); * below {SIGNIFICANT}."
                if tests
                else f"There is no p of the {against}, for want of three seeds or of any spread between them."
            )
        return said

    def rows(self) -> list[dict[str, Any]]:
        """Every row for CSV: means under their keys, those that have a spread with ``low`` and ``high`` beside them."""
        return [self._row(number, c) for number, c in enumerate(self.ranked)]

    def frame(self) -> pd.DataFrame:
        """The cells as they are printed, a column each with its heading."""
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UserError('the table is made by pandas; install it with: pip install "visionlora[report]"') from None
        cells = {
            heading(key, self.task): [" ".join(self._cell(key, number, c).split()) for number, c in enumerate(self.ranked)]
            for key in self.columns
        }
        return pd.DataFrame(cells, dtype="object")

    def best(self) -> pd.DataFrame:
        """Which cells of ``frame`` are the best of their column: every one that prints the same mean."""
        frame = self.frame()
        marks = frame.map(lambda cell: False).astype(bool)
        for key in self.columns:
            means = [None if (found := c.summary(key)) is None else found.mean for c in self.ranked]
            known = [mean for mean in means if mean is not None]
            if has_spread(key, self.task) and len(known) > 1:
                best = number(key, self.task, max(known) if higher_is_better(key, self.task) else min(known))
                marks[heading(key, self.task)] = [mean is not None and number(key, self.task, mean) == best for mean in means]
        return marks

    def markdown(self) -> str:
        """A table of Markdown, the best in bold, and the notes."""
        frame = self.frame().map(_for_markdown)
        frame = frame.mask(self.best(), "**" + frame + "**")
        ends = [":---" if self._is_text(key) else "---:" for key in self.columns]
        lines = [f"| {' | '.join(cells)} |" for cells in ([*map(_for_markdown, frame.columns)], ends, *frame.to_numpy())]
        return "\n".join([*lines, "", *self.notes]).rstrip() + "\n"

    def latex(self) -> str:
        r"""A ``table`` of LaTeX with booktabs' rules, for ``\input``; the best in bold, the notes in the caption."""
        bold = self.best().map(lambda best: "textbf:--rwrap;" if best else "").rename(columns=_for_latex)
        frame = self.frame().map(_for_latex).rename(columns=_for_latex)
        text = frame.style.hide(axis=0).apply(lambda _: bold, axis=None).to_latex(
            hrules=True,
            position_float="centering",
            column_format="".join("l" if self._is_text(key) else "r" for key in self.columns),
            caption=_for_latex(" ".join([f"Ranked by {label(self.metric, self.task)}.", *self.notes])),
            label="tab:visionlora",
        )  # fmt: skip
        return f"% in the preamble: \\usepackage{{booktabs}}\n{text}"

    def _cell(self, key: str, number_of_row: int, c: Configuration) -> str:
        if key == "configuration":
            return c.title
        if key == "lora.method":
            return METHODS.get(c.method, c.method)
        if key == "n":
            return str(len(c.runs))
        if key == "p":
            one = self.comparisons.get(number_of_row)
            return "" if one is None else _p(one.p)
        if (found := c.summary(key)) is not None:
            return (
                found.written(lambda value: number(key, self.task, value))
                if has_spread(key, self.task)
                else number(key, self.task, found.mean)
            )
        value = c.runs[0].config.get(key)
        return "" if value is None else str(value) if isinstance(value, str) else shown(value)

    def _row(self, number_of_row: int, c: Configuration) -> dict[str, Any]:
        row: dict[str, Any] = {"configuration": c.title, "name": c.name, "n": len(c.runs)}
        for key in self.columns:
            if (found := c.summary(key)) is not None:
                row |= {key: found.mean} | ({f"{key} low": found.low, f"{key} high": found.high} if has_spread(key, self.task) else {})
            elif key not in OWN:
                row[key] = c.runs[0].config.get(key)
        if self.baseline is not None:
            one = self.comparisons.get(number_of_row)
            row |= {"difference": one and one.difference, "p": one and one.p, "test": one and one.test}
        return row

    def _is_text(self, key: str) -> bool:
        return key not in ("n", "p") and not any(c.summary(key) or is_number(c.runs[0].config.get(key)) for c in self.ranked)


def paper_table(ranked: Sequence[Configuration], metric: str, columns: Sequence[str] | None, baseline: str | None) -> PaperTable:
    """The table of these configurations.

    Args:
        ranked: configurations, the best by ``metric`` first.
        metric: a key of ``results.json``.
        columns: keys of the config or of ``results.json``, or of ``OWN``; ``None``: configuration, seeds, metric, parameters, seconds.
        baseline: words that name one configuration, see ``named``.

    Raises:
        UserError: a column or the baseline is not there, or the baseline may be several.
    """
    if columns is None:
        scores = dict.fromkeys([metric, leading(ranked)])
        columns = [
            "configuration",
            "n",
            *(key for key in (*scores, "params/trainable", "seconds/fit") if any(c.summary(key) for c in ranked)),
        ]
    columns = list(dict.fromkeys(columns))
    known = {*OWN, *(key for c in ranked for run in c.runs for key in (*run.config, *run.results))}
    for key in columns:
        if key not in known:
            hint = did_you_mean(key, sorted(known)) or f" There are {', '.join(sorted(known))}."
            raise UserError(f"columns: no run has {key}.{hint}")
    if baseline is None:
        if "p" in columns:
            raise UserError("columns: p compares with a baseline; name one with baseline=NAME.")
        return PaperTable(ranked, metric, columns, None, {})
    base = named(ranked, baseline)
    return PaperTable(ranked, metric, [*columns, *([] if "p" in columns else ["p"])], base, compare(ranked, base, metric))


def named(ranked: Sequence[Configuration], words: str) -> Configuration:
    """The one configuration that these words name: its name or title, its number in the ranking, or parts that no other has.

    >>> named(found, "lora.r=4"), named(found, "full fine-tuning")  # doctest: +SKIP

    Raises:
        UserError: none, or several.
    """
    exact = [c for c in ranked if words in (c.name, c.title)]
    parts = [c for c in ranked if set(_parts(words)) <= {*_parts(c.name), *_parts(c.title)}]
    found = exact or ([ranked[int(words) - 1]] if words.isdecimal() and 1 <= int(words) <= len(ranked) else parts)
    if len(found) != 1:
        among = "; ".join(c.name for c in (found or ranked)[:10])
        how_many = "several configurations" if found else "no configuration"
        raise UserError(f"baseline={words} names {how_many}: {among}. A number names a place in the ranking.")
    return found[0]


def write_paper(table: PaperTable, folder: Path) -> None:
    """Write ``table.csv``, ``table.md``, ``table.tex`` and plots into the folder: one for each cost and each number that varies."""
    write_rows(inside(folder, "table.csv"), table.rows())
    replace_file(inside(folder, "table.md"), table.markdown().encode())
    replace_file(inside(folder, "table.tex"), table.latex().encode())
    for key, name in COSTS.items():
        if any(c.summary(key) for c in table.ranked):
            save(accuracy_against(table.ranked, key, table.metric), inside(folder, f"by_{name}.png"))
    for key in dict.fromkeys(key for c in table.ranked for key, value in c.changed.items() if is_number(value)):
        name = re.sub(r"\W+", "_", label(key))
        save(accuracy_by(table.ranked, key, table.metric), inside(folder, f"by_{name}.png"))


def heading(key: str, task: type[Task]) -> str:
    """The heading of a column, with its unit."""
    return f"{label(key, task)}, %" if is_share(key, task) else label(key, task)


def number(key: str, task: type[Task], value: float) -> str:
    """A number as it stands in the table."""
    if is_share(key, task):
        return f"{100 * value:.1f}"
    if has_spread(key, task):
        return f"{value:.3f}"
    return f"{value:,.1f}" if key.startswith("seconds/") else f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _p(p: float) -> str:
    return ("<0.001" if p < 0.001 else f"{p:.3f}") + ("*" if p < SIGNIFICANT else "")


def _parts(words: str) -> list[str]:
    """Words, and what follows ``=`` in them: a method's name does for ``lora.method=full``."""
    return [part for word in words.replace(",", " ").split() for part in {word, word.rpartition("=")[2]} if part]


def _for_markdown(text: str) -> str:
    for sign in "\\|*_<`[":
        text = text.replace(sign, f"\\{sign}")
    return text


def _for_latex(text: str) -> str:
    return text.translate(_LATEX)


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": "$<$", ">": "$>$", "|": "$|$"}
    | {"±": r"$\pm$", "–": "--", "×": r"$\times$", "[": "{[}", "]": "{]}"}
)
"""Signs that mean something to LaTeX, or that its usual fonts do not have (``[`` after the end of a row would be its height)."""
