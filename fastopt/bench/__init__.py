"""What `fastopt bench` and the benchmarks of bench/ share.

contenders.py   the shape of a contender, the registry of them, the check before the timing
optimizers.py   batchnorm.py, layernorm.py, activation.py, softmax.py, dropout.py, embedding.py: the families'
                workloads, their checks, fastopt, NumPy and torch
roof.py         the memory roof
timing.py       every stopwatch but pytest-benchmark's
table.py        tables in Markdown and in plain text
command.py      `fastopt bench`
"""
