# Eight doubles as one value: sums in eight lanes that stay in registers, with the same order at every level.

cdef extern from "_lanes.h":
    const int ROWS "FASTOPT_ROWS"           # whose sums fit in the level's registers, side by side: 2 or 4
    ctypedef struct Lanes "fastopt_lanes8":
        pass
    Lanes lanes_of "fastopt_lanes8_of"(double x) noexcept nogil
    Lanes load "fastopt_lanes8_load"(const double* x) noexcept nogil
    Lanes load32 "fastopt_lanes8_load32"(const float* x) noexcept nogil
    void store "fastopt_lanes8_store"(Lanes a, double* x) noexcept nogil
    Lanes add "fastopt_lanes8_add"(Lanes a, Lanes b) noexcept nogil
    Lanes sub "fastopt_lanes8_sub"(Lanes a, Lanes b) noexcept nogil
    Lanes mul "fastopt_lanes8_mul"(Lanes a, Lanes b) noexcept nogil
    Lanes keep_last "fastopt_lanes8_keep_last"(Lanes a, int n) noexcept nogil      # 0 in the others of the 8 lanes
    double lanes_sum "fastopt_lanes8_sum"(Lanes a) noexcept nogil                  # halves are added
