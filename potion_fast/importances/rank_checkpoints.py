"""Checkpoints of a pass on several ranks: a file for each, from which another number of ranks can resume."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

from ..distributed.ranks import Ranks
from ..distributed.sampler import Ranges, ShareSampler, beginning, joined, within
from ..errors import DataError, FileError
from .checkpoints import PassCheckpoint, Position


@dataclass(kw_only=True)
class RankCheckpoints(PassCheckpoint):
    """Stores this rank's sums next to those of the other ranks, in `path.rank0`, `path.rank1`, ...

    Each file holds the samples of the global order that its sums are of. A rank that resumes loads the sums of one
    file or several, and the samples of no file are partitioned anew. The file of this process's own number is
    overwritten and the others removed only once it holds their content, so that a process that is killed leaves one or
    the other.

    Attributes:
        ranks: The ranks.
        sampler: Partitions the samples among them.
        carried: Samples that were taken over.
        carried_terms: Groups of them.
        taken: Files whose sums are in ours.
    """

    ranks: Ranks
    sampler: ShareSampler
    carried: Ranges = field(default_factory=list)
    carried_terms: int = 0
    taken: list[Path] = field(default_factory=list)

    def begin(self, resume: bool) -> None:
        """On all ranks: take over the files that are there, or remove them.

        Args:
            resume: Take them over.

        Raises:
            FileError: A file is truncated or foreign.
            ImportanceError: A file is of another pass.
        """
        parts = []
        with self.ranks.raising_together():
            for path in self._files():
                if resume:
                    content, sums = self.read(path)
                    parts.append((path, *self._checked(path, content.get("done"), content.get("terms")), sums))
                else:
                    path.unlink(missing_ok=True)
        done_by_rank = self.ranks.all_gather([done for _, done, _, _ in parts])
        everyone = [done for of_rank in done_by_rank for done in of_rank]
        first = sum(map(len, done_by_rank[: self.ranks.rank]))
        kept = [not self._superseded(i, everyone) for i in range(len(everyone))]
        try:
            self.sampler.skip(joined(*(done for done, keep in zip(everyone, kept, strict=True) if keep)))
        except DataError as error:
            raise FileError(f"the files {self.path}.rank* are not of one pass; remove them: {error}") from error
        for (path, done, terms, sums), keep in zip(parts, kept[first:], strict=False):
            self.taken.append(path)
            if keep:
                self.carried = joined(self.carried, done)
                self.carried_terms += terms
                for own, loaded in zip(self.sums, sums, strict=True):
                    own += loaded.to(own.device)

    @staticmethod
    def _superseded(i: int, parts: list[Ranges]) -> bool:
        """Whether another file has the samples too, of a process that was killed before it removed this one."""
        return not parts[i] or any(
            within(parts[i], other) and (j < i or not within(other, parts[i]))
            for j, other in enumerate(parts)
            if j != i
        )

    def _checked(self, path: Path, done: object, terms: object) -> tuple[Ranges, int]:
        try:
            ranges = [(start, stop) for start, stop in done]  # type: ignore[attr-defined]
            bounds = [0, *(bound for part in ranges for bound in part), self.sampler.total]
            rising = all(type(bound) is int for bound in bounds) and bounds == sorted(bounds)
            if rising and type(terms) is int and 0 <= terms <= sum(stop - start for start, stop in ranges):
                return ranges, terms
        except (TypeError, ValueError):
            pass
        raise FileError(f"{path} cannot be read as an interrupted pass, it is damaged: its samples are {done!r:.80}")

    @override
    def finished(self, position: Position, without_rule: Iterable[str], kept: bool) -> None:
        """This rank's share is done, and written to its file: the others may take long, or never come."""
        if (kept or self.ranks.size > 1) and position.samples:
            self.saved = -math.inf
            self.reached(position)
        self.position = position

    def total(self) -> tuple[int, int]:
        """Samples and groups that this rank's sums are of, those taken over included."""
        carried = sum(stop - start for start, stop in self.carried)
        return self.position.samples + carried, self.position.terms + self.carried_terms

    @override
    def save(self) -> None:
        done = joined(self.carried, beginning(self.sampler.ranges(), self.position.samples))
        self.write(self._own(), {"done": done, "terms": self.total()[1]})
        self._forget(keep=self._own())

    @override
    def remove(self) -> None:
        self._own().unlink(missing_ok=True)
        self._forget(keep=None)

    def _forget(self, keep: Path | None) -> None:
        for path in self.taken:
            if path != keep:
                path.unlink(missing_ok=True)
        self.taken = []

    def _own(self) -> Path:
        return Path(f"{self.path}.rank{self.ranks.rank}")

    def _files(self) -> Iterator[Path]:
        """Those that this rank takes over: every one is some rank's, and its own number is among its."""
        whole = Path(self.path)
        for path in sorted(whole.parent.iterdir() if whole.parent.is_dir() else ()):
            match = re.fullmatch(re.escape(whole.name) + r"\.rank(\d+)", path.name)
            if match and int(match[1]) % self.ranks.size == self.ranks.rank:
                yield path
