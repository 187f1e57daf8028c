"""The trainable parameters of a model: unwrapped, named, checked, distinguished."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.toys import net
from potion_fast.distributed import Ranks
from potion_fast.errors import ImportanceError, ModelError
from potion_fast.utils.model import ModelParameters, evaluating, fingerprint, trainable


def test_parameters_are_the_trainable_ones_tied_ones_once_in_the_models_order() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 4))
    model[2].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    parameters = ModelParameters(model)
    assert list(parameters.parameters) == ["0.weight", "0.bias", "1.weight", "2.bias"]
    assert parameters.parameters["0.weight"] is model[0].weight
    assert parameters.shapes == {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (3, 4), "2.bias": (4,)}
    assert parameters.numel == 12 + 4 + 12 + 4 and parameters.device == torch.device("cpu")
    assert trainable(model).keys() == parameters.parameters.keys()


def test_tensors_are_detached_and_in_the_models_memory() -> None:
    model = nn.Linear(2, 2)
    tensors = ModelParameters(model).tensors
    assert not any(tensor.requires_grad for tensor in tensors.values())
    tensors["weight"].fill_(3.0)
    assert model.weight.eq(3).all()


def test_tensors_are_those_of_now_when_a_parameter_is_given_other_memory() -> None:
    model = nn.Linear(2, 2)
    parameters = ModelParameters(model)
    before = parameters.fingerprint()
    model.weight.data = model.weight.data + 1
    assert parameters.fingerprint() == fingerprint(model) != before
    parameters.tensors["weight"].fill_(3.0)
    assert model.weight.eq(3).all()


def test_a_compiled_model_is_unwrapped_for_hooks_and_called_as_it_is() -> None:
    model = net()
    wrapped = torch.compile(model, backend="eager")
    parameters = ModelParameters(wrapped)
    assert parameters.module is model and parameters.wrapped is wrapped
    assert list(parameters.parameters) == list(trainable(model))
    assert parameters.fingerprint() == fingerprint(model)


def test_what_is_made_already_is_not_made_again() -> None:
    parameters = ModelParameters(net())
    assert ModelParameters.of(parameters) is parameters
    assert ModelParameters.of(parameters.module).module is parameters.module


def test_a_model_without_fsdp_is_held_by_this_process_alone() -> None:
    parameters = ModelParameters(net())
    assert not parameters.sharded and parameters.shard_ranks == Ranks()


def test_the_fingerprint_is_of_the_names_and_bytes_as_they_are_now() -> None:
    model = nn.Linear(2, 1)
    parameters = ModelParameters(model)

    def expected() -> str:
        code = 0
        for name, parameter in model.named_parameters():
            code = zlib.crc32(parameter.detach().numpy().tobytes(), zlib.crc32(name.encode(), code))
        return f"{code:08x}"

    before = expected()
    assert parameters.fingerprint() == before
    with torch.no_grad():
        model.bias += 1
    assert parameters.fingerprint() == expected() != before


def test_parameters_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ImportanceError, match="no trainable parameter"):
        ModelParameters(nn.ReLU()).check()
    bad, half = nn.Linear(2, 2), nn.Linear(2, 2).half()
    with torch.no_grad():
        bad.bias[0] = torch.inf
    with pytest.raises(ModelError, match="'bias' holds values that are not finite"):
        ModelParameters(bad).check()
    ModelParameters(half).check()
    with pytest.raises(ModelError, match=r"torch\.float16; only float32"):
        ModelParameters(half).check_dampenable()
    ModelParameters(net()).check_dampenable()


def test_eval_mode_is_left_again_where_it_was_not_before() -> None:
    model = net()
    model.norm.eval()
    with pytest.raises(ValueError, match="within"), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise ValueError("within")
    assert model.training and model.conv.training and not model.norm.training


class Merging(nn.Linear):
    """Adds its adapter to its frozen weight when it goes to eval mode and takes it out again, by its own `train`."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.weight.requires_grad_(False)
        self.adapter = nn.Parameter(torch.full((3, 3), 0.5))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.weight.data += -self.adapter.detach() if mode else self.adapter.detach()
            self.merged = not mode
        return super().train(mode)


class FrozenNorms(nn.Sequential):
    """Keeps its norms in eval mode whatever is asked for."""

    def train(self, mode: bool = True) -> FrozenNorms:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


class AlwaysRandom(nn.Dropout):
    """Drops out in eval mode too."""

    def train(self, mode: bool = True) -> AlwaysRandom:
        return super().train(True)


class Scripted(nn.Module):
    """Refuses eval mode."""

    def eval(self) -> Scripted:
        raise RuntimeError("not now")


