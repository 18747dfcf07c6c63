"""The old name of pipelines/serve/http.py, for a release (CHANGELOG): node environments hold it."""

from pipelines.serve.http import proxy_middlewares as proxy_middlewares
