"""Ticks say where they stand, and a drawing is written twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from PIL import Image

from visionlora.common.drawing import costs, numbers, percent, save, short, styled
from visionlora.common.errors import UserError
from visionlora.tasks.words import label


def axes_of() -> Axes:
    return Figure(figsize=(4, 3)).subplots()


def ticks(axis: Axis) -> dict[float, str]:
    """Place -> text of the ticks that are seen."""
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    return {float(tick.get_loc()): tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.62, 0.82), (0.3, 0.75), (0.861, 0.874), (0.99991, 0.99997), (0.0, 0.003)])
def test_a_tick_in_per_cent_is_its_value(low: float, high: float) -> None:
    axes = axes_of()
    axes.plot([0, 1], [low, high])
    percent(axes.yaxis)
    found = ticks(axes.yaxis)
    assert len(found) >= 3
    for place, text in found.items():
        assert float(text.removesuffix("%")) == pytest.approx(100 * place, abs=1e-6)
    assert len({len(text.partition(".")[2]) for text in found.values()}) == 1  # as many decimals in each


@pytest.mark.parametrize("values", [[1, 2, 4, 8, 16, 32], [1e-5, 3e-5, 1e-4, 1e-2], [3, 4, 5], [0, 0.1, 0.5], [8], list(range(1, 100))])
def test_an_axis_of_chosen_numbers_has_them_as_ticks(values: list[float]) -> None:
    axes = axes_of()
    axes.plot(values, values, "o")
    numbers(axes.xaxis, values)
    found = ticks(axes.xaxis)
    assert set(found) <= {float(value) for value in values}
    assert len(found) == len(values) if len(values) <= 12 else 5 <= len(found) <= 12
    assert all(float(text) == place for place, text in found.items())


@pytest.mark.parametrize("values", [[12_810, 3_383_818], [44_810, 140_810], [11.2, 90.5], [1, 1_000_000], [800, 1500], [5.0]])
def test_an_axis_of_amounts_is_read_without_powers(values: list[float]) -> None:
    axes = axes_of()
    axes.plot(values, values, "o")
    costs(axes.xaxis, values)
    found = ticks(axes.xaxis)
    assert len(found) >= 2 or len(values) == 1
    units = {"k": 1e3, "M": 1e6, "m": 1e-3}
    for place, text in found.items():
        assert float(text.rstrip("kMm").replace("−", "-")) * units.get(text[-1], 1.0) == pytest.approx(place)


def test_png_and_pdf_come_of_one_drawing_and_do_not_leave_their_folder(tmp_path: Path) -> None:
    @styled
    def draw() -> Figure:
        figure = Figure(figsize=(4, 2))
        figure.subplots().set(title="$not mathematics$", xlabel="猫")
        return figure

    save(draw(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (600, 300)
    pdf = (tmp_path / "figures" / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf
    save(draw(), tmp_path / "a.png")
    assert (tmp_path / "figures" / "a.pdf").read_bytes() == pdf
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "figures").symlink_to(outside)
    with pytest.raises(UserError, match="symbolic link"):
        save(draw(), tmp_path / "other" / "a.png")
    assert not list(outside.iterdir())


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert short("0001.jpg") == "0001.jpg"
    assert short("a" * 50 + ".jpg", 10) == "aaaa…a.jpg"
    assert len(short("x" * 99, 11)) == 11


def test_keys_in_words() -> None:
    assert label("val/top1") == "validation top-1 accuracy"
    assert label("lora.r") == "rank"
    assert label("no/such") == "no/such"
