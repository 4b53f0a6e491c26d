"""What a researcher takes into a paper: spreads, images, and the table with its test."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from scipy import stats

from visionlora.common.errors import UserError
from visionlora.lora.changes import LayerChange
from visionlora.reporting.paper import paper_table
from visionlora.reporting.plots import accuracy_against, accuracy_by, changes_by_layer
from visionlora.reporting.runs import Configuration, Run, configurations, ranked
from visionlora.reporting.significance import PAIRED, UNPAIRED, compare, holm
from visionlora.reporting.summary import Summary

LORA = {"lora.method": "lora", "optim.lr": 0.002}
Scores = Sequence[float] | np.ndarray


def runs_of(config: dict[str, Any], scores: Scores, seeds: Sequence[int] | None = None, **figures: float) -> list[Run]:
    costs = {"params/trainable": 1000, "seconds/fit": 20.5}
    return [
        Run(
            Path(f"run{seed}"),
            config | {"seed": seed},
            {"test/top1": score} | costs | {k.replace("__", "/"): v for k, v in figures.items()},
        )
        for seed, score in zip(seeds or range(len(scores)), scores, strict=True)
    ]


def best_first(*groups: list[Run]) -> list[Configuration]:
    return ranked(configurations([run for group in groups for run in group]), "test/top1")


def mean(configuration: Configuration, name: str) -> float:
    found = configuration.summary(name)
    assert found is not None
    return found.mean


def sweep(seeds: int) -> list[Configuration]:
    random = np.random.default_rng(5)
    lora = [
        runs_of(LORA | {"lora.r": r}, 0.7 + 0.03 * np.log2(r) + random.normal(0, 0.01, seeds), params__trainable=1000 * r)
        for r in (1, 2, 4, 8)
    ]
    probe = runs_of({"lora.method": "none", "optim.lr": 0.009}, 0.6 + random.normal(0, 0.01, seeds), params__trainable=10)
    full = runs_of({"lora.method": "full", "optim.lr": 0.0003}, 0.75 + random.normal(0, 0.01, seeds), params__trainable=90_000)
    return best_first(*lora, probe, full)


@pytest.mark.parametrize(
    ("values", "text", "low", "high"),
    [
        ([0.826], "82.6%", 0.826, 0.826),
        ([0.777, 0.875], "82.6% (77.7–87.5)", 0.777, 0.875),  # Student's t would say ± 62.3
        ([0.68, 0.69, 0.70], "69.0% ± 2.5", 0.69 - 0.024841, 0.69 + 0.024841),
        ([0.9, 0.99, 0.99], "96.0% (83.1–100.0)", 0.83091, 1.0),
        ([0.01, 0.5, 0.99], "50.0% (0.0–100.0)", 0.0, 1.0),
    ],
)
def test_what_is_said_of_the_spread(values: list[float], text: str, low: float, high: float) -> None:
    summary = Summary(tuple(values), 0.0, 1.0)
    assert str(summary) == text
    assert (summary.low, summary.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_accuracy_by_rank(seeds: int) -> None:
    found = sweep(seeds)
    figure = accuracy_by(found)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank", "test top-1 accuracy")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4", "8"]
    for tick in axes.get_yticklabels():
        assert float(tick.get_text().rstrip("%")) == pytest.approx(100 * tick.get_position()[1])
    assert axes.get_ylim()[1] <= 1.05
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    best = {c.method: str(c.summary("test/top1")) for c in reversed(found)}
    assert set(words) == {f"head alone: {best['none']}", f"full fine-tuning: {best['full']}", "LoRA"}
    below = figure.legends[0].get_window_extent().y1
    assert below <= axes.get_window_extent().y0  # no line under the legend


def test_only_what_differs_in_the_key_alone_is_joined() -> None:
    grid = [runs_of(LORA | {"lora.r": r, "optim.lr": lr}, [0.7 + r / 100 + lr]) for r in (1, 2, 4) for lr in (0.001, 0.01)]
    (axes,) = accuracy_by(best_first(*grid)).axes
    assert len(axes.containers) == 2
    for line, *_ in axes.containers:
        x, y = line.get_data()
        assert list(x) == [1, 2, 4]
        assert len({round(float(b - a / 100), 6) for a, b in zip(x, y, strict=True)}) == 1  # one learning rate
    assert sorted(str(container.get_label()) for container in axes.containers) == ["learning rate 0.001", "learning rate 0.01"]


def test_heads_alone_are_points() -> None:
    grid = [runs_of({"lora.method": "none", "optim.lr": lr}, [0.5 + lr]) for lr in (0.001, 0.003, 0.01)]
    (axes,) = accuracy_by(best_first(*grid), "optim.lr").axes
    (line, *_), *others = axes.containers
    assert not others
    assert list(line.get_xdata()) == [0.001, 0.003, 0.01]
    assert axes.get_xlabel() == "learning rate"


def test_the_front_and_the_ranks_are_in_the_picture() -> None:
    found = sweep(2)
    (axes,) = accuracy_against(found).axes
    assert axes.get_xlabel() == "trainable parameters"
    places = {text.get_text(): cast(Annotation, text).xy for text in axes.texts if text.get_text()}
    assert {name: x for name, (x, _) in places.items()} == {f"r={r}": 1000 * r for r in (1, 2, 4, 8)}
    front = next(line for line in axes.lines if line.get_label() == "Pareto front")
    x, y = (np.asarray(values).tolist() for values in front.get_data())
    points = {(mean(c, "params/trainable"), mean(c, "test/top1")) for c in found}
    assert set(zip(x, y, strict=True)) == {p for p in points if not any(a <= p[0] and b >= p[1] and (a, b) != p for a, b in points)}


def test_layers_are_not_joined() -> None:
    layers = [LayerChange(f"layer{i}.conv", 0.01 * i, 1 + i / 100, 4) for i in range(150)]
    figure: Figure = changes_by_layer({"a": layers, "b": layers[::2]})
    assert all(line.get_linestyle() == "None" for axes in figure.axes for line in axes.lines)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert 40 <= len(names) <= 60
    assert {tick: f"layer{int(tick)}.conv" for tick in figure.axes[0].get_yticks()} == dict(
        zip(figure.axes[0].get_yticks(), names, strict=True)
    )


def test_holm_by_its_definition() -> None:
    random = np.random.default_rng(1)
    for n in range(8):
        ps = [float(p) for p in random.uniform(0, 0.2, n)]
        corrected = holm(ps)
        for alpha in (0.01, 0.05, 0.2, 0.5):
            rejected, left = set(), sorted(range(n), key=lambda i: ps[i])
            while left and ps[left[0]] * len(left) <= alpha:
                rejected.add(left.pop(0))
            assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected


def test_the_test_is_scipys() -> None:
    base, other, apart, few = [0.70, 0.74, 0.71], [0.72, 0.77, 0.725], [0.60, 0.62, 0.65], [0.1, 0.2]
    found = best_first(
        runs_of(LORA | {"lora.r": 1}, base),
        runs_of(LORA | {"lora.r": 2}, other[::-1], [2, 1, 0]),
        runs_of(LORA | {"lora.r": 3}, apart, [7, 8, 9]),
        runs_of(LORA | {"lora.r": 4}, few),
        runs_of(LORA | {"lora.r": 5}, [x + 0.01 for x in base]),
    )
    baseline = next(c for c in found if c.changed["lora.r"] == 1)
    compared = {found[i].changed["lora.r"]: one for i, one in compare(found, baseline, "test/top1").items()}
    assert set(compared) == {2, 3}  # two seeds, and differences without any spread, say nothing
    paired, welch = stats.ttest_rel(other, base).pvalue, stats.ttest_ind(apart, base, equal_var=False).pvalue
    assert (compared[2].test, compared[3].test) == (PAIRED, UNPAIRED)
    assert (compared[2].p, compared[3].p) == pytest.approx(holm([paired, welch]))
    assert compared[2].difference == pytest.approx(np.mean(other) - np.mean(base))


def test_the_table_says_what_the_figures_say() -> None:
    pytest.importorskip("pandas")
    found = sweep(3)
    table = paper_table(found, "test/top1", None, "full")
    frame, best = table.frame(), table.best()
    assert list(frame) == ["configuration", "n", "test top-1 accuracy, %", "trainable parameters", "training time, s", "p"]
    assert frame["configuration"][0] == "LoRA, rank 8"
    assert list(frame["test top-1 accuracy, %"]) == [str(c.summary("test/top1")).replace("%", "") for c in found]
    assert list(best["test top-1 accuracy, %"]) == [True] + [False] * 5
    assert not best.drop(columns="test top-1 accuracy, %").any(axis=None)  # the cheapest is no merit of its own
    assert "| LoRA, rank 8 | 3 | **" in table.markdown()
    assert [row["n"] for row in table.rows()] == [3] * 6
    row = table.rows()[0]
    assert row["test/top1 low"] < row["test/top1"] < row["test/top1 high"]
    assert "paired t-test over seeds" in table.markdown()
    assert "(Holm)" in table.markdown()
    baseline = next(i for i, c in enumerate(found) if c.method == "full")
    assert [cell == "" for cell in frame["p"]] == [i == baseline for i in range(6)]


def test_columns_are_chosen() -> None:
    pytest.importorskip("pandas")
    frame = paper_table(sweep(1), "test/top1", ["lora.method", "lora.r", "seconds/fit", "lora.r"], None).frame()
    assert list(frame) == ["method", "rank", "training time, s"]
    assert set(frame.itertuples(index=False, name=None)) == {
        *(("LoRA", str(r), "20.5") for r in (1, 2, 4, 8)),
        ("head alone", "", "20.5"),
        ("full fine-tuning", "", "20.5"),
    }


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_for_a_test(seeds: int) -> None:
    pytest.importorskip("pandas")
    table = paper_table(sweep(seeds), "test/top1", None, "full")
    assert set(table.frame()["p"]) == {""}
    assert "for want of three seeds" in table.markdown()
    assert "±" not in table.markdown()


ODD = ["a_b & 50 % #1 $x$", "{curly} ~ ^ \\end{tabular}", "[2cm] | pipe * star", "<b>bold</b> `code`", "straße\n\nnach | Süden"]


def test_odd_names_in_latex_and_markdown(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("jinja2")
    found = best_first(*(runs_of(LORA | {"model.name": name, "lora.r": i}, [0.5, 0.6 + i / 100]) for i, name in enumerate(ODD)))
    table = paper_table(found, "test/top1", ["model.name", "lora.r", "n", "test/top1"], None)
    text = table.latex()
    body = re.search(r"\\midrule\n(.*)\\bottomrule", text, re.DOTALL)
    assert body is not None
    rows = body[1].strip().splitlines()
    assert len(rows) == len(ODD)
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == 3
        assert not re.search(r"(?<!\\)[%#]", row)
        assert row.endswith("\\\\")
    assert text.count("\\end{tabular}") == 1
    for line in table.markdown().splitlines()[: 2 + len(ODD)]:
        assert len(re.findall(r"(?<!\\)\|", line)) == 5
    assert "<b>" not in table.markdown().replace("\\<b>", "")
    if shutil.which("pdflatex") is None:
        pytest.skip("written as it should be; no LaTeX here to set it")
    packages = "\\usepackage{booktabs}\\usepackage[T1]{fontenc}"
    (tmp_path / "paper.tex").write_text(f"\\documentclass{{article}}{packages}\\begin{{document}}\n{text}\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("columns", "baseline", "message"),
    [
        (["test/topp1"], None, "columns: no run has test/topp1. Did you mean 'test/top1'"),
        (["p"], None, "name one with baseline=NAME"),
        (None, "nobody", "baseline=nobody names no configuration: .*lora.r=8"),
        (None, "lora", "baseline=lora names several configurations"),
        (None, "99", "names no configuration"),
    ],
)
def test_mistakes(columns: list[str] | None, baseline: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        paper_table(sweep(1), "test/top1", columns, baseline)


@pytest.mark.parametrize("words", ["lora.r=4", "rank 4", "3", "LoRA, rank 4"])
def test_a_baseline_is_named_by_words_or_by_its_place(words: str) -> None:
    found = sweep(1)
    wanted = next(c for c in found if c.changed.get("lora.r") == 4)
    if words == "3":
        words = str(found.index(wanted) + 1)
    assert paper_table(found, "test/top1", None, words).baseline is wanted
