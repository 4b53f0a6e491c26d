"""Every file of a run folder, damaged or made by a stranger, under every command that reads it: one sentence, or the right answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, command
from faults.damaging import STRANGERS, Ended, Harm, damages, ended, main_of
from faults.killing import differences
from quickly import quickly
from safetensors.torch import load_file

import visionlora as vl
from visionlora.backbone.info import fingerprint
from visionlora.common.config import checked
from visionlora.compress import compress
from visionlora.evaluate import evaluate
from visionlora.evaluation.config import EvaluateConfig, ExplainConfig, PredictConfig
from visionlora.explain import explain
from visionlora.export import export
from visionlora.exporting.config import CompressConfig, ExportConfig
from visionlora.lora.config import LoraConfig
from visionlora.predict import predict
from visionlora.report import report
from visionlora.reporting.config import ReportConfig
from visionlora.runs.data import data_config
from visionlora.runs.folder import RunFolder

Recorder = Callable[[str, object], None]
WEIGHTS, PEFT, CARD = "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/visionlora.json"
MODEL = (WEIGHTS, PEFT, CARD, "base.safetensors", "config.yaml")
SECRET = "a-secret-of-this-machine"


@dataclass(frozen=True)
class Reads:
    """A command: how it is called on a run folder in a scratch folder, the answer that it leaves, and the files that it reads."""

    call: Callable[[Path, Path], Any]
    answer: Callable[[Path, Path], Any]
    files: tuple[str, ...]


def _evaluation(run: Path, scratch: Path) -> Any:
    figures = json.loads((run / "evaluation_test.json").read_text())
    return {key: value for key, value in figures.items() if "second" not in key}


def _compressed(run: Path, scratch: Path) -> Any:
    rows = json.loads((run / "compress/results.json").read_text())
    return [[row[key] for key in ("name", "top1", "low", "high", "bytes")] for row in rows]


def _exported(run: Path, scratch: Path) -> Any:
    """Texts as they are, and tensors by value: the order of what a header says beside them is another each time."""
    files = sorted(path for path in (scratch / "out").rglob("*") if path.is_file())
    return [(path.name, fingerprint(load_file(path)) if path.suffix == ".safetensors" else path.read_text()) for path in files]


def _bytes(*names: str) -> Callable[[Path, Path], Any]:
    return lambda run, scratch: [hashlib.sha256((scratch / name).read_bytes()).hexdigest() for name in names]


def _report(run: Path, scratch: Path) -> Any:
    """Without the curves, which a damaged log leaves out."""
    page = (scratch / "report.html").read_text()
    return (scratch / "report.csv").read_text(), page.partition('id="table-data">')[2].partition("</script>")[0]


def _loads(run: Path, scratch: Path) -> None:
    predictor = vl.load(run)
    torch.save([predictor.classes, predictor.model(vl.example_batch(predictor.model))], scratch / "answer.pt")


def _loads_adapter(run: Path, scratch: Path) -> None:
    torch.manual_seed(0)
    model = vl.create_backbone("timm/test_resnet", num_classes=3, pretrained=False, image_size=24).eval()
    model.__dict__.pop("backbone_info")  # its own weights are not the run's: what counts is that the adapter comes as it was
    vl.load_adapter(model, run / "adapter")
    torch.save(model.eval()(torch.ones(1, 3, 24, 24)), scratch / "answer.pt")


def _trained(run: Path, scratch: Path) -> Any:
    return differences(run, REFERENCE["folder"])


REFERENCE: dict[str, Path] = {}
READS = {
    "evaluate": Reads(
        lambda run, scratch: evaluate(EvaluateConfig(str(run), num_workers=0, figures=False), scratch), _evaluation, (*MODEL, "split.json")
    ),
    "predict": Reads(
        lambda run, scratch: predict(PredictConfig(str(run), str(PICTURE["path"]), output=str(scratch / "p.csv"), overwrite=True), scratch),
        _bytes("p.csv"),
        MODEL,
    ),
    "export": Reads(
        lambda run, scratch: export(ExportConfig(str(run), "state_dict", str(scratch / "out")), scratch),
        _exported,
        (*MODEL, "split.json", "results.json"),
    ),
    "compress": Reads(
        lambda run, scratch: compress(CompressConfig(str(run), calibration=3, prune=[]), scratch), _compressed, (*MODEL, "split.json")
    ),
    "explain": Reads(
        lambda run, scratch: explain(ExplainConfig(str(run), most=2, output=str(scratch / "out")), scratch),
        _bytes("out/explain.png", "out/changes.png"),
        (*MODEL, "split.json"),
    ),
    "report": Reads(
        lambda run, scratch: report(ReportConfig(str(run), output=str(scratch / "report")), scratch),
        _report,
        ("config.yaml", "results.json", "metrics.csv"),
    ),
    "load": Reads(_loads, lambda run, scratch: str(torch.load(scratch / "answer.pt")), MODEL),
    "load_adapter": Reads(_loads_adapter, lambda run, scratch: str(torch.load(scratch / "answer.pt")), (WEIGHTS, PEFT, CARD)),
    "train ckpt_path=last": Reads(
        lambda run, scratch: main_of("train", "ckpt_path=last", f"hydra.run.dir={run}", *QUIET)(),
        _trained,
        ("config.yaml", "split.json", "ranks.json", "base.safetensors", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"),
    ),
}
PAIRS = [(name, file) for name, reads in READS.items() for file in reads.files]
PICTURE: dict[str, Path] = {}
LOGS = ("metrics.csv", "checkpoints/best.ckpt")
"""Without these a run goes on and says so; its course is another then."""


@dataclass(frozen=True)
class Runs:
    """A finished run, and the same one as it was after two of its three epochs."""

    finished: Path
    stopped: Path

    def of(self, name: str) -> Path:
        return self.stopped if name.startswith("train") else self.finished


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    import numpy as np
    from PIL import Image

    root, draw = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for number, name in enumerate(("cat", "dog", "owl")):
            (root / "pictures" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 90, (24, 24, 3)) + 70 * number
                Image.fromarray(pixels.astype(np.uint8)).save(root / "pictures" / part / name / f"{i}.png")
    PICTURE["path"] = root / "pictures" / "test" / "cat" / "0.png"
    call = [*TINY, *QUIET, "trainer=cpu", "trainer.precision=32-true", "data=imagefolder", f"data.root={root / 'pictures'}"]
    call += ["data.image_size=24", "data.val_fraction=0.25", "data.batch_size=9", "lora.budget=9000", "lora.allocate=structure"]
    call += ["trainer.max_epochs=3"]
    for name, more in (("finished", []), ("stopped", ["+callbacks.stop._target_=runs.stopping.StopAfter", "+callbacks.stop.epochs=2"])):
        done = command("train", *call, f"hydra.run.dir={root / name}", *more)
        assert done.returncode in (0, 130), done.stderr
    REFERENCE["folder"] = root / "finished"
    return Runs(root / "finished", root / "stopped")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, gone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONLORA_SECRET", SECRET)
    yield tmp_path
    shutil.rmtree(tmp_path)


@contextlib.contextmanager
def harmed(run: Path, file: str, harm: Harm, place: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of a run with one of its files harmed, and a scratch folder."""
    copy, scratch = place / "run", place / "scratch"
    shutil.copytree(run, copy)
    scratch.mkdir()
    harm(copy / file)
    try:
        yield copy, scratch
    finally:
        shutil.rmtree(copy)
        shutil.rmtree(scratch)


