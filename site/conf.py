"""Sphinx builds the site from executed notebooks; `lib/companion/site.py` gathers its sources and starts it."""

project = "Analog PIM companion"
author = "The analog-pim-companion developers"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
exclude_patterns = ["solutions/*.md"]

smartquotes = False
nb_execution_mode = "off"  # they are executed already
nb_merge_streams = True
nb_ipywidgets_js = {}  # nothing is fetched from elsewhere
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "Analog PIM companion"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_js_files = ["panels.js"]
html_show_sourcelink = False
html_copy_source = False
html_use_index = False  # nothing is indexed
html_last_updated_fmt = None
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "use_download_button": False,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the sidebar has the search already
}
