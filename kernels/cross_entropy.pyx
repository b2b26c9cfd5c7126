# Softmax cross-entropy: loss and gradient in one pass over the logits. The method is in _softmax.pxd.
#
# With a row's target weights τ (one-hot or a distribution, smoothed, times the class weights) and T = Σ τⱼ:
#
#     loss = −Σⱼ τⱼ · log softmax(x)ⱼ = T · log1p(rest) + Σⱼ τⱼ · (m − xⱼ)         every term ≥ 0
#     d loss / d xⱼ = T · softmax(x)ⱼ − τⱼ
#
# For the largest element, softmax is 1 / (1 + rest), and where it is the label that would be subtracted from 1: there
# the gradient is (T − τⱼ) − T · rest / (1 + rest), which on a confident row is the tiny −rest and not a rounded 0.
#
# Label smoothing and class weights are torch.nn.functional.cross_entropy's: τⱼ = wⱼ · ((1 − ε) · yⱼ + ε / n).

from libc.stdlib cimport free, malloc
from libc.string cimport memset

from _memory cimport IN, INOUT
from _softmax cimport LANES, NARROW, Rows, choose_base, finish, term
from _softmax_lanes cimport Narrow, lanes_for, narrow_group, scale_lanes, sum_lanes, transpose_in, transpose_out
from _softmax_rows cimport SUMS, group_of, max_rows, padded_group, scale_row, sum_rows
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    TASK = 4096             # elements of a task, about, unless a row is longer: enough that threads share evenly

cdef enum:                  # reductions
    NONE = 0
    MEAN = 1
    SUM = 2

cdef struct Job:
    const float* x
    float* gradient             # NULL: the loss alone
    const long long* labels     # NULL: targets
    const float* targets
    const float* weight         # of each class, or NULL
    double* loss                # of each row
    Py_ssize_t* correct         # of each task, or NULL
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t task             # rows in a task
    long long ignore
    double kept                 # 1 − ε
    double spread               # ε / n
    double scale                # of the gradient
    bint dense                  # τ has more than the label's entry

# What the targets say about a group of rows.
cdef struct Targets:
    float x[LANES]              # the label's logit
    double part[LANES]          # the label's own weight (1 − ε) · w; 0 without a label
    double tau[LANES]           # τ at the label
    double total[LANES]         # T
    double cost[LANES]          # Σ τⱼ · (m − xⱼ) without the label's own part
    double loss[LANES]
    double slope[LANES]         # the gradient at the label
    int hit[LANES]              # whether the label is the first of the largest elements, as numpy.argmax has it


cdef inline double tau(const Job* job, const float* y, Py_ssize_t j) noexcept nogil:
    """τⱼ without the label's own part."""
    cdef double t = job.spread
    if y != NULL:
        t = job.kept * y[j] + t
    return t if job.weight == NULL else t * job.weight[j]


