"""Registers, stack and shared memory of every kernel of gpu/cuda, as the compiler left them, against the committed report.

usage: register_report.py --library LIB --cuobjdump PROGRAM --report FILE [--write]

Without --write: fails (1) when a kernel needs more registers or more stack than the report says, is not in it, or is gone.
Stack is where spilled registers and indexed local arrays lie: 0 is the rule.
With --write: writes the report.
"""
import argparse
import hashlib
import re
import subprocess
import sys

COLUMNS = "# arch    registers  stack bytes  static shared bytes  kernel\n"
NAME_LIMIT = 150


def short_name(name):
    """Without arguments; a long one is cut and told apart by a hash."""
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"\(anonymous namespace\)::|\btandem::gpu::(cuda::|simt::)?", "", name)
    depth = 0
    for idx, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            name = name[:idx]
            break
    if len(name) <= NAME_LIMIT:
        return name
    return name[:NAME_LIMIT] + "~" + hashlib.sha256(name.encode()).hexdigest()[:8]


def measured(library, cuobjdump):
    """{(kernel, arch): (registers, stack, shared)}"""
    text = subprocess.run([cuobjdump, "-res-usage", library], check=True, capture_output=True, text=True).stdout
    found, arch, function = [], "", ""
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            function = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            found.append((function, arch, tuple(map(int, match.groups()))))
    names = subprocess.run(["c++filt"], input="\n".join(function for function, _, _ in found), check=True,
                           capture_output=True, text=True).stdout.split("\n")
    result = {}
    for name, (_, arch, usage) in zip(names, found):
        key = (short_name(name), arch)
        # A template that several files instantiate is there several times.
        result[key] = tuple(map(max, usage, result.get(key, usage)))
    return result


def read_report(path):
    result = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") and line.strip():
                arch, registers, stack, shared, name = line.rstrip("\n").split(None, 4)
                result[name, arch] = (int(registers), int(stack), int(shared))
    return result


def write_report(path, kernels):
    with open(path, "w", encoding="utf-8") as file:
        file.write("# Written by tests/gpu/cuda/register_report.py --write; its test fails when a kernel gets worse than this.\n")
        file.write(COLUMNS)
        for (name, arch), (registers, stack, shared) in sorted(kernels.items()):
            file.write(f"{arch:<10}{registers:>9}{stack:>13}{shared:>21}  {name}\n")


def complaints(committed, actual):
    for key in sorted(committed.keys() | actual.keys()):
        where = f"{key[0]} on {key[1]}"
        if key not in actual:
            yield f"{where}: in the report, not in the library"
        elif key not in committed:
            yield f"{where}: not in the report"
        else:
            for what, old, new in zip(("registers", "bytes of stack"), committed[key], actual[key]):
                if new > old:
                    yield f"{where}: {new} {what}, the report has {old}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--cuobjdump", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    actual = measured(options.library, options.cuobjdump)
    if not actual:
        sys.exit(f"no kernel in {options.library}")
    if options.write:
        write_report(options.report, actual)
        print(f"{len(actual)} kernels in {options.report}")
        return
    found = list(complaints(read_report(options.report), actual))
    for complaint in found:
        print(complaint)
    if found:
        sys.exit("worse than the report. When that is wanted: " + " ".join(sys.argv) + " --write")
    print(f"{len(actual)} kernels, none worse than the report")


if __name__ == "__main__":
    main()
