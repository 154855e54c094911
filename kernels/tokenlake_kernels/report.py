"""`python -m tokenlake_kernels.report`: compiles all kernels for four GPUs, and writes a table into docs/kernels.md.

Exits with 1 and a list if there are problems. `--defaults` checks the default configurations only (as the tests do);
`--docs FILE` writes the complete table between the markers of that file.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .aot import Result, cases, check_all

BEGIN, END = "<!-- kernels-report -->", "<!-- /kernels-report -->"


def table(results: Iterable[Result]) -> str:
    """One line per kernel, dimension, configuration and target: the worst values over dtypes and flags."""
    worst: dict[tuple[str, int, str, str], Result] = {}
    count: dict[tuple[str, int, str, str], int] = {}
    for r in results:
        key = (r.case.kernel, r.case.dim, r.case.config.label(), r.case.target.arch)
        count[key] = count.get(key, 0) + 1
        if key not in worst or (r.spills, r.registers, r.shared) > (
            worst[key].spills,
            worst[key].registers,
            worst[key].shared,
        ):
            worst[key] = r
    lines = [
        "| kernel | dim | tiles | GPU | forms | registers | spills | shared memory | occupancy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, r in worst.items():
        name, dim, label, arch = key
        numbers = f"{count[key]} | {r.registers} | {r.spills} | {r.shared:,} | {r.occupancy:.0%}"
        lines.append(f"| {name.removesuffix('_kernel')} | {dim} | {label} | {arch} | {numbers} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replace the text between the markers of a document."""
    document = path.read_text()
    head, rest = document.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main(arguments: list[str] | None = None) -> int:
    """Run the check; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenlake_kernels.report", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--defaults", action="store_true", help="only the default configurations, at head dimension 64")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("--docs", type=Path, help="the document whose table to replace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    given = parser.parse_args(arguments)
    wanted = [case for case in cases(defaults=given.defaults) if given.kernel in case.kernel]
    results = []
    bad = 0
    for n, result in enumerate(check_all(wanted, given.jobs), 1):
        results.append(result)
        case = result.case
        problems = result.problems()
        bad += bool(problems)
        if problems or n % 50 == 0 or n == len(wanted):
            label = f"{case.kernel} {dict(case.flags)} dim {case.dim} {case.dtype} {case.target.arch} ({case.config.label()})"
            sys.stderr.write(f"{n}/{len(wanted)} {label}: {'; '.join(problems) or 'good'}\n")
    if given.docs:
        write(given.docs, table(results))
    sys.stdout.write(f"{len(results)} forms compiled, {bad} must not ship\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