def attempt(name: str, file: str, harm: Harm, place: Path, runs: Runs, answer: Any) -> tuple[Ended, str]:
    """How the command ended, and what was wrong with that, if anything was; without ``answer``, any answer will do."""
    reads = READS[name]
    with harmed(runs.of(name), file, harm, place) as (run, scratch):
        end = ended(lambda: reads.call(run, scratch))
        wrong = end.fault
        left = [path for path in scratch.rglob("*") if path.is_file()]
        if not wrong and not end.complaint and answer is not None:
            found = reads.answer(run, scratch)
            told = file in LOGS and Path(file).name in end.said
            if found != answer and not told:
                wrong = f"another answer: {str(found)[:300]}"
        everything = end.said + "".join(path.read_text(errors="replace") for path in left if path.stat().st_size < 10**7)
        if SECRET in everything:
            wrong = "a secret of this machine was written"
        if "\x1b[2J" in end.said:
            wrong = "the terminal would obey a name"
    strays = {path.name for path in place.iterdir()} - {"outputs"}
    if strays:
        wrong = f"files where none belong: {strays}"
    return end, wrong


def right_answer(name: str, place: Path, runs: Runs) -> Any:
    """What the command leaves of the whole run; twice, so that what is compared is what does not change."""
    found = []
    for _ in range(2):
        with harmed(runs.of(name), "config.yaml", lambda file: None, place) as (run, scratch):
            end = ended(lambda: READS[name].call(run, scratch))
            assert not end.complaint, end.complaint
            assert not end.fault, end.fault
            found.append(READS[name].answer(run, scratch))
    assert found[0] == found[1]
    return found[0]


