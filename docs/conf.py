from foreshock import __version__

project = "Foreshock"
copyright = "2026, the Foreshock authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"Foreshock {__version__}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
# Links from the pages to files of the repository outside docs/ work on the forge, not in the built site.
suppress_warnings = ["myst.xref_missing"]
