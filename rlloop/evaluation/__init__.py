"""Evaluation on arrays: statistics of scores, distances of embeddings. Knows neither clips nor actors."""
