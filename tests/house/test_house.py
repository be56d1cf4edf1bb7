# SPDX-License-Identifier: Apache-2.0
"""The house rules that a compiler does not check: who includes whom, licences, headers."""
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = [p for d in ("base", "proto", "quant", "worker", "supervisor", "client", "main", "tests")
           for p in sorted((ROOT / d).rglob("*.[ch]"))]

# folder -> folders whose headers it may include (besides its own): calls go down, never up or
# sideways. The longest matching prefix rules. `proto` includes generated messages.
MAY = {
    "base": [],
    "proto": ["base"],
    "quant": ["base"],
    "worker/model": ["base", "quant"],
    "worker/cpu": ["base", "quant", "worker/model"],
    "worker/text": ["base", "quant"],
    "worker/engine": ["base", "quant", "proto", "worker/model", "worker/cpu", "worker/text"],
    "worker/agent": ["base", "quant", "proto", "worker/model"],
    "worker/tools": ["base", "quant", "worker/model", "worker/cpu", "worker/text",
                     "worker/engine"],
    "supervisor/http": ["base"],
    "supervisor/store": ["base"],
    "supervisor/control": ["base", "proto", "supervisor/store"],
    "supervisor/gateway": ["base", "proto", "supervisor/control"],
    "supervisor/api": ["base", "proto", "supervisor/http", "supervisor/control",
                       "supervisor/gateway"],
    "supervisor": ["base", "proto", "supervisor/http", "supervisor/control",
                   "supervisor/gateway", "supervisor/api", "supervisor/store"],
    "client": ["base"],
    "main": ["base", "client", "supervisor", "worker/agent", "worker/engine", "worker/tools"],
}

# A third-party header -> the only places that may include it.
OWNERS = {
    r"grpc/|protobuf-c/": ["proto"],
    r"jansson\.h": ["base/json.c"],
    r"openssl/|xxhash": ["base/hash.c"],
    r"llhttp": ["supervisor/http"],
    r"sqlite3\.h": ["supervisor/store"],
    r"curl/": ["client/api_client.c"],
    r"editline/": ["client"],
    r"utf8proc\.h": ["worker/text"],
    r"(immintrin|arm_neon)\.h": ["quant", "worker/cpu", "worker/tools"],
    r"uv\.h": ["supervisor", "worker/agent"],
}


def folder_of(path):
    rel = path.relative_to(ROOT).as_posix()
    hits = [f for f in MAY if rel.startswith(f + "/")]
    return max(hits, key=len) if hits else None


def includes(path):
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.M)


def test_there_are_sources():
    assert len(SOURCES) > 50


def test_calls_go_down():
    wrong = []
    for path in SOURCES:
        own = folder_of(path)
        if own is None:
            continue
        for inc in includes(path):
            target = ROOT / inc
            if not target.exists() or "/" not in inc:
                continue
            other = folder_of(target)
            if other and other != own and other not in MAY[own]:
                wrong.append(f"{path.relative_to(ROOT)} includes {inc}")
    assert not wrong, "\n".join(wrong)


def test_libraries_have_one_owner():
    wrong = []
    for path in SOURCES:
        rel = path.relative_to(ROOT).as_posix()
        if rel.startswith("tests/"):
            continue
        for inc in includes(path):
            for pattern, owners in OWNERS.items():
                if re.match(pattern, inc) and not any(
                        rel == o or rel.startswith(o + "/") for o in owners):
                    wrong.append(f"{rel} includes {inc}")
    assert not wrong, "\n".join(wrong)


def test_every_source_names_its_licence():
    files = SOURCES + sorted((ROOT / "proto").glob("*.proto")) + sorted(ROOT.rglob("*.sh"))
    wrong = [str(p.relative_to(ROOT)) for p in files
             if "build" not in p.relative_to(ROOT).parts
             and "SPDX-License-Identifier: Apache-2.0" not in p.read_text()[:200]]
    assert not wrong, wrong


def test_header_names_are_unique():
    seen, twice = {}, []
    for path in SOURCES:
        if path.suffix == ".h":
            if path.name in seen:
                twice.append(path.name)
            seen[path.name] = path
    assert not twice, twice


# *_simd.h are bodies shared by the files of several instruction sets, not interfaces.
@pytest.mark.parametrize("header", [p for p in SOURCES if p.suffix == ".h" and
                                    "tests" not in p.parts and not p.stem.endswith("_simd")],
                         ids=lambda p: p.relative_to(ROOT).as_posix())
def test_header_compiles_alone(header):
    text = header.read_text()
    if "immintrin.h" in text:
        pytest.skip("needs the flags of one instruction set")
    made = sorted(ROOT.glob("build/*/gen/**/*.h"), key=lambda h: h.stat().st_mtime)
    gen = made[-1].relative_to(ROOT).parts[:3] if made else None  # of the newest build
    cmd = ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-DQUIRE_VERSION=\"0\"", "-Wall", "-Wextra",
           "-Wundef", "-Werror", f"-I{ROOT}", "-isystem/usr/share/include", "-fsyntax-only",
           "-x", "c", str(header)]
    if gen:
        cmd.insert(1, f"-isystem{ROOT.joinpath(*gen)}")
    result = subprocess.run(cmd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
