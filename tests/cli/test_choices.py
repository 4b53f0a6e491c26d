"""What the comments in ``conf/`` say a key can be is what the code takes; they are the help, the completion and a page of the docs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from visionlora.cli import conf, search_config
from visionlora.common.config import checked
from visionlora.common.errors import UserError
from visionlora.evaluation import config as evaluation_config
from visionlora.exporting import config as exporting_config
from visionlora.reporting import config as reporting_config
from visionlora.runs.config import TrainConfig

GROUPS = ("model", "data", "lora", "optim", "trainer")
COMMANDS = ("evaluate", "predict", "export", "compress", "explain", "report")
GIVEN = {"run": "RUN", "runs": "RUNS", "input": "PICTURES", "model.name": "NAME", "data.root": "DIR"}
"""Values of keys that have no default."""
NEEDS: dict[str, dict[str, Any]] = {
    "lora.allocate": {"lora.budget": "1%"},
    "average=weights": {"run": ["RUN", "SECOND"]},
    "average=logits": {"run": ["RUN", "SECOND"]},
    "trainer.max_epochs=-1": {"trainer.max_steps": 10},
}
"""What a value needs beside it."""
NO_VALUES = (("lora.alpha", "strength"), ("trainer.devices", "processes"))
"""Words before a colon that are none."""


def taken(command: str, key: str, value: Any) -> str:
    """What is wrong with ``key=value``, or ``""``."""
    needs = NEEDS.get(key, {}) | NEEDS.get(f"{key}={value}", {})
    keys = every_key(command)
    values = {name: GIVEN.get(name, yaml.safe_load(known.default)) for name, known in keys.items() if known.default} | needs | {key: value}
    parts = (search_config, evaluation_config, exporting_config, reporting_config)
    named = {name: schema for part in parts for name, schema in vars(part).items()}
    schema: Any = TrainConfig if command == "train" else named[f"{command.capitalize()}Config"]
    try:
        checked(schema, OmegaConf.create(nested(values)))
    except UserError as error:
        return str(error)
    return ""


def nested(values: dict[str, Any]) -> dict[str, Any]:
    config: Any = OmegaConf.create({})
    for name, value in values.items():
        OmegaConf.update(config, name, value)
    return dict(config)


def every_key(command: str) -> dict[str, conf.Key]:
    if command != "train":
        return conf.own_keys(command)
    return {name: key for group in GROUPS for name, key in conf.every_key(group).items()}


KEYS = {f"{command}:{name}": key for command in ("train", *COMMANDS) for name, key in every_key(command).items() if key.default}


def choices(where: str) -> list[str]:
    """What the code names when it refuses a word: ``[]`` where it would take any."""
    command, _, name = where.partition(":")
    found = re.search(r"is one of (.+?)\.(?: Did you|$)", taken(command, name, "no-such-word"))
    return found[1].split(", ") if found else []


def test_choices_are_found() -> None:
    """The test would hold nothing if the sentences changed."""
    assert choices("train:data.cache") == ["auto", "memory", "disk", "off"]
    assert sum(bool(choices(where)) for where in KEYS) > 20


@pytest.mark.parametrize("where", [where for where in KEYS if choices(where)])
def test_a_comment_names_every_choice(where: str) -> None:
    key, known = KEYS[where], choices(where)
    words = re.findall(r"[\w-]+", f"{key.default} {key.meaning}")
    assert not set(known) - set(words), f"{key.name}: the comment in conf/ says nothing of them"


@pytest.mark.parametrize("where", KEYS)
def test_what_a_comment_names_is_taken(where: str) -> None:
    """The default, words before a colon (``light: hold less``), and of a key with choices the list that its comment begins with."""
    command, _, name = where.partition(":")
    key = KEYS[where]
    named = re.findall(r"(?:^|[;,] )((?:[\w.+-]+(?:, | or ))*[\w.+-]+): ", key.meaning)
    words = [word for list_ in named for word in re.split(r", | or ", list_)]
    listed = re.split(r", | or ", re.split(r"[:;.(]", key.meaning)[0].strip())
    words += listed if listed[0] in choices(where) else []
    for word in words:
        if re.fullmatch(r"[\w+-]+", word) and (name, word) not in NO_VALUES:
            assert not taken(command, name, word if word == "off" else yaml.safe_load(word)), f"{name}: the comment in conf/ names {word}"
    if key.default != "???":
        assert not taken(command, name, yaml.safe_load(key.default))
