"""The schema of ``trainer`` says what Lightning says."""

from __future__ import annotations

import inspect
import typing
from dataclasses import fields
from typing import Any

import lightning as L
import pytest
from conftest import compose

from visionlora import UserError
from visionlora.common.trainer_config import OURS, PRECISIONS, SET_BY_US, TrainerConfig


def test_the_keys_are_lightnings_and_ours() -> None:
    lightnings = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert {field.name for field in fields(TrainerConfig)} == (lightnings - set(SET_BY_US)) | set(OURS)
    assert set(SET_BY_US) <= lightnings


def test_the_types_are_lightnings() -> None:
    ours, lightnings = typing.get_type_hints(TrainerConfig), typing.get_type_hints(L.Trainer.__init__)
    for name, hint in ours.items():
        if hint is Any or name in OURS:
            continue
        wanted = set(typing.get_args(lightnings[name])) or {lightnings[name]}
        assert set(typing.get_args(hint) or [hint]) - {type(None)} <= wanted, name


def test_the_precisions_are_lightnings() -> None:
    for precision in PRECISIONS[1:]:
        assert precision in str(typing.get_type_hints(L.Trainer.__init__)["precision"])


WRONG = {
    "trainer.max_epochs=ten": "trainer.max_epochs=ten must be a whole number",
    "trainer.max_epochs=0": "trainer.max_epochs=0 trains nothing; .*lora=none",
    "trainer.max_epochs=2.5": "must be a whole number",
    "trainer.max_steps=-5": "must be at least 1",
    "trainer.log_every_n_steps=x": "must be a whole number",
    "trainer.check_val_every_n_epoch=0": "must be at least 1",
    "trainer.limit_train_batches=abc": "a number of batches, as in 10, or a share",
    "trainer.limit_train_batches=0": "a number of batches",
    "trainer.limit_val_batches=2.5": "a number of batches.*0: none",
    "trainer.accumulate_grad_batches=0": "must be at least 1",
    "trainer.gradient_clip_val=-1": "must be at least 0",
    "trainer.gradient_clip_algorithm=nrm": "Did you mean 'norm'",
    "trainer.precision=fp16": "write trainer.precision=16-mixed",
    "trainer.precision=17": "is unknown; it is one of auto, 32-true",
    "trainer.devices=two": "must be auto, a number of processes",
    "trainer.devices=0": "at least 1, or auto",
    "trainer.max_time=5m": "days:hours:minutes:seconds",
    "trainer.profiler=yes": "is one of simple",
    "trainer.deterministic=maybe": "is one of true, false, warn",
    "+trainer.gpus=1": "unknown key trainer.gpus",
    "+trainer.fast_dev_run=true": None,
    "trainer.limit_val_batches=0": None,
    "trainer.limit_train_batches=0.5": None,
    "trainer.devices=[0,1]": None,
    "trainer.precision=16": None,
    "trainer.max_time=00:01:00:00": None,
    "trainer.max_epochs=-1 trainer.max_steps=5": None,
    "trainer.log_every_n_steps=null": None,
}


@pytest.mark.parametrize(("words", "message"), WRONG.items())
def test_values_are_checked(words: str, message: str | None) -> None:
    if message is None:
        compose(*words.split())
        return
    with pytest.raises(UserError, match=message):
        compose(*words.split())
