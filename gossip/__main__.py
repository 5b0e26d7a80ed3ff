"""`gossip` and `python -m gossip`: run the command line, and turn our errors into one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

from gossip.neighbours import refuse_foreign_files


def main() -> None:
    """Entry point. Exit status: 0 done, 1 an error the user can act on, 2 wrong usage."""
    refuse_foreign_files(Path(__file__).parent)  # again: the other package's __init__.py may have replaced ours
    from gossip.cli import cli
    from gossip.errors import GossipError, InvariantError

    try:
        cli.main(prog_name="gossip")
    except InvariantError:
        raise
    except GossipError as error:
        print(f"gossip: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
