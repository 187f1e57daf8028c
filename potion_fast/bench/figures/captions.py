"""What the picture of a healing says of each kind of attack."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..attacks import TriggerWord
from ..data.text import TextSplits
from ..runs.scenario import Scenario


@dataclass(frozen=True)
class Words:
    """What a kind of attack is called in the picture.

    attacked       the images that it is judged by, in the legend
    right, images  of the title: "triggered images right: …; clean images right: …"
    found          what the dotted line counts
    shown, none    above the images; instead of them, where the poisoned model does what the attack wants with none.
                   {} stands for the target's name
    clean, samples in the legend, and what all of them are
    """

    attacked: str
    right: str
    images: str
    found: str
    shown: str
    none: str
    clean: str = "clean test images"
    samples: str = "images"


OWN, POISONS = "their label", "the poison's label"  # of the found samples
WORDS = {
    "trigger": Words(
        "triggered test images",
        "triggered images right",
        "clean images right",
        POISONS,
        "the poisoned model says “{}”; the healed one:",
        "the poisoned model gives no triggered test image\nof another class “{}”",
    ),
    "swap": Words(
        "mislabelled images",
        "mislabelled right",
        "clean right",  # the longer words leave no room
        POISONS,
        "the poisoned model repeats the label; the healed one:",
        "the poisoned model gives no mislabelled training image\nits wrong label",
    ),
    "gaussian": Words("base images", "", "clean images right", OWN, "", ""),
    "targeted": Words(
        "target images",
        "target right",
        "clean images right",
        OWN,
        "of a target the poisoned model says “{}”; the healed one:",
        "the poisoned model gives no target image\nthe intended label “{}”",
    ),
    "indiscriminate": Words(
        "",
        "",
        "test images right",
        OWN,
        "the poisoned model gets these wrong; the healed one:",
        "the poisoned model gets every test image right",
    ),
}

TRIGGER_WORD = Words(
    "reviews with the word",
    "reviews with the word right",
    "test reviews right",
    POISONS,
    "the poisoned model says “{}”; the healed one:",
    "the poisoned model gives no test review with the word\nthe poison's label",
)
FLIPPED = replace(TRIGGER_WORD, shown="the poisoned model says the other sentiment; the healed one:")


def words_of(scenario: Scenario) -> Words:
    """What its attack is called; texts are reviews."""
    if not isinstance(scenario.splits, TextSplits):
        return WORDS[scenario.poison.kind]
    words = WORDS[scenario.poison.kind]
    if isinstance(scenario.poison, TriggerWord):
        words = TRIGGER_WORD if scenario.poison.reading == "label-word" else FLIPPED
    return Words(**{name: text.replace("image", "review") for name, text in asdict(words).items()})
