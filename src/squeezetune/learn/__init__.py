"""From pixels to a trained classifier: frozen layers, features, head, evaluation."""
