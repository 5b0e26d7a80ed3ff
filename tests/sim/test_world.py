"""Virtual time."""

from __future__ import annotations

from gossip.sim.world import World


def test_events_happen_in_the_order_of_their_times() -> None:
    """The clock never goes back, and stands at the event while it happens."""
    world, seen = World(1), []
    for delay_s in (3.0, 1.0, 2.0):
        world.after(delay_s, lambda: seen.append(world.now()))
    assert not world.run(2.5)
    assert seen == [1.0, 2.0] and world.now() == 2.5
    world.run(9.0)
    assert seen == [1.0, 2.0, 3.0]


def _order(seed: int) -> list[int]:
    world, seen = World(seed), []
    for number in range(8):
        world.after(1.0, lambda number=number: seen.append(number))  # type: ignore[misc]
    world.run(2.0)
    return seen


def test_the_seed_orders_simultaneous_events() -> None:
    """Nobody may lean on the accident of which of two events was scheduled first."""
    assert _order(1) == _order(1)
    assert _order(1) != _order(2)


def test_a_run_ends_as_soon_as_its_goal_is_reached() -> None:
    """Scenarios say what they wait for; time stands still there."""
    world, seen = World(1), []
    for delay_s in (1.0, 2.0):
        world.after(delay_s, lambda: seen.append(world.now()))
    assert world.run(9.0, lambda: bool(seen))
    assert world.now() == 1.0
