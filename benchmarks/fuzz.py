"""Give every reader of users' files mutated files, and count what becomes of them.

    python benchmarks/fuzz.py --cases 100
    python benchmarks/fuzz.py --cases 3000 --readers NetCDF "Zarr 3"

Prints reader x (clean, accepted, traceback, hang, memory): clean is one line of error, accepted no
error. The last three must be 0; their cases are listed with the number that repeats them. A reader
runs in a process of its own, which is ended and started again after a case that hangs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzz_readers import HANG_S, OUTCOMES, READERS, Cases, Outcome, run_case
from panoseg.cli.terminal import prepare

ADDRESS_SPACE = 16 * 1024**3


def run_cases(name: str, first: int, last: int, results: Connection) -> None:
    """Run the cases ``first`` .. ``last`` - 1 of a reader and send each outcome."""
    prepare(verbose=False)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(name, Path(folder) / "cases")
        for seed in range(first, last):
            given = cases.write(seed)
            results.send(None)  # the clock starts
            results.send((seed, run_case(cases.reader, given)))


def fuzz(name: str, count: int) -> tuple[Counter[str], list[tuple[int, Outcome]]]:
    """Return how many cases of a reader had each outcome, and those that should not be."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, Outcome]] = []
    next_ = 0
    while next_ < count:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run_cases, args=(name, next_, count, sender))
        process.start()
        sender.close()
        ended: Outcome | None = None
        running = False
        while next_ < count:
            limit = 2 * HANG_S if running else 300.0
            try:
                if not receiver.poll(limit):
                    ended = Outcome("hang", f"no answer for {limit:.0f} s")
                    break
                message = receiver.recv()
            except EOFError:
                process.join()
                ended = Outcome("traceback", f"the process ended with {process.exitcode}")
                break
            running = message is None
            if message is not None:
                seed, outcome = message
                counts[outcome.kind] += 1
                if outcome.kind in OUTCOMES[2:]:
                    wrong.append((seed, outcome))
                next_ = seed + 1
        process.kill()
        process.join()
        if ended is not None:
            if not running:
                raise SystemExit(f"{name}: {ended.detail} before a case was read")
            counts[ended.kind] += 1
            wrong.append((next_, ended))
            next_ += 1
    return counts, wrong


def main() -> None:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100, help="cases of each reader")
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS))
    options = parser.parse_args()
    print("| reader | " + " | ".join(OUTCOMES) + " | s |")
    print("|---" * (len(OUTCOMES) + 2) + "|")
    listed = []
    for name in options.readers:
        begin = time.monotonic()
        counts, wrong = fuzz(name, options.cases)
        numbers = " | ".join(str(counts[kind]) for kind in OUTCOMES)
        print(f"| {name} | {numbers} | {time.monotonic() - begin:.0f} |", flush=True)
        listed += [(name, seed, outcome) for seed, outcome in wrong]
    for name, seed, outcome in listed:
        print(f"{name}, case {seed}: {outcome.kind}: {outcome.detail}")
    sys.exit(bool(listed))


if __name__ == "__main__":
    main()
