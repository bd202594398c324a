"""What is asked and how answers are graded: problems, benchmarks, checkers."""
