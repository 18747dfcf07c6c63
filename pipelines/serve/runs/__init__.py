"""Which runs are served, and the change from one to another."""
