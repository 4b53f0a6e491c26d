"""``visionlora.report``: reading runs, ranking them, the page in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import command, compose

from visionlora.cli.conf import conf_dir
from visionlora.common.errors import UserError
from visionlora.reporting.commands import command_of
from visionlora.reporting.runs import configurations, find_runs, ranked, ranking_metric
from visionlora.runs.config import portable
from visionlora.runs.identity import flatten


def make_run(folder: Path, *overrides: str, **figures: float) -> Path:
    """A finished run folder without a training."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(portable(compose(*overrides))))
    values: dict[str, Any] = {"test/top1": 0.5, "params/trainable": 1000, "seconds/fit": 10.0, "memory/peak_mib": 800.0, "method": "lora"}
    (folder / "results.json").write_text(json.dumps(values | {key.replace("__", "/"): value for key, value in figures.items()}))
    (folder / "metrics.csv").write_text("epoch,step,train/loss,val/top1\n0,9,1.0,0.3\n1,19,0.5,0.4\n")
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Ranks 1 and 4 with three seeds each, a probe, full fine-tuning, and a run that has not finished."""
    folder = tmp_path / "sweep"
    for r in (1, 4):
        for seed in range(3):
            figures = {"test__top1": 0.6 + 0.02 * r + 0.01 * seed, "params__trainable": 1000 * r, "seconds__fit": 10.0 + r}
            make_run(folder / f"r{r}-{seed}", f"lora.r={r}", f"seed={seed}", **figures)
    make_run(folder / "probe", "lora=none", test__top1=0.5, params__trainable=10)
    make_run(folder / "deep" / "full", "lora=full", "lora.r=7", test__top1=0.67, params__trainable=99999, seconds__fit=99.0)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text("model: {}")
    return folder


def test_seeds_are_taken_together_and_only_what_differs_is_named(sweep: Path) -> None:
    runs = find_runs([sweep, sweep / "r1-0"])
    assert len(runs) == 8
    best_first = ranked(configurations(runs), ranking_metric(runs, None))
    assert [(c.method, len(c.runs)) for c in best_first] == [("lora", 3), ("full", 1), ("lora", 3), ("none", 1)]
    assert best_first[0].changed["lora.r"] == 4
    assert set(best_first[1].changed) <= {"lora.method", "optim.lr"}  # there is no rank in it
    summary = best_first[0].summary("test/top1")
    assert summary is not None
    values = np.array([0.68, 0.69, 0.70])
    assert summary.mean == pytest.approx(values.mean())
    assert summary.half == pytest.approx(4.302653 * values.std(ddof=1) / np.sqrt(3), rel=1e-5)
    assert str(summary) == "69.0% ± 2.5"


def test_the_same_seed_twice_says_nothing_of_the_spread(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, "seed=3")
    (only,) = configurations(find_runs([tmp_path]))
    assert [run.path.name for run in only.runs] == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("model=timm", "model.name=convnext_atto", "lora=pissa", "data=cifar10", "data.root=here", "trainer.max_epochs=7"),
        ("lora.targets=[attn,mlp]", "lora=full", "optim=sgd", "optim.lr=0.1", "seed=4"),
        (r"lora.targets='re:blocks\.[0-3]\..*'", "data=imagefolder", "data.root='/home/jörg/my (copy), 2'"),
        ("model=resnet18", "lora.r=8"),
        ("data=imagefolder", "data.root=images", "trainer=cpu", "lora.alpha=3", "data.crop_scale=[0.5,1.0]"),
        ("lora.targets={layer1: 2}", "model=torchvision", "model.name=vgg11"),
    ],
)
def test_the_command_asks_for_the_same_run(words: tuple[str, ...]) -> None:
    config = portable(compose(*words))
    asked = flatten({key: config[key] for key in ("model", "data", "lora", "optim", "trainer", "seed")})
    said = shlex.split(command_of(asked, conf_dir()))
    assert said[:3] == ["python", "-m", "visionlora.train"]
    assert portable(compose(*said[3:])) == config
    assert len(said) - 3 <= len(words) + 2  # short: groups are recognised


def test_other_pictures_are_another_configuration(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "data=imagefolder", "data.root=cats")
    make_run(tmp_path / "b", "data=imagefolder", "data.root=dogs")
    assert len(configurations(find_runs([tmp_path]))) == 2


def test_of_costs_the_lower_is_the_better(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "lora.r=1", seconds__fit=5.0)
    make_run(tmp_path / "b", "lora.r=2", seconds__fit=9.0)
    found = configurations(find_runs([tmp_path]))
    assert ranked(found, "seconds/fit")[0].changed["lora.r"] == 1


def test_pareto_front_by_brute_force() -> None:
    page = pytest.importorskip("visionlora.reporting.page")
    random = np.random.default_rng(0)
    points = [(float(cost), float(score)) for cost, score in random.integers(0, 12, (60, 2))]
    better = {(c, s) for c, s in points if not any((a <= c and b >= s) and (a, b) != (c, s) for a, b in points)}
    assert set(page.pareto(points)) == better


def test_the_command_writes_page_and_tables(sweep: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = command("report", f"runs={sweep}", "output=out/all", "baseline='lora.r=1'", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the best: python -m visionlora.train" in done.stdout
    assert "69.0% ± 2.5" in done.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "all.csv").read_text())))
    assert len(rows) == 8
    assert {row["lora.r"] for row in rows} == {"1", "4", ""}
    table = parquet.read_table(tmp_path / "out" / "all.parquet")
    assert table.num_rows == 8
    assert str(table.schema.field("test/top1").type) == "double"
    text = (tmp_path / "out" / "all.html").read_text()
    assert "src=" not in text.split("<script>")[0]
    paper = tmp_path / "out" / "all_paper"
    pictures = {f"by_{name}" for name in ("parameters", "seconds", "memory", "rank")}
    assert {path.name for path in paper.glob("*")} == {
        "figures",
        "table.csv",
        "table.md",
        "table.tex",
        *(f"{name}.png" for name in pictures),
    }
    assert {path.name for path in (paper / "figures").iterdir()} == {f"{name}.pdf" for name in pictures}
    assert all(path.stat().st_size > 4_000 for path in (*paper.glob("*.png"), *(paper / "figures").iterdir()))
    table = list(csv.DictReader(io.StringIO((paper / "table.csv").read_text())))
    assert (table[0]["name"], table[0]["n"]) == ("lora.method=lora lora.r=4", "3")
    assert "LoRA, rank 4 & 3 & \\textbf{69.0 $\\pm$ 2.5} & 4,000 & 14.0" in (paper / "table.tex").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs=nowhere",), "runs=nowhere: there is no such folder"),
        (("runs=.",), "no finished run below it"),
        (("runs=sweep", "metric=test/top"), "no run has it; .* Did you mean 'test/top1'"),
        (("runs=sweep", "top=0"), "top=0 must be at least 1"),
        (("runs=sweep", "columns=[test/top]"), "columns: no run has test/top. Did you mean 'test/top1'"),
        (("runs=sweep", "baseline=full"), "baseline=full names no configuration"),
        (("runs=sweep", "baseline=[1,2]"), "must be one configuration's name"),
        (("runs={a: b}",), "must be a folder or a list of folders"),
        ((), "runs is not set"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    if "runs=sweep" in words:
        make_run(tmp_path / "sweep" / "a")
    done = command("report", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("report*"))


def test_a_damaged_run_is_named(sweep: Path) -> None:
    (sweep / "r1-0" / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"r1-0/results.json is damaged"):
        find_runs([sweep])


@pytest.mark.parametrize("number", [1, 500])
def test_the_page_in_a_browser(number: int, tmp_path: Path) -> None:
    """Opens from disk without a network or an error; sorts, filters, shows on hover, and copies the command."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no chromium on this machine")
    first = make_run(tmp_path / "runs" / "0", "lora.r=1")
    config = yaml.safe_load((first / "config.yaml").read_text())
    random = np.random.default_rng(0)
    for i in range(1, number):
        folder = tmp_path / "runs" / str(i)
        shutil.copytree(first, folder)
        config["lora"]["r"], config["optim"]["lr"] = int(1 + i % 50), float(10 ** random.uniform(-4, -2))
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        figures = {
            "test/top1": float(random.uniform(0.5, 0.9)),
            "params/trainable": 1000 * i,
            "seconds/fit": float(i),
            "memory/peak_mib": 900 - i,
        }
        (folder / "results.json").write_text(json.dumps(figures))
    done = command("report", "runs=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    errors: list[str] = []
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector("#curves .main-svg")
        rows = page.locator("#table tbody tr")
        assert rows.count() == number
        box = page.locator("#by-seconds .points .point").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#by-seconds .hoverlayer .hovertext")
        if number > 1:
            page.click("th:has-text('seconds')")
            key = [text.split(" ")[0] for text in page.locator("th").all_inner_texts()].index("seconds")
            shown = [float(text.replace(",", "")) for text in page.locator(f"#table tbody td:nth-child({key + 1})").all_inner_texts()]
            assert shown == sorted(shown, reverse=True)
            page.click("th:has-text('seconds')")
            shown = [float(text.replace(",", "")) for text in page.locator(f"#table tbody td:nth-child({key + 1})").all_inner_texts()]
            assert shown == sorted(shown)
            page.fill("#filter", "seconds<100 lora.r>=40")
            found = rows.count()
            assert found == sum(1 + i % 50 >= 40 for i in range(1, 100))
        page.set_viewport_size({"width": 420, "height": 900})
        page.wait_for_function("document.querySelector('#by-seconds .main-svg').getBoundingClientRect().width < 420")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        page.fill("#filter", "nothing-like-it")
        assert page.locator("#table tbody tr").inner_text() == "Nothing fits the filter."
        page.click("#copy")
        page.wait_for_function("['copied', 'selected'].includes(document.getElementById('copy').textContent)")
        browser.close()
    assert errors == []
