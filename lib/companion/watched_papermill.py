"""papermill that ends itself when the run is gone, however it went: only the run holds the other end of its input.

Run as a file: python watched_papermill.py IN.ipynb OUT.ipynb …
"""

import os
import sys
import threading


def _end_with_the_run() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    from papermill.cli import papermill

    papermill()
