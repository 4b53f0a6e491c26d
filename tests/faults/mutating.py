"""Image files, damaged in all the ways files get damaged, and what becomes of them when they are read."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visionlora.backbone.info import Preprocessing
from visionlora.common.errors import UnreadableError
from visionlora.data.opening import open_image
from visionlora.data.transforms import eval_transform

SECONDS = 5
"""Of the processor: on a busy machine a file waits for its turn."""
_VIEWS = [eval_transform(Preprocessing(96, (0.5,) * 3, (0.5,) * 3, crop_mode=mode)) for mode in ("center", "squash")]


@cache
def originals() -> dict[str, bytes]:
    """Small images in the formats and modes that people have."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
    exif = image.getexif()
    exif[0x0112] = 6
    frames = [image.rotate(90 * number) for number in range(1, 3)]
    wanted: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (image, "JPEG", {"exif": exif}),
        "jpeg, progressive": (image, "JPEG", {"progressive": True}),
        "jpeg, cmyk": (image.convert("CMYK"), "JPEG", {}),
        "png": (image, "PNG", {"exif": exif}),
        "png, palette": (image.convert("P"), "PNG", {"transparency": 3}),
        "png, 16 bits": (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG", {}),
        "webp": (image, "WEBP", {"exif": exif}),
        "webp, lossless": (image.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp, animated": (image, "WEBP", {"save_all": True, "append_images": frames}),
        "gif": (image, "GIF", {}),
        "gif, animated": (image, "GIF", {"save_all": True, "append_images": frames}),
        "tiff": (image, "TIFF", {"exif": exif}),
        "tiff, lzw": (image, "TIFF", {"compression": "tiff_lzw"}),
        "tiff, deflate": (image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "bmp": (image, "BMP", {}),
    }
    made = {}
    for name, (one, kind, options) in wanted.items():
        buffer = io.BytesIO()
        one.save(buffer, kind, **options)
        made[name] = buffer.getvalue()
    return made


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _cut_with_an_end(content: bytes, draw: random.Random) -> bytes:
    return _cut(content, draw) + content[-2:]


def _flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 4, 32))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _head_changed(content: bytes, draw: random.Random) -> bytes:
    """Where sizes, counts and offsets are."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 4))):
        at = draw.randrange(min(len(changed) - 4, 200))
        changed[at : at + draw.choice((1, 2, 4))] = draw.choice((b"\xff", b"\xff\xff\xff\xff", b"\0\0", b"\x7f\xff", draw.randbytes(2)))
    return bytes(changed)


def _swapped(content: bytes, draw: random.Random) -> bytes:
    one, two, three, four = sorted(draw.sample(range(len(content) + 1), 4))
    return content[:one] + content[three:four] + content[two:three] + content[one:two] + content[four:]


def _zeroed(content: bytes, draw: random.Random) -> bytes:
    """As after a crash of a file system, or a download that was allotted its room beforehand."""
    start = draw.randrange(len(content))
    stop = draw.choice((len(content), draw.randrange(start, len(content)) + 1))
    return content[:start] + bytes(stop - start) + content[stop:]


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": _cut,
    "cut, its end kept": _cut_with_an_end,
    "bits flipped": _flipped,
    "head changed": _head_changed,
    "parts swapped": _swapped,
    "zeros in it": _zeroed,
}


@dataclass(frozen=True)
class Fate:
    """What became of one file: ``same`` as undamaged, ``other`` image, ``unreadable``, or how the process ended."""

    name: str
    mutation: str
    number: int
    outcome: str


def fates(numbers: range, folder: Path) -> tuple[list[Fate], float]:
    """Damage and read one file a number, in a process of its own; also the MiB that took at its peak.

    A file that takes longer than ``SECONDS``, or on which the process dies, is told by the signal; the others follow in a new process.
    """
    found: list[Fate] = []
    peak = 0.0
    start = numbers.start
    while start < numbers.stop:
        notes = folder / "notes"
        notes.write_text("")
        process = multiprocessing.get_context("fork").Process(target=_read_all, args=(range(start, numbers.stop), folder, notes))
        process.start()
        process.join()
        lines = notes.read_text().splitlines()
        for line in lines:
            number, outcome, memory = line.split("\t")
            found.append(_fate(int(number), outcome))
            peak = max(peak, float(memory))
        start = start + len(lines)
        if start < numbers.stop:
            found.append(_fate(start, f"the process ended with {process.exitcode}"))
            start += 1
    return found, peak


def _case(number: int) -> tuple[str, str]:
    names, kinds = list(originals()), list(MUTATIONS)
    return names[number % len(names)], kinds[number // len(names) % len(kinds)]


def _fate(number: int, outcome: str) -> Fate:
    return Fate(*_case(number), number, outcome)


def damaged(number: int) -> bytes:
    """The file of that number, the same each time."""
    name, mutation = _case(number)
    return MUTATIONS[mutation](originals()[name], random.Random(number))


def _read_all(numbers: range, folder: Path, notes: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff talks
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    files, whole = originals(), {}
    for name, content in files.items():
        (folder / "whole").write_bytes(content)
        whole[name] = open_image(folder / "whole", 3)
    path = folder / "damaged"
    with notes.open("a") as ledger:
        for number in numbers:
            name, mutation = _case(number)
            path.write_bytes(MUTATIONS[mutation](files[name], random.Random(number)))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                image = open_image(path, 3, 96)
                for view in _VIEWS:
                    assert view(image).shape == (3, 96, 96)
                same = image.size == whole[name].size and image.tobytes() == whole[name].tobytes()
                outcome = "same" if same else "other"
            except UnreadableError:
                outcome = "unreadable"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}".replace("\n", " ").replace("\t", " ")
            signal.setitimer(signal.ITIMER_PROF, 0)
            ledger.write(f"{number}\t{outcome}\t{_resident('VmHWM') - before:.0f}\n")
            ledger.flush()


def _resident(key: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0]) / 2**10
