"""What `asdkit new` writes, with `Template` in the place of the name; `prior` is what `asdkit.testing` asks with."""
