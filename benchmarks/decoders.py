"""Decoders of JPEG files against Pillow, which is what opens images here: images a second, and how far the pixels are from Pillow's.

    python benchmarks/decoders.py --large DIR --small DIR --out benchmarks/results/decoders.json

``--large`` are photographs of some 12 megapixels, ``--small`` images of a few hundred pixels; up to ``--images`` JPEG files below each,
read into memory first. Every decoder makes an RGB array of the whole image and, for the 224-pixel view of a random crop, of one decoded to
a part of its size where it can do that (``--detail`` pixels a side suffice, as ``data.transforms`` asks). All sides in turn in one process
with one thread, seconds of the processor, medians over rounds. simplejpeg and PyTurboJPEG are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.timing import in_turn
from visionlora.data.opening import decode_image

Decoder = Callable[[bytes, int | None], np.ndarray]
"""``(bytes, detail) -> uint8 (H, W, 3)``."""


def _pillow(content: bytes, detail: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        if detail is not None:
            image.draft("RGB", (detail, detail))
        return np.asarray(image.convert("RGB"))


def _ours(content: bytes, detail: int | None) -> np.ndarray:
    return np.asarray(decode_image(content, 3, detail))


def _torchvision(content: bytes, detail: int | None) -> np.ndarray:
    """It decodes to the whole size only."""
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()  # type: ignore[no-any-return]


def decoders() -> dict[str, Decoder]:
    """Those that are installed, by name; Pillow first."""
    found: dict[str, Decoder] = {"Pillow": _pillow, "visionlora (Pillow, and its checks)": _ours, "torchvision": _torchvision}
    try:
        import simplejpeg

        def simple(content: bytes, detail: int | None) -> np.ndarray:
            least = detail or 0
            return simplejpeg.decode_jpeg(content, "RGB", min_height=least, min_width=least)  # type: ignore[no-any-return]

        found["simplejpeg"] = simple
    except ImportError:
        pass
    try:
        from turbojpeg import TJPF_RGB, TurboJPEG

        turbo = TurboJPEG()

        def turbojpeg(content: bytes, detail: int | None) -> np.ndarray:
            width, height, *_ = turbo.decode_header(content)
            share = 1 if detail is None else next((n for n in (8, 4, 2) if min(width, height) >= n * detail), 1)
            return turbo.decode(content, pixel_format=TJPF_RGB, scaling_factor=(1, share))  # type: ignore[no-any-return]

        found["PyTurboJPEG"] = turbojpeg
    except (ImportError, RuntimeError, OSError):  # its C library is not there
        pass
    return found


def compared(files: list[bytes], detail: int | None, rounds: int) -> dict[str, dict[str, float | str]]:
    """Images a second of each decoder, and the largest and the mean difference of its pixels from Pillow's."""
    sides = decoders()
    calls = {
        name: functools.partial(lambda decode: [decode(content, detail) for content in files], decode) for name, decode in sides.items()
    }
    times = in_turn(calls, rounds, warm_up=1, clock=time.process_time)
    rows: dict[str, dict[str, float | str]] = {}
    for name, decode in sides.items():
        far = [_difference(decode(content, detail), _pillow(content, detail)) for content in files]
        height, width = decode(files[0], detail).shape[:2]
        rows[name] = {
            "images/s": len(files) / times[name],
            "size of the first": f"{width} x {height}",
            "largest difference": max(largest for largest, _ in far),
            "mean difference": float(np.mean([mean for _, mean in far])),
        }
    return rows


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    if one.shape != other.shape:
        return float("nan"), float("nan")
    apart = np.abs(one.astype(np.int16) - other)
    return float(apart.max()), float(apart.mean())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=Path, required=True)
    parser.add_argument("--small", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--detail", type=int, default=758)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoders.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name, folder, detail in (
        ("large, whole", options.large, None),
        (f"large, to {options.detail} px", options.large, options.detail),
        ("small, whole", options.small, None),
    ):
        files = [file.read_bytes() for file in sorted(folder.rglob("*.jp*g"))[: options.images]]
        results[name] = compared(files, detail, options.rounds)
        print(f"\n{name}")
        for decoder, row in results[name].items():
            print(
                f"{decoder:40}" + "  ".join(f"{key} {value:.2f}" if isinstance(value, float) else str(value) for key, value in row.items())
            )
    options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
