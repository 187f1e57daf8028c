"""Importances from a part of the data: a number of samples, or as many as the thresholds of a search need."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

import potion_fast as pf
from helpers.processes import in_processes
from helpers.toys import Blobs, batches, net, samples, weights
from potion_fast.distributed import Ranks, ShareSampler
from potion_fast.errors import DataError, ImportanceError, PotionError, PotionWarning
from potion_fast.importances import part
from potion_fast.importances.checkpoints import Position
from potion_fast.importances.part import KnownThresholds, LabelOrder
from potion_fast.utils.batches import chunks

FOUND = 8
LOOSE = 75.0  # steps: these thresholds are of one or two of a few hundred weights


@pytest.fixture(scope="module")
def blobs(one_thread: None) -> Blobs:
    return Blobs(n=1200, poisoned=40)


@pytest.fixture(autouse=True)
def _loose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "TOLERANCE", LOOSE)


def shuffled(blobs: Blobs, size: int = 32, seed: int = 0) -> DataLoader:
    data = TensorDataset(blobs.inputs[FOUND:], blobs.labels[FOUND:])
    return DataLoader(data, batch_size=size, shuffle=True, generator=torch.Generator().manual_seed(seed))


def unlearnt(blobs: Blobs, loader: object = None, **keywords: object) -> pf.Result:
    loader = shuffled(blobs) if loader is None else loader
    return pf.unlearn(blobs.model, loader, blobs.forget(FOUND), **keywords)


@pytest.mark.parametrize(
    ("group_size", "wanted", "read"), [(1, 20, 20), (7, 20, 21), (7, 21, 21), (50, 20, 50), ("batch", 20, 24)]
)
@pytest.mark.parametrize("size", [3, 8, 100])
def test_the_first_samples_are_read_in_whole_groups(group_size, wanted, read, size):
    model, (inputs, labels) = net(), samples(200)
    if group_size == "batch":
        read = -(-wanted // size) * size
    got = pf.importance(model, batches(inputs, labels, size), group_size=group_size, samples=wanted)
    want = pf.importance(model, batches(inputs[:read], labels[:read], size), group_size=group_size)
    assert (got.samples, got.terms, got.total) == (read, want.terms, 200)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-5, atol=1e-7)


def test_as_many_samples_as_there_are_are_all_of_them():
    model, (inputs, labels) = net(), samples(40)
    whole, same = (pf.importance(model, batches(inputs, labels, 8), group_size=4, samples=n) for n in (None, 40))
    assert same.data_samples is whole.data_samples is None and torch.equal(same.sums, whole.sums)


def test_a_part_says_so_and_is_saved_with_it(tmp_path):
    some = pf.importance(net(), batches(*samples(40), 8), group_size=4, samples=10)
    some.save(tmp_path / "part")
    loaded = pf.Importance.load(tmp_path / "part")
    assert (loaded.samples, loaded.data_samples, loaded.total) == (12, 40, 40)
    assert "data_samples=40" in repr(loaded) and loaded.to("cpu").total == 40


def test_parts_are_merged_with_their_data():
    model, (inputs, labels) = net(), samples(80)
    data = [batches(inputs[at], labels[at], 8) for at in (slice(None, 40), slice(40, None))]
    one, other = (pf.importance(model, own, group_size=4, samples=8) for own in data)
    merged = one.merge(other)
    assert (merged.samples, merged.total) == (16, 80)
    whole = pf.importance(model, data[1], group_size=4)
    with pytest.warns(PotionWarning, match="of 8 of 40 and of 40 of 40 samples"):
        assert one.merge(whole).data_samples == 80


def test_the_schedule_starts_where_all_of_the_data_have_it_start(blobs):
    whole, some = unlearnt(blobs), unlearnt(blobs, samples=200)
    assert some.trace[0].s == whole.trace[0].s
    assert torch.equal(some.forget.sums, whole.forget.sums) and some.forget.data_samples is None
    assert some.summary()["training_samples"] == {"read": 200, "of": 1192}


@pytest.mark.parametrize("mode", ["default", "reference"])
def test_auto_stops_early_and_heals(blobs, mode):
    result = unlearnt(blobs, samples="auto", mode=mode, group_size=FOUND)
    assert result.retain.samples < result.retain.total == 1192
    assert result.retain.terms == 64  # a doubling
    assert blobs.accuracy(result.model, triggered=True) > 0.9 and blobs.accuracy(result.model, triggered=False) > 0.95


@pytest.mark.parametrize("strategy", ["bisect", "minimal"])
def test_auto_decides_alike_for_every_batch_size_and_strategy(blobs, strategy):
    order = torch.randperm(1192, generator=torch.Generator().manual_seed(3)) + FOUND
    read = [
        unlearnt(blobs, batches(blobs.inputs[order], blobs.labels[order], size), samples="auto", strategy=way)
        for size, way in ((8, "sequential"), (100, strategy), (1192, strategy))
    ]
    assert len({result.retain.samples for result in read}) == 1 and read[0].retain.total == 1192


def test_the_bound_is_on_the_halves_and_both_together(blobs):
    """By NumPy's percentiles of three ratios."""
    order = torch.randperm(1192, generator=torch.Generator().manual_seed(3)) + FOUND
    forget = pf.importance(blobs.model, blobs.forget(FOUND), group_size=FOUND)
    halves = [
        pf.importance(blobs.model, batches(blobs.inputs[at], blobs.labels[at], 64), group_size=FOUND)
        for at in order[:512].split(256)
    ]
    both, steps = halves[0].merge(halves[1]), [p for _, p in pf.SearchOptions().grid(FOUND, 1192)][:64]
    a, b, together = (pf.thresholds(forget, each, steps).double().log() for each in (*halves, both))
    count = max(2, int((together > 0).sum()))
    a, b, together = (logarithm[:count] for logarithm in (a, b, together))
    error = (((a + b) / 2 - together).square().mean() + ((a - b) / 2).var(correction=0)).sqrt()
    rule = KnownThresholds(forget, lambda n: [p for _, p in pf.SearchOptions().grid(FOUND, n)], 1192, Ranks())
    sums = torch.zeros_like(both.sums)[None]
    for terms, half in ((32, halves[0]), (64, halves[1])):
        rule.before(Position(0, terms - 32), [sums])
        sums += half.sums
        rule.ends(Position(0, terms), [sums])
    assert rule.error == pytest.approx(float(error / ((together[0] - together[-1]) / (count - 1))), rel=1e-3)


