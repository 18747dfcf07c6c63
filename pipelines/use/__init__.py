"""A finished run in use: text → adapter → pictures, and fine-tunes, in one process, without Ray.

The service, the commands that use a run, and Python (`from pipelines import Run`) stand on it.
"""
