"""The commands that the pages show, taken from their code; and what stands in the place of their words in capitals, cut to seconds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IS_COMMAND = re.compile(r"(?:\bpython\S* -m visionlora(?:\.\w+)?|(?:^|(?<=[\s(]))visionlora)(?=\s|$).*")
NO_COMMAND = re.compile(
    r"import visionlora|pip install|^visionlora(\.\w+)*$|visionlora\.json|visionlora\[|^visionlora/|entry-points\.|^# .*visionlora-"
    r"|~/\.cache/visionlora"
)
"""Code that speaks of visionlora and is no command: imports, extras, entry points, names of modules, packages and files."""
RECIPE = "python -m visionlora.train data=imagefolder data.root=DIR"
"""What ``…`` stands for in the recipes; the page says so at its head."""
COMMANDS = ("check", "pack", "train", "plan", "evaluate", "predict", "explain", "export", "compress", "report", "search")
ASKS = ("--help", "--version", "--cfg", "-sc")
"""Words of commands that answer a question and do nothing."""


@dataclass(frozen=True)
class Shown:
    """A command as pages show it: the module of ``python -m``, its words, and the pages."""

    module: str
    words: tuple[str, ...]
    pages: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(["python", "-m", f"visionlora.{self.module}".removesuffix(".__main__"), *self.words])

    @property
    def command(self) -> str:
        """``train``, ``evaluate``, …; of the console script its first word."""
        return self.module if self.module != "__main__" else next(iter(self.words), "")

    def has(self, *keys: str) -> bool:
        """Whether one of these words, or a key of that name, is among its own."""
        return any(word.partition("=")[0] in keys for word in self.words)


def code_of(text: str) -> Iterator[str]:
    """Every piece of code on a page of Markdown: spans, and lines of blocks, with those that a backslash continues in one."""
    text = re.sub(r"\\\n\s*", "", text)
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            yield line.strip()
        else:
            yield from (span.replace("\\|", "|") for span in re.findall(r"`([^`]+)`", line))


def commands() -> list[Shown]:
    """Every command of the README and the documentation, one that stands on several pages once."""
    found: dict[tuple[str, tuple[str, ...]], Shown] = {}
    for page in PAGES:
        for code in code_of(page.read_text()):
            line = re.sub(r"^… ", f"{RECIPE} ", code) if page.name == "recipes.md" else code
            if match := None if NO_COMMAND.search(line) else IS_COMMAND.search(line):
                asked = match[0].partition(" | ")[0].removesuffix(')"')  # what a shell is given of the completion
                words = tuple(shlex.split(asked, comments=True))
                module, *rest = (words[2].partition(".")[2], *words[3:]) if words[1:2] == ("-m",) else ("", *words[1:])
                shown = Shown(module or "__main__", tuple(rest), ())
                known = found.get((shown.module, shown.words), shown)
                found[shown.module, shown.words] = replace(known, pages=tuple(dict.fromkeys((*known.pages, page.name))))
    return list(found.values())


def missed() -> list[str]:
    """Code that speaks of visionlora and is neither taken for a command nor known to be none."""
    return [
        f"{page.name}: {code}"
        for page in PAGES
        for code in code_of(page.read_text())
        if re.search(r"\bvisionlora\b", code) and not IS_COMMAND.search(code) and not NO_COMMAND.search(code)
    ]


def in_place(shown: Shown, places: Mapping[str, Path | str]) -> Shown:
    """With paths in place of words in capitals, each by its key: ``data.root=DIR`` are images, ``run=DIR`` is a run.

    Raises:
        KeyError: a word that this table knows nothing of: add it here.
    """
    words = []
    for word in shown.words:
        key, sign, value = word.partition("=")
        stand_ins = re.findall(r"\b[A-Z]{2,}\b(?:/[A-Z]+)*|\bmultirun(?:/DATE/TIME)?\b", value)
        for stand_in in stand_ins:
            value = value.replace(stand_in, str(places[f"{key}={stand_in}"]))
        words.append(f"{key}{sign}{value}")
    return replace(shown, words=tuple(words))


SHORT = {
    "trainer.max_epochs": "1",
    "trainer.limit_train_batches": "1",
    "trainer.limit_val_batches": "1",
    "trainer.limit_test_batches": "1",
    "trainer.accelerator": "cpu",
    "trainer.devices": "1",
    "trainer.enable_progress_bar": "false",
    "callbacks": "none",
    "data.batch_size": "4",
    "data.num_workers": "0",
    "data.image_size": "64",
    "data.cache": "off",
}
"""What makes any training one of seconds, where the command does not say something of it itself."""
SMALL = {"model": "timm", "model.name": "test_resnet", "model.pretrained": "false"}
"""The model of what trains more than once, where the command does not name one."""
SWEPT = {"rank": {"lora.r": "1,2", "seed": "0"}, "full_comparison": {"lora": "none,full", "seed": "0"}}
"""Two runs of the ready sweeps."""
CUTS: dict[str, dict[str, str]] = {
    "train": SHORT,
    "plan": SHORT,
    "check": SHORT,
    "pack": {},
    "search": SHORT | {"search.trials": "1"},
    "evaluate": {},
    "predict": {},
    "explain": {"most": "2"},
    "export": {},
    "compress": {"calibration": "8", "prune": "[0.5]"},
    "report": {},
}


def cut(shown: Shown) -> Shown:
    """The same command, cut to seconds: the first two values of what is swept, one seed, a batch, a trial, small random models.

    Raises:
        KeyError: a command, or a ready sweep, that this table knows nothing of: add it here.
    """
    if shown.has(*ASKS):
        return shown
    again = shown.has("ckpt_path", "again")  # lays out the run itself: no other settings
    cuts = {"callbacks": "none", "trainer.enable_progress_bar": "false"} if again else dict(CUTS[shown.command])
    words = []
    for word in shown.words:
        key, sign, value = word.partition("=")
        if key == "sweep":
            cuts |= SWEPT[value]
        elif key in ("search.trials", "hydra.launcher.n_jobs"):
            value = str(min(int(value), 1 if key == "search.trials" else 2))
        elif "," in value and not value.startswith(("[", "{", '"')):
            value = ",".join(value.split(",")[: 1 if key == "seed" else 2])
        words.append(f"{key}{sign}{value}")
    if shown.command in ("train", "plan", "check", "search") and shown.has("model"):
        cuts["model.pretrained"] = "false"  # no weights of it come with pip
    elif shown.command in ("plan", "check", "search") or (shown.has("-m", "sweep") and not shown.has("experiment")):
        cuts |= SMALL
    if shown.has("data") and not shown.has("data.root") and "data=cifar10" in shown.words:
        words.append("data.root=DIR")  # class folders instead of a download
    return replace(shown, words=(*words, *(f"{key}={value}" for key, value in cuts.items() if not shown.has(key))))
