"""`fastopt lessons`: a static HTML report of one page a lesson, drawn from runs made while it is written.

command.py    the command line
report.py     which lessons, in which folder, in which processes
page.py       a lesson as HTML: jinja2, Markdown, MathML, highlighted code
style.py      how all pictures look

descent.py    every optimizer on a function of few parameters

Every other module is a lesson:

    TITLE     one line
    TEXT      Markdown that jinja2 renders first, with the facts by name, and with
              figure("name")  the picture that the module's function of that name draws,
              code("name")    the source of a function of the module
    run()     makes the runs and returns the facts, by name: all numbers and arrays of the text and of the pictures
    MEASURED  where there are any, the names of the facts that are times and differ from run to run
    a function of the facts that returns a matplotlib Figure for each picture; its docstring's first line is the caption

The first line of the lesson's docstring is its summary on the index page.
"""

LESSONS = (
    "minimising",
    "paths",
    "averages",
    "initialisation",
    "softmax",
    "gradients",
    "batches",
    "batchnorm",
    "batchnorm_inference",
    "schedules",
    "overfitting",
    "hyperparameters",
)
"""The lessons in their order."""
