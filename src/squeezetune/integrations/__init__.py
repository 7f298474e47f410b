"""Other people's interfaces: scikit-learn, TensorBoard, MLflow."""
