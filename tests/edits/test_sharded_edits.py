"""Edits and searches of models that FSDP2 has sharded: those of one process, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from test_edits import ALPHAS, importances
from torch import nn

import potion_fast as pf
from helpers.backends import assert_same_bits, bits
from helpers.processes import in_processes
from helpers.toys import Blobs, weights
from potion_fast.distributed import Ranks
from potion_fast.errors import ImportanceError, ModelError, PotionError, SearchError
from potion_fast.importances import Importance
from potion_fast.search import STRATEGIES
from potion_fast.utils.model import ModelParameters, fingerprint


def distributed(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of them, as the parameter's is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, like.device_mesh, like.placements).to_local()


def sharded(importance: Importance, model: nn.Module) -> Importance:
    """The part of full importances that belongs to this rank's shards."""
    ModelParameters(model).reshard()
    sums = [importance.sums[part].view(importance.shapes[name]) for name, part in importance.parts()]
    parts = [distributed(each, parameter) for each, parameter in zip(sums, model.parameters(), strict=True)]
    shapes = {name: tuple(part.shape) for name, part in zip(importance.shapes, parts, strict=True)}
    flat = torch.cat([part.reshape(-1) for part in parts])
    return replace(importance, sums=flat, shapes=shapes, fingerprint=fingerprint(model))


def assert_shards(model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    mine = ModelParameters(model).tensors
    for name, parameter in model.named_parameters():
        assert torch.equal(bits(mine[name]), bits(distributed(expected[name], parameter))), name


def plans(whole: nn.Module, model: nn.Module, group: dist.ProcessGroup) -> None:
    """Thresholds and edits of a sharded model are those of the whole one, also after forward passes."""
    full, before = importances(whole), weights(whole)
    mine, x = [sharded(each, model) for each in full], torch.ones(2, 12)
    percentiles = [99.9, 70.0, 40.0, 3.3]
    assert_same_bits(pf.thresholds(*mine, percentiles, process_group=group), pf.thresholds(*full, percentiles))
    pairs = [[pf.EditPlan(m, *i, ALPHAS, 0.7) for m, i in ((whole, full), (model, mine))]]
    pairs.append([pf.EditPlan.at_percentiles(m, *i, percentiles) for m, i in ((whole, full), (model, mine))])
    for of_one, plan in pairs:
        assert_same_bits(plan.alphas, of_one.alphas)
        for k in [0, 3, 1, 2, 0]:
            of_one.apply(k)
            plan.apply(k)
            assert plan.dampened(k) == of_one.dampened(k)
            with torch.inference_mode():  # leaves this rank with whole parameters, which the next edit must not leave
                assert torch.equal(bits(model(x)), bits(whole(x)))
            if k == 2:
                assert_shards(model, weights(whole))
        of_one.reset()
        plan.reset()
        assert_shards(model, before)


def fails(kind: type[PotionError], word: str, work: Callable[[], object]) -> None:
    with pytest.raises(kind, match=word):
        work()


def failures(model: nn.Module, forget: Importance, retain: Importance, loader: list, ranks: Ranks) -> None:
    """What is wrong, if on one rank alone, is raised on all."""
    before = {name: values.clone() for name, values in ModelParameters(model).tensors.items()}
    last = ranks.rank == ranks.size - 1
    fails(SearchError, "inplace=True", lambda: pf.ptn_search(model, forget, retain, loader))
    for strategy in [name for name, strategy in STRATEGIES.items() if not strategy.supports_sharded]:
        fails(SearchError, "FSDP2", lambda s=strategy: pf.ptn_search(model, forget, retain, loader, strategy=s))
    other = replace(forget, fingerprint="another") if last else forget
    fails(ImportanceError, "compute them again", lambda: pf.EditPlan(model, other, retain, [1.0]))
    fails(ImportanceError, "compute them again", lambda: pf.ptn_search(model, other, retain, loader, inplace=True))
    fails(
        ImportanceError,
        "importances is",
        lambda: pf.ptn_search(model, replace(forget, samples=9 if last else 8), retain, loader, inplace=True),
    )
    assert all(torch.equal(values, before[name]) for name, values in ModelParameters(model).tensors.items())
    mixed = nn.ModuleList([model, nn.Linear(2, 2)])
    fails(ModelError, "not sharded among the same ranks", lambda: pf.EditPlan(mixed, forget, retain, [1.0]))


def fsdp(meshes: list[tuple[int, ...]], whole: nn.Module, forget: Importance, retain: Importance, loader) -> list[int]:
    """On a rank: everything on a model that is sharded over each mesh; the size of its smallest shard."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    smallest = []
    for shape in meshes:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])
        model = copy.deepcopy(whole)
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        smallest.append(min(values.numel() for values in ModelParameters(model).tensors.values()))
        group = mesh.get_group(len(shape) - 1)
        plans(copy.deepcopy(whole), model, group)
        mine = sharded(forget, model), sharded(retain, model)
        failures(model, *mine, loader, Ranks.of(group))
        for options in ({"strategy": "bisect", "rho": 0.5}, {"strategy": "sequential"}):
            want = pf.ptn_search(whole, forget, retain, loader, process_group=False, **options)
            got = pf.ptn_search(model, *mine, loader, inplace=True, **options)
            steps = [[replace(step, seconds=0.0) for step in result.trace] for result in (got, want)]
            assert steps[0] == steps[1] and got.reason == want.reason == "threshold passed", steps
            assert_shards(model, weights(want.model))
            with torch.no_grad():
                parameters = ModelParameters(model)
                for name, values in parameters.tensors.items():
                    values.copy_(distributed(weights(whole)[name], parameters.parameters[name]))
    return smallest


def test_a_model_sharded_by_fsdp2_is_edited_and_searched_as_the_whole_one(one_thread, tmp_path):
    """Over four ranks, one of which has none of a layer of two outputs and three, and over two with a replica each."""
    blobs = Blobs()
    both = (
        pf.importance(blobs.model, blobs.forget(), group_size=1),
        pf.importance(blobs.model, blobs.retain(), group_size=1),
    )
    found = in_processes(4, fsdp, [(4,), (2, 2)], blobs.model, *both, list(blobs.forget()), folder=tmp_path)
    assert [min(sizes) for sizes in zip(*found, strict=True)][0] == 0
