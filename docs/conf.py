"""Sphinx, with MyST pages whose cells are executed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "adapters"), str(Path(__file__).parent)]

from hazard_table import write_table  # noqa: E402

import surgery  # noqa: E402

project = "model-surgery"
author = "the model-surgery maintainers"
copyright = author
version = release = surgery.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute", "hazards.toml"]
html_theme = "furo"
html_title = "model-surgery"

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_output_stderr = "show"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
suppress_warnings = ["mystnb.unknown_mime_type"]

write_table(ROOT, Path(__file__).parent / "reference" / "hazards.md")
