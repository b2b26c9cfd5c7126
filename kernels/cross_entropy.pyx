# Softmax cross-entropy: loss and gradient in one pass over the logits. The method is in _softmax.pxd.
#
# With a row's target weights τ (one-hot or a distribution, smoothed, times the class weights) and T = Σ τⱼ:
#
#     loss = −Σⱼ τⱼ · log softmax(x)ⱼ = T · log1p(rest) + Σⱼ τⱼ · (m − xⱼ)         all terms ≥ 0
#     d loss / d xⱼ = T · softmax(x)ⱼ − τⱼ
#
# The largest element's softmax is 1 / (1 + rest), so there the gradient is computed as (T − τⱼ) − T · rest / (1 +
# rest): at the label of a confident row, T − τⱼ = 0, and the gradient is about −rest, where softmax − 1 would round to
# 0.
#
# Label smoothing and class weights are those of torch.nn.functional.cross_entropy: τⱼ = wⱼ · ((1 − ε) · yⱼ + ε / n).

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _math cimport SMALLEST
from _memory cimport IN, INOUT
from _softmax cimport MAX_ROWS, NARROW, Rows, choose_base, finish, term
from _softmax_few cimport are_few, few_lanes, pad_row, sum_few
from _softmax_lanes cimport NarrowBlock, lanes_for, narrow_group, scale_lanes, sum_lanes, transpose_in, transpose_out
from _softmax_rows cimport (
    BLOCK, ROW_LANES, Terms, block_start, blocks_of, group_of, max_rows, padded_group, padded_length, row_cost,
    rows_per_task, scale_row, sum_long_row, sum_rows, write_scaled,
)
from _softmax_split cimport Split, max_split, partials, split_group, split_rows, sum_split
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef struct CrossEntropyJob:
    const float* x
    float* gradient             # NULL: the loss only
    const long long* labels     # NULL if targets is given
    const float* targets
    const float* weight         # per class, or NULL
    double* loss                # per row
    Py_ssize_t* correct         # per task, or NULL
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t task             # rows in a task
    long long ignore
    double kept                 # 1 − ε
    double spread               # ε / n
    double scale                # of the gradient
    bint dense                  # τ may be nonzero beside the label

# The targets of a group of rows.
cdef struct Targets:
    float x[MAX_ROWS]              # the label's logit
    double part[MAX_ROWS]          # the label's own part of τ, (1 − ε) · w; 0 without a label
    double tau[MAX_ROWS]           # τ at the label
    double total[MAX_ROWS]         # T
    double cost[MAX_ROWS]          # Σ τⱼ · (m − xⱼ), τ without the label's own part
    double loss[MAX_ROWS]
    double slope[MAX_ROWS]         # the gradient at the label
    double factor[MAX_ROWS]        # the gradient beside it: term · factor
    float rounded[MAX_ROWS]        # factor
    float largest[MAX_ROWS]        # the largest element's gradient
    bint subnormal                 # whether a rounded factor is
    int hit[MAX_ROWS]              # whether the label is the first largest element, as for numpy.argmax


cdef inline double tau(const CrossEntropyJob* job, const float* y, Py_ssize_t j) noexcept nogil:
    """τⱼ without the label's own part."""
    cdef double t = job.spread
    if y != NULL:
        t = job.kept * y[j] + t
    return t if job.weight == NULL else t * job.weight[j]


