"""Classifiers on features: numpy and scipy only."""
