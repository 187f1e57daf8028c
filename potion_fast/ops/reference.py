"""Every operation in plain PyTorch: the definition that each kernel is tested against, and the fallback.

Written to be read, not to be fast. The paper is *Potion: Towards Poison Unlearning* (Schoepf, Foster, Brintrup);
equation numbers are that paper's. All tensors of one call live on one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate as accumulate_sizes

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as convolutions


def accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    """Add |g| (eq. 3 and 4) or g² (the Fisher diagonal of eq. 1) of every parameter to the flat `sums`, in place.

    Args:
        sums: [n] float32 or float64.
        gradients: Tensors of that dtype whose sizes add up to n, in the order of the buffer.
        square: Add g² instead of |g|.
    """
    start = 0
    for gradient in gradients:
        flat = gradient.reshape(-1)  # [numel]
        sums[start : start + flat.numel()] += flat * flat if square else flat.abs()
        start += flat.numel()


def accumulate_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    """Add Σ_n w[k,n] · |Σ_t G[n,t,o] · A[n,t,i]|, or its square, to `sums[k,o,i]`, in place (eq. 3 and 4; eq. 1).

    Args:
        sums: [K, O, I] float32 or float64.
        inputs: [N, T, I], A: the inputs of the layer, T rows (tokens of a sample, or of a group of samples) for each n.
        gradients: [N, T, O], G: the gradients at its output.
        square: Add squares instead of absolute values.
        weights: [K, N], or None for ones.
        bias: [K, O], to which Σ_n w[k,n] · |Σ_t G[n,t,o]| is added; or None.
    """
    for n, (a, g) in enumerate(zip(inputs.to(sums.dtype), gradients.to(sums.dtype), strict=True)):
        _add(sums, g.T @ a, square, weights, n)
        if bias is not None:
            _add(bias, g.sum(0), square, weights, n)


def accumulate_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    """The same for the weight of a convolution, whose gradient is taken of `samples` samples at a time.

    Args:
        sums: [K, O, C / groups, *kernel] float32 or float64, one to three spatial dimensions.
        inputs: [N · samples, C, *spatial], the inputs of the layer, padded with zeros only by `padding`.
        gradients: [N · samples, O, *output], the gradients at its output.
        samples: How many samples make one term of the sum over n.
        stride: One number per spatial dimension.
        padding: One number per spatial dimension.
        dilation: One number per spatial dimension.
        groups: Groups of channels, as `torch.nn.Conv2d` has them.
        square: Add squares instead of absolute values.
        weights: [K, N], or None for ones.
        bias: [K, O], or None.
    """
    weight_gradient = (convolutions.conv1d_weight, convolutions.conv2d_weight, convolutions.conv3d_weight)[
        sums.dim() - 4
    ]
    shape, geometry = sums.shape[1:], (tuple(stride), tuple(padding), tuple(dilation), groups)
    parts = zip(inputs.to(sums.dtype).split(samples), gradients.to(sums.dtype).split(samples), strict=True)
    for n, (a, g) in enumerate(parts):
        _add(sums, weight_gradient(a, shape, g, *geometry), square, weights, n)
        if bias is not None:
            _add(bias, g.sum((0, *range(2, g.dim()))), square, weights, n)


def channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_p g[b,c,p] · (x[b,c,p] − mean[c]) and Σ_p g[b,c,p], for the scale and the shift of a norm layer.

    Args:
        inputs: [B, C, *positions], x.
        gradients: [B, C, *positions], g.
        mean: [C].

    Returns:
        [B, C] and [B, C].
    """
    positions = tuple(range(2, inputs.dim()))
    products = gradients * (inputs - mean.view(-1, *[1] * len(positions)))
    return (products.sum(positions), gradients.sum(positions)) if positions else (products, gradients.clone())


