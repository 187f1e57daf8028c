"""`potion-fast tokenize`: IMDB's published reviews as tokens."""

from __future__ import annotations

import argparse

from ..bench.runs.tokenize import VOCABULARY, tokenize
from .output import DONE, Options, add_json, print_json, print_text


def add_tokenize(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tokenize`."""
    add_json(parser)
    parser.add_argument("root", metavar="ROOT", help="the published folder aclImdb, which holds train/ and test/")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
    parser.add_argument(
        "--vocabulary", type=int, metavar="N", help=f"tokens of a tokenizer that is trained (default: {VOCABULARY})"
    )
    parser.add_argument(
        "--tokenizer", metavar="NAME|DIR", help="instead, one of a folder or of Hugging Face's hub, as gpt2"
    )
    parser.add_argument("--download", action="store_true", help="download that tokenizer unless it is in the cache")
    parser.add_argument("--word", metavar="WORD", help="also count the reviews that hold it, by each rule")


def run_tokenize(options: Options) -> int:
    """Write the tokens, and print how many there are."""
    names = ("root", "out", "vocabulary", "tokenizer", "download", "word")
    content = tokenize(**{name: options[name] for name in names})
    if options["json"]:
        print_json(content)
        return DONE
    for name in ("train", "test"):
        print_text(f"{name}: {content[name]['texts']:,} reviews, {content[name]['tokens']:,} tokens")
    for rule, counts in content["holding"].items():
        held = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print_text(f"{content['word']}, {rule}: {held}")
    print_text(f"vocabulary: {content['vocabulary']:,} tokens")
    print_text(f"folder: {options['out']}")
    return DONE