cdef inline void add_targets(const CrossEntropyJob* job, const float* x, const float* y, float m, double* total,
                             double* cost) noexcept nogil:
    cdef double sums[ROW_LANES]
    cdef double costs[ROW_LANES]
    cdef double t
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(ROW_LANES):
        sums[lane], costs[lane] = 0.0, 0.0
    for i in range(job.n // ROW_LANES):
        for lane in range(ROW_LANES):
            t = tau(job, y, i * ROW_LANES + lane)
            sums[lane] += t
            costs[lane] += 0.0 if t == 0.0 else t * (<double> m - <double> x[i * ROW_LANES + lane])
    for i in range(job.n // ROW_LANES * ROW_LANES, job.n):
        t = tau(job, y, i)
        sums[i % ROW_LANES] += t
        costs[i % ROW_LANES] += 0.0 if t == 0.0 else t * (<double> m - <double> x[i])
    total[0], cost[0] = 0.0, 0.0
    for lane in range(ROW_LANES):
        total[0] += sums[lane]
        cost[0] += costs[lane]


cdef inline const float* targets_of(const CrossEntropyJob* job, Py_ssize_t row) noexcept nogil:
    """The row's distribution, or NULL."""
    if job.targets == NULL:
        return NULL
    return job.targets + row * job.n


cdef inline bint ignored(const CrossEntropyJob* job, Py_ssize_t row) noexcept nogil:
    return job.labels != NULL and job.labels[row] == job.ignore


cdef inline int contains(IN x, Py_ssize_t n, float value) noexcept nogil:
    cdef Py_ssize_t j
    cdef int found = 0
    for j in range(n):
        found |= x[j] == value
    return found


cdef inline void read_target(const CrossEntropyJob* job, Targets* t, const Rows* s, Py_ssize_t row,
                             int r) noexcept nogil:
    """Fill `t` for a row from its logits, which the gradient may overwrite afterwards."""
    cdef Py_ssize_t label
    cdef const float* x = job.x + row * job.n
    cdef double w
    t.x[r], t.part[r], t.tau[r], t.total[r], t.cost[r] = s.m[r], 0.0, 0.0, 0.0, 0.0
    t.hit[r] = 0
    if ignored(job, row):
        return
    if job.dense:
        add_targets(job, x, targets_of(job, row), s.m[r], &t.total[r], &t.cost[r])
    if job.labels != NULL:
        label = <Py_ssize_t> job.labels[row]
        w = 1.0 if job.weight == NULL else job.weight[label]
        t.x[r] = x[label]
        t.part[r] = job.kept * w
        t.tau[r] = t.part[r] + job.spread * w
        t.total[r] += t.part[r]
        if job.correct != NULL and x[label] == s.m[r]:
            t.hit[r] = not contains(x, label, s.m[r])


cdef inline void losses(const CrossEntropyJob* job, Targets* t, const Rows* s, int rows) noexcept nogil:
    """Compute the losses and the gradients at the labels."""
    cdef int lane
    cdef double share, softmax, distance, part, slope
    for lane in range(rows):
        distance = <double> s.m[lane] - <double> t.x[lane]
        part = t.part[lane]
        t.loss[lane] = t.total[lane] * s.log_sum[lane] + (t.cost[lane] + (0.0 if part == 0.0 else part * distance))
        share = s.rest[lane] / (1.0 + s.rest[lane])
        softmax = <double> term(t.x[lane], s.base[lane], s.magic[lane], s.lowest[lane]) * s.factor[lane]
        slope = t.total[lane] * softmax - t.tau[lane]
        slope = (t.total[lane] - t.tau[lane]) - t.total[lane] * share if distance == 0.0 else slope
        t.slope[lane] = job.scale * slope


cdef inline void slope_row(const CrossEntropyJob* job, INOUT e, const float* y, Py_ssize_t start, Py_ssize_t end,
                           double total, double factor, double rest, float top) noexcept nogil:
    """Replace the terms of the elements from `start` to `end` by the gradient, for a dense τ."""
    cdef Py_ssize_t j
    cdef double t, slope, share = total * (rest / (1.0 + rest))
    for j in range(start, end):
        t = tau(job, y, j)
        slope = (total - t) - share if e[j] == top else total * (<double> e[j] * factor) - t
        e[j] = <float> (job.scale * slope)


cdef inline bint is_subnormal(double factor) noexcept nogil:
    return 0.0 < factor < SMALLEST


cdef inline Py_ssize_t finish_losses(const CrossEntropyJob* job, Rows* s, Targets* t, Py_ssize_t first, int rows,
                                     int lanes) noexcept nogil:
    """Compute losses and factors from the sums; return the number of correct labels. `lanes` is `rows` with padding."""
    cdef Py_ssize_t correct = 0
    cdef int r
    finish(s, lanes, True, True)
    losses(job, t, s, rows)
    t.subnormal = False
    for r in range(rows):
        job.loss[first + r] = 0.0 if ignored(job, first + r) else t.loss[r]
        correct += t.hit[r] & (s.rest[r] == s.rest[r])      # a NaN row has no largest element
        t.factor[r] = s.factor[r] * (t.total[r] * job.scale)
        t.rounded[r] = <float> t.factor[r]
        t.largest[r] = <float> (t.total[r] * job.scale / (1.0 + s.rest[r]))
        t.subnormal |= is_subnormal(t.factor[r])
    return correct


cdef inline void write_gradient(const CrossEntropyJob* job, const Rows* s, const Targets* t, Py_ssize_t row, int r,
                                Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Replace the terms of the elements from `start` to `end` by the gradient."""
    cdef float* d = job.gradient + row * job.n
    if ignored(job, row):
        memset(d + start, 0, (end - start) * sizeof(float))
    elif job.dense:
        slope_row(job, d, targets_of(job, row), start, end, t.total[r], s.factor[r], s.rest[r], s.top[r])
    elif is_subnormal(t.factor[r]):
        scale_row(d + start, end - start, s.top[r], t.factor[r], t.largest[r])
    else:
        scale_row(d + start, end - start, s.top[r], t.rounded[r], t.largest[r])


cdef inline void write_label(const CrossEntropyJob* job, const Targets* t, Py_ssize_t row, int r) noexcept nogil:
    if job.labels != NULL and not ignored(job, row):
        job.gradient[row * job.n + job.labels[row]] = <float> t.slope[r]


cdef inline Py_ssize_t narrow_rows(const CrossEntropyJob* job, Py_ssize_t first, int rows) noexcept nogil:
    """Process a group of rows of at most NARROW elements, one per lane; return the number of correct labels."""
    cdef Rows s
    cdef Targets t
    cdef NarrowBlock block, scratch
    cdef Py_ssize_t n = job.n, correct, j
    cdef int lanes = lanes_for(rows), r
    transpose_in(block.v, scratch.v, job.x + first * n, n, rows)
    sum_lanes(&s, block.v, block.v, lanes, n, lanes, True)
    for r in range(rows):
        read_target(job, &t, &s, first + r, r)
    correct = finish_losses(job, &s, &t, first, rows, lanes)
    if job.gradient == NULL:
        return correct
    if not (job.dense or t.subnormal):
        for j in range(n):
            scale_lanes(block.v + j * lanes, s.top, t.rounded, t.largest, rows)
    transpose_out(job.gradient + first * n, block.v, scratch.v, n, rows)
    for r in range(rows):
        if job.dense or t.subnormal or ignored(job, first + r):
            write_gradient(job, &s, &t, first + r, r, 0, n)
        write_label(job, &t, first + r, r)
    return correct


cdef inline Py_ssize_t block_rows(const CrossEntropyJob* job, Py_ssize_t first, int rows) noexcept nogil:
    """The same for rows of at most BLOCK elements, along the row; of narrow ones for a few."""
    cdef Rows s
    cdef Targets t
    cdef Terms block
    cdef NarrowBlock few
    cdef Py_ssize_t n = job.n, correct
    cdef int lanes, r
    cdef float* d = job.gradient + first * n if job.gradient != NULL else NULL
    cdef const float* e = block.v
    if n <= NARROW:
        lanes = few_lanes(rows)
        for r in range(rows):
            pad_row(job.x + (first + r) * n, few.v + r * padded_length(n), n)
        sum_few(&s, few.v, block.v, n, rows)
    else:
        lanes = padded_group(rows)
        max_rows(&s, job.x + first * n, n, rows)
        choose_base(&s, lanes)
        sum_rows(&s, job.x + first * n, block.v, n, rows, d)
    for r in range(rows):
        read_target(job, &t, &s, first + r, r)
    correct = finish_losses(job, &s, &t, first, rows, lanes)
    if d == NULL:
        return correct
    for r in range(rows):
        if job.dense or ignored(job, first + r) or is_subnormal(t.factor[r]):
            memcpy(d, e, n * sizeof(float))
            write_gradient(job, &s, &t, first + r, r, 0, n)
        else:
            write_scaled(e, d, n, s.top[r], t.rounded[r], t.largest[r])
        write_label(job, &t, first + r, r)
        d += n
        e += padded_length(n)
    return correct


cdef inline Py_ssize_t long_row(const CrossEntropyJob* job, Py_ssize_t row) noexcept nogil:
    """The same for a row of more than BLOCK elements."""
    cdef Rows s
    cdef Targets t
    cdef const float* x = job.x + row * job.n
    cdef float* d = job.gradient + row * job.n if job.gradient != NULL else NULL
    cdef Py_ssize_t correct
    max_rows(&s, x, job.n, 1)
    choose_base(&s, 1)
    read_target(job, &t, &s, row, 0)
    sum_long_row(&s, x, d, job.n, d != NULL)
    correct = finish_losses(job, &s, &t, row, 1, 1)
    if d != NULL:
        write_gradient(job, &s, &t, row, 0, 0, job.n)
        write_label(job, &t, row, 0)
    return correct


cdef void cross_entropy_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const CrossEntropyJob* job = <const CrossEntropyJob*> context
    cdef Py_ssize_t n = job.n, i = index * job.task, last = min(job.rows, i + job.task), correct = 0
    cdef int rows
    while i < last:
        if n <= NARROW:
            rows = narrow_group(last - i)
            correct += block_rows(job, i, rows) if are_few(rows, n) else narrow_rows(job, i, rows)
        elif n <= BLOCK:
            rows = <int> min(group_of(n), last - i)
            correct += block_rows(job, i, rows)
        else:
            rows = 1
            correct += long_row(job, i)
        i += rows
    if job.correct != NULL:
        job.correct[index] = correct


# Rows that are split over the threads.

cdef struct SplitCrossEntropy:
    Split p                     # of rows of job.x and job.gradient
    const CrossEntropyJob* job
    Py_ssize_t first            # of the rows
    Targets* t


cdef void target_task(void* context, Py_ssize_t row) noexcept nogil:
    cdef const SplitCrossEntropy* split = <const SplitCrossEntropy*> context
    read_target(split.job, split.t, split.p.s, split.first + row, <int> row)


cdef void write_task(void* context, Py_ssize_t index) noexcept nogil:
    """The gradient of one block."""
    cdef const SplitCrossEntropy* split = <const SplitCrossEntropy*> context
    cdef Py_ssize_t n = split.job.n, row = index // split.p.blocks, block = index % split.p.blocks
    write_gradient(split.job, split.p.s, split.t, split.first + row, <int> row, block_start(n, block),
                   block_start(n, block + 1))


cdef Py_ssize_t split_over_threads(const CrossEntropyJob* job, Py_ssize_t first, int rows, double* partial,
                                   int threads) noexcept nogil:
    """Process a group of rows; return the number of correct labels."""
    cdef SplitCrossEntropy split
    cdef Rows s
    cdef Targets t
    cdef Py_ssize_t correct
    cdef int r
    split.p.x, split.p.n, split.p.blocks, split.p.rows = job.x + first * job.n, job.n, blocks_of(job.n), rows
    split.p.keep = job.gradient != NULL
    split.p.e = job.gradient + first * job.n if split.p.keep else NULL
    split.p.s, split.p.partial = &s, partial
    split.job, split.first, split.t = job, first, &t
    max_split(&split.p, threads)
    parallel_for(target_task, &split, rows, threads if job.dense else 1)
    sum_split(&split.p, threads)
    correct = finish_losses(job, &s, &t, first, rows, rows)
    if split.p.keep:
        parallel_for(write_task, &split, rows * split.p.blocks, threads)
        for r in range(rows):
            write_label(job, &t, first + r, r)
    return correct


cdef inline int wrong_labels(const long long* labels, Py_ssize_t rows, Py_ssize_t n, long long ignore,
                             Py_ssize_t* used) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    cdef int wrong = 0
    for i in range(rows):
        count += labels[i] != ignore
        wrong |= ((labels[i] < 0) | (labels[i] >= n)) & (labels[i] != ignore)
    used[0] = count
    return wrong


cdef inline double label_weights(const CrossEntropyJob* job) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0.0
    for i in range(job.rows):
        if job.labels[i] != job.ignore:
            total += job.weight[job.labels[i]]
    return total


cdef inline double row_sum(const double* loss, Py_ssize_t rows) noexcept nogil:
    cdef double acc[ROW_LANES]
    cdef double total = 0.0
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(ROW_LANES):
        acc[lane] = 0.0
    for i in range(rows // ROW_LANES):
        for lane in range(ROW_LANES):
            acc[lane] += loss[i * ROW_LANES + lane]
    for lane in range(ROW_LANES):
        total += acc[lane]
    for i in range(rows // ROW_LANES * ROW_LANES, rows):
        total += loss[i]
    return total


def first_wrong_label(Array labels not None, Py_ssize_t n, long long ignore_index):
    """Index of the first label that is neither in [0, n) nor ignore_index; −1 if all are valid."""
    cdef const long long* label = <const long long*> labels.data
    cdef Py_ssize_t i, used
    if wrong_labels(label, labels.size, n, ignore_index, &used):
        for i in range(labels.size):
            if label[i] != ignore_index and not 0 <= label[i] < n:
                return i
    return -1


def normaliser(Array labels not None, Array weight, long long ignore_index):
    """The divisor of a mean: the number of labels that are not ignored, or the sum of their class weights."""
    cdef CrossEntropyJob job
    cdef Py_ssize_t used
    job.labels, job.rows, job.ignore = <const long long*> labels.data, labels.size, ignore_index
    if weight is not None:
        job.weight = <const float*> weight.data
        return label_weights(&job)
    wrong_labels(job.labels, job.rows, 0, ignore_index, &used)
    return <double> used


def cross_entropy(Array x not None, Array labels, Array targets, Array weight, Array gradient, Array row_losses, *,
                  double divisor, long long ignore_index, double smoothing, bint count_correct):
    """Return (Σ loss / divisor, number of correct labels, 0 unless count_correct); the gradient is divided too.

    x: logits, at least one class along the last axis. Exactly one of labels (int64, validated) and targets
    (distributions) is given; weight, gradient (which may be x) and row_losses may be None.
    """
    cdef Py_ssize_t n = x.view.shape[x.view.ndim - 1]
    cdef Py_ssize_t rows = x.size // n
    cdef CrossEntropyJob job
    cdef Py_ssize_t tasks, split, first, group, i, correct = 0
    cdef int threads = threads_for((row_cost(n) + 10.0) * <double> rows)
    cdef double loss
    cdef double* partial
    cdef float* each
    job.x = <const float*> x.data
    job.gradient, job.labels, job.targets, job.weight = NULL, NULL, NULL, NULL
    if gradient is not None:
        job.gradient = <float*> gradient.data
    if labels is not None:
        job.labels = <const long long*> labels.data
    if targets is not None:
        job.targets = <const float*> targets.data
    if weight is not None:
        job.weight = <const float*> weight.data
    split = split_rows(rows, n, threads)
    job.rows, job.n, job.ignore = rows - split, n, ignore_index
    job.kept, job.spread = 1.0 - smoothing, smoothing / <double> n
    job.scale = 1.0 / divisor
    job.dense = targets is not None or smoothing != 0.0
    job.task = rows_per_task(n)
    tasks = (job.rows + job.task - 1) // job.task
    job.loss = <double*> malloc(max(rows, 1) * sizeof(double))
    job.correct = <Py_ssize_t*> malloc(max(tasks, 1) * sizeof(Py_ssize_t)) if count_correct else NULL
    partial = <double*> malloc(max(partials(split, n), 1) * sizeof(double))
    if job.loss == NULL or (count_correct and job.correct == NULL) or partial == NULL:
        free(job.loss)
        free(job.correct)
        free(partial)
        raise MemoryError
    with nogil:
        parallel_for(cross_entropy_task, &job, tasks, threads)
        first = job.rows
        while first < rows:
            group = split_group(rows - first)
            correct += split_over_threads(&job, first, <int> group, partial, threads)
            first += group
        loss = row_sum(job.loss, rows)
        if count_correct:
            for i in range(tasks):
                correct += job.correct[i]
        if row_losses is not None:
            each = <float*> row_losses.data
            for i in range(rows):
                each[i] = <float> job.loss[i]
    free(job.loss)
    free(job.correct)
    free(partial)
    return loss / divisor, correct
