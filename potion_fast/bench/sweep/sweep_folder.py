"""The folder of a sweep: its results, and which process is at work on what."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from ...errors import FileError, PotionError
from ...user.read_data import read_yaml
from ...user.run_folder import RunFolder, versions
from ...utils.atomic_files import UNFINISHED
from .config import SweepConfig, identity
from .plan import Crafting, RetainPass, SweepPlan, Task, Training, Unlearning
from .retain import RetainImportances
from .rows import Row, file_content


class SweepFolder:
    """A sweep's results.

    sweep.yaml            its configuration, and the versions it ran on
    models/KEY/           folders of `potion-fast train`
    crafted/KEY/          folders of `potion-fast craft`
    importances/KEY/      done.json, and until all that need them are done the importances of a pass
    results/KEY.json      the rows of an unlearning, and what was measured
    locks/KEY             held while it is worked on

    Everything is made elsewhere and then renamed: what is there is whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.run = RunFolder(path)

    @classmethod
    def begin(cls, path: str | os.PathLike[str], config: SweepConfig) -> SweepFolder:
        """A new folder, or that of an earlier start of this sweep.

        Raises:
            FileError: something else is there.
        """
        folder = cls(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            if not all(UNFINISHED.fullmatch(entry.name) for entry in folder.path.iterdir()):  # else it was killed here
                folder.check(config)
            content = {"command": "sweep", "config": config.model_dump(), "versions": versions("cpu")}
            folder.run.write_text("sweep.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
            for name in ("models", "crafted", "importances", "results", "locks"):
                (folder.path / name).mkdir(exist_ok=True)
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"cannot make the folder {path} of a sweep: {error}") from error
        return folder

    def place(self, task: Task) -> Path:
        """The folder or file that a task makes."""
        if isinstance(task, Training):
            return self.path / "models" / task.key
        if isinstance(task, Crafting):
            return self.path / "crafted" / task.key
        if isinstance(task, RetainPass):
            return self.path / "importances" / task.key
        return self.path / "results" / f"{task.key}.json"

    def done(self, task: Task, plan: SweepPlan) -> bool:
        """Whether there is nothing left to do for a task: a pass whose importances nobody needs any more is done."""
        if not isinstance(task, RetainPass):
            return self.place(task).exists()
        if all(self.place(unit).exists() for unit in plan.readers(task)):
            return True
        return all(
            self.retain_file(task, found, objective).exists() for found in task.founds for objective in task.objectives
        )

    def retain_file(self, task: RetainPass, found: int, objective: str) -> Path:
        """Of Ω_r for so large an S_f."""
        return self.place(task) / f"found{found}-{objective}.safetensors"

    def drop_unneeded(self, retain: RetainPass | None, plan: SweepPlan) -> None:
        """Remove the importances of a pass if all that need them are done."""
        if retain is not None and all(self.place(reader).exists() for reader in plan.readers(retain)):
            for path in self.place(retain).glob("*.safetensors"):
                path.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, task: Task) -> Iterator[bool]:
        """Whether this process has the task to itself in the block. It loses it when it ends, however it ends."""
        import fcntl  # not on Windows, where all else works

        with (self.path / "locks" / task.key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            for leftover in self._left_behind(task):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield True

    def _left_behind(self, task: Task) -> list[Path]:
        """What a process that was killed left unfinished: of a crafting only temporary files, as it is resumed."""
        place = self.place(task)
        if isinstance(task, Crafting):
            return list(_unfinished(place).glob(".*.part"))
        return list(place.parent.glob(f".{place.name}.*part"))

    @contextmanager
    def made(self, task: Task) -> Iterator[Path]:
        """A folder of another name, for a claimed task, which gets its own when the block ends well."""
        place = self.place(task)
        temporary = _unfinished(place)
        yield temporary
        if place.exists():
            shutil.rmtree(place)
        os.replace(temporary, place)

    def write_retain(self, task: RetainPass, done: Mapping[int, RetainImportances], wall: float) -> None:
        """The importances of a pass by |S_f|, the seconds of what went into each, and of all."""
        with self.made(task) as place:
            place.mkdir()
            for found, (importances, _) in done.items():
                for importance in importances:
                    importance.save(place / self.retain_file(task, found, importance.objective).name)
            seconds = {found: spent for found, (_, spent) in done.items()}
            RunFolder(place).write_json("done.json", {"seconds": seconds, "wall": wall})

    def retain_seconds(self, task: RetainPass, found: int) -> float:
        """Of the pass that gave Ω_r for so large an S_f, or of as much of it as went into that."""
        return float(RunFolder(self.place(task)).read_json("done.json")["seconds"][str(found)])

    def write(self, unit: Unlearning, rows: Sequence[Row], seconds: float) -> None:
        """The rows of an unlearning, and how long all of it took."""
        RunFolder(self.path / "results").write_json(f"{unit.key}.json", file_content(rows, seconds))

    def check(self, config: SweepConfig) -> None:
        """Raise FileError unless another start of this sweep adds to what is here."""
        try:
            content = read_yaml(self.path / "sweep.yaml")
            before, now = identity(SweepConfig.from_dict(content["config"])), identity(config)
        except (PotionError, KeyError, TypeError) as error:
            raise FileError(f"{self.path} is not the folder of a sweep; choose another folder ({error})") from error
        if other := [name for name, value in before.items() if now[name] != value]:
            name = other[0]
            raise FileError(
                f"{self.path} holds a sweep with {name} {before[name]!r}, not {now[name]!r}; choose another folder"
            )


def _unfinished(place: Path) -> Path:
    """The folder that becomes this one."""
    return place.with_name(f".{place.name}.part")
