"""Export of policies to TensorFlow and LiteRT files, which are checked against the policy."""

from shared.library_notices import library_notices_dropped

with library_notices_dropped():
    import tensorflow  # noqa: F401 - its first import writes the notices
