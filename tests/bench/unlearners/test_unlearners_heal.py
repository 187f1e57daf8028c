"""`heal` as a method of the bench."""

from __future__ import annotations

import pytest

from helpers.toys import Blobs, assert_same_weights, weights
from helpers.unlearned import loaders, validation
from potion_fast import heal
from potion_fast.bench.unlearners import Loaders, make_unlearner
from potion_fast.errors import PotionError


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs(n=400, poisoned=40)


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")  # of so small a model
def test_it_is_the_librarys_heal_with_its_cost_in_batches(blobs: Blobs):
    data = loaders(blobs)
    done = make_unlearner("heal", seed=5)(blobs.model, data)
    assert data.training is not None
    wanted = heal(blobs.model, data.training.train_set, range(10), batch_size=32, seed=5)
    assert_same_weights(done.model, weights(wanted.model))
    assert done.trace == wanted.trace and done.kept in done.trace and done.warnings == wanted.warnings
    assert done.gradient_steps == -(-wanted.cost.backward // 32) > 0
    assert set(done.seconds) == {"search", "training"} and min(done.seconds.values()) > 0


def test_it_needs_the_training_data_by_index(blobs: Blobs):
    with pytest.raises(PotionError, match="heal reads the training data by index"):
        make_unlearner("heal")(blobs.model, Loaders(blobs.forget(), blobs.retain(), validation=validation(blobs)))
