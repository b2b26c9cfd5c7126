"""fault.py NAME: one of the faults that have to be reported."""

import sys
import threading

import numpy as np
from compiled import faults_baseline as faults

import fastopt
from fastopt._runtime import parallel

array = np.ones(100_000, np.float32)


def after_free():
    global array
    faults.keep(array)
    del array
    faults.after_free()


def race():
    """Two Python threads update one parameter at the same time."""
    parallel.swap_serial_below(0.0)
    parallel.swap_back_off(False)
    both = [threading.Thread(target=lambda: [fastopt.sgd(array, array + 1, lr=0.1) for _ in range(20)])
            for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()


{
    "past_the_end": lambda: faults.past_the_end(array),
    "after_free": after_free,
    "overflow": lambda: faults.overflow(2**31 - 1),
    "misaligned": lambda: faults.misaligned(array.view(np.uint8)),
    "race": race,
}[sys.argv[1]]()
