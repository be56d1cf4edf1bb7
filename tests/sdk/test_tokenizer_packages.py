# SPDX-License-Identifier: Apache-2.0
"""Quire's tokenisers against the packages that define them, on random texts: a short run of
tests/tools/compare_tokenizers.py, which says what counts as equal."""
import argparse
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tools"))

import compare_tokenizers  # noqa: E402


def test_files_that_nobody_wrote(tmp_path):
    """tests/tools/random_tokenizers.py for a few seconds."""
    pytest.importorskip("tokenizers", reason="the Python package tokenizers is not installed")
    pytest.importorskip("sentencepiece", reason="the Python package sentencepiece is not installed")
    import random

    import random_tokenizers as rt
    args = argparse.Namespace(quire=ROOT / "build/release/quire")
    bases, same = rt.base_models(), 0
    for i in range(70):
        r = random.Random(f"test {i}")
        tree = rt.configuration(r, bases)
        try:
            got = rt.check_apart(args, tree, rt.texts(r, 8), tmp_path / "tokenizer.json")
        except rt.Skipped:
            continue
        # Equal, or refused with the name of what is not built.
        assert not got or (isinstance(got, str) and "not supported" in got), (i, got)
        same += got is None
    assert same > 25


@pytest.mark.parametrize("kind", ["made", "found"])
def test_same_as_the_packages(tmp_path, kind):
    pytest.importorskip("tokenizers", reason="the Python package tokenizers is not installed")
    pytest.importorskip("sentencepiece", reason="the Python package sentencepiece is not installed")
    if kind == "found" and not compare_tokenizers.DATA.is_dir():
        pytest.skip(f"no test data in {compare_tokenizers.DATA}")
    args = argparse.Namespace(quire=ROOT / "build/release/quire", data=compare_tokenizers.DATA,
                              count=40, seed=2)
    made = compare_tokenizers.made if kind == "made" else compare_tokenizers.found
    n = 0
    for name, path, package in made(args, tmp_path):
        _, age, wrong = compare_tokenizers.compare(args, path, package(path))
        assert not wrong, f"{name}: {wrong[0]}"
        assert age <= 3, name  # of 59 texts; none with the tables of 2026
        n += 1
    assert n > 10
