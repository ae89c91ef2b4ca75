"""What README and docs tell people to type works; `snippets` says how each block is checked."""

import re
from itertools import accumulate

import pytest
from snippets import PAGES, SHELL, Block, Reader, blocks, blocks_of, check_commands, check_document, check_imports

from medvae.config import Config
from medvae.errors import MedvaeError
from medvae.fitting import fit

NORMATIVE = {
    "name": "normative",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
}


@pytest.mark.parametrize("block", blocks(*SHELL), ids=str)
def test_commands_are_those_of_the_command_line(block):
    check_commands(block.text)


@pytest.mark.parametrize("block", blocks("json", "yaml", "yml"), ids=str)
def test_documents_are_what_medvae_reads(block, tmp_path):
    check_document(block, tmp_path)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "normative"
    fit(Config.model_validate(NORMATIVE), cohort, out, quiet=True)
    return out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs_from_the_top_of_a_page_to_its_end(page, cohort, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, cohort, run)
    for block in blocks_of(page.name, page.read_text(encoding="utf-8")):
        if block.language in ("python", "py"):
            reader.follow(block)


def test_there_is_something_to_check():
    assert any(checked > 20 for checked in accumulate(check_commands(block.text) for block in blocks(*SHELL)))
    assert blocks("python")
    assert blocks("json")
    assert blocks("yaml")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("medvae predikt RUN scan.nii.gz --out o", "no command predikt"),
        ("$ medvae predict RUN scan.nii.gz --ouput o", "No such option"),
        ("medvae predict RUN scan.nii.gz  # --out o", "Missing parameter: out"),
        ("medvae predict RUN --out o --fpr much", "valid number"),
        ("medvae --verbos predict RUN --out o", "No such option"),
        ("medvae manifest ixy DIR --out m.json", "no command ixy"),
        ("medvae manifest LAYOUT DIR --output m.json", "no command has --output"),
        ("medvae train configs/cevae_slice.yaml --data M --out RUN [training.step=5 ...]", "training.step"),
        ("medvae train configs/gone.yaml --data M \\\n  --out RUN", "no configs/gone.yaml"),
        ("cd runs && medvae check", "Missing parameter: manifest"),
        ("torchrun --nproc_per_node 2 -m medvae train C --data M", "Missing parameter: out"),
        ("make teste", "make has no teste"),
        ("python pipelines/gone.py", "no pipelines/gone.py"),
        ("python pipelines/quickstart.py --outt demo", "has no --outt"),
    ],
)
def test_a_command_that_is_wrong_is_found(line, wrong):
    with pytest.raises(Exception, match=re.escape(wrong)):
        check_commands(line)


@pytest.mark.parametrize(
    ("language", "text", "wrong"),
    [
        ("json", '{"name": "a", "modality": {"0": "T1"}, "cases": [{"id": "b", "imag": "b.nii"}]}', "image"),
        ("yaml", "score: {kindd: residual}", "kind"),
        ("yaml", "methods: [{confg: a.yaml}]", "config"),
    ],
)
def test_a_document_that_is_wrong_is_found(language, text, wrong, tmp_path):
    with pytest.raises(MedvaeError, match=wrong):
        check_document(Block("page.md", 1, language, text), tmp_path)


def test_python_that_is_wrong_is_found(cohort, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, cohort, run)
    page = """
```python
from medvae.prediction import predict, scans_of_files
from medvae.detection.ensemble import load_detector
made, failures = predict(load_detector("runs/mine"), scans_of_files(["patient.nii.gz"]), "maps", quiet=True)
assert not failures
```
  ```python
  assert made[0].map.is_file()
  missing
  ```
<!-- not run: needs a night -->
```python
from medvae.prediction import predictt
predictt()
```
```python
import medvae.prediction
medvae.prediction.predict("t1-2mm")
```
"""
    first, second, third, fourth = blocks_of("page.md", page)
    assert (first.line, second.line) == (3, 9)
    reader.follow(first)
    with pytest.raises(NameError, match="missing"):
        reader.follow(second)
    with pytest.raises(ImportError, match="predictt"):
        reader.follow(third)
    reader.follow(fourth)  # the detector that comes with medvae takes longer, and has tests of its own
    check_imports(fourth)


def test_a_fence_that_is_never_closed_is_found():
    with pytest.raises(AssertionError, match=r"page.md:2: a fence"):
        blocks_of("page.md", "text\n```python\n1\n")
