"""Configuration of what is done with a user's own model and data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator
from typing_extensions import Self

from ..relabel import Source
from .device import resolved_device
from .own_data import Augmentation
from .schema import Deviations, Means, Schema, setting
from .shared_fields import (
    amp_field,
    device_field,
    label_errors_field,
    labels_field,
    max_damage_field,
    rate_field,
    seed_field,
    workers_field,
)

TRIGGER_FORMS = (
    "a square COLOUR:SIZE:PLACE, such as white:6:bottom-right or #ff0000:3:20,24 (row, column of its upper left "
    "corner); module:function, code that is run on batches of inputs; or two folders of the same images, WITH,WITHOUT"
)
DATA = (
    "a folder of class folders, a CSV of path (or text) and label, a folder of datasets' save_to_disk, .npz, "
    "images.npy,labels.npy, or module:factory"
)


def _as_names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]


class OwnConfig(Schema):
    """A model of the user's own, and the data that it was trained on."""

    weights: str | None = setting(
        None,
        "your model's weights: .pth, .pt, .safetensors, or a Hugging Face folder; in place of RUN",
        metavar="PATH",
        default_text="none, RUN is healed",
    )
    model: str | None = setting(
        None,
        "architecture of the weights: timm:NAME, torchvision:NAME, hf:FOLDER or module:factory, code that is run; of "
        "RUN, where that is a module:factory",
        metavar="NAME",
        default_text="a Hugging Face folder's, or the training's",
    )
    data: str | None = setting(
        None,
        f"training data: {DATA}; of RUN, where that is a module:factory",
        metavar="DATA",
        default_text="the training's",
    )
    plain_data: str | None = setting(
        None,
        "the same samples without augmentation, where the data of a module:factory are augmented at random",
        metavar="DATA",
        default_text="--data",
    )
    validation: str | None = setting(
        None,
        "clean samples that the model has not seen, in a form of --data",
        metavar="DATA",
        default_text="none, a part of the training data is kept out",
    )
    split: str = setting("train", "of a data set of datasets, which split was trained on", metavar="NAME")
    classes: Names | None = setting(
        None,
        "names of the classes with commas between them, in the order of the model's outputs",
        metavar="NAMES",
        default_text="the model's own, or in alphabetical order",
    )
    image_size: int | None = setting(
        None,
        "side that images are scaled and cropped to",
        metavar="PIXELS",
        default_text="by the model's configuration; of module:factory as they are",
        ge=1,
    )
    mean: Means | None = setting(
        None,
        "mean of each channel, of pixels in [0, 1], that images are normalised by",
        metavar="X",
        default_text="by the model's configuration; of module:factory 0",
        many=True,
    )
    std: Deviations | None = setting(
        None,
        "standard deviation of each channel, of pixels in [0, 1]",
        metavar="X",
        default_text="by the model's configuration; of module:factory 1",
        many=True,
    )
    augment: Augmentation = setting("none", "how training images were augmented: random crops, mirrored")
    length: int | None = setting(
        None, "tokens of a text that the model reads", metavar="N", default_text="the model's most", ge=2
    )
    found: str | None = setting(
        None,
        "the poisoned samples that were found: .txt, .csv, .json or .npy of indices or file names, 3,14,15, or a "
        "folder with copies of the images",
        metavar="FILE",
        default_text="found.txt of RUN",
    )
    batch_size: int | None = setting(
        None, "samples per batch", metavar="N", default_text="the training's; with --weights 128, of texts 32", ge=1
    )
    seed: int = seed_field()
    device: str = device_field()
    workers: int = workers_field()

    def resolved(self) -> Self:
        """The same with a device.

        Raises:
            ModelError: the device is not there.
        """
        return self.updated(device=resolved_device(self.device))


class OwnFindConfig(OwnConfig):
    """The search for poison in a user's own training data; see `potion_fast.suspects`."""

    trigger: str | None = setting(
        None,
        f"the trigger, where it is known: {TRIGGER_FORMS}",
        metavar="TRIGGER",
        default_text="none, it is not known",
    )
    label_errors: bool = label_errors_field()
    rate: float = rate_field()
    amp: Literal["bfloat16", "float16"] | None = amp_field()


class OwnHealConfig(OwnConfig):
    """Healing a model of the user's own; see `potion_fast.heal`."""

    suspects: str | None = setting(
        None,
        "the suspects: suspects.csv of an earlier healing, perhaps edited, or samples as of --found",
        metavar="FILE",
        default_text="none, they are sought",
    )
    rate: float = rate_field()
    labels: Source = labels_field()
    max_damage: float = max_damage_field()
    amp: Literal["bfloat16", "float16"] | None = amp_field()
    compiled: bool = setting(False, "compile the model")
