"""This paper's companion: profiles, what each notebook measures and claims, figures, pages.  `python -m lib.companion`

May import the science (`lib`) and `lib.experiments`.
"""

from .notebook import Notebook

__all__ = ["Notebook"]
