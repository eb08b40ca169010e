"""The notebook runs from top to bottom, and its model improves itself."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tutorial_notebook_runs_to_its_end(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "outputs are left out of the repository"
    NotebookClient(book, timeout=1500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(output.get("text", "")) for cell in book.cells for output in cell.get("outputs", []))
    assert "M3: true score" in shown and "chosen" in shown and "report.html" in shown
    assert (tmp_path / "runs" / "tutorial" / "report.html").stat().st_size > 100_000
