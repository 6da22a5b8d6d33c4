"""A study: which settings of a model are best on its choice period."""
