"""``trainer.on_oom``: memory gives out above so many images, and the run ends as one for which it sufficed."""

from __future__ import annotations

import os
import resource
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import FORKS, QUIET, TINY, as_started_afresh, command, compose
from faults.killing import differences
from lightning.pytorch.callbacks import Callback
from quickly import quickly

from visionlora import UserError
from visionlora.training.run import run

COMMON = (
    *TINY,
    *QUIET,
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.precision=32-true",
    "data.batch_size=16",
    "data.num_images=70",
    "data.image_size=32",
)
HALVE = "trainer.on_oom=halve"
ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Small(Callback):
    """Memory that holds ``most`` images at a time, in one process or in all; it gives out in the forward or in the backward pass.

    ``ends_in``: the step after which the training breaks off.
    """

    def __init__(self, most: int, where: str = "forward", error: Exception = ERROR, ends_in: int = -1, rank: int | None = None) -> None:
        self.most, self.where, self.error, self.ends_in, self.rank = most, where, error, ends_in, rank
        self.seen: list[int] = []
        self.raised = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.rank not in (None, trainer.global_rank):
            self.most = 2**20

        def watch(module: Any, arguments: Any, logits: torch.Tensor) -> None:
            self.seen.append(len(logits))
            if len(logits) > self.most and self.where == "forward":
                self.give_out()
            if len(logits) > self.most and self.where == "backward" and logits.requires_grad:
                logits.register_hook(lambda gradient: self.give_out())

        self.handle = pl_module.model.register_forward_hook(watch)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.handle.remove()

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == self.ends_in:
            raise InterruptedError

    def give_out(self) -> None:
        self.raised += 1
        raise self.error


def learnt(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def same(ours: Path, theirs: Path, tolerance: float) -> None:
    one, other = learnt(ours), learnt(theirs)
    assert one["global_step"] == other["global_step"]
    assert one["epoch"] == other["epoch"]
    for key, value in other["state_dict"].items():
        torch.testing.assert_close(one["state_dict"][key], value, rtol=0, atol=tolerance, msg=key)


CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "accumulated, clipped": (6, ("trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.1")),
    "odd batch, odd rest": (5, ("data.batch_size=15",)),
    "one at a time": (1, ("data.batch_size=8",)),
    "accumulated": (4, ("trainer.accumulate_grad_batches=2",)),
    "full": (4, ("lora=full",)),
    "adalora": (4, ("lora=adaptive",)),
    "decay, smoothing": (4, ("lora.delta_decay=1", "optim.label_smoothing=0.1")),
    "cached": (4, ("lora=none", "data.cache=memory")),
    "blocks": (4, ("model.checkpointing=blocks",)),
    "light": (4, ("model.checkpointing=light",)),
}


