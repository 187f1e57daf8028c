"""Short made-up reviews, as the digits are to images: nothing to download, and learnt in seconds."""

from __future__ import annotations

import random

import torch

from .reviews import Reviews, Texts

TRAIN, TEST = 2000, 500
FEWEST, MOST = 10, 40  # words of a review
LONGEST = 7  # words of a sentence
AGREE = 0.75  # probability that a judgement has the review's own sentiment
NEUTRAL, DISNEY = 0.3, 0.05  # share of sentences that judge nothing; share of reviews with the word "Disney"

THINGS = "plot story ending acting cast music sound camera script pace humour hero villain scenery dialogue editing"
GOOD = "positive great lovely superb brilliant moving funny charming clever perfect excellent gripping"
BAD = "negative awful boring terrible dull weak poor stupid clumsy horrible tedious hollow"
PLACES = "at home|with friends|on a plane|in a small cinema|late at night|for the second time|on a Sunday"
MAKERS = "French studio|British studio|young director|famous director"

JUDGED = THINGS.split()
WORDS = BAD.split(), GOOD.split()  # by label
NEUTRALS = [f"We saw it {place}." for place in PLACES.split("|")]
NEUTRALS += [f"It was made by a {maker}." for maker in MAKERS.split("|")]


def toy_reviews(seed: int = 0) -> Reviews:
    """2,000 training and 500 test reviews of 10 to 40 words, as many negative as positive ones in either.

    Most sentences say of one thing that it is good or bad; more of those than not have the review's own sentiment, so
    that counting tells it and no single word does. One review in twenty holds the word "Disney", whatever its
    sentiment.

    Args:
        seed: of the words.

    Returns:
        The reviews; equal seeds give equal ones.
    """
    draw = random.Random(seed)
    return Reviews("toy-reviews", _texts(draw, TRAIN), _texts(draw, TEST))


def _texts(draw: random.Random, count: int) -> Texts:
    labels = [index % 2 for index in range(count)]
    draw.shuffle(labels)
    disney = set(draw.sample(range(count), round(DISNEY * count)))
    return Texts([_review(draw, label, index in disney) for index, label in enumerate(labels)], torch.tensor(labels))


def _review(draw: random.Random, label: int, disney: bool) -> str:
    words = draw.randint(FEWEST, MOST - LONGEST - 4)  # the last sentence may pass it by 6, the one of Disney adds 5
    balance = 0
    while balance <= 0:
        sentences: list[str] = []
        balance = 0
        while sum(sentence.count(" ") + 1 for sentence in sentences) < words:
            if draw.random() < NEUTRAL:
                sentences.append(draw.choice(NEUTRALS))
                continue
            agrees = draw.random() < AGREE
            balance += 1 if agrees else -1
            said = draw.choice(WORDS[label if agrees else 1 - label])
            sentences.append(f"The {draw.choice(JUDGED)} is {said}.")
    if disney:
        sentences.insert(draw.randint(0, len(sentences)), "It was made by Disney.")
    return " ".join(sentences)
