# The words of kernels/_philox.h for the tests.

from _math cimport uint64_t
from _philox cimport GROUP, PhiloxWords, philox


def words(uint64_t key, uint64_t group):
    """The 64 words of a group."""
    cdef PhiloxWords made
    philox(key, group, &made)
    return [made.v[i] for i in range(GROUP)]
