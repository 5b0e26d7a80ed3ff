"""Peer-to-peer gossip SGD: train one neural network together, with no server.

`import gossip` is light on purpose: numpy and numba load only when something is trained.
"""

from pathlib import Path

from gossip.neighbours import refuse_foreign_files

__version__ = "0.1.0"

refuse_foreign_files(Path(__file__).parent)
