"""Without the extra `serve` and a client, the server is not tested."""

import importlib.util

NEEDED = ("openai", "starlette", "uvicorn")
collect_ignore = [
  "test_app.py" for name in NEEDED if importlib.util.find_spec(name) is None
]
