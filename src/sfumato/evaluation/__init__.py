"""Evaluation: values with standard errors and units. Means over examples are taken here, weighted by example.

Everything is computed in float32 or better, outside autocast, with the model in evaluation mode and without gradient;
nothing is dropped; ``samples=K`` uses exactly K.
"""
