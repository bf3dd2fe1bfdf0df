"""Several processes that serve as one: a parent, and workers that share its ports."""
