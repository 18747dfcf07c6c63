"""Ray Tune studies over the stages' own functions, and their results."""