def test_thresholds_that_are_not_known_read_on(blobs, monkeypatch):
    monkeypatch.setattr(part, "TOLERANCE", 2.0)
    assert unlearnt(blobs, samples="auto", strategy="bisect").retain.data_samples is None


def test_sorted_data_are_not_cut_in_silence(blobs):
    order = torch.argsort(blobs.labels[FOUND:], stable=True) + FOUND
    in_order = batches(blobs.inputs[order], blobs.labels[order], 32)
    assert unlearnt(blobs, in_order, samples="auto").retain.data_samples is None
    with pytest.warns(PotionWarning, match="the 400 samples that were read look sorted"):
        assert unlearnt(blobs, in_order, samples=400).retain.samples == 400


@pytest.mark.parametrize("sampler", [None, SequentialSampler, ShareSampler])
@pytest.mark.parametrize("wanted", [100, "auto"])
def test_a_data_set_read_in_its_order_is_refused(blobs, sampler, wanted):
    data = TensorDataset(blobs.inputs[FOUND:], blobs.labels[FOUND:])
    loader = DataLoader(data, batch_size=32, sampler=sampler and sampler(data))
    with pytest.raises(DataError, match="reads its data set in its order"):
        unlearnt(blobs, loader, samples=wanted)


@pytest.mark.parametrize(
    ("labels", "mixed"),
    [
        (torch.arange(1000) % 10, True),
        (torch.arange(1000) // 100, False),
        (torch.arange(1000) // 5 % 10, False),
        (torch.zeros(1000), False),
        (torch.rand(1000), True),
        (torch.nn.functional.one_hot(torch.arange(1000) // 100), False),
        (torch.zeros(1000, 4, 4), True),
        (None, True),
        *[(torch.randint(0, k, (1000, 1), generator=torch.Generator().manual_seed(k)), True) for k in range(2, 12)],
    ],
)
def test_labels_show_whether_they_are_sorted(labels, mixed):
    order = LabelOrder()
    for chunk in [labels] if labels is None else labels.split(37):
        order.add(chunk)
    assert order.mixed is mixed


@pytest.mark.parametrize("wanted", [0, -1, 2.0, True, "all"])
def test_other_values_are_refused(blobs, wanted):
    with pytest.raises(ImportanceError, match="samples is a whole number"):
        unlearnt(blobs, samples=wanted)


def test_a_number_of_samples_has_no_effect_on_importances_that_are_given(blobs):
    with pytest.raises(ImportanceError, match="retain is given"):
        unlearnt(blobs, samples=100, retain=unlearnt(blobs, strategy="bisect").retain)


def test_importances_alone_have_no_thresholds_to_compare(blobs):
    with pytest.raises(ImportanceError, match="unlearn makes"):
        pf.importance(blobs.model, shuffled(blobs), group_size=1, samples="auto")


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("group_size", [1, 3, 20])
def test_no_chunk_goes_past_a_mark(size, group_size):
    marks = [2, 3, 7, 12]
    cut, done = [], 0
    for chunk in chunks(batches(*samples(61), size), group_size, marks=marks):
        before, done = done, done + (chunk.groups if chunk.closes else 0)
        assert not any(before < mark < done for mark in marks)
        cut.append(chunk)
    assert torch.equal(torch.cat([chunk.inputs for chunk in cut]), samples(61)[0])
    assert torch.equal(torch.cat([chunk.labels for chunk in cut]), samples(61)[1])


class Stops:
    """A loader in a fixed order that fails at a batch, once."""

    def __init__(self, blobs: Blobs, at: int) -> None:
        order = torch.randperm(1192, generator=torch.Generator().manual_seed(3)) + FOUND
        self.batches, self.at, self.read = batches(blobs.inputs[order], blobs.labels[order], 24), at, 0

    def __iter__(self):
        self.read = 0
        for batch in self.batches:
            if self.read == self.at:
                raise OSError("the disk is gone")
            self.read += 1
            yield batch


@pytest.mark.parametrize("wanted", ["auto", 400])
def test_a_pass_over_a_part_resumes_to_the_same_bits(blobs, tmp_path, wanted):
    whole = Stops(blobs, 10**6)
    want = unlearnt(blobs, whole, samples=wanted)
    last = -(-want.retain.samples // 24)
    for at in (2, last // 2, last - 1):
        keeps = {"samples": wanted, "checkpoint": tmp_path / "pass", "checkpoint_seconds": 0}
        with pytest.raises(OSError, match="disk"):
            unlearnt(blobs, Stops(blobs, at), **keeps)
        with pytest.raises(ImportanceError, match="its samples was"):
            unlearnt(blobs, whole, **{**keeps, "samples": 123, "resume": True})
        result = unlearnt(blobs, whole, **keeps, resume=True)
        assert (result.retain.samples, result.retain.total) == (want.retain.samples, 1192)
        assert torch.equal(result.retain.sums, want.retain.sums)
        assert not (tmp_path / "pass").exists()


def test_a_finished_pass_over_a_part_is_not_repeated(blobs, tmp_path):
    keeps = {"samples": "auto", "checkpoint": tmp_path / "pass"}

    def fails(name, importance):
        if name == "retain":
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        unlearnt(blobs, **keeps, on_importance=fails)
    read = unlearnt(blobs, samples="auto").retain
    result = unlearnt(blobs, **keeps, resume=True)
    assert torch.equal(result.retain.sums, read.sums) and result.retain.total == 1192 > result.retain.samples


def on_a_rank(blobs: Blobs, folder: object) -> object:
    data = TensorDataset(blobs.inputs[FOUND:], blobs.labels[FOUND:])
    order = RandomSampler(data, generator=torch.Generator().manual_seed(5))
    loader = DataLoader(data, batch_size=32, sampler=ShareSampler(order))
    rank, found, part.TOLERANCE = Ranks.of(None), [], LOOSE
    for wanted in ("auto", 300):
        order.generator.manual_seed(5)
        result = unlearnt(blobs, loader, samples=wanted)
        found.append((result.retain, weights(result.model), result.kept.step))
    with pytest.raises(ImportanceError, match="keeps no checkpoints on several ranks"):
        unlearnt(blobs, loader, samples=300, checkpoint=folder / "pass")
    own = Stops(blobs, 3 if rank.rank else 10**6)  # fails before the first mark of 16 groups of 8 samples
    with pytest.raises(PotionError if rank.rank == 0 else OSError):
        unlearnt(blobs, own, samples="auto", process_group=torch.distributed.group.WORLD)
    few = batches(blobs.inputs[FOUND + rank.rank :: 2], blobs.labels[FOUND + rank.rank :: 2], 8)[
        : 2 if rank.rank else 40
    ]
    short = unlearnt(blobs, few, samples="auto", process_group=torch.distributed.group.WORLD)
    found.append((short.retain, weights(short.model), short.kept and short.kept.step))
    return found


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
def test_all_ranks_decide_alike(blobs, tmp_path):
    pairs = list(zip(*in_processes(2, on_a_rank, blobs, tmp_path, folder=tmp_path), strict=True))
    for (mine, healed, step), (other, others, its_step) in pairs:
        assert torch.equal(mine.sums, other.sums) and (mine.samples, mine.terms) == (other.samples, other.terms)
        assert step == its_step and all(torch.equal(healed[name], others[name]) for name in healed)
    auto, number, short = (pair[0][0] for pair in pairs)
    assert auto.samples < auto.total == 1192 and (number.samples, number.total) == (304, 1192)
    assert (short.samples, short.total) == (42 * 8, 42 * 8)
