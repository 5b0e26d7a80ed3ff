"""A simulated world for the very node that ships: one event heap, virtual time, one seed."""
