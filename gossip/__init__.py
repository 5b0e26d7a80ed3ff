"""Peer-to-peer gossip SGD: train one neural network together, with no server.

`import gossip` is light on purpose: numpy and numba load only when something is trained.
"""

__version__ = "0.1.0"
