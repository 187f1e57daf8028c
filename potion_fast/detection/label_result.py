"""What is known of one label's samples after the search for poison."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .discriminant import Array, Mask


@dataclass
class LabelResult:
    """What is known of each of a label's samples.

    Attributes:
        scores: [n], standardised.
        p_values: [n].
        called: [n], poison; of S_f the members that fit.
        share: Of poison, estimated.
        separation: Of poison and the others, in the others' standard deviations; 0 where nothing was sought.
        false: How many of those called, S_f left out, are expected to be none.
        note: What deserves to be known.
        doubtful: Whether it is a warning.
    """

    scores: Array
    p_values: Array
    called: Mask
    share: float
    separation: float
    false: float = 0.0
    note: str = ""
    doubtful: bool = False

    def with_input_p_values(self, rows: NDArray[np.int64], p: Array, found: Mask, rate: float) -> LabelResult:
        """Those called too that the inputs tell, so that the expected share of false ones is at most the rate still.

        Args:
            rows: int64 [K], samples that were asked about, none of which is called.
            p: [K], from `p_values_of_inputs`.
            found: [n], S_f.
            rate: False discovery rate.
        """
        sought, before = np.sort(p[~found[rows]]), int((self.called & ~found).sum())
        count, expected = 1 + np.arange(len(sought)), sought * len(sought)  # called, and false ones among them
        gain = np.where(self.false + expected <= rate * (before + count), count - 2 * expected, 0.0)
        if not len(gain) or gain.max() <= 0:
            return self
        last = int(gain.argmax())  # with the most right ones less false ones
        few = p <= sought[last]
        chosen = rows[few]
        called, p_values = self.called.copy(), self.p_values.copy()
        called[chosen], p_values[chosen] = True, p[few]
        share = max(self.share, float(called.mean()))
        more = int((~found[chosen]).sum())
        said = f"{more} are called for what their inputs have in common with the others'" if more else ""
        note = "; ".join(text for text in (self.note, said) if text)
        return replace(
            self, called=called, p_values=p_values, share=share, false=self.false + float(expected[last]), note=note
        )
