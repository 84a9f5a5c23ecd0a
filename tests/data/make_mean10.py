"""Makes mean10.tflite: a policy whose action is the mean of 10 numbers, over 100 servers.

CUDA_VISIBLE_DEVICES= python tests/data/make_mean10.py
"""

import tempfile
from pathlib import Path

import tensorflow as tf


class Mean(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.fill([10, 1], 0.001))

    @tf.function(input_signature=[tf.TensorSpec([1, 10], tf.float32, name="observation")])
    def __call__(self, observation: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"policy": tf.matmul(observation, self.weights)}


policy = Mean()
with tempfile.TemporaryDirectory() as folder:
    tf.saved_model.save(policy, folder, signatures=policy.__call__.get_concrete_function())
    model = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
Path(__file__).with_name("mean10.tflite").write_bytes(model)
