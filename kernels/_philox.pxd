# Philox 4x32 (Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3): four 32-bit words are a
# function of a 64-bit key and a 128-bit counter. There is no state, so that any part of a stream can be computed by
# itself: an element's word depends on the key and its index alone, never on threads, tasks or the vector width.
#
# A round:    (hi₀, lo₀) = 0xD2511F53 · a,  (hi₁, lo₁) = 0xCD9E8D57 · c
#             a, b, c, d ← hi₁ ^ b ^ k₀, lo₁, hi₀ ^ d ^ k₁, lo₀
#             k₀, k₁ ← k₀ + 0x9E3779B9, k₁ + 0xBB67AE85
#
# A group is 64 elements: word j of counter 16 · g + l belongs to element 64 · g + 16 · j + l, for l < 16. The counter
# is in a and b, its low word first; c and d start as 0.
#
# Rounds: 7 is the fewest that pass every test of BigCrush in the paper, 10 is its choice with a margin. Dropout on an
# AMD EPYC (Zen 4), gcc 12, one thread, ns/element of 10⁵ elements (in the cache) and of 10⁷:
#
#                                v3            v4
#     10 rounds              0.63  0.70    0.47  0.49
#     7 rounds               0.39  0.49    0.34  0.43
#     xoshiro128++ lanes     0.24  0.41    0.21  0.35      seeded by Philox every 4096 elements
#     y = s · x alone        0.09  0.46    0.09  0.44
#
# Memory does not hide 10 rounds at v3, where 7 take 0.7 of the time. With 7 the arithmetic costs little more than the
# loads and stores beyond the cache; xoshiro gains less from there, and has a state.

from _math cimport uint32_t, uint64_t

cdef extern from "_philox.h":
    ctypedef struct PhiloxWords "fastopt_philox_words":     # aligned to a cache line
        uint32_t v[64]
    enum:
        GROUP "FASTOPT_PHILOX_WORDS"        # elements of a group
    void philox "fastopt_philox"(uint64_t key, uint64_t group, PhiloxWords* out) noexcept nogil
