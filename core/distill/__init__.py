"""A smaller student learns from a larger teacher, on a class's own text."""