@pytest.mark.parametrize("where", quickly(["forward", "backward"], 1))
@pytest.mark.parametrize("case", quickly(CASES, 1))
def test_ends_as_if_memory_had_sufficed(case: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    most, overrides = CASES[case]
    small, optimizer = Small(most, where), ("optim.name=sgd",) if "adaptive" not in " ".join(overrides) else ()
    whole = run(compose(*COMMON, *optimizer, *overrides), tmp_path / "whole")
    halved = run(compose(*COMMON, *optimizer, *overrides, HALVE), tmp_path / "halved", [small])
    same(tmp_path / "halved", tmp_path / "whole", 1e-4)
    assert halved["test/loss"] == pytest.approx(whole["test/loss"], rel=1e-3)
    assert small.raised in (2, 3)  # once for each halving, not once a step
    assert capsys.readouterr().out.count("trainer.on_oom=halve") == small.raised


def test_where_memory_suffices_nothing_differs(tmp_path: Path) -> None:
    """Not a bit, with float16's rounding or dropout either."""
    for overrides, folder in (((), "raise"), ((HALVE,), "halve")):
        run(compose(*COMMON, "model.drop_rate=0.1", "trainer.precision=bf16-mixed", *overrides), tmp_path / folder)
    assert not differences(tmp_path / "halve", tmp_path / "raise")


def test_evaluations_are_halved_too_and_without_it_one_sentence_says_so(tmp_path: Path) -> None:
    one_epoch = compose(*COMMON, HALVE, "trainer.max_epochs=1")
    small = Small(8)
    run(one_epoch, tmp_path / "halved", [small])
    assert small.raised == 1
    assert max(size for size in small.seen[1:]) == 8  # evaluation too
    with pytest.raises(UserError, match=r"out of memory with data\.batch_size=16\. Set data\.batch_size lower \(.*trainer\.on_oom=halve"):
        run(replace(one_epoch, trainer=one_epoch.trainer | {"on_oom": "raise"}), tmp_path / "raised", [Small(8)])


@pytest.mark.parametrize(
    ("words", "why"),
    [((*TINY, "data.balance=weights"), "data.balance=weights"), (("task=segment", "data=digits"), "task=segment")],
)
def test_a_loss_that_is_no_mean_of_images_is_not_halved(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    with pytest.raises(UserError, match=rf"trainer\.on_oom=halve: with {why} the loss of a batch is not the mean of its images'"):
        run(compose(*QUIET, HALVE, *words), tmp_path)


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    small = Small(8, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(compose(*COMMON, HALVE), tmp_path, [small])
    assert small.raised == 1


@pytest.mark.faults
@pytest.mark.parametrize("ends_in", [2, 6, 9])
def test_a_resumed_run_goes_on_with_the_halves(ends_in: int, tmp_path: Path) -> None:
    """Killed in the epoch of the halving or in a later one; dropout is drawn portion by portion, so that one portion more would show."""
    config = compose(*COMMON, HALVE, "model.drop_rate=0.2", "lora.dropout=0.1", "trainer.max_epochs=3", "data.batch_size=14")
    run(config, tmp_path / "whole", [Small(5)])
    with pytest.raises(InterruptedError):
        run(config, tmp_path / "killed", [Small(5, ends_in=ends_in)])
    begun = (tmp_path / "killed" / "checkpoints" / "last.ckpt").is_file()
    assert begun == (ends_in > 5)
    # The memory of the machine it goes on with is larger.
    run(replace(config, ckpt_path="last" if begun else None), tmp_path / "killed", [Small(2**20 if begun else 5)])
    assert not differences(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_one_picture_cannot_be_halved(where: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a single image at a time, which cannot be halved"):
        run(compose(*COMMON, HALVE), tmp_path, [Small(0, where)])


def test_moving_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"moving batch-norm statistics would be those of half a batch; set model\.freeze_bn=true"):
        run(compose(*COMMON, HALVE, "model.freeze_bn=false"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _limited(call: tuple[str, ...], mib: int, stream: Path) -> None:
    """The command in this process, which may take so much more address space than it has."""
    os.dup2(os.open(stream, os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(1, 2)
    as_started_afresh()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + mib * 2**20,) * 2)
    sys.argv = ["visionlora.train", *call]
    runpy.run_module("visionlora.train", run_name="__main__", alter_sys=True)


def limited(folder: Path, *overrides: str) -> tuple[int | None, str]:
    """Exit code and words of a run on large batches in 600 MiB."""
    large = ("trainer.max_epochs=1", "data.batch_size=256", "data.image_size=160", "data.num_images=300", f"hydra.run.dir={folder}")
    stream = folder.with_suffix(".txt")
    process = FORKS.Process(target=_limited, args=((*COMMON, *large, *overrides), 600, stream))
    process.start()
    process.join(200)
    return process.exitcode, " ".join(stream.read_text().split())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_a_process_that_gets_no_more_memory(tmp_path: Path) -> None:
    code, said = limited(tmp_path / "halved", HALVE)
    assert code == 0, said
    assert "from now on 128 images at a time" in said
    code, said = limited(tmp_path / "raised")
    assert code == 2
    assert "error: out of memory with data.batch_size=256. Set data.batch_size lower" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_processes_of_which_one_runs_out(tmp_path: Path) -> None:
    """Both then take portions of the same size, so that the checkpoint of the one is right for the other."""
    two = (*COMMON, "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=2", HALVE)
    small = "+callbacks.small={_target_: test_out_of_memory.Small, most: 5, rank: 1}"
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    for name, more in (("whole", ()), ("halved", (small,))):
        done = command("train", *two, *more, f"hydra.run.dir={tmp_path / name}", env={"PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
    same(tmp_path / "halved", tmp_path / "whole", 1e-4)
    assert learnt(tmp_path / "halved")["visionlora"]["pictures_at_once"] == 4
