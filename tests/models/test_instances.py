from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.fixtures.tables import equal, random_table
from tokenlake_models.errors import InstancesError
from tokenlake_models.instances import Instances


def test_parts_make_the_whole():
    table = random_table(20)
    parts = [table.select(index) for index in torch.split(torch.arange(20), [7, 0, 13])]
    assert [len(part) for part in parts] == [7, 0, 13]
    assert equal(Instances.concat(parts), table)


def test_select_repeats_and_reorders():
    table = random_table(10)
    taken = table.select(torch.tensor([3, 3, 0]))
    values, offsets = taken.multi["tags"]
    whole, bounds = table.multi["tags"]
    assert [values[offsets[i] : offsets[i + 1]].tolist() for i in range(3)] == [
        whole[bounds[i] : bounds[i + 1]].tolist() for i in (3, 3, 0)
    ]
    assert taken.timestamps.tolist() == table.timestamps[[3, 3, 0]].tolist()


def test_concat_refuses_nothing_and_other_features():
    with pytest.raises(InstancesError, match="at least one"):
        Instances.concat([])
    table = random_table(3)
    with pytest.raises(InstancesError, match="vectors features \\[\\]"):
        Instances.concat([table, dataclasses.replace(table, vectors={})])
