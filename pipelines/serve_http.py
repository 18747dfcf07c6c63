"""The old name of pipelines/serve/middleware.py, for a release (CHANGELOG): nodes are told it."""

from pipelines.serve.middleware import proxy_middlewares as proxy_middlewares
