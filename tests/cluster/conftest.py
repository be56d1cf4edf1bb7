# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from quire_cluster import QUIRE, Cluster  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def program():
    assert QUIRE.exists(), f"build the program first: {QUIRE}"


@pytest.fixture
def cluster(tmp_path):
    """An empty cluster of one's own: start what you need."""
    c = Cluster(tmp_path)
    yield c
    c.kill()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A running cluster with the built-in model, shared by the tests of one file."""
    c = Cluster(tmp_path_factory.mktemp("story"))
    c.start_all()
    c.launch(model_name="story", model_uid="story")
    yield c
    c.kill()
