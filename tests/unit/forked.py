"""Processes of tests that are forked from one that has imported what most of them need. Python has one such server."""

import multiprocessing as mp

SERVER = mp.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.unit.preloaded"])
