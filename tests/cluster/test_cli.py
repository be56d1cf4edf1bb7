# SPDX-License-Identifier: Apache-2.0
"""The command line as people type it."""
import subprocess

from quire_cluster import QUIRE, ROOT


def test_list_chat_generate_terminate(story):
    r = story.cli("list")
    assert r.returncode == 0
    header, dashes, row = r.stderr.splitlines()[:3]
    assert header.split()[:4] == ["UID", "Type", "Name", "Format"]
    assert set(dashes) <= {"-", " "} and row.split()[0] == "story"
    assert header.index("Type") == row.index("LLM"), "columns line up"

    r = story.cli("generate", "--model-uid", "story", "--temperature", "0", "--max-tokens", "16",
                  "Once upon a time")
    assert r.returncode == 0 and r.stdout.startswith("Once upon a time")
    assert len(r.stdout) > len("Once upon a time") + 10
    streamed = r.stdout
    r = story.cli("generate", "--model-uid", "story", "--temperature", "0", "--max-tokens", "16",
                  "--stream", "false", "Once upon a time")
    assert r.stdout == streamed

    r = story.cli("chat", "--model-uid", "story", "Hello")
    assert r.returncode == 1 and "generate" in r.stderr


def test_repl_reads_lines_and_ends_on_an_empty_one(story):
    r = story.cli("generate", "--model-uid", "story", "--max-tokens", "4", input="The dog\n\n")
    assert r.returncode == 0 and "The dog" in r.stdout


def test_launch_prints_the_uid_and_terminate_is_silent(story):
    r = story.cli("launch", "--model-name", "story", "--model-uid", "second")
    assert r.returncode == 0, r.stderr
    assert "Model uid: second" in r.stderr
    r = story.cli("terminate", "--model-uid", "second")
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")
    r = story.cli("terminate", "--model-uid", "second")
    assert r.returncode == 1 and "second" in r.stderr


def test_mistyped_names_offer_the_nearest(story):
    r = story.cli("launch", "--model-name", "smolm2")
    assert r.returncode == 1 and "smollm2" in r.stderr
    r = story.cli("launhc")
    assert r.returncode == 2 and "launch" in r.stderr
    r = story.cli("launch", "--model-nmae", "story")
    assert r.returncode == 2 and "--model-name" in r.stderr


def test_model_path_needs_no_registration(story):
    path = ROOT / "share/models/story-Q8_0.gguf"
    r = story.cli("launch", "--model-path", path, "--model-uid", "by-path")
    assert r.returncode == 0, r.stderr
    assert story.complete("by-path")["text"] == story.complete("story")["text"]
    story.cli("terminate", "--model-uid", "by-path")


def test_a_broken_file_is_named(story, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes((ROOT / "share/models/story-Q8_0.gguf").read_bytes()[:100000])
    r = story.cli("launch", "--model-path", bad, "--model-uid", "bad")
    assert r.returncode == 1 and "bad.gguf" in r.stderr
    assert "Model uid" not in r.stderr
    r = story.cli("launch", "--model-path", tmp_path / "none.gguf", "--model-uid", "none")
    assert r.returncode == 1 and "none.gguf" in r.stderr
    story.delete("/v1/models/bad")
    story.delete("/v1/models/none")


def test_registrations_survive_a_restart(cluster, tmp_path):
    import json
    first = cluster.start_all()
    spec = tmp_path / "my.json"
    spec.write_text(json.dumps({
        "version": 2, "model_name": "my-story", "model_lang": ["en"],
        "model_ability": ["generate"], "context_length": 512,
        "model_specs": [{"model_format": "ggufv2", "model_size_in_billions": "0_003",
                         "quantization": "q8_0",
                         "model_uri": str(ROOT / "share/models/story-Q8_0.gguf")}]}))
    r = cluster.cli("register", "--file", spec, "--persist")
    assert r.returncode == 0, r.stderr
    assert "my-story" in cluster.cli("registrations").stderr
    cluster.stop()
    cluster.procs.remove(first)
    cluster.start_all()
    table = cluster.cli("registrations").stderr
    assert "my-story" in table and "smollm2" in table
    r = cluster.cli("launch", "--model-name", "my-story")
    assert r.returncode == 0, r.stderr
    assert cluster.complete("my-story")["text"]
    assert cluster.cli("unregister", "--model-name", "my-story").returncode == 0
    assert "my-story" not in cluster.cli("registrations").stderr
    r = cluster.cli("register", "--file", tmp_path / "none.json")
    assert r.returncode == 1 and r.stderr.count("none.json") == 1, "the file is named once"
    spec.write_text("{")
    r = cluster.cli("register", "--file", spec)
    assert r.returncode == 1 and "my.json" in r.stderr and "line 1" in r.stderr


def test_no_cluster_says_what_to_do(tmp_path):
    r = subprocess.run([QUIRE, "list", "--endpoint", "http://127.0.0.1:9"], capture_output=True,
                       text=True)
    assert r.returncode == 1 and "quire start" in r.stderr


def test_every_command_teaches():
    names = subprocess.run([QUIRE, "--help"], capture_output=True, text=True)
    assert names.returncode == 0
    commands = [line.split()[0] for line in names.stdout.splitlines()
                if line.startswith("  ") and line[2] != " " and not line.startswith("  quire")]
    assert {"start", "launch", "chat", "inspect", "logits", "bench"} <= set(commands)
    for name in commands:
        r = subprocess.run([QUIRE, name, "--help"], capture_output=True, text=True)
        assert r.returncode == 0 and "Usage: quire " + name in r.stdout, name
        assert "Examples:" in r.stdout, f"{name} --help shows no example"
        if name in ("start", "supervisor"):
            assert f"Examples:\n  quire {name}\n" in r.stdout


def test_open_binds_need_a_key_or_insecure(tmp_path):
    r = subprocess.run([QUIRE, "supervisor", "-H", "0.0.0.0", "-p", "0"], capture_output=True,
                       text=True, timeout=10, env={"QUIRE_HOME": str(tmp_path), "PATH": "/usr/bin"})
    assert r.returncode in (1, 2) and "--insecure" in r.stderr
