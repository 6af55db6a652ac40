"""scikit-learn estimators that can be trained over nodes."""
