"""Where a sequence has to stand when rows are back: past them all, on its own step, and never back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.operations.sequences import aim
from vecbak.postgres.catalog import Position, Sequence


def a_sequence(step: int = 1, low: int = 1, high: int = 100, *, cycle: bool = False) -> Sequence:
    return Sequence(
        schema="s", name="n", column="c", last_value=None, increment=step, minimum=low, maximum=high, cycle=cycle
    )


def at(value: int, is_called: bool = True) -> Position:
    return Position(value=value, is_called=is_called)


@pytest.mark.parametrize(
    ("now", "recorded", "furthest", "wanted"),
    [
        (at(1, False), None, None, at(1, False)),  # never used, nothing to be past: never the end of its values
        (at(1, False), at(1, False), None, at(1, False)),
        (at(1, False), at(1), None, at(1)),  # used once
        (at(1, False), at(50), None, at(50)),
        (at(1, False), at(50, False), None, at(50, False)),
        (at(60), at(50), 55, at(60)),  # never back
        (at(60, False), at(50), 55, at(60, False)),
        (at(5), at(5), 9, at(9)),
        (at(5), None, 9, at(9)),
        (at(1, False), at(100), None, at(100)),  # it was at its end
        (at(1, False), at(400), None, at(100)),  # of another one, with other bounds
    ],
)
def test_one_that_was_there(now, recorded, furthest, wanted):
    assert aim(a_sequence(), now, recorded, furthest, new=False) == wanted


def test_one_that_was_made_stands_exactly_where_it_stood():
    for recorded in (at(7), at(50, False), at(1, False), at(1)):
        assert aim(a_sequence(), at(20, False), recorded, None, new=True) == recorded


def test_one_that_cycles_is_where_it_was():
    cycle = a_sequence(cycle=True)
    assert aim(cycle, at(1, False), at(5), 100, new=True) == at(5)
    assert aim(cycle, at(1, False), at(5), 100, new=False) == at(5)
    assert aim(cycle, at(3), at(5), 100, new=False) == at(3)
    assert aim(cycle, at(1, False), None, 90, new=False) == at(90)


@given(
    step=st.integers(-7, 7).filter(bool),
    now=st.builds(at, st.integers(-1000, 1000), st.booleans()),
    recorded=st.none() | st.builds(at, st.integers(-1000, 1000), st.booleans()),
    furthest=st.none() | st.integers(-1000, 1000),
)
def test_the_next_value_is_nobodys_and_on_its_step(step, now, recorded, furthest):
    sequence = a_sequence(step, -(10**6), 10**6)
    found = aim(sequence, now, recorded, furthest, new=False)
    before, upcoming = (item.value + step if item.is_called else item.value for item in (now, found))
    assert (upcoming - before) % step == 0
    assert (upcoming - before) * step >= 0
    if furthest is not None:
        assert (upcoming - furthest) * step > 0
    if recorded and recorded.is_called:
        assert (upcoming - recorded.value) * step > 0
    # and no further than need be
    needed = [value for value in (furthest, recorded and recorded.value) if value is not None]
    assert upcoming == before or any((upcoming - step - value) * step <= 0 for value in needed)
