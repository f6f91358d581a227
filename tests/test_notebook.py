"""docs/cram_a_sentence: its two forms are one, and it runs."""

import os
import pathlib

import jupytext
import nbclient
import nbformat
import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
NOTEBOOK = DOCS / "cram_a_sentence.ipynb"
# Few texts and steps, and shapes that several cells share: most of the rest is compiling.
SHORT = """
model = {model!r}
install_from = "nowhere"
sentence = "The old man said"
tokens_per_vector = 4
max_steps = {max_steps}
lengths = (2, 3, 4)
num_texts = 1
"""


def read(path=NOTEBOOK):
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in code for output in cell.outputs]


def figures(notebook):
    return [
        o.data["image/png"] for o in outputs(notebook) if "image/png" in o.get("data", {})
    ]


def printed(notebook):
    return "".join(o.text for o in outputs(notebook) if o.get("name") == "stdout")


def executed(notebook, folder, monkeypatch):
    """The notebook after a run in a kernel that leaves its files in `folder`."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(folder))
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def test_the_text_and_the_notebook_hold_the_same_cells():
    def cells(notebook):
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]

    assert cells(jupytext.read(NOTEBOOK.with_suffix(".md"))) == cells(read())


def test_the_committed_notebook_was_run_from_top_to_bottom():
    notebook = read()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(figures(notebook)) == 4
    assert all(o.get("name") != "stderr" for o in outputs(notebook))
    assert NOTEBOOK.stat().st_size < 600_000


@pytest.mark.ci
def test_a_short_run_decodes_what_was_crammed(tmp_path, monkeypatch):
    notebook = read()
    [parameters] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = SHORT.format(model="builtin", max_steps=60)
    done = executed(notebook, tmp_path, monkeypatch)
    assert "(1, 256) exact: 'The old man said'" in printed(done)
    assert len(figures(done)) == 4


@pytest.mark.real
def test_a_short_run_decodes_from_a_real_model(tmp_path, monkeypatch):
    folder = pathlib.Path(os.environ.get("MEMCOMP_REAL_LMS", "")) / "smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip(
            "no smollm2-135m-instruct: run tests/real_lms.sh DIR PYTHON smollm2, and set "
            "MEMCOMP_REAL_LMS=DIR"
        )
    notebook = read()
    [parameters] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = SHORT.format(model=str(folder.absolute()), max_steps=300)
    done = executed(notebook, tmp_path, monkeypatch)
    assert "(1, 576) exact: 'The old man said'" in printed(done)
    assert len(figures(done)) == 4


@pytest.mark.slow
def test_the_whole_notebook_says_what_was_committed(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # those of conftest.py are for tiny models
    done = executed(read(), tmp_path, monkeypatch)
    # Not the lines of memories that are too small or too coarse: those hang on rounding.
    sentence = "'The old captain lit his pipe and said nothing at all for a long while.'"
    for line in (f"(5, 256) exact: {sentence}", f"bfloat16  20480 bits  {sentence}"):
        assert line in printed(done) and line in printed(read())
    assert len(figures(done)) == 4
