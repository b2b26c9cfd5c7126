# A memory error or an undefined operation each. `run` builds this among the tests' modules: every one has to be reported.

cdef float* kept = NULL


def past_the_end(float[::1] array):
    cdef float* first = &array[0]
    return first[array.shape[0]]


def keep(float[::1] array):
    """Keep the array's address, but not the array."""
    global kept
    kept = &array[0]


def after_free():
    return kept[0]


def overflow(int number):
    return number + 1


def misaligned(const unsigned char[::1] array):
    return (<const float*> &array[1])[0]
