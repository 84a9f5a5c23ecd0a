"""Which policy serves: the gate, its contenders, the live watch."""
