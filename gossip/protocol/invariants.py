"""check(node): what must hold between any two events of a node's life."""

from __future__ import annotations

from gossip.errors import InvariantError
from gossip.protocol.commands import REGISTER_OF
from gossip.protocol.donating import JOINERS_MAX, SERVING_MAX
from gossip.protocol.exchange import ANSWERING_MAX, LATE_MAX, OPEN_MAX
from gossip.protocol.links import LINKS_MAX
from gossip.protocol.membership import MEMBERS_KNOWN_MAX, PROBES_MAX
from gossip.protocol.node import Node


def check(node: Node) -> None:
    """Raises InvariantError naming the rule that is broken. Reads only."""
    me = node.settings.key
    counts = node.exchanges.counts()
    rules = {
        "a node is no member of its own table": me not in node.membership.members,
        "a node has no link to itself": me not in node.links.up,
        "the member table is bounded": len(node.membership.members) <= MEMBERS_KNOWN_MAX,
        "links are bounded": len(node.links.up) <= LINKS_MAX,
        "probes are bounded": node.membership.probes <= PROBES_MAX,
        "open exchanges are bounded": counts.open <= OPEN_MAX,
        "late exchanges are bounded": counts.late <= LATE_MAX + OPEN_MAX,
        "offers in work are bounded": counts.answering <= ANSWERING_MAX,
        "fragments in work are bounded": node.donor.serving <= SERVING_MAX,
        "the owner's registers are few": node.commands.held <= len(REGISTER_OF),
        "joiners served at once are bounded": len(node.donor.joiners) <= JOINERS_MAX,
        "progress is a share": 0.0 <= node.progress.fraction <= 1.0,
        "our own incarnation is ours": node.membership.incarnation >= node.settings.incarnation,
    }
    for rule, holds in rules.items():
        if not holds:
            raise InvariantError(f"broken: {rule} (node {me.hex()[:8]}, {counts})")
