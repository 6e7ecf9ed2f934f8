"""Every hand-written kernel keeps to what dependent launches ask of it (gpu/cuda/simt/launch.cuh), as nvcc left it for sm_90a.

usage: dependent_launches.py --nvcc PROGRAM --root SOURCE_DIR [--unit FILE ...]

Of every kernel of gpu/cuda/kernels: it lets the next one begin, once; it waits for the one before; in front of that it touches no global
memory; and it reads through the cache that may not see a change (ld.global.nc) only where the source says so, which is weights.
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile

WAIT = "griddepcontrol.wait"
LET_NEXT_BEGIN = "griddepcontrol.launch_dependents"
MEMORY = re.compile(r"\b(ld|st|atom|red|cp\.async)\.(\S*\.)?global\b\S*")


def kernels_of(ptx):
    """(name, instructions) of every kernel."""
    for match in re.finditer(r"\.entry (\w+)\(.*?\n\{\n(.*?)\n\}\n", ptx, re.DOTALL):
        yield match[1], match[2].splitlines()


def constant_addresses(lines):
    """Registers that point into tables of the compiler's own, of sine and cosine, which nobody writes."""
    known, size = set(), -1
    while len(known) != size:
        size = len(known)
        for line in lines:
            match = re.match(r"\s*(?:mov|add)\.[us]64\s+(%rd\d+),\s*([\w%]+)", line)
            if match and (match[2].startswith("__cudart_") or match[2] in known):
                known.add(match[1])
    return known


def complaints(lines):
    constants = constant_addresses(lines)
    waits = [idx for idx, line in enumerate(lines) if WAIT in line]
    num_lets = sum(LET_NEXT_BEGIN in line for line in lines)
    if num_lets != 1:
        yield f"lets the next kernel begin {num_lets} times, expected once"
    if not waits:
        yield "does not wait for the kernel before"
    for idx, line in enumerate(lines):
        match = MEMORY.search(line)
        if not match:
            continue
        if waits and idx < waits[0]:
            yield f"global memory in front of the wait: {line.strip()}"
        address = re.search(r"\[(%rd\d+)", line)
        is_constant = address is not None and address[1] in constants
        if ".nc" in match[0] and "L1::no_allocate" not in match[0] and not is_constant:
            yield f"a load that may not see what the kernel before wrote: {line.strip()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--unit", action="append", help="these instead of gpu/cuda/kernels/*.cu")
    options = parser.parse_args()
    units = options.unit or sorted(glob.glob(os.path.join(options.root, "gpu/cuda/kernels/*.cu")))
    num_kernels = num_bad = 0
    with tempfile.TemporaryDirectory() as work:
        for unit in units:
            ptx = os.path.join(work, os.path.basename(unit) + ".ptx")
            subprocess.run([options.nvcc, "-std=c++20", "-O3", "-arch=sm_90a", "-ptx", "-I", options.root, unit, "-o", ptx], check=True)
            with open(ptx, encoding="utf-8") as file:
                kernels = list(kernels_of(file.read()))
            if not kernels:
                sys.exit(f"no kernel in {unit}")
            for name, lines in kernels:
                num_kernels += 1
                for complaint in complaints(lines):
                    num_bad += 1
                    print(f"{os.path.basename(unit)}: {name}: {complaint}")
    if num_bad:
        sys.exit(1)
    print(f"{num_kernels} kernels of {len(units)} units wait for the kernel before and let the next one begin")


if __name__ == "__main__":
    main()
