import sys
from pathlib import Path

from foreshock import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Foreshock"
copyright = "2026, the Foreshock authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "homes", "mathml"]
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"Foreshock {__version__}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
# `name` in a docstring is code, and a link where it is the name of something on these pages.
default_role = "py:obj"
# Every reference to something of Foreshock must be found. The rest are names of other projects, whose indexes
# are not read (a build needs no network), and names of arguments.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!foreshock\.).*")]
# A type variable: spikes by either definition.
nitpick_ignore = [
    ("py:class", "foreshock.spikes.scoring.Event"),
    # How the parts of a batch make up its loss: between two modules, not for users.
    ("py:class", "foreshock.curvature.weights.PartLosses"),
    ("py:class", "foreshock.curvature.weights.PartWeights"),
    # Which processes measure together: the same.
    ("py:class", "foreshock.distributed.joint.Joint"),
    # What an evaluation starts from: the same.
    ("py:class", "foreshock.isolation.random_numbers.RandomState"),
]
