"""The evaluation of decoding methods on benchmark tasks."""
