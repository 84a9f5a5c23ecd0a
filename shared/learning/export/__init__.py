"""Export of policies to TensorFlow and LiteRT files, which are checked against the policy."""
