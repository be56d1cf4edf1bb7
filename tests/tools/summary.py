#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Add up JUnit result files: list what failed and why tests were skipped, then one line
`N passed, N failed, N skipped`. Exit status 1 if anything failed or nothing ran.

Usage: summary.py FOLDER [name of a step that failed ...]
"""
import pathlib
import sys
import xml.etree.ElementTree as ET


def main():
    folder, broken_steps = pathlib.Path(sys.argv[1]), sys.argv[2:]
    passed, failed, skipped = 0, list(broken_steps), []
    for path in sorted(folder.glob("*.xml")):
        for case in ET.parse(path).getroot().iter("testcase"):
            name = f"{path.stem}: {case.get('classname', '')}.{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None \
                    or case.get("status") == "fail":
                failed.append(name)
            elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
                skipped.append(name)
            else:
                passed += 1
    for name in skipped:
        print("skipped", name)
    for name in failed:
        print("FAILED", name)
    tail = f", {len(skipped)} skipped" if skipped else ""
    print(f"{passed} passed, {len(failed)} failed{tail}")
    return 1 if failed or passed == 0 else 0


sys.exit(main())
