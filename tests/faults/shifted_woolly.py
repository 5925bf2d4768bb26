"""The command line on a host whose clock jumps (see shifted_clock.py)."""

import runpy

import shifted_clock

if __name__ == "__main__":
    shifted_clock.install()
    runpy.run_module("woolly_api.cli", run_name="__main__", alter_sys=True)
