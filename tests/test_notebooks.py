"""The notebooks run from top to bottom, in a folder of their own; `make test-notebooks`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_outputs_are_committed_and_no_error_among_them() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs), path.name
        text = " ".join(output.get("text", "") for output in outputs)
        assert not any(output.output_type == "error" for output in outputs), path.name
        assert "error:" not in text, path.name


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    nbclient.NotebookClient(
        nbformat.read(path, 4), timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
