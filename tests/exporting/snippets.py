"""Python code blocks of Markdown, run as somebody runs them who copies them into a file: in an interpreter of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import QUICK
from PIL import Image

import visionlora as vl


def blocks(page: Path) -> list[str]:
    """The Python in a Markdown file, block by block."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_block(code: str, folder: Path) -> str:
    """What ``code`` prints, run in ``folder``."""
    program = folder / "snippet.py"
    program.write_text(code, encoding="utf-8")
    env = os.environ | QUICK | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, program.name], capture_output=True, text=True, cwd=folder, env=env, timeout=120)
    program.unlink()
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    return done.stdout


def photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (90, 61)) -> Path:
    """A JPEG with areas, edges and noise, turned by EXIF as a telephone does it."""
    random = np.random.default_rng(3)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + random.integers(-20, 20, (*size[::-1], 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode).save(path, quality=95, exif=exif)
    return path


def answer(run: Path, picture: Path) -> str:
    """What a card's code has to print: the predictor's class and its probability."""
    (found,) = vl.load(run).predict(picture)
    return f"{found.labels[0]} {found.probabilities[0]:.4f}"


def agree(printed: str, wanted: str) -> bool:
    """Whether both name the same class with the same probability, up to rounding."""
    (name, probability), (other, expected) = (text.rstrip("\n").rsplit(" ", 1) for text in (printed, wanted))
    return name == other and abs(float(probability) - float(expected)) <= 2e-4
