#!/usr/bin/env python3
"""One table of what ctest's JUnit files say, a column a file: table.py build/PRESET/FILE.xml...

The status is 1 when a test failed or a file is missing.
"""
import os
import sys
import xml.etree.ElementTree


def outcomes_of(path):
    """{test: (outcome, seconds)}"""
    outcomes = {}
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        skipped = case.find("skipped")  # one that could not be started is there, too
        if skipped is not None and skipped.get("message", "").startswith("SKIP_"):
            outcome = "skipped"
        else:
            outcome = "clean" if case.get("status") == "run" else "FAILED"
        outcomes[case.get("name")] = outcome, float(case.get("time"))
    return outcomes


def main(paths):
    columns = {os.path.basename(os.path.dirname(path)): outcomes_of(path) for path in paths}
    names = list(dict.fromkeys(name for outcomes in columns.values() for name in outcomes))
    print("| test | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name in names:
        cells = ["{}, {:.0f} s".format(*outcomes[name]) if name in outcomes else "-" for outcomes in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    num_failed = sum(outcome == "FAILED" for outcomes in columns.values() for outcome, _ in outcomes.values())
    print(f"{num_failed} failed" if num_failed else "clean")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
