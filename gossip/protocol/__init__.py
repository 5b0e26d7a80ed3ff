"""The pure core: inputs in, effects out. Standard library only; no clock, socket, thread or array."""
