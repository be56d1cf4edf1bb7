# SPDX-License-Identifier: Apache-2.0
"""Quire's Jinja against the package that defines it, on random programs and on real templates with
conversations of all kinds: a short run of tests/tools/compare_templates.py, which says what counts as equal."""
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tools"))
QUIRE = ROOT / "build/release/quire"


@pytest.fixture(scope="module")
def tool():
    pytest.importorskip("jinja2", reason="the Python package jinja2 is not installed")
    import compare_templates
    return compare_templates


def test_random_programs(tool):
    cases = list(tool.made_templates.programs("sdk", 1200))
    counts, wrong = tool.compare(QUIRE, cases)
    assert not wrong, wrong[0]
    assert counts["equal"] > 400, counts


def test_real_templates(tool):
    folder = tool.DATA / "templates/jinja"
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}")
    named = list(tool.found([folder], 1, 15))
    counts, wrong = tool.compare(QUIRE, [(t, v) for _, t, v in named])
    assert not wrong, wrong[0]
    assert counts["equal"] > 200, counts
