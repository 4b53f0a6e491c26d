"""A check, from the config to the findings."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.table import Table

from visionlora.checking.config import CheckConfig
from visionlora.checking.files import wrong_files
from visionlora.checking.labels import wrong_classes, wrong_labels
from visionlora.checking.looks import Looked, wrong_looks
from visionlora.common.console import console
from visionlora.common.errors import UserError
from visionlora.common.files import put_in_place, write_beside
from visionlora.data.findings import YES, Finding, as_csv
from visionlora.data.images import Images
from visionlora.data.module import ImageData
from visionlora.evaluation.probe import why_no_probe
from visionlora.runs.folder import RunFolder
from visionlora.tasks.gallery import page
from visionlora.training.adapted import build_backbone
from visionlora.training.place import Place
from visionlora.training.trainer import bare_trainer

SHOWN = 60
"""Images of a kind of finding that the page shows."""


def check(config: CheckConfig) -> list[Finding]:
    """Look at all images and labels that ``config`` names; the findings, which are also written to ``config.output`` and told.

    Both files are written at the end, or neither: a check that was stopped leaves nothing.

    Raises:
        UserError: the images are not there, the libraries that find copies and wrong labels are not installed, or the files are there.
    """
    folder = Path(config.output)
    if (folder / "findings.csv").exists() and not config.overwrite:
        raise UserError(f"output={folder} has findings already; name another folder with output=DIR, or set overwrite=true.")
    refuse_missing_libraries()
    data = ImageData(replace(config.data, val_fraction=0.0, test_fraction=0.0, folds=0, per_class=None), config.seed, task=config.task)
    words = {part: [data.task.in_words(label) for label in images.labels] for part, images in data.parts.items()}
    found = [one for part, images in data.parts.items() for one in wrong_files(part, images, words[part], config.smallest)]
    unreadable = {one.image for one in found if one.finding == "unreadable"}
    looked = [
        Looked(str(images.paths[i]), images.names[i], part, words[part][i])
        for part, images in data.parts.items()
        for i in range(len(images))
        if images.paths and images.names[i] not in unreadable
    ]
    found += wrong_looks(looked)
    if config.labels and data.task.classifies:
        found += _labels(config, data)
    _write(folder, {"findings.html": _page(found, dict(data.parts)), "findings.csv": as_csv(found)})
    _tell(found, sum(map(len, words.values())), folder, wrong_classes(data.classes, data.task.counts))
    return found


def refuse_missing_libraries() -> None:
    """Say what to install where the libraries that find copies and wrong labels are not there."""
    try:
        import cleanlab  # noqa: F401
        import cleanvision  # noqa: F401
    except ImportError as error:
        raise UserError(f"a check needs {error.name}: pip install 'visionlora[check]'.") from None


def _labels(config: CheckConfig, data: ImageData) -> list[Finding]:
    backbone = build_backbone(config, Place(RunFolder(Path(config.output)), None, False, None), data)
    trainer, model = bare_trainer(config), backbone.model.eval()
    if why := why_no_probe(trainer, model, backbone.info.head, data.task):
        console.print(f"Labels are not looked at: {why}.", highlight=False, markup=False)
        return []
    try:
        return wrong_labels(trainer, model, backbone.info.head[0], data)
    except SystemExit:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write all files, or none where one cannot be written.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[Path, Path] = {}
    try:
        for name, text in texts.items():
            parts[folder / name] = write_beside(folder / name, text.encode())
    except BaseException:
        with contextlib.suppress(OSError):
            for part in parts.values():
                part.unlink()
            if made:
                folder.rmdir()
        raise
    for path, part in parts.items():
        put_in_place(part, path)


def _page(found: list[Finding], parts: dict[str, Images]) -> str:
    """``findings.html``: a section for each kind of finding, with the images."""
    whole = _Together(parts)
    sections: dict[str, list[tuple[int, str]]] = {}
    for kind, count in Counter(one.finding for one in found).items():
        if kind == "unreadable":
            continue
        shown = [one for one in found if one.finding == kind][:SHOWN]
        more = f", {SHOWN} of them shown" if count > SHOWN else ""
        sections[f"{kind} ({count}{more})"] = [(whole.place(one.part, one.image), f"{one.part}, {one.label}: {one.why}") for one in shown]
    unreadable = [f"{one.image} ({one.why})" for one in found if one.finding == "unreadable"]
    note = f"{len(found):,} findings."
    note += f" Unreadable: {'; '.join(unreadable[:20])}{' and more' * (len(unreadable) > 20)}." if unreadable else ""
    return page("Findings", note, whole, sections)


class _Together:
    """The images of all parts as one."""

    def __init__(self, parts: dict[str, Images]) -> None:
        self.parts = list(parts.values())
        self.names = [name for images in self.parts for name in images.names]
        self.paths = [path for images in self.parts for path in images.paths]
        self._where = {(part, name): i for i, (part, name) in enumerate((part, name) for part in parts for name in parts[part].names)}

    def place(self, part: str, name: str) -> int:
        """The place of an image of a part among all."""
        return self._where[part, name]

    def open(self, index: int, channels: int, detail: int | None = None) -> Image.Image:
        """See ``PartImages.open``."""
        for images in self.parts:
            if index < len(images):
                return images.open(index, channels, detail)
            index -= len(images)
        raise IndexError(index)


def _tell(found: list[Finding], images: int, folder: Path, sentences: list[str]) -> None:
    table = Table(title=f"Findings in {images:,} images", title_justify="left")
    for column in ("finding", "images", "left out by data.exclude", "for example"):
        table.add_column(column, justify="right" if column in ("images", "left out by data.exclude") else "left", overflow="fold")
    for kind, count in Counter(one.finding for one in found).most_common():
        those = [one for one in found if one.finding == kind]
        table.add_row(kind, f"{count:,}", f"{sum(one.exclude == YES for one in those):,}", f"{those[0].image}: {those[0].why}")
    console.print(table if found else f"Nothing is wrong with the {images:,} images that this check would see.")
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"{folder / 'findings.csv'} (data.exclude takes it), {folder / 'findings.html'}", highlight=False, markup=False)
