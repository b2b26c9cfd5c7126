"""`fastopt search`: hyper-parameters drawn on their scales, many trainings at once or one that is watched.

space.py      parameters, their scales and ranges; random points, a grid, zooming in
trials.py     a point of the space and its training; which trials are the best
halving.py    which trials go on: successive halving, with Optuna's pruner
workers.py    the processes that train
caviar.py     many trials in parallel, round by round, from coarse to fine
results.py    the file of finished trials, an Optuna journal
rules.py      what a learning curve says, and what is changed then
panda.py      one training that is watched, stage by stage
watch.py      what is printed and written of it
table.py      trials as a table and as CSV, and as a command of fastopt train
plot.py       the pictures
command.py    the command line
"""
