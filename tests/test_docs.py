"""Pages that are written by a program say what the program would say now."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import markdown
import pytest
from markdown_it import MarkdownIt

import visionlora as vl
from visionlora.cli.conf import option_keys, options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_configuration_reference_is_that_of_the_files() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert reference.PAGE.read_text() == reference.page(), "run `python docs/reference.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


RENDERERS: dict[str, Callable[[str], str]] = {
    "on GitHub": MarkdownIt("commonmark").enable("table").render,
    "by mkdocs": lambda text: markdown.markdown(text, extensions=["tables", "attr_list", "admonition", "pymdownx.superfences"]),
}


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_markdown_eats_nothing(page: Path, renderer: str) -> None:
    """``train/CLASS/*, test/CLASS/*`` becomes emphasis, and braces at the end of a cell attributes of it, where they are not escaped."""
    html = re.sub(r"<(pre|code)\b.*?</\1>", "", RENDERERS[renderer](page.read_text()), flags=re.DOTALL)
    for emphasised in re.findall(r"<(?:em|strong)>(.*?)</(?:em|strong)>", html, flags=re.DOTALL):
        assert not re.search(r"^[^\w“’'<]|[/*_{}\\]", re.sub(r"<[^>]+>", "", emphasised)), emphasised
    source = re.sub(r"```.*?```|`[^`]*`|^    .*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall("{", source)) == len(re.findall("{", re.sub(r"<[^>]+>", "", html)))


def test_a_configuration_cell_is_the_comment() -> None:
    """What a comment in ``conf/`` says is what the page shows."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    shown = {name: re.sub(r"<[^>]+>", "", unescape(render(page))).replace("`", "") for name, render in RENDERERS.items()}
    comments = [key.meaning for key in option_keys("lora", "default").values()] + list(options("data").values())
    for comment in comments:
        for name, text in shown.items():
            assert comment.replace("`", "") in text, f"{name}: {comment}"


def test_every_public_name_is_on_the_page_of_python_names() -> None:
    page = (ROOT / "docs/api.md").read_text()
    named = re.findall(r"^::: visionlora\.([\w.]+)\.(\w+)$", page, re.MULTILINE)
    stub = (ROOT / "visionlora/__init__.pyi").read_text()
    assert sorted(named) == sorted(re.findall(r"^from \.([\w.]+) import (\w+) as \2$", stub, re.MULTILINE))
    public = vars(vl)["__all__"]
    assert sorted(name for _, name in named) == sorted(public) == dir(vl)
    assert all(getattr(vl, name) for name in public)
