"""One file, whatever is in it: the right image, or a sentence."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from visionlora import UserError
from visionlora.common.errors import UnreadableError
from visionlora.data import opening
from visionlora.data.opening import open_image, to_mode

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = (200, 100, 50)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path, channels: int = 3) -> np.ndarray:
    return np.asarray(open_image(path, channels)).astype(int)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_shows_its_colours(mode: str, channels: int, tmp_path: Path) -> None:
    ending = "tiff" if mode in ("CMYK", "PA", "YCbCr") else "png"
    image = Image.new("RGB", (8, 8), COLOUR)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE).convert("PA") if mode == "PA" else image.convert(mode)
    found = pixels(saved(image, tmp_path / f"image.{ending}"), channels)
    grey = mode in ("1", "L", "LA") or channels == 1
    wanted = [122] if channels == 1 else [122] * 3 if grey else list(COLOUR)
    if mode == "1":
        assert set(found[..., 0].ravel() if channels > 1 else found.ravel()) <= {0, 255}
        assert abs(found[..., :3].mean() - 122) < 20 if channels > 1 else True
    else:
        shown = found.reshape(8, 8, -1)[0, 0]
        assert abs(shown[: len(wanted)] - wanted).max() <= 6
        assert channels < 4 or shown[3] == 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB", "PA"])
def test_what_is_transparent_is_white(mode: str, channels: int, tmp_path: Path) -> None:
    """Whatever colour lies hidden there: black, most often, on which a black drawing is lost."""
    rgba = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    rgba.putpixel((1, 1), (10, 10, 10, 255))
    path = tmp_path / ("a.tiff" if mode == "PA" else "a.png")
    if mode in ("P", "PA"):
        image = Image.new("P", (4, 4), 0)
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.putpixel((1, 1), 1)
        saved(image.convert("PA") if mode == "PA" else image, path, **({} if mode == "PA" else {"transparency": 0}))
        if mode == "PA":
            image = image.convert("PA")
            image.putalpha(rgba.getchannel("A"))
            saved(image, path)
    elif mode == "RGB":
        saved(rgba.convert("RGB"), path, transparency=(0, 0, 0))
    else:
        saved(rgba.convert(mode), path)
    found = pixels(path, channels).reshape(4, 4, channels)
    assert (found[0, 0] == 255).all()
    assert (found[1, 1] == 10).all()


@pytest.mark.parametrize("ending", ["png", "pgm", "tiff", "jp2"])
def test_sixteen_bits_are_scaled_by_the_range_of_the_type(ending: str, tmp_path: Path) -> None:
    levels = RAMP.astype(np.uint16) * 257
    found = pixels(saved(Image.fromarray(levels), tmp_path / f"a.{ending}"))
    assert (found == RAMP[..., None]).all()


def test_sixteen_bits_of_other_byte_order_or_sense(tmp_path: Path) -> None:
    levels = RAMP.astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    saved(Image.frombytes("I;16B", (16, 16), levels.astype(">u2").tobytes()), path)
    assert (pixels(path) == RAMP[..., None]).all()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    saved(Image.fromarray(levels), path, tiffinfo=tags)
    content = path.read_bytes()
    at = content.index(struct.pack("<HHIH", 262, 3, 1, 1))  # PhotometricInterpretation: 1, black is zero
    path.write_bytes(content[: at + 8] + b"\0" + content[at + 9 :])
    assert (pixels(path) == 255 - RAMP[..., None]).all()


@pytest.mark.parametrize(("mode", "what"), [("I", "integers of 32 bits"), ("F", "floating-point numbers")])
def test_thirty_two_bits_are_refused_with_what_to_do(mode: str, what: str, tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    with pytest.raises(UnreadableError, match=f"a.tiff: its pixels are {what}.*convert it to 8 or 16 bits"):
        open_image(saved(image, tmp_path / "a.tiff"), 3)
    with pytest.raises(UnreadableError, match=what):
        to_mode(image, 3)


def test_adobes_inverted_cmyk_and_ycck(tmp_path: Path) -> None:
    """Pillow writes CMYK as Adobe does, inverted, with Adobe's marker."""
    path = saved(Image.new("RGB", (16, 16), COLOUR).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert b"Adobe" in path.read_bytes()
    assert abs(pixels(path)[0, 0] - COLOUR).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_by_exif(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    corner = Image.new("RGB", (16, 8))
    corner.paste(COLOUR, (0, 0, 4, 4))
    exif = corner.getexif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png", "a.webp", "a.tiff"):
        options = {"lossless": True} if name == "a.webp" else {"quality": 95} if name == "a.jpg" else {}
        saved(corner, tmp_path / name, exif=exif, **options)
        wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / name))).astype(int)
        assert abs(pixels(tmp_path / name) - wanted).max() <= 6
        assert (wanted.shape[0] > wanted.shape[1]) == (orientation >= 5)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff", "a.avif"])
