# SPDX-License-Identifier: Apache-2.0
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from quire_cluster import ROOT

MODULES = ROOT / "build/node/node_modules"


@pytest.mark.skipif(not shutil.which("node") or not (MODULES / "openai").is_dir(),
                    reason="node or its openai package is not installed")
def test_streamed_chat(chat_cluster):
    r = subprocess.run(["node", pathlib.Path(__file__).parent / "openai_stream.mjs"],
                       capture_output=True, text=True, timeout=120,
                       env=dict(os.environ, ENDPOINT=chat_cluster.endpoint,
                                NODE_MODULES=str(MODULES)))
    assert r.returncode == 0, r.stderr
    answer = json.loads(r.stdout)
    assert "Ada" in answer["text"] and answer["chunks"] > 3
    assert answer["reason"] == "stop" and answer["missing"] == 404