def test_the_mode_is_set_by_the_modules_own_methods():
    model = nn.Sequential(Merging(), FrozenNorms(nn.Linear(3, 3), nn.BatchNorm1d(3)), AlwaysRandom(), nn.Dropout())
    model.train()
    model[3].eval()
    before = {name: module.training for name, module in model.named_modules()}
    assert before["1.0"] and not before["1.1"] and not before["3"]
    with evaluating(model):
        assert model[0].merged and not model.training and not model[1][0].training and model[2].training
    assert not model[0].merged
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_model_in_eval_mode_is_not_asked_again():
    model = Merging()
    model.training = False  # and not merged: its own business
    with evaluating(model):
        assert not model.merged
    assert not model.training and not model.merged


def test_a_mode_that_no_method_gives_back_is_set_all_the_same():
    model = AlwaysRandom()
    model.training = False
    parent = nn.Sequential(model, nn.Dropout())
    with evaluating(parent):
        assert model.training  # by its own method
    assert not model.training and parent.training and parent[1].training


def test_a_model_that_refuses_eval_mode_is_named():
    exported = torch.export.export(nn.Linear(3, 3), (torch.ones(2, 3),)).module()
    with pytest.raises(ModelError, match=r"a program of torch\.export"), evaluating(exported):
        raise AssertionError("not reached")
    with pytest.raises(ModelError, match="a Scripted, cannot be set to eval mode: not now"), evaluating(Scripted()):
        raise AssertionError("not reached")


class WatchedLSTM(nn.LSTM):
    """Notes whether cuDNN may be used while it runs, and fails where its inputs are too long."""

    def __init__(self) -> None:
        super().__init__(3, 4, batch_first=True)
        self.seen = SimpleNamespace(cudnn=[])  # a list of its own would be put back after a pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.cudnn.append(torch.backends.cudnn.enabled)
        if x.shape[1] > 5:
            raise ValueError("too long")
        return super().forward(x)[0][:, -1]


def test_recurrent_layers_run_without_cudnn_whose_backward_pass_refuses_eval_mode():
    model = WatchedLSTM()
    x, y = torch.randn(6, 5, 3), torch.zeros(6, dtype=torch.long)
    assert torch.backends.cudnn.enabled
    pf.importance(model, [(x, y)], group_size="batch")
    pf.importance(model, [(x, y)], group_size=1)
    assert model.seen.cudnn and not any(model.seen.cudnn)
    with pytest.raises(Exception, match="too long"):
        pf.importance(model, [(torch.randn(6, 7, 3), y)], group_size=1)
    assert torch.backends.cudnn.enabled
    assert not model._forward_hooks and not model._forward_pre_hooks


def other_kinds() -> dict[str, tuple[nn.Module, str]]:
    """Models with a parameter of another kind, and what is said of them."""
    with torch.inference_mode():
        inference = nn.Linear(2, 2)
    complex_, eighths = nn.Linear(2, 2), nn.Linear(2, 2)
    complex_.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.cfloat))
    eighths.weight = nn.Parameter(torch.ones(2, 2).to(torch.float8_e4m3fn))
    return {
        "complex": (complex_, "parameter 'weight' is complex"),
        "8 bits": (eighths, r"parameter 'weight' is torch\.float8_e4m3fn"),
        "lazy": (nn.LazyLinear(2), "'weight' has no shape yet.*call the model on a batch first"),
        "lazy buffers": (nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False)), "'1.running_mean' has no"),
        "inference mode": (inference, r"'weight' was made under torch\.inference_mode"),
        "no values": (nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
    }


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("kind", ["complex", "8 bits", "lazy", "lazy buffers", "inference mode", "no values"])
def test_parameters_of_other_kinds_are_named(kind):
    model, match = other_kinds()[kind]
    with pytest.raises(ModelError, match=match):
        ModelParameters(model).check()
    with pytest.raises(ModelError, match=match):
        ModelParameters(model).check_dampenable()


def test_weights_that_share_memory_are_no_weights_to_dampen():
    expanded, twins = nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    expanded.weight = nn.Parameter(torch.randn(1, 3).expand(4, 3))
    twins[1].weight = nn.Parameter(twins[0].weight.data)
    for model, match in ((expanded, "contiguous"), (twins, "'0.weight' and '1.weight' share memory")):
        with pytest.raises(ModelError, match=match):
            pf.unlearn(model, [], [(torch.zeros(2, 3), torch.zeros(2))])
        ModelParameters(model).check()  # importances they may have


@pytest.mark.parametrize("model", [nn.Linear, None, nn.Linear(2, 2).state_dict(), torch.sum])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(ModelError, match=r"must be an nn\.Module"):
        pf.importance(model, [(torch.zeros(2, 2), torch.zeros(2))], group_size=1)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_frozen_script_has_no_parameters():
    model = torch.jit.freeze(torch.jit.script(nn.Linear(2, 2).eval()))
    with pytest.raises(ImportanceError, match="no trainable parameter"):
        pf.importance(model, [(torch.zeros(2, 2), torch.zeros(2))], group_size=1)
