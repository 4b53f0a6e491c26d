"""Names of strangers on terminals, in spreadsheets and in Markdown."""

from __future__ import annotations

import pytest

from visionlora.common.console import console
from visionlora.common.rows import to_csv
from visionlora.common.text import cell, markdown, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("Übergröße 猫 👩\u200d🔬", "Übergröße 猫 👩\u200d🔬"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\x9bc\x00", r"a\rb\x9bc\x00"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("\udce9t\udce9", r"\udce9t\udce9"),
    ],
)
def test_a_terminal_obeys_no_name(name: str, shown: str) -> None:
    assert printable(name) == shown
    with console.capture() as captured:
        console.print(name, markup=False, highlight=False)
    assert captured.get() == f"{shown}\n"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_a_spreadsheet_takes_no_name_for_a_formula(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert f"'{text.strip()[0]}" in to_csv([{"class1": text, text: 1}]).decode() or text[0] in "\t\r"


@pytest.mark.parametrize("text", ["cat", "-1", "+1.5", "-1e-5", "-.5", "", "1-2", "a=b"])
def test_numbers_and_names_stay(text: str) -> None:
    assert cell(text) == text


def test_numbers_stay_numbers() -> None:
    assert to_csv([{"loss": -0.5, "n": -3, "none": None}]) == b"loss,n,none\n-0.5,-3,\n"


def test_no_markup_in_a_line_of_markdown() -> None:
    assert markdown("[a](http://x) <script>\n# b | `c`") == r"\[a\](http://x) \<script\> \# b \| \`c\`"
