"""Thread counts as a user's program sets them: mypy checks every type here against the installed package."""

from typing import assert_type

import fastopt

assert_type(fastopt.get_num_threads(), int)
fastopt.set_num_threads(2)
fastopt.set_num_threads(None)
with fastopt.num_threads(1) as nothing:
    assert_type(nothing, None)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.set_num_threads("2")  # type: ignore[arg-type]
with fastopt.num_threads(None):  # type: ignore[arg-type]
    pass
