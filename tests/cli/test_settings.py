"""What people type, and what they are told to type instead; in this process, so that a row costs milliseconds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import hydra
import pytest
from PIL import Image

from visionlora import UserError
from visionlora.cli.conf import conf_dir
from visionlora.cli.settings import opened, prepared
from visionlora.cli.suggest import WORDS

TRAIN: list[tuple[str, str]] = [
    # another trainer's words, and the last part of a key
    ("lr=0.01", "write optim.lr=0.01."),
    ("epochs=5", "write trainer.max_epochs=5."),
    ("r=8", "write lora.r=8."),
    ("rank=8", "write lora.r=8."),
    ("batch_size=32", "write data.batch_size=32."),
    ("bs=32", "write data.batch_size=32."),
    ("workers=4", "write data.num_workers=4."),
    ("img_size=224", "write data.image_size=224."),
    ("trainer.gpus=1", "write trainer.devices=1."),
    ("gpu=1", "write trainer=gpu."),
    ("amp=true", "write trainer.precision=bf16-mixed."),
    ("dropout=0.1", "write lora.dropout=0.1."),
    ("optimizer=sgd", "write optim=sgd."),
    ("optimizer=adam", "write optim.name=adam."),
    ("arch=vgg11", "write model=timm model.name=vgg11."),
    ("root=photos", "write data=imagefolder data.root=photos."),
    ("output_dir=out", "write hydra.run.dir=out."),
    ("patience=3", "write callbacks=early_stopping callbacks.early_stopping.patience=3."),
    ("num_classes=10", "the classes are the class folders"),
    ("name=x", "there are model.name, task.name, recipe.name, data.name and optim.name"),
    # misspelt
    ("epocs=3", "Did you mean 'trainer.max_epochs'?"),
    ("momentun=0.8", "Did you mean 'optim.momentum'?"),
    ("lora.alfa=3", "Did you mean 'lora.alpha'?"),
    ("LR=0.1", "write optim.lr=0.1."),
    ("hydra.run.dri=x", "Did you mean 'hydra.run.dir'?"),
    ("++lora.rank=3", "write lora.r=3."),
    # options
    ("--epochs 5", "write trainer.max_epochs=5."),
    ("--lora.r 8", "write lora.r=8."),
    ("--batch-size=64", "write data.batch_size=64."),
    ("--r 8", "write lora.r=8."),
    ("--model=resnet18", "write model=resnet18."),
    ("--no-pretrained", "write model.pretrained=false."),
    ("--hlp", "Did you mean --help?"),
    ("--multi lora.r=1,2", "Did you mean --multirun?"),
    ("--cfg jb", "invalid choice: 'jb'"),
    ("-x", "settings are key=value"),
    # words that are not key=value
    ("lora.r 8", "write lora.r=8."),
    ("lora.r = 8", "write lora.r=8."),
    ("lora.r =8", "write lora.r=8."),
    ("lora.r= 8", "write lora.r=8."),
    ("lora.r", "lora.r has no value"),
    ("model:resnet18", "write model=resnet18."),
    ("model==resnet18", "write model=resnet18."),
    ("resnet18", "write model=resnet18."),
    ("help", "write --help."),
    ("photos/cats", "write data=imagefolder data.root=photos/cats."),
    ("lora.r=8, seed=1", "write lora.r=8."),
    ("lora.targets=[qkv", "quote what the shell or Hydra would take apart"),
    # groups
    ("lora=8", "write lora.r=8."),
    ("lora=lora", "write lora=default."),
    ("lora=[dora,none]", "-m lora=dora,none"),
    ("model=ResNet18", "write model=resnet18."),
    ("model=vit", "Did you mean 'vit_tiny' or 'vit_small' or 'vit_base'?"),
    ("model=timm/vgg11", "write model=timm model.name=vgg11."),
    ("model=vgg11", "For any other model: model=timm model.name=vgg11."),
    ("model=", "model= has no value; there are"),
    ("optim=AdamW", "write optim=adamw."),
    ("optim=rmsprop", "write optim.name=rmsprop."),
    ("callbacks=earlystopping", "Did you mean 'early_stopping'?"),
    ("~lora", "lora=none"),
    ("~model", "choose another one: model=NAME"),
    # settings that do not go together
    ("model.name=resnet18", "write model=resnet18."),
    ("model.name=regnety_002", "write model=timm model.name=regnety_002."),
    ("data.root=photos", "data=digits reads no data.root; .* write data=imagefolder data.root=photos."),
    ("callbacks.early_stopping.patience=3", "belongs to callbacks=early_stopping: write callbacks=early_stopping callbacks"),
    ("logger.wandb.project=x", "write logger=wandb logger.wandb.project=x."),
    ("trainer.fast_dev_run=true", "write \\+trainer.fast_dev_run=true."),
    ("trainer.enable_checkpointing=false", "is set by every run itself"),
    # several values
    ("lora.r=1,2", "write -m lora.r=1,2."),
    ("lora=none,full", "write -m lora=none,full."),
    ("lora.targets=qkv,fc1", "write 'lora.targets=\\[qkv,fc1\\]'"),
    ("logger=wandb,csv", "write logger=\\[wandb,csv\\]|write 'logger=\\[wandb,csv\\]'"),
    ("optim.lr=0,001", "write optim.lr=0.001."),
]
OTHERS: list[tuple[str, str, str]] = [
    ("evaluate", "dir=x", "write run=x."),
    ("evaluate", "outputs/x", "write run=outputs/x."),
    ("evaluate", "--run x", "write run=x."),
    ("evaluate", "run=A,B", "write 'run=\\[A,B\\]'"),
    ("evaluate", "data.root=x run=R", "write data=imagefolder data.root=x."),
    ("evaluate", "lora.r=8", "there are run, split"),
    ("evaluate", "splt=val", "Did you mean 'split'"),
    ("predict", "k=3", "write topk=3."),
    ("predict", "image=a.jpg", "write input=a.jpg."),
    ("predict", "dir/a.jpg", "write input=dir/a.jpg."),
    ("export", "format=onnx,timm", "write 'format=\\[onnx,timm\\]'"),
    ("report", "multirun/x", "write runs=multirun/x."),
    ("report", "metrc=x", "Did you mean 'metric'"),
    ("explain", "img=x", "Did you mean|there are"),
    ("compress", "calib=3", "Did you mean 'calibration'"),
    ("search", "trials=5", "write search.trials=5."),
    ("search", "lora.r=1,2", "write 'search.space={lora.r: \\[1,2\\]}'"),
    ("search", "lr=1", "write optim.lr=1."),
]


@pytest.mark.parametrize(("command", "line", "answer"), [*(("train", *row) for row in TRAIN), *OTHERS])
def test_what_to_type_is_said(command: str, line: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as told:
        prepared(command, line.split())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "model=resnet18 lora.r=4 data=cifar10",
        "-m lora.r=1,2 seed=0,1",
        "lora.r=1,2 -m",
        "seed=0 --multirun lora.r=1,2",
        "sweep=rank lora.r=1,2",
        "experiment=cifar10_lite0 data.root=x lora=none optim.lr=1",
        "experiment=cifar10_lite0 model.name=x",
        "model=timm model.name=vgg11 model.pretrained=false",
        "model.name=resnet18 model.pretrained=false",
        "callbacks=early_stopping callbacks.early_stopping.patience=3",
        "logger=[csv,wandb] logger.wandb.offline=true",
        "+trainer.sync_batchnorm=true",
        "+callbacks.mine._target_=a.B",
        "lora.targets={qkv:8}",
        "lora.adaptive.start=2",
        "hydra.run.dir=x hydra/launcher=joblib hydra.launcher.n_jobs=2",
        "ckpt_path=last hydra.run.dir=x data.root=y",
        "--config-dir mine model=my_own",
        "~callbacks",
        "-c job",
        "lora.r=range(1,4) -m",
    ],
)
def test_what_is_right_passes(line: str) -> None:
    words = line.split()
    assert sorted(prepared("train", words).words) == sorted(words)


@pytest.mark.parametrize(
    "line",
    [
        "data.num_images=9",
        "data=imagefolder data.root=x data.download=false data.num_classes=3",
        "data=imagenet data.root=x data.download=false",
        "data=digits,imagefolder data.root=x -m",
        "ckpt_path=last data.root=x",
        "experiment=cifar10_lite0 data.root=x data.num_images=9",
    ],
)
def test_a_source_may_be_told_what_it_does_not_read(line: str) -> None:
    """A sweep over sources gives each of them what one reads; and where all read a key, it is handed to Hydra as it was typed."""
    words = opened("train", prepared("train", line.split()).words)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra.compose("train", [word.replace("digits,", "") for word in words if word != "-m"])
        hydra.compose("train", [word.replace(",imagefolder", "") for word in words if word != "-m"])
    assert "data.root=x" in words or "data.root" not in line or "digits" in line or "ckpt_path" in line


def test_options_come_first() -> None:
    assert prepared("train", ["lora.r=1,2", "-m", "seed=0"]).words == ["-m", "lora.r=1,2", "seed=0"]


@pytest.mark.parametrize("name", ["a, b", "a b=c", "März (neu)", "it's", "a\\'b", "x;y#z!", "50%&more", "end\\"])
def test_a_path_may_hold_any_character(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    line = prepared("train", ["data=imagefolder", f"data.root={name}"])
    assert line.settings[1][1].value() == name
    assert prepared("train", line.words).settings[1][1].value() == name  # as a process that DDP starts reads it


def test_home_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepared("evaluate", ["run=~/runs/1"]).settings[0][1].value() == f"{tmp_path}/runs/1"


def test_files_are_told_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.jpg")
    Path("photos").mkdir()
    Path("w.pt").touch()
    answers = {
        ("train", "photos"): "write data=imagefolder data.root=photos.",
        ("train", "data=photos"): "write data=imagefolder data.root=photos.",
        ("train", "model=w.pt"): "write model=timm model.name=NAME model.weights=w.pt.",
        ("predict", "a.jpg"): "write input=a.jpg.",
    }
    for (command, word), answer in answers.items():
        with pytest.raises(UserError, match=answer):
            prepared(command, [word])


def test_what_is_given_twice_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    prepared("train", ["lora.r=8", "lora.r=16", "hydra.run.dir=a", "hydra.run.dir=b"])
    assert capsys.readouterr().err == "note: lora.r is given twice; the last one counts: lora.r=16\n"


@pytest.mark.parametrize("word", WORDS)
def test_every_usual_word_leads_to_a_key_that_passes(word: str) -> None:
    """The answer, typed, gives no other complaint about the key."""
    answers = []
    for command in ("train", "evaluate", "predict", "report"):
        try:
            prepared(command, [f"{word}=8"])
            continue  # it is a key of this command
        except UserError as told:
            answer = str(told)
        if "write " in answer:
            answers.append(answer)
            with contextlib.suppress(UserError):
                prepared(command, answer.partition("write ")[2].rstrip(".").split())
                continue
            with pytest.raises(UserError, match=r"^(?!unknown)"):
                prepared(command, answer.partition("write ")[2].rstrip(".").split())
    assert answers
