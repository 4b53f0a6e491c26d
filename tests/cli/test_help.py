"""Help, versions and completion, as a user sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command

from visionlora.cli import conf
from visionlora.cli.commands import COMMANDS
from visionlora.cli.completion import SCRIPTS
from visionlora.cli.help import show_help

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_key_with_its_meaning_in_100_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_help(name, [])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    keys = dict(conf.own_keys(name))
    for group, option in conf.chosen(name).items():
        assert f"\n  {group}\n" in said
        keys |= conf.option_keys(group, option)
        for choice, meaning in conf.options(group).items():
            assert choice in said
            assert meaning, f"{group}={choice} has no comment at the head of its file"
    for typed, key in keys.items():
        if not typed.endswith("_target_") and not typed.startswith("search.space."):
            assert f"  {typed}=" in said
            assert key.meaning, f"{typed} has no comment in conf/"


def test_help_shows_what_the_words_give(capsys: pytest.CaptureFixture[str]) -> None:
    show_help("train", ["data=imagefolder", "data.root=x", "lora.r=16", "logger=[wandb,csv]"])
    said = capsys.readouterr().out
    for part in ("imagefolder *", "data.root=x ", "lora.r=16 ", "wandb *", "logger.wandb.offline=false"):
        assert part in said


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("check", "data=fake"), {"check"}),
        (("pack", "data=fake", "output=shards"), {"shards"}),
    ],
    ids=lambda case: case[0] if isinstance(case, tuple) else "",
)
def test_a_command_leaves_nothing_but_what_it_says(words: tuple[str, ...], left: set[str], tmp_path: Path) -> None:
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == left
    assert "INFO" not in done.stdout + done.stderr  # libraries' own remarks


def console(*words: str, line: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "visionlora", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COMP_LINE": line, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout + done.stderr


def test_the_console_script_answers() -> None:
    assert console("--version").startswith("visionlora ")
    assert "torch " in console("train", "--version")
    assert all(f"\n  {command} " in console("--help") for command in list(COMMANDS)[:1])
    assert "Did you mean 'train'?" in console("trian")
    assert "write visionlora train lora.r=8" in console("lora.r=8")
    assert "SHELL is bash, zsh, fish" in console("train", "-sc", "install=tcsh")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("visionlora tr", {"train"}),
        ("visionlora train lora.us", {"lora.use_rslora="}),
        ("visionlora train model=res", {"model=resnet18", "model=resnet50"}),
        ("python -m visionlora.train model=resnet1", {"model=resnet18"}),
        ("python3 -m visionlora train lora=d", {"lora=default", "lora=dora"}),
        ("/usr/bin/visionlora evaluate spl", {"split="}),
    ],
)
def test_the_tab_key_completes(line: str, expected: set[str]) -> None:
    assert set(console("-sc", "query=bash", line=line).split()) == expected


def test_bash_asks_the_console_script(tmp_path: Path) -> None:
    (tmp_path / "visionlora").write_text(f'#!/bin/sh\nexec {sys.executable} -m visionlora "$@"\n')
    (tmp_path / "visionlora").chmod(0o755)
    ask = "COMP_LINE='visionlora train model=resnet1' COMP_POINT=31 COMP_WORDS=(visionlora train model=resnet1) COMP_CWORD=2"
    script = f'eval "$(visionlora -sc install=bash)"; {ask}; _visionlora; echo "${{COMPREPLY[@]}}"'
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.strip() == "model=resnet18", done.stderr
    assert set(SCRIPTS) == {"bash", "zsh", "fish"}
