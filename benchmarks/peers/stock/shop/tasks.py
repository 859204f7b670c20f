"""The job: run the handler that BENCH_WORK names, record what came of it."""

import os
import time
import traceback

from .outcomes import bury, count, stamp


class PermanentError(Exception):
    error_type = "VALIDATION_ERROR"


def _noop(message):
    return True


def _sleep20(message):
    time.sleep(0.02)


def _fail(message):
    raise PermanentError("the order has no customer")


handle = {"noop": _noop, "sleep20": _sleep20, "fail": _fail, "stamp": stamp}[os.environ.get("BENCH_WORK", "noop")]


def process(message):
    try:
        handle(message)
    except PermanentError as error:
        bury(message, error, traceback.format_exc())
        count("failed")
    else:
        count("succeeded")
