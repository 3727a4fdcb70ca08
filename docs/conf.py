"""The site: `make docs` builds it in docs/_build/html, without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
SOURCES = [str(DOCS.parent / "src"), str(DOCS / "_tools")]
sys.path[:0] = SOURCES
# Pages are executed in processes of their own: they import the same.
os.environ["PYTHONPATH"] = os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pages run beside each other
# Kernels with settings of their own, not with those of whoever builds; they say what fails.
profile = DOCS / "_build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text('get_config().IPKernelApp.log_level = "ERROR"\n')
os.environ["IPYTHONDIR"] = str(profile.parent)

import overparam  # noqa: E402
from overparam.lab.charts.theme import dark_rules  # noqa: E402

# Drawings hold the colours of light pages; these are their partners on dark ones.
theme = DOCS / "_build" / "theme"
theme.mkdir(parents=True, exist_ok=True)
dark, drawn = 'body[data-theme="dark"]', "figure.drawn"
(theme / "theme.css").write_text(
    f"{dark_rules(f'{dark} {drawn}')}\n@media (prefers-color-scheme: dark) {{\n"
    f"{dark_rules(f'body:not([data-theme=light]) {drawn}')}\n}}\n"
)

project = "overparam"
author = "overparam contributors"
copyright = "overparam contributors"
version = release = overparam.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
    "aliases",
    "drawings",
    "mathml",
    "table_names",
]
exclude_patterns = ["_build", "_templates", "_tools"]
templates_path = ["_templates"]

# Text
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "author_year"

# Pages with code are executed; an error ends the build.
nb_execution_mode = os.environ.get("OVERPARAM_DOCS_EXECUTE", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_execution_cache_path = str(DOCS / "_build" / "executed")
nb_merge_streams = True
# Benchmarks are included as they are; some skip a level of headings.
suppress_warnings = ["myst.header"]

# Reference: every name in __all__ of the modules in reference/index.md gets a page.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autosummary_context = {"top": overparam.__all__}
# Some file systems do not tell Problem.html from problem.html.
autosummary_filename_map = {
    "overparam.lab.comparison.problem": "overparam.lab.comparison.problem-decorator"
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a named tuple are documented once
napoleon_use_rtype = False
napoleon_preprocess_types = False

# Look
html_theme = "furo"
html_title = "overparam"
html_static_path = ["_static", "_build/theme"]
html_css_files = ["site.css", "theme.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#0b5c8a",
        "color-brand-content": "#0b5c8a",
        "color-brand-visited": "#5b4a8a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc4f0",
        "color-brand-content": "#7cc4f0",
        "color-brand-visited": "#b9a6ea",
    },
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
