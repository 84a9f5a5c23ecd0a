"""Policies as TensorFlow and LiteRT files that agree with what was trained."""
