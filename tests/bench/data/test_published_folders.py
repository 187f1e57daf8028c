"""The presets of Imagenette and ImageNet, from folders in the published layout to rows, at the size of a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from potion_fast.bench.sweep import load_sweep, run_sweep
from potion_fast.bench.sweep.plan import make_plan

CLASSES = ("n01440764", "n02102040")
SMALL = ["train.model=timm:vit_tiny_patch16_224", "train.pretrained=false", "train.device=cpu", "train.patch_size=21"]
SMALL += ["train.iterations=3", "train.batch_size=4", "poisoned=[3]", "found=[1.0]", "methods=[ptn-xlf]", "curve=0"]
SMALL += ["rho=[0.5]", "s_step=[2]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs of several sizes: Imagenette as its archive unpacks, and ImageNet's train/ and val/."""
    roots = {name: tmp_path_factory.mktemp(name) for name in ("imagenette", "imagenet")}
    rng = np.random.default_rng(0)
    for name, root in roots.items():
        inner = root / "imagenette2-320" if name == "imagenette" else root
        for label, wnid in enumerate(CLASSES):
            for split, count in (("train", 6), ("val", 2)):
                (inner / split / wnid).mkdir(parents=True)
                for index in range(count):
                    pixels = rng.integers(0, 256, (240 + 20 * index, 320 - 30 * label, 3), dtype=np.uint8)
                    named = (
                        f"{wnid}_{index}.JPEG" if split == "train" else f"ILSVRC2012_val_{10 * label + index:08}.JPEG"
                    )
                    Image.fromarray(pixels).save(inner / split / wnid / named, "JPEG")
    return roots


@pytest.mark.parametrize(("preset", "data", "poison"), [
    ("potion/table3", "imagenette", "sine-wave"),
    ("potion/table5", "imagenet", "badnet"),
])  # fmt: skip
def test_a_preset_goes_from_photographs_to_a_row(
    folders: dict[str, Path], preset: str, data: str, poison: str, tmp_path: Path
):
    overrides = [each for each in SMALL if poison != "sine-wave" or "patch_size" not in each]
    result = run_sweep(preset, tmp_path / "out", overrides=overrides, root=str(folders[data]))
    assert result["undone"] == []
    rows = [row for path in (tmp_path / "out" / "results").iterdir() for row in json.loads(path.read_text())["rows"]]
    assert {(row["data"], row["method"], row["found"]) for row in rows} == {(data, "ptn-xlf", 3)}
    training = (tmp_path / "out" / "models").glob("*/config.yaml")
    texts = [path.read_text() for path in training]
    assert len(texts) == 2 and all("optimizer: adamw" in text and f"poison: {poison}" in text for text in texts)


@pytest.mark.parametrize("preset", ["potion/table3", "potion/table5"])
def test_a_preset_fine_tunes_the_papers_model_as_the_paper_says(preset: str):
    config = next(iter(make_plan(load_sweep(preset)).trainings.values())).config.resolved()
    assert config.model == "timm:vit_base_patch16_224.augreg_in21k_ft_in1k" and config.pretrained
    assert (config.optimizer, config.lr, config.to_dict().get("patch_size", 21)) == ("adamw", 2.5e-4, 21)
