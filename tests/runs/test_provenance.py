"""With what a run was made stands in its results, and upsets nobody who reads them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, results, unsealed_config

import visionlora
from visionlora.common.versions import commit
from visionlora.data.images import Images
from visionlora.runs.provenance import differences, fingerprints, is_provenance, provenance


def test_a_run_writes_down_with_what_it_was_made(tiny_run: Path) -> None:
    figures = results(tiny_run)
    assert figures["versions/torch"] == torch.__version__
    assert {"versions/visionlora", "versions/torchvision", "versions/timm", "versions/lightning", "versions/python"} <= set(figures)
    assert figures["machine/cores"] == os.cpu_count()
    assert figures["machine/memory_gib"] > 0
    assert figures["determinism/algorithms"] is False
    assert figures["threads"] == 1
    assert all(not isinstance(value, dict | list) for value in figures.values())  # one flat object


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert commit(tmp_path) == {}  # no checkout, no word of it
    git(tmp_path, "init")
    assert commit(tmp_path) == {}  # nothing committed
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "a")
    git(tmp_path, "tag", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == {"versions/commit": head}
    (tmp_path / "a.py").write_text("2\n")
    assert commit(tmp_path) == {"versions/commit": f"{head}-dirty"}
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a hook of another repository
    assert commit(tmp_path) == {"versions/commit": f"{head}-dirty"}
    package = tmp_path / "venv" / "site-packages"  # installed below somebody else's checkout
    package.mkdir(parents=True)
    assert commit(package) == {}


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) == {}


def test_settings_of_determinism_are_those_of_the_run() -> None:
    before = provenance()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert provenance()["determinism/algorithms"] == "warn"
    finally:
        torch.use_deterministic_algorithms(False)
    assert differences(before, provenance()) == []


def test_only_what_figures_depend_on_is_a_difference() -> None:
    now = provenance()
    then = now | {"versions/torch": "2.10.0", "machine/os": "another kernel", "machine/memory_gib": 1.0, "test/top1": 0.5}
    assert differences(then, now) == [f"versions/torch 2.10.0 -> {torch.__version__}"]
    assert differences({}, now) == []


def test_other_pictures_have_another_fingerprint() -> None:
    def of(names: list[str], labels: list[int]) -> Mapping[str, str]:
        return fingerprints("base", {"train": Images(labels, names)})

    same = of(["a", "b"], [0, 1])
    assert same == of(["b", "a"], [1, 0])
    assert (
        len({of(*each)["fingerprint/pictures"] for each in (([], []), (["a", "b"], [0, 1]), (["a", "b"], [0, 0]), (["a", "c"], [0, 1]))})
        == 4
    )


def run_with(tiny_run: Path, folder: Path, seed: int, **changes: Any) -> None:
    folder.mkdir(parents=True)
    text = unsealed_config(tiny_run).replace("\nseed: 0", f"\nseed: {seed}")
    (folder / "config.yaml").write_text(text)
    (folder / "results.json").write_text(json.dumps(results(tiny_run) | {key.replace("__", "/"): value for key, value in changes.items()}))


@pytest.mark.slow
def test_the_report_names_what_differs_and_adds_no_columns_for_the_rest(tiny_run: Path, tmp_path: Path) -> None:
    run_with(tiny_run, tmp_path / "runs" / "a", 0)
    run_with(tiny_run, tmp_path / "runs" / "b", 1)
    alike = command("report", f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'alike'}", cwd=tmp_path)
    assert alike.returncode == 0, alike.stderr
    assert "made alike" not in alike.stdout
    columns = next(csv.reader((tmp_path / "alike.csv").read_text().splitlines()))
    assert not any(is_provenance(column) for column in columns)
    assert "test/top1" in columns

    run_with(tiny_run, tmp_path / "runs" / "c", 2, versions__torch="2.10.0", machine__memory_gib=1)
    other = command("report", f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'other'}", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    sentence = f"The runs were not all made alike: versions/torch {torch.__version__} (2), 2.10.0 (1)."
    assert sentence in other.stdout
    assert sentence in (tmp_path / "other.html").read_text()
    columns = next(csv.reader((tmp_path / "other.csv").read_text().splitlines()))
    assert [column for column in columns if is_provenance(column)] == ["versions/torch", "machine/memory_gib"]
    refused = command("report", f"runs={tmp_path / 'runs'}", "metric=machine/cores", cwd=tmp_path)
    assert refused.returncode == 2
    assert "no run has it" in refused.stderr


def test_runs_of_earlier_versions_are_read(tiny_run: Path, tmp_path: Path) -> None:
    run_with(tiny_run, tmp_path / "runs" / "now", 0)
    run_with(tiny_run, tmp_path / "runs" / "then", 1)
    old = {key: value for key, value in results(tiny_run).items() if not is_provenance(key)}
    (tmp_path / "runs" / "then" / "results.json").write_text(json.dumps(old))
    done = command("report", f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'report'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "made alike" not in done.stdout  # one of them does not say


def test_the_package_has_a_version() -> None:
    assert visionlora.__version__ == provenance()["versions/visionlora"]
