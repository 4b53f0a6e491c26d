"""How every drawing looks and is written: one style, one set of colours, and ticks that say the value they stand at."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from cycler import cycler
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from visionlora.common.files import folder_inside, inside, replace_file

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every step of putting letters into a PDF
P = ParamSpec("P")
WIDTH = 6.9
"""Inches: the text of a page in two columns; a drawing of this width goes into a paper as it is, with its letters of 8 points."""
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222", "#777777",
)  # fmt: skip
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
"""Told apart by the colour-blind (Okabe and Ito 2008, "Color Universal Design"), most different ones first."""
MARKERS = "osD^vPX*"
"""For series beside each other: told apart in black and white too."""
METHOD_COLOURS = {"lora": BLUE, "dora": PURPLE, "adalora": GREEN, "norm": ORANGE, "none": GREY, "full": VERMILION}
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "Hiragino Sans", "Arial Unicode MS")
"""The first has Latin, Greek and Cyrillic letters; of the others those that are installed give the rest."""
_STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": cycler(color=PALETTE),
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.5,
    "text.parse_math": False,  # a class may be called "$5 note$"
    "pdf.fonttype": 42,  # many venues refuse letters of type 3
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator of a function that makes a figure: it is made in the common style."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_style()):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a drawing to ``path`` as PNG and, for papers, below ``figures/`` beside it as PDF, each whole or not at all.

    Args:
        figure: that a function with ``styled`` made.
        path: of the PNG, in a folder that exists.
        dpi: pixels an inch of the PNG.

    Raises:
        UserError: the place is a symbolic link.
    """
    save_png(figure, path, dpi)
    _write(figure, inside(folder_inside(path.parent, "figures"), f"{path.stem}.pdf"), "pdf", metadata={"CreationDate": None})


def save_png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a drawing as PNG alone, as for a page."""
    _write(figure, path, "png", dpi=dpi)


def _write(figure: Figure, path: Path, kind: str, **options: Any) -> None:
    buffer = io.BytesIO()
    with mpl.rc_context(_style()):
        figure.savefig(buffer, format=kind, **options)
    replace_file(path, buffer.getvalue())


class Percent(PercentFormatter):
    """Shares in per cent with as many decimals as the ticks need: a tick at 0.675 is 67.5%, not 68%."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def set_locs(self, locs: Iterable[float]) -> None:
        """Choose the decimals for these ticks."""
        ticks = list(locs)
        super().set_locs(ticks)
        self.decimals = next((n for n in range(6) if all(abs(100 * x - round(100 * x, n)) < 1e-6 for x in ticks)), 6)


def percent(axis: Axis) -> None:
    """Write the axis in per cent."""
    axis.set_major_formatter(Percent())


def numbers(axis: Axis, values: Sequence[float]) -> None:
    """An axis of chosen numbers, such as ranks or learning rates: ticks at these, logarithmic where they span a factor of four.

    Args:
        axis: horizontal or vertical.
        values: the numbers, at least one.
    """
    ticks = sorted(set(values))
    if ticks[0] > 0 and ticks[-1] >= 4 * ticks[0]:
        _logarithmic(axis)
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 12)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def rate_axis(axis: Axis) -> None:
    """A logarithmic axis of learning rates over many decades: 1e-5, 1e-4, 0.001, …"""
    _logarithmic(axis)
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def costs(axis: Axis, values: Sequence[float]) -> None:
    """An axis of amounts, such as parameters or seconds: 10k, 20k, 50k, logarithmic where they span a factor of ten."""
    if 0 < 10 * min(values) <= max(values):
        _logarithmic(axis)
        places, words = log_ticks(values)
        axis.set_major_locator(FixedLocator(places))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FixedFormatter(words))
    else:
        axis.set_major_formatter(EngFormatter(sep=""))


def log_ticks(values: Sequence[float]) -> tuple[list[float], list[str]]:
    """Places and words of ticks of a logarithmic axis of amounts: 10k, 20k, 50k, or powers of ten over many decades."""
    low, high = min(values), max(values)
    subs = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
    places = [float(x) for x in LogLocator(subs=subs, numticks=20).tick_values(low, high)]
    write = EngFormatter(sep="")
    return places, [write(x) for x in places]


def label_point(axes: Axes, text: str, place: tuple[float, float]) -> None:
    """Write at the right of a point: over lines, but under what else is drawn at ``zorder`` 3 and above."""
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    axes.annotate(text, place, (5, 0), textcoords="offset points", va="center", fontsize=7, zorder=2.5, path_effects=halo)


def legend_below(figure: Figure, *axes: Axes, columns: int = 3) -> None:
    """One legend for all axes, under them, where it covers nothing; a name that several have is in it once."""
    found = {name: handle for one in axes for handle, name in zip(*one.get_legend_handles_labels(), strict=True)}
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(columns, len(found)))


def short(text: object, length: int = 28) -> str:
    """A name as one line that can be drawn: too long a one loses its middle, for beginning and suffix tell most."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return line if len(line) <= length else f"{line[: length // 2 - 1]}…{line[-(length - length // 2) :]}"


def _logarithmic(axis: Axis) -> None:
    axes = axis.axes
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")


@functools.cache
def _style() -> dict[str, object]:
    installed = set(font_manager.get_font_names())
    return {**_STYLE, "font.family": [font for font in _FONTS if font in installed] or ["sans-serif"]}
