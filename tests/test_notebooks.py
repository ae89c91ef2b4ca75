"""The notebooks run from their first cell to their last, and are kept without what they printed."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def read(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(name, out, monkeypatch, **settings):
    for key, value in {"MEDVAE_NOTEBOOK_OUT": str(out), "OMP_NUM_THREADS": "1", **settings}.items():
        monkeypatch.setenv(key, value)
    path = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    notebook = read(name)
    NotebookClient(notebook, timeout=800, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    shown = [kind for output in outputs for kind in output.get("data", {})]
    return said, shown, outputs


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_kept_without_outputs_and_names_no_machine(name):
    notebook = read(name)
    for cell in code_of(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        ast.parse(cell.source)
    assert "/home/" not in (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_without_a_checkout_it_asks_for_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDVAE_REPOSITORY", raising=False)
    with pytest.raises(AssertionError, match="Fill in REPOSITORY"):
        exec(code_of(read(name))[0].source, {})


@pytest.mark.timeout(900)
def test_predict_and_look(tmp_path, monkeypatch):
    said, shown, outputs = run("predict_and_look.ipynb", tmp_path, monkeypatch)
    assert "ml flagged" in said
    assert "image/png" in shown
    (table,) = (output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    assert len(table.splitlines()) > 2
    assert (tmp_path / "patient26_T1.itksnap").is_file()


@pytest.mark.timeout(900)
def test_train_a_cevae(tmp_path, monkeypatch):
    said, shown, _ = run("train_a_cevae.ipynb", tmp_path, monkeypatch, MEDVAE_NOTEBOOK_STEPS="2")
    assert "'prevalence': 0.0041" in said
    assert shown.count("image/png") == 2
