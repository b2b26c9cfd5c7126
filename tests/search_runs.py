"""What `fastopt search` finds: for test_search_command.py and slow/test_search.py."""

import contextlib
import io
import re

from fastopt.__main__ import main


def found(*options):
    """Validation accuracies of the best trial and of the default settings in percent, and the epochs trained."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["search", *options]) == 0
    best, default = (float(re.search(rf"^{name} +([\d.]+)%", printed.getvalue(), re.M)[1])
                     for name in (r"trial \d\.\d+", "default"))
    return best, default, int(re.search(r"of (\d+) epochs in", printed.getvalue())[1])
