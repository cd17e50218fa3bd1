"""The score field that learns: its loss, where its parameters live, and what it learns from."""
