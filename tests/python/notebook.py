"""Executes a notebook in the current folder: `notebook.py NOTEBOOK`. Prints the text of each output."""

import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
# An error in a cell is an error of this script.
NotebookClient(notebook, timeout=540, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text") or output.get("data", {}).get("text/plain", ""))
