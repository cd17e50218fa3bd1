"""The command line: `asdkit <word>`."""
