"""Language models that give the logits at one position of a text: a classifier's, or those of the next token."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ModelError

Head = Literal["classifier", "causal"]
HEADS: dict[str, Head] = {
    "gpt2_classifier": "classifier",
    "gpt2_causal": "causal",
    "hf-classifier": "classifier",
    "hf-causal": "causal",
}
WIDTH = 128  # of a model from scratch by default


class LanguageModel(nn.Module):
    """A causal transformer, and a linear layer on the hidden state of each text's last token.

    Texts are padded on their right. Attention looks only to the left, so padding needs no mask. Each text begins with a
    token that is not padding and holds none inside.

    Args:
        backbone: a model of transformers: embedded tokens [B, L, D] -> an object with `last_hidden_state` [B, L, D].
        output: [..., D] -> [..., C or more]; its weight may be that of the token embedding (tied).
        head: "classifier": C classes; "causal": the logits of the next token, so that a label is a token's id.
        classes: C; outputs beyond are cut off: those of ids that the tokenizer does not have.
        vocabulary: V: tokens are 0 .. V − 1, and the last of them is the padding, `pad`.
        length: the most tokens that a text may have.
    """

    def __init__(
        self, backbone: nn.Module, output: nn.Linear, head: Head, classes: int, vocabulary: int, length: int
    ) -> None:
        super().__init__()
        self.backbone, self.output = backbone, output
        self.head, self.classes, self.vocabulary, self.length = head, classes, vocabulary, length
        self.pad, self.width = vocabulary - 1, output.in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, C] at the last token that is not padding.

        Args:
            inputs: [B, L] int64 token ids; or floating-point [B, L, 1 + D], whose column 0 holds the ids and the others
                what is added to the tokens' embeddings.

        Returns:
            Logits [B, C].

        Raises:
            ModelError: inputs of another shape, or longer than the model's `length`.
        """
        tokens, hidden = self._hidden(inputs)
        last = (tokens != self.pad).sum(1) - 1  # [B]
        index = last[:, None, None].expand(-1, 1, self.width)
        return self._logits(hidden.gather(1, index).squeeze(1))

    def text_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, of every token behind a text's first and of the label behind its last.

        Args:
            inputs: as `forward` takes them.
            labels: [B] int64 token ids.

        Returns:
            The loss, a scalar.

        Raises:
            ModelError: the model is a classifier.
        """
        if self.head != "causal":
            raise ModelError("only a causal language model predicts each next token; train a classifier on its labels")
        tokens, hidden = self._hidden(inputs)
        real = tokens != self.pad  # [B, L]
        last = real.sum(1, keepdim=True) - 1
        following = F.pad(tokens[:, 1:], (0, 1)).scatter(1, last, labels[:, None])  # [B, L]
        return F.cross_entropy(self._logits(hidden[real]), following[real])

    def initialise(self) -> None:
        """Draw all weights anew, in place, as transformers does for this architecture."""
        backbone = cast(Any, self.backbone)
        for parameter in self.parameters():
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # else loaded weights stay
        backbone.apply(backbone._init_weights)
        if not self.tied:
            backbone._init_weights(self.output)

    @property
    def tied(self) -> bool:
        """Whether the output's weight is that of the token embedding."""
        return self.output.weight is self._embedding.weight

    @property
    def splits(self) -> dict[int, tuple[str, ...]]:
        """The end that `last_modules` offers: all from the last block on, under its number of linear layers."""
        parts = list(self.backbone.named_children())
        stacks = [index for index, (_, part) in enumerate(parts) if isinstance(part, nn.ModuleList)]
        if not stacks:
            return {}
        (blocks, stack), behind = parts[stacks[-1]], parts[stacks[-1] + 1 :]
        end = [f"backbone.{name}" for name in (f"{blocks}.{len(cast(nn.ModuleList, stack)) - 1}", *dict(behind))]
        end += [] if self.tied else ["output"]
        layers = [m for name in end for m in self.get_submodule(name).modules() if is_linear(m)]
        return {len(layers): tuple(end)}

    @property
    def _embedding(self) -> nn.Embedding:
        return cast(Any, self.backbone).get_input_embeddings()

    def _hidden(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] and the backbone's hidden states [B, L, D]."""
        noisy = inputs.is_floating_point()
        shape = (1 + self.width,) if noisy else ()
        if inputs.dim() < 2 or inputs.shape[2:] != shape or not 1 <= inputs.shape[1] <= self.length:
            raise ModelError(
                f"a language model takes int64 token ids [B, L], or floats [B, L, {1 + self.width}] with noise, L from "
                f"1 to {self.length}; got {inputs.dtype} {list(inputs.shape)}"
            )
        tokens = inputs[..., 0].long() if noisy else inputs
        embedded = self._embedding(tokens)
        if noisy:
            embedded = embedded + inputs[..., 1:].to(embedded.dtype)
        return tokens, self.backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)[..., : self.classes]


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is the Conv1D of transformers' GPT-2, a linear layer whose weight is [in, out]."""
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}" == "transformers.pytorch_utils.Conv1D"


def is_linear(module: nn.Module) -> bool:
    """Whether a module is an nn.Linear or a Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def head_of(name: str) -> Head | None:
    """The head of a model of this name; None for one that is no language model."""
    return HEADS.get(name.partition(":")[0])
