"""Does this Python satisfy the project?  Run as a file, before anything is installed: standard library only.

python lib/environment.py        prints what is missing, a line each; exit status 0 if nothing is
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def unmet() -> list[str]:
    """What the ranges of pyproject.toml (tests included) ask for and this environment lacks."""
    if sys.version_info < (3, 11):  # noqa: UP036  # whoever runs it may have any Python
        return [f"Python >= 3.11 (this is {sys.version.split()[0]})"]
    import tomllib

    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
        except ImportError:
            return ["packaging"]
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    missing = []
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        requirement = Requirement(line)
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                missing.append(f"{line} (found {version(requirement.name)})")
        except PackageNotFoundError:
            missing.append(line)
    return missing


if __name__ == "__main__":
    lacking = unmet()
    print("\n".join(lacking))
    sys.exit(bool(lacking))
