"""Logs: one line an entry, with the request, run and trace it belongs to.

No text of a customer, prompt or reply goes into a log; ids, counts and durations do.
"""

import logging
import sys
from contextvars import ContextVar

from cluster import tracing

request_id: ContextVar[str] = ContextVar("request_id", default="-")
run_id: ContextVar[str] = ContextVar("run_id", default="-")


class _WithIds(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        record.run_id = run_id.get()
        record.trace_id = tracing.trace_id()
        return True


def logger(name: str) -> logging.Logger:
    """The logger `mainspring.NAME`; the first call in a process sets up the format."""
    root = logging.getLogger("mainspring")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(_WithIds())
        handler.setFormatter(
            logging.Formatter(
                "%(asctime)s %(levelname)s %(name)s request=%(request_id)s run=%(run_id)s "
                "trace=%(trace_id)s %(message)s"
            )
        )
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False
    return root.getChild(name)
