"""`gossip` and `python -m gossip`: run the command line, and turn our errors into one sentence."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from gossip.neighbours import refuse_foreign_files


def main() -> None:
    """Entry point.

    Exit status: 0 done, or stopped in order with everything saved; 1 an error the user can act on; 2 wrong usage;
    3 the run to go on with is finished;
    130 (SIGINT) or 143 (SIGTERM) stopped at once: there was nothing to save, or it was asked for twice.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends us where we stand, be it inside the compiler
    refuse_foreign_files(Path(__file__).parent)  # again: the other package's __init__.py may have replaced ours
    from gossip.cli import cli
    from gossip.errors import GossipError, InvariantError

    try:
        cli.main(prog_name="gossip")
    except InvariantError:
        raise
    except GossipError as error:
        print(f"gossip: {error}", file=sys.stderr)
        if "--json" in sys.argv[1:]:
            from gossip.observe import strict_json

            print(strict_json({"error": str(error)}))
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
