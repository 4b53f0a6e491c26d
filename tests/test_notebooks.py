"""The notebooks run from top to bottom, in a folder of their own; `make test-notebooks`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_outputs_are_committed_and_no_error_among_them() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs), path.name
        text = " ".join(output.get("text", "") for output in outputs)
        assert not any(output.output_type == "error" for output in outputs), path.name
        assert "error:" not in text, path.name


QUICK = {
    r"trainer\.max_epochs=\d+": "trainer.max_epochs=1 trainer.limit_train_batches=2 trainer.limit_val_batches=1",
    r"data\.per_class=\d+": "data.per_class=5",
    r"lora\.r=1,4,16 seed=0,1,2": "lora.r=1,4 seed=0",
    r"lora=none,full seed=0,1,2": "lora=none,full seed=0",
    r"lora=default,dora,lorafa": "lora=default,dora",
    r"range\(60\)": "range(15)",
}
"""What makes the notebooks quick: ``VISIONLORA_NOTEBOOKS=quick``, for CI, where only their running is looked at."""


def test_the_quick_notebooks_are_those_of_now() -> None:
    sources = "".join(path.read_text() for path in NOTEBOOKS)
    assert all(re.search(pattern, sources) for pattern in QUICK)


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else str(os.cpu_count() or 1))
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if os.environ.get("VISIONLORA_NOTEBOOKS") == "quick":
        for cell in cells:
            for pattern, quick in QUICK.items():
                cell.source = re.sub(pattern, quick, cell.source)
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = " ".join(output.get("text", "") for cell in cells for output in cell.outputs)
    for word in ("error:", "Traceback", "not finished", "broke"):  # of commands: the kernel goes on after them
        assert word not in printed, printed[-3000:]
