from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from helpers.figures import kept_figures, texts_in_each_other
from potion_fast.user import contact_sheet
from potion_fast.user.contact_sheet import COLUMNS, Sample, draw_contact_sheet
from potion_fast.user.drawing import DPI, WIDTH


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn."""
    return kept_figures(monkeypatch, contact_sheet)


def sample(index: int, **changes: Any) -> Sample:
    values: dict[str, Any] = {"image": torch.full((3, 32, 32), 0.5), "score": 1.0, "given": "airplane"}
    return Sample(**{"index": index, "proposed": "ship", "found": False, **values, **changes})


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_no_text_is_cut_off_or_lies_in_another(tmp_path: Path, figures: list[Figure]):
    long = [
        sample(1281166 - k, score=-1.2345e-7, given="n0144076_$tench^", proposed="N01443537_GOLDFISH")
        for k in range(11)
    ]
    groups = {"most suspect, of 12,345 suspects": long, "no suspects, nearest the line": long[:8], "nobody": []}
    draw_contact_sheet(tmp_path / "a.png", groups)
    assert texts_in_each_other(figures[0]) == []
    assert "nobody" not in texts(figures[0])
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == round(WIDTH * DPI)
        assert image.getpixel((2, 2))[:3] == (255, 255, 255)


def test_each_sample_has_index_score_and_both_labels_and_a_frame_where_it_was_found(
    tmp_path: Path, figures: list[Figure]
):
    samples = [
        sample(17, score=2.34567),
        sample(4, proposed="airplane"),
        sample(5, proposed=None, score=None, found=True),
    ]
    draw_contact_sheet(tmp_path / "a.png", {"these": samples})
    lines = [[text.get_text() for text in axes.texts if text.get_text()] for axes in figures[0].axes]
    assert lines == [["17   2.35", "airplane", "→ ship"], ["4   1", "airplane", "kept"], ["5", "airplane"]]
    assert [axes.spines["left"].get_linewidth() > 1 for axes in figures[0].axes] == [False, False, True]


def test_a_row_that_is_full_makes_the_page_longer(tmp_path: Path, figures: list[Figure]):
    for count in (COLUMNS, COLUMNS + 1):
        draw_contact_sheet(tmp_path / "a.png", {"these": [sample(k) for k in range(count)]})
    first, second = (figure.get_figheight() for figure in figures)
    assert second > first + contact_sheet.SIDE