def row_sums(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """Σ_t g[n,t,c] · x̂[n,t,c] and Σ_t g[n,t,c], for the scale and the shift of a layer norm.

    x̂ is the row x[n,t], mean-subtracted if `centred` (LayerNorm; else RMSNorm), divided by √(mean of squares + eps).

    Args:
        inputs: [N, T, d], x.
        gradients: [N, T, d], g.
        eps: As the layer has it.
        centred: Whether the mean is subtracted.

    Returns:
        [N, d] and [N, d].
    """
    norm = F.layer_norm if centred else F.rms_norm
    normalised = norm(inputs, inputs.shape[-1:], eps=eps)
    return (gradients * normalised).sum(1), gradients.sum(1)


def _add(sums: Tensor, gradient: Tensor, square: bool, weights: Tensor | None, n: int) -> None:
    """sums[k] += w[k,n] · |g|, or g²."""
    size = gradient.square() if square else gradient.abs()
    for k, total in enumerate(sums):
        total += size if weights is None else weights[k, n] * size


def select(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    """α_k, the percentile p_k of the ratios Ω_f / Ω_r over the elements where the ratio is finite (eq. 7).

    Equation 7 is printed with the sizes |S_tr| / |S_f|; only the ratio of the importances agrees with eq. 1.

    Args:
        forget: [n] float32, Ω_f: mean importances.
        retain: [n] float32, Ω_r: mean importances.
        percentiles: K numbers in [0, 100]; rank and interpolation are done in float64, as NumPy does for a float64 p.

    Returns:
        [K] float32; NaN where no ratio is finite.
    """
    ratio = forget / retain  # [n], IEEE division
    ratio = ratio[torch.isfinite(ratio)]  # 0/0, x/0 and overflow have no rank
    if ratio.numel() == 0:
        return torch.full((len(percentiles),), torch.nan, dtype=torch.float32, device=forget.device)
    ratio = ratio.sort().values
    low, weight = percentile_ranks(ratio.numel(), percentiles)
    index = low.to(ratio.device)
    return interpolated(ratio[index], ratio[(index + 1).clamp(max=ratio.numel() - 1)], weight.to(ratio.device))


def percentile_ranks(n: int, percentiles: list[float]) -> tuple[Tensor, Tensor]:
    """Where K percentiles lie among n > 0 sorted numbers.

    Returns:
        The rank before each, [K] int64, and the way from it to the next, [K] float64 in [0, 1).
    """
    rank = (n - 1) * (np.asarray(percentiles, dtype=np.float64) / 100)  # [K]
    low = np.floor(rank)
    return torch.from_numpy(low.astype(np.int64)), torch.from_numpy(rank - low)


def interpolated(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Interpolate linearly: a + (b − a) · weight, from the nearer end.

    Args:
        a: [K] float32.
        b: [K] float32.
        weight: [K] float64.

    Returns:
        [K] float32.
    """
    gap = (b - a).double()  # the difference is rounded to float32 first
    return torch.where(weight < 0.5, a.double() + gap * weight, b.double() - gap * (1 - weight)).float()


def partition(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights that some candidate changes, each in the group of the first candidate, by falling α, that selects it.

    Weight i is selected where Ω_f > α · Ω_r, and changed where its factor λ · Ω_r / Ω_f is below 1 as well (eq. 1).

    Args:
        forget: [n] float32, Ω_f: mean importances.
        retain: [n] float32, Ω_r: mean importances.
        alphas: [K] float32, in any order; NaN comes first and selects nothing.
        dampening: λ, used as float32, not below 0; 0 keeps all that are selected.

    Returns:
        index [m] (int32 where n < 2³¹, else int64), forget [m] and retain [m], by group, then by ascending index; and
        starts [K + 1], int64 on the CPU: group j of the falling order is [starts[j], starts[j + 1]).
    """
    falling = alphas.sort(descending=True, stable=True).values
    scale = torch.tensor(dampening, dtype=torch.float32, device=retain.device) * retain
    remaining = scale / forget < 1  # [n], changed by whatever selects it, and in no group so far
    groups = []
    for alpha in falling:
        groups.append((remaining & (forget > alpha * retain)).nonzero().squeeze(1))
        remaining[groups[-1]] = False
    index = torch.cat([torch.empty(0, dtype=torch.int64, device=forget.device), *groups])
    starts = torch.tensor([0, *accumulate_sizes(map(len, groups))])
    narrow = torch.int32 if forget.numel() < 2**31 else torch.int64
    return index.to(narrow), forget[index], retain[index], starts


def select_and_partition(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`select`, then `partition` by the thresholds found.

    Returns:
        alphas [K], then what `partition` returns: index, forget, retain [m] and starts [K + 1].
    """
    alphas = select(forget, retain, percentiles)
    return alphas, *partition(forget, retain, alphas, dampening)


def take(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    """The weights at some indices of a flat buffer that is spread over parameters.

    Args:
        parameters: P dense float32 tensors.
        offsets: [P], where each begins in the flat buffer, which has its elements in the order of its memory.
        cuts: [P + 1]; index[cuts[p] : cuts[p + 1]] lies in parameter p.
        index: [m] int32 or int64.

    Returns:
        [m] float32.
    """
    values = torch.empty(len(index), dtype=torch.float32, device=index.device)
    for p, parameter in enumerate(parameters):
        part = slice(cuts[p], cuts[p + 1])
        values[part] = in_memory(parameter)[index[part].long() - offsets[p]]
    return values


def put(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    """Set the weights at those indices, in place.

    Args:
        parameters: As for `take`.
        offsets: As for `take`.
        cuts: As for `take`.
        index: As for `take`; each number occurs once.
        values: [m] float32.
    """
    for p, parameter in enumerate(parameters):
        part = slice(cuts[p], cuts[p + 1])
        in_memory(parameter)[index[part].long() - offsets[p]] = values[part].detach()


def in_memory(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of its memory: a view [n]."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    """θ ← θ · min(λ · Ω_r / Ω_f, 1) wherever Ω_f > α · Ω_r, in place (eq. 1).

    The product α · Ω_r decides, not the ratio: the two differ at the edge. x/0 is always selected and becomes 0,
    0/0 never is. Algorithm 1, line 8 is printed as min(factor · θ, θ), which leaves negative weights undampened;
    the factor is capped instead.

    Args:
        weights: [n] float32, θ.
        forget: [n] float32, Ω_f.
        retain: [n] float32, Ω_r.
        alpha: α, used as float32.
        dampening: λ, used as float32.
    """
    selected = forget > torch.tensor(alpha, dtype=torch.float32, device=retain.device) * retain
    scale = torch.tensor(dampening, dtype=torch.float32, device=retain.device) * retain
    factor = (scale / forget).clamp(max=1)
    weights.copy_(torch.where(selected, weights * factor, weights))


def dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    """K dampened copies of the weights, one per α (eq. 1).

    Args:
        weights: [n] float32, θ.
        forget: [n] float32, Ω_f.
        retain: [n] float32, Ω_r.
        alphas: [K] float32.
        dampening: λ, used as float32.

    Returns:
        [K, n] float32.
    """
    copies = weights.expand(alphas.numel(), -1).clone()  # [K, n]
    for copy, alpha in zip(copies, alphas.tolist(), strict=True):
        dampen(copy, forget, retain, alpha, dampening)
    return copies
