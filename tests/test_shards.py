"""Dealing: every image to exactly one part, always the same."""

import pytest

from singlestrip.batch.shards import SLURM_VARIABLES, Shard, parse_shard, slurm_shard
from singlestrip.errors import InputError


@pytest.mark.parametrize("length", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 25])
def test_parts_are_disjoint_and_hold_all(length, count):
    items = [f"scan {n}" for n in range(length)]
    parts = [Shard(number, count).deal(items) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    for part in parts:
        assert part == sorted(part, key=items.index)  # in the order of the list


def test_dealing_depends_on_places_alone():
    """Not on what is dealt, and no earlier item moves when one is added to the end."""
    places = Shard(2, 3).deal(range(10))
    assert places == [1, 4, 7]
    assert Shard(2, 3).deal("abcdefghij") == ["abcdefghij"[place] for place in places]
    assert Shard(2, 3).deal(range(11)) == [*places, 10]


@pytest.mark.parametrize("text, shard", [("1/1", Shard(1, 1)), ("3/8", Shard(3, 8)), ("8/8", Shard(8, 8))])
def test_text(text, shard):
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "-1/3", "1/0", "a/3", "1/3/5", "1.5/3"])
def test_text_that_names_no_part(text):
    with pytest.raises(ValueError):
        parse_shard(text)


def variables(*values):
    return dict(zip(SLURM_VARIABLES, map(str, values), strict=True))


@pytest.mark.parametrize(
    "values, shard",
    [
        ((1, 1, 4, 1, 4), Shard(1, 4)),
        ((4, 1, 4, 1, 4), Shard(4, 4)),
        ((0, 0, 9, 1, 10), Shard(1, 10)),  # --array=0-9
        ((15, 5, 25, 5, 5), Shard(3, 5)),  # --array=5-25:5
        ((9, 1, 9, 4, 3), Shard(3, 3)),  # --array=1-12:4, whose last task is 9
        ((7, 7, 7, 1, 1), Shard(1, 1)),  # --array=7
    ],
)
def test_task_of_an_array(values, shard):
    assert slurm_shard(variables(*values)) == shard


@pytest.mark.parametrize("values", [(3, 1, 3, 1, 2), (5, 1, 5, 1, 3), (2, 1, 5, 2, 3)])
def test_an_array_with_gaps_is_refused(values):
    """--array=1,3: who would strip the second part?"""
    with pytest.raises(InputError, match="gaps"):
        slurm_shard(variables(*values))


@pytest.mark.parametrize("name", SLURM_VARIABLES)
def test_outside_of_an_array(name):
    set_here = variables(1, 1, 4, 1, 4)
    del set_here[name]
    with pytest.raises(InputError, match=rf"{name} not set.*sbatch --array"):
        slurm_shard(set_here)
    with pytest.raises(InputError, match=f"{name} not set"):
        slurm_shard(set_here | {name: ""})
