"""What the Markdown says is true: its pages, its links, and the commands in it."""
