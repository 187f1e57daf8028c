"""Trainable parameters of a model, and its evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..distributed import Ranks, unwrap_compile, unwrap_ddp
from ..distributed.fsdp import fsdp_modules, local, shard_ranks
from ..errors import ImportanceError, ModelError
from .crc import crc32


def check_amp(amp: object) -> None:
    """Raise ModelError unless a model can run under autocast to this dtype, or without (None)."""
    if amp not in (None, torch.bfloat16, torch.float16):
        raise ModelError(f"amp is torch.bfloat16, torch.float16 or None, not {amp!r}")


class ModelParameters:
    """The trainable parameters of a model: all that require a gradient and have an element, tied ones once.

    It is made where a model comes in, and handed down in its place. The model is unwrapped from
    DistributedDataParallel and torch.compile, and parameters have the names that they have in the module within.
    FSDP2 is asked once whether it has sharded the model; whole parameters that a forward pass has gathered are let go
    of then, and again by `reshard`.

    Attributes:
        wrapped: The model without DistributedDataParallel, whose forward exchanges buffers that a rank without data
            misses; in torch.compile's wrapper where the caller's is.
        module: The model without torch.compile's wrapper either: hooks are put on it.
        parameters: By name; shards where FSDP2 has sharded the model.
        fsdp_modules: The modules that were given to `fully_shard`: each gathers its own parameters when it is called.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wrapped = unwrap_ddp(model)
        self.module = unwrap_compile(self.wrapped)
        self.fsdp_modules: list[Any] = fsdp_modules(self.module)
        self.reshard()
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and (is_lazy(parameter) or parameter.numel())
        }

    @classmethod
    def of(cls, model: nn.Module | ModelParameters) -> ModelParameters:
        """The parameters of a model, or what they were made to already."""
        return model if isinstance(model, ModelParameters) else cls(model)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, what this process holds of each parameter, detached, in its memory: all of it, or its shard.

        It is that of now: a model may give a parameter other memory, as LoRA layers do that merge themselves in `eval`.
        """
        return {name: local(parameter) for name, parameter in self.parameters.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name, the shape of what this process holds."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def numel(self) -> int:
        """Elements of all parameters, on all ranks that hold them together."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def device(self) -> torch.device:
        """Of the first parameter; `check` sees to it that the others are there too. Without any, the CPU."""
        first = next(iter(self.parameters.values()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 has sharded the model."""
        return bool(self.fsdp_modules)

    @cached_property
    def shard_ranks(self) -> Ranks:
        """The ranks that hold all the parameters together, each weight once; this process alone without FSDP2.

        Raises:
            ModelError: Some parameters are sharded and others not, or not all among the same ranks.
        """
        return shard_ranks(self.parameters)

    def reshard(self) -> None:
        """Let go of the whole parameters that a forward pass has gathered: edits are of shards."""
        for module in self.fsdp_modules:
            module.reshard()

    def fingerprint(self) -> str:
        """CRC-32 of the parameters' names and bytes as they are now, this process's shards': tells weights apart."""
        self.reshard()
        code = 0
        for name, tensor in self.tensors.items():
            code = crc32(name, tensor, start=code)
        return f"{code:08x}"

    def check(self, to_be_copied: bool = False) -> None:
        """Raise unless there is a parameter, all are real numbers that autograd takes, finite, and on one device.

        Args:
            to_be_copied: By `copy_model`, which makes ordinary parameters of those made under inference mode.

        Raises:
            ImportanceError: There is none.
            ModelError: One is of a kind that has no importance, not finite, or they lie on several devices.
        """
        check_not_exported(self.module)
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if is_lazy(tensor):
                raise ModelError(f"{name!r} has no shape yet, as its layer is lazy; call the model on a batch first")
        if not self.parameters:
            raise ImportanceError(
                "the model has no trainable parameter; set requires_grad on those that may be dampened"
            )
        for name, parameter in self.parameters.items():
            _check_kind(name, parameter, to_be_copied)
        self.reshard()
        for name, tensor in self.tensors.items():
            if not all_finite(tensor):
                raise ModelError(f"parameter {name!r} holds values that are not finite")
        devices = {str(parameter.device) for parameter in self.parameters.values()}
        if len(devices) > 1:
            raise ModelError(
                f"the model's parameters lie on several devices ({', '.join(sorted(devices))}); move it to one"
            )

    def check_dampenable(self, to_be_copied: bool = False) -> None:
        """Raise unless an edit may change the parameters: as `check`, and ModelError where one is not float32.

        Or where two weights are one place in memory, which can be given one value only.
        """
        self.check(to_be_copied)
        at: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            if tensor.dtype != torch.float32:
                raise ModelError(f"parameter {name!r} is {tensor.dtype}; only float32 weights can be dampened")
            if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
                raise ModelError(f"weights of parameter {name!r} share memory (expand); make it of its .contiguous()")
            if tensor.numel() and (other := at.setdefault(tensor.data_ptr(), name)) != name:
                raise ModelError(
                    f"parameters {other!r} and {name!r} share memory; assign one nn.Parameter to both to tie them, or "
                    "clone one"
                )


def _check_kind(name: str, parameter: nn.Parameter, to_be_copied: bool) -> None:
    """Raise ModelError unless a parameter is one that importances are defined for and that autograd takes."""
    if parameter.is_complex():
        raise ModelError(
            f"parameter {name!r} is complex; importances are of real numbers: keep its real and imaginary part as two "
            "parameters, or set requires_grad_(False) on it"
        )
    if parameter.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ModelError(f"parameter {name!r} is {parameter.dtype}; cast it to torch.float32")
    if parameter.is_meta or parameter.layout != torch.strided:
        kind = "on the meta device, without values" if parameter.is_meta else f"of layout {parameter.layout}"
        raise ModelError(f"parameter {name!r} is {kind}; give a model whose parameters are ordinary tensors")
    if parameter.is_inference() and not to_be_copied:
        raise ModelError(
            f"parameter {name!r} was made under torch.inference_mode, where autograd takes no gradient; make or load "
            "the model outside of it, or give copy.deepcopy(model)"
        )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of a model by name, see `ModelParameters`."""
    return ModelParameters(model).parameters


def fingerprint(model: nn.Module) -> str:
    """CRC-32 of a model's trainable parameters, see `ModelParameters.fingerprint`."""
    return ModelParameters(model).fingerprint()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every module is back in the mode it was in.

    Both by the modules' own `eval` and `train`, which may do more than to set the mode: merge adapters into weights and
    take them out again, keep the norms of a frozen part in eval mode.

    Raises:
        ModelError: The model refuses eval mode.
    """
    modules = [module for module in model.modules() if hasattr(module, "training")]  # a frozen script has it not
    before = {module: module.training for module in modules}
    try:
        if any(before.values()):
            _set_eval(model)
        yield
    finally:
        for module, training in before.items():  # parents come before their children
            if module.training != training:
                module.train(training)
        for module, training in before.items():  # whose own `train` says otherwise
            if module.training != training:
                module.training = training


@contextmanager
def differentiable_rnns(model: nn.Module) -> Iterator[None]:
    """Recurrent layers run without cuDNN in the block, which has no backward pass for them in eval mode."""

    def before(layer: nn.Module, args: Any) -> None:
        enabled.append(torch.backends.cudnn.enabled)
        torch.backends.cudnn.enabled = False

    def after(layer: nn.Module, args: Any, output: Any) -> None:
        torch.backends.cudnn.enabled = enabled.pop()

    enabled: list[bool] = []
    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, nn.RNNBase):
                stack.callback(layer.register_forward_pre_hook(before, prepend=True).remove)
                stack.callback(layer.register_forward_hook(after, always_call=True).remove)
        yield


def _set_eval(model: nn.Module) -> None:
    try:
        model.eval()
    except Exception as error:
        check_not_exported(model)
        raise ModelError(f"the model, a {type(model).__name__}, cannot be set to eval mode: {error}") from error


def check_not_exported(model: nn.Module) -> None:
    """Raise ModelError where some part is what `torch.export.export(...).module()` gives."""
    if any(kind.__module__.startswith("torch.export") for m in model.modules() for kind in type(m).__mro__):
        raise ModelError(
            "the model is a program of torch.export, which has no layers and no eval mode; give the nn.Module that it "
            "was exported from"
        )


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; without a second tensor of that size."""
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())  # NaN if there is one