def tried(
    cases: Iterator[tuple[str, Harm]], name: str, file: str, place: Path, runs: Runs, answer: Any, record: Recorder, kind: str
) -> None:
    """Every case in turn, with how many held on record."""
    failed, tries = [], 0
    for case, harm in cases:
        tries += 1
        _, wrong = attempt(name, file, harm, place, runs, answer)
        failed += [f"{case}: {wrong}"] * bool(wrong)
    record("kind", kind)
    record("tries", tries)
    record("held", tries - len(failed))
    assert not failed, f"{len(failed)} of {tries}: " + "\n".join(failed[:40])


@pytest.mark.faults
@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_damaged(name: str, file: str, place: Path, runs: Runs, record_property: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionlora.reporting.commands.command_of", lambda *_: "a command")  # which takes seconds to find
    answer = right_answer(name, place, runs)
    tried(damages(runs.of(name) / file), name, file, place, runs, answer, record_property, f"damaged files, {name}")


SHARE = {"load": 1.0, "load_adapter": 0.5, "compress": 0.01, "train ckpt_path=last": 0.02}
"""Of the changes that a stranger may make to a JSON file, a config or a checkpoint: of thousands, those that there is time for."""


@pytest.mark.faults
@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_made_by_a_stranger(name: str, file: str, place: Path, runs: Runs, record_property: Recorder) -> None:
    whole = runs.of(name) / file
    if whole.suffix in (".json", ".yaml", ".ckpt"):
        cases = STRANGERS[whole.suffix](whole, share=0.02 if file == "config.yaml" else SHARE.get(name, 0.05))
    else:
        cases = STRANGERS[whole.suffix](whole)
    tried(cases, name, file, place, runs, None, record_property, f"files made by a stranger, {name}")


@pytest.mark.faults
def test_every_change_of_a_config(place: Path, runs: Runs, record_property: Recorder) -> None:
    """All that a stranger may do to ``config.yaml``, and what is made of it before anything else is read."""
    failed, tries = [], 0
    with harmed(runs.finished, "config.yaml", lambda file: None, place) as (folder, _):
        run = RunFolder(folder)
        for case, harm in STRANGERS[".yaml"](runs.finished / "config.yaml"):
            tries += 1
            harm(run.config)
            end = ended(lambda: (data_config(run), checked(LoraConfig, run.read_section("lora"))))
            failed += [f"{case}: {end.fault}"] * bool(end.fault or SECRET in end.complaint)
    record_property("kind", "config.yaml made by a stranger")
    record_property("tries", tries)
    record_property("held", tries - len(failed))
    assert not failed, f"{len(failed)} of {tries}: " + "\n".join(failed[:40])


NOT_NEEDED = ("config.yaml", "metrics.csv")
"""By a command that loads a model, and by a report."""
CORE = ("missing", "cut at 0.5", "a folder", "text", "a block of zeros")


@pytest.mark.parametrize(("name", "file"), [pair for pair in PAIRS if pair[0] in ("load", "load_adapter")])
def test_a_few_of_them(name: str, file: str, place: Path, runs: Runs) -> None:
    """The core of ``test_damaged``, for the quick suite."""
    answer, complaints = right_answer(name, place, runs), 0
    for case, harm in damages(runs.of(name) / file, flips=3):
        if case in CORE or case.startswith("bit "):
            end, wrong = attempt(name, file, harm, place, runs, answer)
            assert not wrong, f"{case}: {wrong}"
            complaints += bool(end.complaint)
    assert complaints > 3 or file in NOT_NEEDED, "damage that nobody sees"


@pytest.mark.parametrize(
    "file", quickly(READS["train ckpt_path=last"].files, ("config.yaml", "base.safetensors", "metrics.csv"), pytest.mark.faults)
)
def test_a_resume_says_what_is_damaged(file: str, place: Path, runs: Runs) -> None:
    """As a user sees it: an exit code and a sentence, or a run that goes on to its end."""

    def halved(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with harmed(runs.stopped, file, halved, place) as (run, _):
        done = command("train", "ckpt_path=last", f"hydra.run.dir={run}", *QUIET)
        assert "Traceback" not in done.stderr
        assert Path(file).name in done.stderr
        if file in (*LOGS, "checkpoints/last.ckpt"):
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 2
            assert len(done.stderr.strip().splitlines()) == 1
            assert not os.listdir(run / "adapter") if (run / "adapter").exists() else True
