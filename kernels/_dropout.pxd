# One element of inverted dropout: dropout.pyx says what t and s are.
#
# A dropped element is +0 whatever x is, inf and NaN too: the product's bits are masked, which is also what gcc
# vectorises without a branch (a conditional expression is compiled to one, mispredicted for every other element).

from _math cimport as_bits, as_float, uint32_t


cdef inline float kept(float x, uint32_t w, uint32_t t, float s) noexcept nogil:
    return as_float(as_bits(x * s) & (<uint32_t> 0 - <uint32_t> (w >= t)))
