"""Run folders, adapters and images of strangers, as a user meets them: on the command line and in a browser."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import QUIET, TINY, command
from reporting.test_report import make_run

import visionlora as vl
from visionlora.reporting.page import page
from visionlora.reporting.runs import configurations, find_runs, ranked

SECRET = "a-secret-of-this-machine"


@pytest.fixture
def stranger(tiny_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run with other values in its config, without seals, as whoever wants to do harm would write it."""

    def change(**sections: dict[str, object]) -> Path:
        folder = tmp_path / "stranger"
        shutil.copytree(tiny_run, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for name, values in sections.items():
            config[name] |= values
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return change


@pytest.mark.parametrize("module", ["export", "evaluate", "compress", "explain"])
def test_nothing_in_a_config_is_resolved(
    module: str, stranger: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONLORA_SECRET", SECRET)
    folder = stranger(lora={"method": "${oc.env:VISIONLORA_SECRET}"}, data={"root": "${oc.env:VISIONLORA_SECRET}"})
    done = command(module, f"run={folder}", cwd=tmp_path)
    assert done.returncode == 2
    assert "has an interpolation" in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".md", ".json", ".csv", ".html", ".yaml")]
    assert SECRET not in done.stdout + done.stderr + "".join(path.read_text() for path in written)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("module", ["evaluate", "compress"])
def test_nothing_is_made_or_downloaded_where_a_config_points_to(
    module: str, there: bool, stranger: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "of the stranger" / "pictures"
    if there:
        root.mkdir(parents=True)
    folder = stranger(data={"name": "cifar10", "root": str(root), "download": True})
    (folder / "split.json").unlink(missing_ok=True)
    done = command(module, f"run={folder}", cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(root) in done.stderr
    assert there or "root=DIR" in done.stderr
    assert not list(root.iterdir()) if there else not root.parent.exists()


def test_names_of_strangers(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    """Class names with escapes, formulas, markup and dollar signs: shown, drawn and written, and obeyed by nothing."""
    names = ["=cmd()", "$a$b$", "\x1b[2Jx", "<b>&[y](z)`", "-1"]
    root = class_folders(train=dict.fromkeys(names, 8), test=dict.fromkeys(names, 2))
    run = tmp_path / "run"
    call = [
        *TINY,
        *QUIET,
        "trainer=cpu",
        "data=imagefolder",
        "data.image_size=24",
        f"data.root={root}",
        "trainer.max_epochs=1",
        "data.val_fraction=0.25",
    ]
    for module, *words in (
        ["train", *call, f"hydra.run.dir={run}"],
        ["evaluate", f"run={run}"],
        ["predict", f"run={run}", f"input={root / 'test'}", "topk=5"],
        ["explain", f"run={run}", "most=4"],
        ["export", f"run={run}", "format=state_dict"],
    ):
        done = command(module, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\x1b[2J" not in done.stdout + done.stderr
        if module == "evaluate":
            assert r"\x1b[2Jx" in done.stdout
    assert sorted(vl.load(run).classes) == sorted(names)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "predictions.csv").read_text())))
    assert {row["class1"] for row in rows} <= {"'=cmd()", *names[1:]}
    assert all(0 <= float(row["probability1"]) <= 1 for row in rows)
    card = (run / "export" / "state_dict" / "README.md").read_text()
    assert "<b>" not in card.replace(r"\<b", "")
    assert "\x1b" not in card


HOSTILE = (
    "@@TABLE@@",
    "@@PLOTLY@@",
    "<!--<script>",
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "\u2028",
)


@pytest.fixture
def hostile_page(tmp_path: Path) -> Path:
    """A report over runs whose configs hold all of these."""
    for number, text in enumerate(HOSTILE):
        folder = make_run(tmp_path / f"run{number}", test__top1=0.5 + number / 100)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["lora"] |= {"targets": text, "method": text}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    best_first = ranked(configurations(find_runs([tmp_path])), "test/top1")
    file = tmp_path / "report.html"
    file.write_text(page(best_first, "test/top1", f"a command {' '.join(HOSTILE)}"))
    return file


def test_a_page_holds_names_as_names(hostile_page: Path) -> None:
    text = hostile_page.read_text()
    data = text.partition('id="table-data">')[2].partition("</script>")[0]
    rows = json.loads(data)["rows"]
    assert {str(value).strip("'") for row in rows for value in row.values()} >= {"@@TABLE@@", "<!--<script>"}
    assert "<" not in data
    assert text.count("<script") == 4 + text.partition("<script>")[2].partition("</script>")[0].count("<script")  # its own, and plotly's


def test_a_hostile_page_in_a_browser(hostile_page: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        opened = browser.new_context(offline=True).new_page()
        opened.goto(hostile_page.as_uri())
        opened.wait_for_selector("#curves .main-svg")
        assert opened.locator("#table tbody tr").count() == len(HOSTILE)
        assert opened.evaluate("window.broken") is None
        assert opened.locator("img").count() == 0
        browser.close()
