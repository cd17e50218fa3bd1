"""Studies that compare methods, each declared in a YAML file: `python -m asdkit.toybox.studies NAME`."""
