"""Commands of the `gossip` program that fill a module of their own; `gossip/cli.py` gathers them."""
