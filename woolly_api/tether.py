"""Runs a program that ends when the process that started it ends, even by kill -9.

Usage: tether.py PARENT SIGNAL PROGRAM ARGS...

A script of the standard library alone, started with `python -I -S`, which then becomes the program. It asks the kernel
for the signal (Linux's PR_SET_PDEATHSIG, which survives exec) in the child itself, because running Python code between
fork and exec of a process with threads may deadlock. Elsewhere than on Linux it only becomes the program: there, a
killed parent leaves its children running, to be stopped by hand.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    parent, signal_number, program = int(argv[0]), int(argv[1]), argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        sys.exit(1)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
