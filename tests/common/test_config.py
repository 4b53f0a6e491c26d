"""The config files compose, and say what the schema and Lightning say."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, asdict, fields
from typing import Any

import hydra
import lightning as L
import pytest
import timm.optim
import torchvision
import yaml
from conftest import compose
from omegaconf import DictConfig, OmegaConf

from visionlora import UserError
from visionlora.backbone import timm_models
from visionlora.backbone.config import ModelConfig
from visionlora.cli.command import slug
from visionlora.cli.commands import COMMANDS
from visionlora.cli.conf import conf_dir, every_key, groups, option_keys, options
from visionlora.common.config import checked
from visionlora.common.trainer_config import OURS
from visionlora.data.config import SOURCES, DataConfig
from visionlora.lora.config import LoraConfig
from visionlora.runs.config import OPEN, OPTIMIZERS, OptimConfig, TrainConfig

GROUPS = ("model", "data", "lora", "optim", "trainer", "callbacks")
OPTIONS = [(group, option) for group in GROUPS for option in options(group)]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    more = ["model.name=resnet18"] if option in ("timm", "torchvision") else []
    more += ["data.root=x"] if "data.root" in option_keys(group, option) else []
    config = compose(f"{group}={option}", *more)
    if group == "model":
        known = timm_models.names() if config.model.source == "timm" else torchvision.models.list_models()
        assert config.model.name in known


def test_experiment_is_the_one_of_the_readme() -> None:
    config = compose("experiment=cifar10_lite0", "data.root=x")
    assert (config.data.name, config.data.image_size, config.data.batch_size, config.data.val_fraction) == ("cifar10", 96, 64, 0.0)
    assert (config.lora.r, config.lora.targets, config.optim.name, config.trainer["max_epochs"]) == (8, "all", "adamw", 2)
    assert compose("experiment=cifar10_lite0", "data.root=x", "lora=none", "optim.lr=1").lora.method == "none"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_asks_of_hydra_is_written_once(command: str) -> None:
    shared, own = OmegaConf.load(conf_dir() / "hydra/command.yaml"), OmegaConf.load(conf_dir() / f"{command}.yaml")
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose(command, return_hydra_config=True).hydra
    assert (composed.output_subdir, composed.job.name, composed.help.app_name) == (None, command, f"visionlora.{command}")
    assert not set(own.hydra) & set(shared) - {"run", "help"}
    assert set(own.hydra.help) == {"header", "footer"}
    assert "hydra" not in groups()


@pytest.mark.parametrize(("group", "schema"), [("model", ModelConfig), ("data", DataConfig), ("lora", LoraConfig), ("optim", OptimConfig)])
def test_files_list_every_key_a_user_can_set(group: str, schema: type) -> None:
    """So that --help shows them all, and an override of any needs no ``+``."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose("train")[group]
    listed = {key.removeprefix(f"{group}.").partition(".")[0] for key in every_key(group)}
    assert set(composed) <= listed == {field.name for field in fields(schema)}


def test_a_source_lists_what_it_reads() -> None:
    of_some = {"root", "download", "num_classes", "num_images", "label", "image", "images", "separator", "levels", "kept_gb"}
    read = {"imagefolder": {"root", "levels"}, "imagenet": {"root", "levels"}, "cifar10": {"root", "levels", "download"}, "digits": set()}
    read |= {"cifar100": read["cifar10"], "fake": {"num_classes", "num_images"}, "table": {"root", "label", "image", "images", "separator"}}
    read |= {"webdataset": {"root", "label", "separator", "download", "kept_gb"}, "hf": {"root", "label", "image", "separator", "download"}}
    read |= {"litdata": {"root", "label", "image", "separator"}}
    read |= {source: {"root"} for source in ("masks", "voc", "coco", "yolo")}
    for source, keys in read.items():
        assert {key for key in of_some if f"data.{key}" in option_keys("data", source)} == keys
        assert not {field.name for field in fields(DataConfig)} - of_some - {key[5:] for key in option_keys("data", source)}


def test_trainer_takes_lightnings_own_names() -> None:
    assert set(compose().trainer) - set(OURS) <= set(inspect.signature(L.Trainer.__init__).parameters)


def test_names_known_without_torch_are_those_of_the_libraries() -> None:
    assert set(OPTIMIZERS) <= set(timm.optim.list_optimizers())
    assert set(SOURCES.built_in) == set(options("data"))


@pytest.mark.parametrize(("part", "schema"), [("data", DataConfig), ("model", ModelConfig), ("lora", LoraConfig), ("optim", OptimConfig)])
def test_a_default_is_the_same_in_the_file_and_in_the_schema(part: str, schema: type[Any]) -> None:
    given = ["data=imagefolder", "data.root=data", "model=timm", "model.name=NAME"]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed: Any = hydra.compose("train", given)
    written = OmegaConf.to_container(composed[part])
    assert isinstance(written, dict)
    for name, key in every_key(part).items():  # what other sources read
        if "." not in (rest := name.removeprefix(f"{part}.")):
            written.setdefault(rest, yaml.safe_load(key.default))
    plain = asdict(schema(**{field.name: written[field.name] for field in fields(schema) if needed(field)}))
    for name, left_open in (OPEN | {"data.val_fraction": None}).items():  # chosen later in the file; the schema says what it is without
        section, setting = name.split(".")
        if section == part:
            assert written.pop(setting) == left_open
            del plain[setting]
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()} == written


def needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def test_off_in_a_file_is_off() -> None:
    """YAML reads it as false."""
    config = compose()
    written = OmegaConf.merge(config, OmegaConf.create("{data: {cache: off}, model: {fold_bn: off}}"))
    assert isinstance(written, DictConfig)
    found = checked(TrainConfig, written)
    assert (found.data.cache, found.model.fold_bn) == ("off", "off")


def test_what_a_file_asks_for_is_not_answered_by_the_schemas_default() -> None:
    with pytest.raises(UserError, match=r"data\.root is not set"):
        compose("data=imagefolder")


def test_types_are_checked() -> None:
    with pytest.raises(UserError, match=r"lora\.r"):
        checked(TrainConfig, OmegaConf.create({"model": {}, "lora": {"r": "x"}}))


def test_slugs_can_be_given_back_to_hydra() -> None:
    assert slug("lora.r=4,seed=0") == "lora.r-4-seed-0"
    one, other = slug("lora.r=4,data.root=/a b/c,lora.targets=[x,y]"), slug("lora.r=4,data.root=/a b/c,lora.targets=x,y")
    assert one.startswith("lora.r-4-data.root-a-b-c-lora.targets-x-y-")
    assert one != other  # what only looks the same has another name
