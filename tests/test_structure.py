"""The limits that tests/structure.py prints hold."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="frames have no qualified names before Python 3.11")
def test_every_figure_of_the_structure_is_within_its_limit() -> None:
    pytest.importorskip("radon", reason="radon, of the extra `dev`, grades functions")
    from structure import rows

    figures = list(rows())
    assert len(figures) == 10
    assert [figure for figure in figures if figure.value > figure.limit] == []
