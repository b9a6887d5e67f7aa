"""Settings of the web site; notebooks/site/build.py stages its sources and calls Sphinx."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from course_lib import __version__  # noqa: E402
from course_lib.notebooks import Address  # noqa: E402

address = Address.of(ROOT)

project = "Generative image models"
author = "the authors of the course"
copyright = "the authors of the course. Code: MIT. Text and pictures: CC BY 4.0"
version = release = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinxcontrib.bibtex",
    "course_site",
]
templates_path = ["templates"]
exclude_patterns = ["**.ipynb_checkpoints"]

# Notebooks are shown as they were stored; only lectures and exercises are notebooks.
nb_execution_mode = "off"
nb_number_source_lines = False
nb_code_prompt_show = "Show the set-up cell"
nb_code_prompt_hide = "Hide the set-up cell"
# The default loads two scripts from other hosts.
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4

# MathJax 3 from the files of sphinx-mathjax-offline, which course_site copies.
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}, "chtml": {"scale": 0.92}}
mathjax_config_path = "static/mathjax.js"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "literal"
add_module_names = False

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_cite_id = "cite-{key}"

html_theme = "sphinx_book_theme"
html_title = project
html_baseurl = ""
html_favicon = "static/favicon.svg"
html_static_path = ["static"]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_copy_source = True
html_sourcelink_suffix = ""
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_use_index = True
html_theme_options = {
    "repository_url": address.url,
    "repository_branch": address.branch,
    "path_to_docs": "notebooks",
    "use_repository_button": True,
    "use_download_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "home_page_in_toc": True,
    # The sidebar has the field of the search; a second one would stand in a bar of its own.
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "search_bar_text": "Search the course",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
