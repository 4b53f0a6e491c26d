"""``mistakes.html``: the images of an evaluation that are most wrong on one page, each a link to its file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.sheets import THUMBNAIL, thumbnail

SHOWN = 300
"""Images on the page: about 2 MB. All mistakes are in ``predictions.csv``."""


def page(split: str, note: str, images: PartImages, sections: Mapping[str, Sequence[tuple[int, str]]]) -> str:
    """The page as text.

    The thumbnails are part of the page. The links are to the files where they are now, so the page may move and the images may not.

    Args:
        split: name of the part.
        note: below the title.
        images: of the part.
        sections: heading -> indices of images, each with the words below it.
    """
    first = next((index for chosen in sections.values() for index, _ in chosen), None)
    small = first is not None and max(images.open(first, 3).size) < THUMBNAIL[0]
    template = Environment(autoescape=True).from_string((files("visionlora.tasks") / "mistakes.html").read_text(encoding="utf-8"))
    return template.render(
        title=f"Mistakes, {split} part",
        note=note,
        pairs=[{"heading": heading, "images": [_image(images, *one) for one in chosen]} for heading, chosen in sections.items()],
        rendering="pixelated" if small else "auto",  # a browser would blur an image of 32 pixels
    )


def _image(images: PartImages, index: int, words: str) -> dict[str, Any]:
    stream = io.BytesIO()
    thumbnail(images, index).save(stream, "JPEG", quality=85)
    path = images.paths[index].resolve() if images.paths else None
    return {
        "name": images.names[index],
        "link": path.as_uri() if path else "",
        "thumbnail": f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}",
        "words": words,
    }