def test_of_several_frames_the_first(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "a.webp" else {}))
    assert abs(pixels(tmp_path / name)[5, 5] - (255, 0, 0)).max() <= 4


def png_of(width: int, height: int) -> bytes:
    """A black image of a few hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes(min((width // 8 + 2) * height, 10**6)), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 9_000), (2_000_000, 1), (1, 2_000_000), (2**31 - 1, 2**31 - 1), (20_000, 20_000)])
def test_too_many_pixels_are_not_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(*size))
    with pytest.raises(UnreadableError, match=r"a\.png: it has .*pixels"):
        open_image(tmp_path / "a.png", 3)


def test_the_limit_is_for_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG that is drawn down while it is decoded may have more."""
    monkeypatch.setattr(opening, "MOST_PIXELS", 200 * 200)
    saved(Image.new("RGB", (800, 800), COLOUR), tmp_path / "a.jpg")
    with pytest.raises(UnreadableError, match="it has 800 × 800 pixels, more than 40,000"):
        open_image(tmp_path / "a.jpg", 3)
    assert open_image(tmp_path / "a.jpg", 3, 150).size == (200, 200)


def test_a_jpeg_that_ends_early_is_not_filled_up_with_grey(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    image, path = Image.fromarray(coarse).resize((320, 240)), tmp_path / "a.jpg"
    for options in ({}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_blocks": 7}):
        content = saved(image, path, **options).read_bytes()
        wanted = pixels(path)
        for part in (0.3, 0.5, 0.7, 0.9, 0.98):
            for end in (b"", b"\xff\xd9", bytes(5000)):
                path.write_bytes(content[: int(part * len(content))] + end)
                for detail in (None, 60):
                    with pytest.raises(UnreadableError, match=r"end before the image|truncated|broken"):
                        open_image(path, 3, detail)
        path.write_bytes(content + b"what a camera adds")
        assert (pixels(path) == wanted).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}], ids=str)
def test_a_grey_corner_is_no_damage(options: dict[str, object], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for mode in ("RGB", "L"):
        for size in ((320, 240), (17, 33)):
            grey = np.full((*size, 3) if mode == "RGB" else size, 128, np.uint8)
            grey[: size[0] // 2] = random.integers(0, 256, grey[: size[0] // 2].shape)
            path = saved(Image.fromarray(grey), tmp_path / "a.jpg", **options)
            for detail in (None, 8):
                open_image(path, 3, detail)


def test_no_program_is_run_for_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadableError, match="no image format was recognised"):
        open_image(tmp_path / "a.png", 3)
    assert not {".eps", ".ps", ".wmf", ".h5"} & opening.extensions()
    assert {".jpg", ".gif", ".jfif", ".jp2", ".avif", ".webp", ".tga"} <= opening.extensions()


def test_a_wrong_ending_does_not_matter_unless_it_is_all_there_is(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), COLOUR)
    saved(image, tmp_path / "a.png", format="bmp")
    assert (pixels(tmp_path / "a.png")[0, 0] == COLOUR).all()
    saved(image, tmp_path / "a.tga")
    assert (pixels(tmp_path / "a.tga")[0, 0] == COLOUR).all()
    (tmp_path / "a.tga").rename(tmp_path / "a.bmp")  # nothing in it says that it is an image
    with pytest.raises(UnreadableError, match="no image format"):
        open_image(tmp_path / "a.bmp", 3)


def no_file(path: Path) -> None:
    path.with_suffix(".gone").touch()


KINDS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no image"),
    "gone": no_file,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link in a circle": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_unreadable_files_are_named(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "a.jpg")
    with pytest.raises(UnreadableError, match=r"cannot read the image .*a\.jpg: .*; mend or remove the file"):
        open_image(tmp_path / "a.jpg", 3)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), OSError(errno.ESTALE, "stale"), OSError(errno.EMFILE, "many"), MemoryError()]
)
def test_trouble_of_the_machine_is_no_fault_of_the_picture(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be gone at the next try: an image left out for it would make a resumed run another run."""
    saved(Image.new("L", (4, 4)), tmp_path / "a.png")

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(UserError) as told:
        open_image(tmp_path / "a.png", 3)
    assert not isinstance(told.value, UnreadableError)
    assert "a.png" in str(told.value)


@pytest.mark.parametrize(
    "raised", [struct.error("x"), KeyError(1), IndexError("x"), TypeError("x"), zlib.error("x"), AssertionError(), RuntimeError("x")]
)
def test_whatever_a_decoder_raises_is_a_sentence(raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(Image.new("L", (4, 4)), tmp_path / "a.png")

    def fails(*args: object, **kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(UnreadableError, match=r"a\.png: .+; mend"):
        open_image(tmp_path / "a.png", 3)


def test_a_picture_in_memory_keeps_its_values() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(buffer, "ppm")
    buffer.seek(0)
    assert (np.asarray(to_mode(Image.open(buffer), 1)) == RAMP).all()
    assert (np.asarray(to_mode(Image.fromarray(RAMP), 1)) == RAMP).all()
