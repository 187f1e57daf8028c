"""Labels for suspects: sources, the choice of one, and what it proposes."""

from .propose import Source, propose_labels
from .proposed_labels import ProposedLabels

__all__ = ["ProposedLabels", "Source", "propose_labels"]
