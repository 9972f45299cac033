"""Do two questions mean the same? Training, use and export of a model that compares them."""