cdef inline void add_targets(const Job* job, const float* x, const float* y, float m, double* total,
                             double* cost) noexcept nogil:
    cdef double sums[SUMS]
    cdef double costs[SUMS]
    cdef double t
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(SUMS):
        sums[lane], costs[lane] = 0.0, 0.0
    for i in range(job.n // SUMS):
        for lane in range(SUMS):
            t = tau(job, y, i * SUMS + lane)
            sums[lane] += t
            costs[lane] += 0.0 if t == 0.0 else t * (<double> m - <double> x[i * SUMS + lane])
    for i in range(job.n // SUMS * SUMS, job.n):
        t = tau(job, y, i)
        sums[i % SUMS] += t
        costs[i % SUMS] += 0.0 if t == 0.0 else t * (<double> m - <double> x[i])
    total[0], cost[0] = 0.0, 0.0
    for lane in range(SUMS):
        total[0] += sums[lane]
        cost[0] += costs[lane]


cdef inline const float* targets_of(const Job* job, Py_ssize_t row) noexcept nogil:
    """The row's distribution, or NULL."""
    if job.targets == NULL:
        return NULL
    return job.targets + row * job.n


cdef inline bint ignored(const Job* job, Py_ssize_t row) noexcept nogil:
    return job.labels != NULL and job.labels[row] == job.ignore


cdef inline int contains(IN x, Py_ssize_t n, float value) noexcept nogil:
    cdef Py_ssize_t j
    cdef int found = 0
    for j in range(n):
        found |= x[j] == value
    return found


cdef inline void read_targets(const Job* job, Targets* t, const Rows* s, Py_ssize_t first, int rows) noexcept nogil:
    """What is needed of the logits, before the gradient may overwrite them."""
    cdef Py_ssize_t label
    cdef int r
    cdef const float* x
    cdef double w
    for r in range(rows):
        x = job.x + (first + r) * job.n
        t.x[r], t.part[r], t.tau[r], t.total[r], t.cost[r] = s.m[r], 0.0, 0.0, 0.0, 0.0
        t.hit[r] = 0
        if ignored(job, first + r):
            continue
        if job.dense:
            add_targets(job, x, targets_of(job, first + r), s.m[r], &t.total[r], &t.cost[r])
        if job.labels != NULL:
            label = <Py_ssize_t> job.labels[first + r]
            w = 1.0 if job.weight == NULL else job.weight[label]
            t.x[r] = x[label]
            t.part[r] = job.kept * w
            t.tau[r] = t.part[r] + job.spread * w
            t.total[r] += t.part[r]
            if job.correct != NULL and x[label] == s.m[r]:
                t.hit[r] = not contains(x, label, s.m[r])


cdef inline void losses(const Job* job, Targets* t, const Rows* s, int rows) noexcept nogil:
    """Loss and the gradient at the label."""
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


cdef inline void slope_row(const Job* job, INOUT e, const float* y, double total, double factor, double rest,
                           float top) noexcept nogil:
    """Terms to gradient where τ has many entries."""
    cdef Py_ssize_t j
    cdef double t, slope, share = total * (rest / (1.0 + rest))
    for j in range(job.n):
        t = tau(job, y, j)
        slope = (total - t) - share if e[j] == top else total * (<double> e[j] * factor) - t
        e[j] = <float> (job.scale * slope)


cdef inline Py_ssize_t finish_group(const Job* job, Rows* s, Targets* t, float* block, float* room,
                                    Py_ssize_t first, int rows, int lanes) noexcept nogil:
    """From sums to losses and gradient; returns how many labels were hit.

    Terms are in `block`, transposed, or in the gradient itself where block is NULL. `lanes`: rows and what pads them.
    """
    cdef Py_ssize_t n = job.n, correct = 0, j
    cdef int r
    cdef float* d
    cdef double factor[LANES]
    cdef float largest[LANES]
    finish(s, lanes, True, True)
    losses(job, t, s, rows)
    for r in range(rows):
        job.loss[first + r] = 0.0 if ignored(job, first + r) else t.loss[r]
        correct += t.hit[r] & (s.rest[r] == s.rest[r])      # a row of NaN has no largest element
    if job.gradient == NULL:
        return correct
    for r in range(rows):
        factor[r] = s.factor[r] * (t.total[r] * job.scale)
        largest[r] = <float> (t.total[r] * job.scale / (1.0 + s.rest[r]))
    if block != NULL:
        if not job.dense:
            for j in range(n):
                scale_lanes(block + j * lanes, s.top, factor, largest, rows)
        transpose_out(job.gradient + first * n, block, room, n, rows)
    for r in range(rows):
        d = job.gradient + (first + r) * n
        if ignored(job, first + r):
            memset(d, 0, n * sizeof(float))
            continue
        if job.dense:
            slope_row(job, d, targets_of(job, first + r), t.total[r], s.factor[r], s.rest[r], s.top[r])
        elif block == NULL:
            scale_row(d, n, s.top[r], factor[r], largest[r])
        if job.labels != NULL:
            d[job.labels[first + r]] = <float> t.slope[r]
    return correct


cdef void cross_entropy_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Job* job = <const Job*> context
    cdef Rows s
    cdef Targets t
    cdef Narrow block, room
    cdef Py_ssize_t n = job.n, i = index * job.task, last = min(job.rows, i + job.task)
    cdef int rows, lanes
    cdef Py_ssize_t correct = 0
    while i < last:
        if n <= NARROW:
            rows = narrow_group(last - i)
            transpose_in(block.v, room.v, job.x + i * n, n, rows)
            lanes = lanes_for(rows)
            sum_lanes(&s, block.v, block.v, lanes, n, lanes, True)
            read_targets(job, &t, &s, i, rows)
            correct += finish_group(job, &s, &t, block.v, room.v, i, rows, lanes)
        else:
            rows = <int> min(group_of(n), last - i)
            max_rows(&s, job.x + i * n, n, rows)
            lanes = padded_group(rows)
            choose_base(&s, lanes)
            read_targets(job, &t, &s, i, rows)
            if job.gradient != NULL:
                sum_rows(&s, job.x + i * n, job.gradient + i * n, n, rows, True)
            else:
                sum_rows(&s, job.x + i * n, NULL, n, rows, False)
            correct += finish_group(job, &s, &t, NULL, NULL, i, rows, lanes)
        i += rows
    if job.correct != NULL:
        job.correct[index] = correct


cdef inline int wrong_labels(const long long* labels, Py_ssize_t rows, Py_ssize_t n, long long ignore,
                             Py_ssize_t* used) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    cdef int wrong = 0
    for i in range(rows):
        count += labels[i] != ignore
        wrong |= ((labels[i] < 0) | (labels[i] >= n)) & (labels[i] != ignore)
    used[0] = count
    return wrong


cdef inline double label_weights(const Job* job) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0.0
    for i in range(job.rows):
        if job.labels[i] != job.ignore:
            total += job.weight[job.labels[i]]
    return total


cdef inline double row_sum(const double* loss, Py_ssize_t rows) noexcept nogil:
    cdef double acc[SUMS]
    cdef double total = 0.0
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(SUMS):
        acc[lane] = 0.0
    for i in range(rows // SUMS):
        for lane in range(SUMS):
            acc[lane] += loss[i * SUMS + lane]
    for lane in range(SUMS):
        total += acc[lane]
    for i in range(rows // SUMS * SUMS, rows):
        total += loss[i]
    return total


def first_wrong_label(Array labels not None, Py_ssize_t n, long long ignore_index):
    """The index of the first label that is neither in [0, n) nor ignore_index; −1 if there is none."""
    cdef const long long* label = <const long long*> labels.data
    cdef Py_ssize_t i, used
    if wrong_labels(label, labels.size, n, ignore_index, &used):
        for i in range(labels.size):
            if label[i] != ignore_index and not 0 <= label[i] < n:
                return i
    return -1


def normaliser(Array labels not None, long long ignore_index, Array weight):
    """What a mean divides by: the number of labels that are not ignored, or the sum of their classes' weights."""
    cdef Job job
    cdef Py_ssize_t used
    job.labels, job.rows, job.ignore = <const long long*> labels.data, labels.size, ignore_index
    if weight is not None:
        job.weight = <const float*> weight.data
        return label_weights(&job)
    wrong_labels(job.labels, job.rows, 0, ignore_index, &used)
    return <double> used


def cross_entropy(Array x not None, Array labels, Array targets, Array weight, Array gradient, Array row_losses,
                  Py_ssize_t rows, Py_ssize_t n, double divisor, long long ignore_index, double smoothing, bint count):
    """Return (Σ loss / divisor, number of correct labels); the gradient too is divided.

    Exactly one of labels (int64, valid) and targets is given; gradient and row_losses may be None. gradient may be x.
    """
    cdef Job job
    cdef Py_ssize_t tasks, i, group, correct = 0
    cdef double loss
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
    job.rows, job.n, job.ignore = rows, n, ignore_index
    job.kept, job.spread = 1.0 - smoothing, smoothing / <double> max(n, 1)
    job.scale = 1.0 / divisor
    job.dense = targets is not None or smoothing != 0.0
    group = LANES if n <= NARROW else group_of(n)
    job.task = max(TASK // (n * group), 1) * group
    tasks = (rows + job.task - 1) // job.task
    job.loss = <double*> malloc(max(rows, 1) * sizeof(double))
    job.correct = <Py_ssize_t*> malloc(max(tasks, 1) * sizeof(Py_ssize_t)) if count else NULL
    if job.loss == NULL or (count and job.correct == NULL):
        free(job.loss)
        free(job.correct)
        raise MemoryError
    with nogil:
        parallel_for(cross_entropy_task, &job, tasks, threads_for(1.0 * <double> x.size))
        loss = row_sum(job.loss, rows)
        if count:
            for i in range(tasks):
                correct += job.correct[i]
        if row_losses is not None:
            each = <float*> row_losses.data
            for i in range(rows):
                each[i] = <float> job.loss[i]
    free(job.loss)
    free(job.correct)
    return loss / divisor, correct
