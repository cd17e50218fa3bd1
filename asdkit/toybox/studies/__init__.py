"""Studies that compare methods: many runs, their tables and pictures."""
