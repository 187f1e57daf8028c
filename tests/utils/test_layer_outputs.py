"""Which layers' outputs are read, and what they are averaged over."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from potion_fast.utils.asked_samples import Samples, asked
from potion_fast.utils.layer_outputs import layer_outputs, layers_of
from potion_fast.utils.training_data import TrainingData


class Net(nn.Module):
    """Three blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def samples(count: int = 7) -> Samples:
    x = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    data = TrainingData.of(TensorDataset(x, torch.arange(count) % 4), batch_size=4)
    return Samples(data, torch.arange(count) % 4, torch.arange(count))


def test_blocks_are_read_in_the_order_of_their_call() -> None:
    given = samples()
    with asked(Net(), given.data) as answering:
        assert layers_of(answering, given) == ["blocks.0", "blocks.1", "blocks.2"]


def test_single_layers_are_read_where_there_are_no_blocks() -> None:
    given = samples()
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))
    with asked(model, given.data) as answering:
        assert layers_of(answering, given) == ["0", "1"]


def test_outputs_are_averaged_over_places_also_where_memory_runs_out() -> None:
    given, model = samples(), Net()
    expected = model.blocks[0](given.whole()).mean((2, 3))
    with asked(model, given.data) as answering:
        assert torch.allclose(layer_outputs(answering, given, ["blocks.0"])["blocks.0"], expected, atol=1e-6)
    tight = Net()
    tight.blocks[2].register_forward_pre_hook(out_of_memory_beyond(2))  # after the first block's hook has noted
    with asked(tight, given.data) as answering:
        found = layer_outputs(answering, given, ["blocks.0", "blocks.1"])
    assert torch.allclose(found["blocks.0"], expected, atol=1e-6) and len(found["blocks.1"]) == 7


def out_of_memory_beyond(most: int):
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("no memory")

    return hook
