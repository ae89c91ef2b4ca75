"""Networks: modules that return a small named result and know nothing of losses or scores."""
