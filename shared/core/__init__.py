"""The pure core: no I/O, no clock, no hidden randomness. State in, state out."""
