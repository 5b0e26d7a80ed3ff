"""PyPI's unrelated `gossip` installs into a folder of the same name as ours; together they are neither.

Knows a few file names of that package. Standard library only, and two look-ups in a folder: every start pays for it.
"""

from __future__ import annotations

from pathlib import Path

# Releases 0.1 to 2.5 of it have one or both; ours will have neither.
FOREIGN_FILES = ("hooks.py", "registry.py")


def refuse_foreign_files(folder: Path) -> None:
    """Raises ImportError, one sentence, where files of the other package lie among ours."""
    for name in FOREIGN_FILES:
        if (folder / name).exists():
            raise ImportError(
                f"{folder} also holds files of an unrelated package that PyPI calls gossip ({name}), and each has "
                "overwritten parts of the other: run `pip uninstall gossip gossip-sgd`, then install gossip-sgd again"
            )
